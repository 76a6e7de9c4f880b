"""Arrays from the file formats that are taken: npz, npy, CSV, IDX. What the arrays mean is decided in `files`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genzoo.data.idx import read_idx
from genzoo.errors import DataError
from genzoo.safe_arrays import read_npy, read_npz
from genzoo.safe_files import open_regular, read_limited, reason
from genzoo.text import plain

Array = NDArray[Any]
ACCEPTED = ".npz, .npy, .csv, an IDX file (ending in -ubyte or .idx, or that with .gz) or a folder of IDX files"
MAPPED = 2**28  # bytes; a larger .npy stays on disk
CSV = 2**28  # bytes; text becomes an object a line, up to thirty times its size
PARTS = ("train", "valid", "test")
_IDX = re.compile(r"(?i).*([-.]ubyte|\.idx\d?)(\.gz)?")
_ROLES = {"train": "train", "valid": "valid", "val": "valid", "test": "test", "t10k": "test"}


@dataclass(frozen=True)
class Parts:
    """Arrays of examples and labels by part: `x` alone, or `train`, `test` and, where it is given, `valid`."""

    x: Mapping[str, Array]
    y: Mapping[str, Array] = field(default_factory=dict)


def read(path: Path) -> Parts:
    """The arrays in a file or folder. Raises DataError, which names `path`, for whatever cannot be read."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    return _reader(path)(path)


def _reader(path: Path) -> Callable[[Path], Parts]:
    if path.is_dir():
        return _read_folder
    if _IDX.fullmatch(path.name):
        return _read_idx
    readers = {".npz": _read_npz, ".npy": _read_npy, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: cannot tell its format by its name; expected {ACCEPTED}")
    return readers[path.suffix.lower()]


def stem(path: Path) -> str:
    """Name of the data set in `path`: the file's name without its endings, or the folder's name."""
    path = path.resolve()
    return path.name if path.is_dir() else re.sub(r"(?i)(\.(npz|npy|csv|idx\d?))?(\.gz)?$", "", path.name)


def _read_npy(path: Path) -> Parts:
    try:
        with open_regular(path) as stream:
            return Parts({"x": read_npy(stream, os.fstat(stream.fileno()).st_size, MAPPED)})
    except (OSError, ValueError) as cause:
        raise _unreadable(path, cause) from cause


def _read_npz(path: Path) -> Parts:
    wanted = ("x", "y", *PARTS, *(f"y_{part}" for part in PARTS))
    try:
        with open_regular(path) as stream:
            keys, arrays = read_npz(stream, os.fstat(stream.fileno()).st_size, wanted)
    except (OSError, ValueError) as cause:
        raise _unreadable(path, cause) from cause
    x = {key: arrays[key] for key in ("x", *PARTS) if key in arrays}
    y = {key: arrays[key] for key in ("y", *(f"y_{part}" for part in PARTS)) if key in arrays}
    whole, parts = "x" in x, "train" in x and "test" in x
    if whole == parts or (whole and len(x) > 1):
        raise DataError(f"{path}: expected the keys x, or train, valid and test; got {_listed(keys)}")
    if whole:
        if len(y) > ("y" in y):
            raise DataError(f"{path}: labels of x are under the key y; got {', '.join(y)}")
        return Parts(x, {"x": y["y"]} if y else {})
    if y and set(y) != {f"y_{part}" for part in x}:
        raise DataError(f"{path}: expected the labels {', '.join(f'y_{part}' for part in x)}; got {', '.join(y)}")
    return Parts(x, {key.removeprefix("y_"): labels for key, labels in y.items()})


def _read_csv(path: Path) -> Parts:
    """Numbers between commas. A first line without any number is a header; its column `label`, if any, is y."""
    try:
        lines = [line for line in read_limited(path, CSV).decode("utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as cause:
        raise _unreadable(path, cause) from cause
    named = bool(lines) and not any(map(_is_number, lines[0].split(",")))
    header = [cell.strip().strip('"') for cell in lines.pop(0).split(",")] if named else []
    if not lines:
        raise DataError(f"{path}: it holds no numbers; expected one example a line, numbers between commas")
    try:
        table = np.loadtxt(lines, delimiter=",", ndmin=2, comments=None)
    except ValueError as cause:
        raise DataError(f"{path}: expected numbers, as many on each line; {str(cause).split(';')[0]}") from cause
    if header and len(header) != table.shape[1]:
        raise DataError(f"{path}: the header names {len(header)} columns; the lines have {table.shape[1]}")
    labels = header.index("label") if "label" in header else None
    x = table if labels is None else np.delete(table, labels, axis=1)
    # Written without points and exponents, numbers are codes, as integers are in the other formats.
    whole = not any(re.search(r"[.eEnN]", line) for line in lines)
    y = {} if labels is None else {"x": _as_whole(table[:, labels])}
    return Parts({"x": _as_whole(x) if whole else x}, y)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _as_whole(array: Array) -> Array:
    exact = np.isfinite(array).all() and (np.abs(array) < 2**53).all() and (array == np.round(array)).all()
    return array.astype(np.int64) if exact else array


def _read_idx(path: Path) -> Parts:
    return Parts({"x": read_idx(path)})


def _read_folder(path: Path) -> Parts:
    """Files such as `train-images-idx3-ubyte.gz`: the first word says the part; one-dimensional files are labels."""
    x: dict[str, Array] = {}
    y: dict[str, Array] = {}
    files = sorted(file for file in path.iterdir() if _IDX.fullmatch(file.name))
    for file in files:
        role = next((role for word, role in _ROLES.items() if file.name.lower().startswith(word)), "x")
        array = read_idx(file)
        target = y if array.ndim == 1 else x
        if role in target:
            raise DataError(f"{path}: more than one file of {'labels' if target is y else 'examples'} for {role}")
        target[role] = array
    if not x:
        got = f"{len(files)} IDX files, all of labels" if files else "no IDX file"
        raise DataError(f"{path}: expected IDX files of examples, such as train-images-idx3-ubyte.gz; got {got}")
    if not ("train" in x and "test" in x and "x" not in x):
        if len(x) > 1:
            raise DataError(f"{path}: expected one file of examples, or train and test; got {', '.join(x)}")
        (role,) = x
        x, y = {"x": x[role]}, {"x": y[role]} if role in y else {}
    return Parts(x, y)


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 10} more" if len(keys) > 10 else ""
    return (", ".join(plain(key, 40) for key in keys[:10]) or "none") + more


def _unreadable(path: Path, cause: Exception) -> DataError:
    words = reason(cause) if isinstance(cause, OSError) else str(cause)
    numpy = path.suffix.lower() in (".npy", ".npz")
    return DataError(f"{path}: {'it is broken or not a NumPy file' if numpy else 'it cannot be read'}: {words}")
