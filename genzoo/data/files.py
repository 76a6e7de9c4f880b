"""Your own data, from a path or from arrays, as a data set with three splits.

Floats are real data; bool or {0, 1} has two levels; other whole numbers within 0..255 have 256; `levels` overrides.
Grey images `(N, H, W)` get a channel, `(N, 1, H, W)`. Data that is not already in parts is split 80/10/10 by seed 0.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from genzoo.data.readers import PARTS, Array, Parts, read, stem
from genzoo.data.splits import MappedSplit, TensorSplit, fingerprints, permutation
from genzoo.errors import DataError
from genzoo.spec import Batch, DataProtocol, Dataset, DataSpec, Split

log = logging.getLogger(__name__)
FEWEST = 10  # rows that can be split 80/10/10
CLASSES = 2**16  # labels, at most: a conditional model has weights for each; ImageNet's largest set has 21,841
_SCAN = 2**22  # how many numbers are looked at in one go
Made = tuple[dict[str, Split], str]


def load_path(path: str | Path, levels: int | None = None, labels: bool = False) -> Dataset:
    """The data set in a file or folder: npz (keys `x`, or `train`, `valid`, `test`; labels `y`, or `y_train`, ...),
    npy, CSV of numbers (a header line may name a column `label`), an IDX file, or a folder of IDX files.

    Without `valid`, a tenth of `train` by seed 0 takes its place.

    Args:
        path: the file or folder.
        levels: number of codes, for discrete data whose largest code does not show it, such as 17 for codes 0..16.
        labels: whether a model is to be conditional, p(x given y).

    Raises:
        DataError: one line that names the path, what is wrong (counts of NaN, rows, shapes) and what to do.
    """
    path = Path(path).expanduser()
    parts = read(path)
    if labels and not parts.y:
        raise DataError(f"{path}: labels were asked for, but there are none (key y, column label or a labels file)")
    return _assemble(parts, levels, labels, stem(path), str(path))


def from_arrays(
    x: ArrayLike | Tensor, y: ArrayLike | Tensor | None = None, *, levels: int | None = None, name: str = "arrays"
) -> Dataset:
    """The data set of examples `x (N, *event_shape)`, numpy or torch; labels `y (N,)` make it p(x given y).

    Same rules and errors as `load_path`.
    """
    labels = {} if y is None else {"x": _array("y", y)}
    return _assemble(Parts({"x": _array("x", x)}, labels), levels, y is not None, name, name)


def load_points(path: str | Path, spec: DataSpec) -> Batch:
    """All rows of a file, its parts in order, as one batch of `spec`: points for a model that is already trained.

    Flat rows `(N, D)` are reshaped to the spec's event shape; labels come along where the spec is conditional.

    Raises:
        DataError: as `load_path`, and for rows that are not of this space.
    """
    path = Path(path).expanduser()
    parts = read(path)
    for key, array in parts.x.items():
        _check_numbers(f"{path}: {key}", array)
    facts = _facts(str(path), parts.x)
    for array in parts.x.values():
        if (width := array.size // len(array)) != spec.dims:
            raise DataError(f"{path}: expected rows of {spec.dims} numbers, for {spec.describe()}; got {width}")
    if spec.levels is not None and (facts.low < 0 or facts.high >= spec.levels or not facts.whole):
        raise DataError(f"{path}: expected codes 0..{spec.levels - 1}; got values {facts.low:g} to {facts.high:g}")
    dtype = np.float32 if spec.levels is None else np.uint8
    rows = np.concatenate([array.reshape(len(array), -1).astype(dtype) for array in parts.x.values()])
    x = torch.from_numpy(rows).reshape(-1, *spec.event_shape)
    if spec.classes is None:
        return Batch(x, None)
    if set(parts.y) != set(parts.x):
        raise DataError(f"{path}: this model is conditional and needs labels: key y, column label or a labels file")
    _check_lengths(str(path), parts)
    y = torch.cat([_labels(str(path), parts.y[key]) for key in parts.x])
    if int(y.max()) >= spec.classes:
        raise DataError(f"{path}: expected labels 0..{spec.classes - 1}; got {int(y.max())}")
    return Batch(x, y)


def _array(name: str, values: ArrayLike | Tensor) -> Array:
    try:
        return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except (ValueError, TypeError) as cause:
        raise DataError(f"expected {name} as an array of numbers; {cause}") from cause


def _assemble(parts: Parts, levels: int | None, labels: bool, name: str, where: str) -> Dataset:
    x = dict(parts.x)
    for key, array in x.items():
        _check_numbers(f"{where}: {key}", array)
    first = next(iter(x))
    for key, array in x.items():
        if array.shape[1:] != x[first].shape[1:] or (array.dtype.kind == "f") != (x[first].dtype.kind == "f"):
            one, other = (f"{k} has {x[k].shape[1:]} {x[k].dtype}" for k in (first, key))
            raise DataError(f"{where}: expected examples of one shape and kind in all parts; {one}, {other}")
    _check_lengths(where, parts)
    if labels and set(parts.y) != set(x):
        raise DataError(f"{where}: expected labels for {', '.join(x)}; got them for {', '.join(parts.y)}")
    ys = {key: _labels(where, y) for key, y in parts.y.items()} if labels else {}
    levels = _levels(where, x, levels)
    if levels is not None and x[first].ndim == 3:
        x = {key: array[:, None] for key, array in x.items()}  # (N, 1, H, W)
    classes = 1 + max(int(y.max()) for y in ys.values()) if labels else None
    spec = DataSpec(x[first].shape[1:], levels=levels, classes=classes)
    splits, words = _split(where, x, ys, np.dtype(np.float32 if levels is None else np.uint8))
    protocol = DataProtocol(
        dataset=name,
        data_hash=fingerprints(splits["train"], splits["valid"]),
        test_hash=splits["test"].fingerprint,
        split=words,
        target="p(x given y)" if labels else "p(x)",
    )
    train, valid, test = (splits[part] for part in PARTS)
    return Dataset(name=name, spec=spec, protocol=protocol, train=train, valid=valid, test=test)


def _check_lengths(where: str, parts: Parts) -> None:
    for key, y in parts.y.items():
        if key in parts.x and y.shape != (len(parts.x[key]),):
            count = len(parts.x[key])
            raise DataError(f"{where}: labels have shape {y.shape}; expected one for each example, ({count},)")


def _check_numbers(where: str, array: Array) -> None:
    """Raise DataError unless `array` is examples by row: numbers, at least two axes, at least one row."""
    if array.dtype.kind not in "buif":
        what = "Python objects" if array.dtype.kind == "O" else str(array.dtype)
        raise DataError(f"{where} holds {what}; expected numbers: float, bool or uint8")
    shape = array.shape
    if len(shape) < 2:
        if array.dtype.kind == "f":
            raise DataError(f"{where} has shape {shape}; expected (N, *event_shape): reshape it to (N, 1)")
        raise DataError(f"{where} is whole numbers of shape {shape}: labels, it seems, not examples (N, *event_shape)")
    if array.size == 0:
        raise DataError(f"{where} is empty, shape {shape}; expected at least one example")


@dataclass
class _Facts:
    """What all numbers of all parts have in common."""

    low: float = np.inf
    high: float = -np.inf
    whole: bool = True


def _facts(where: str, x: Mapping[str, Array]) -> _Facts:
    """Look at every number once, as float32 where they are floats. Raises DataError that counts NaN and infinities."""
    facts = _Facts()
    for key, array in x.items():
        nan = infinite = rows = 0
        step = max(1, _SCAN // (array.size // len(array)))
        for start in range(0, len(array), step):
            piece = array[start : start + step]
            if array.dtype.kind == "f":
                with np.errstate(over="ignore"):
                    piece = piece.astype(np.float32)
                bad = ~np.isfinite(piece)
                if bad.any():
                    rows += int(bad.reshape(len(piece), -1).any(axis=1).sum())
                    nans = int(np.isnan(piece).sum())
                    nan, infinite = nan + nans, infinite + int(bad.sum()) - nans
                    continue
                facts.whole = facts.whole and bool((piece == np.round(piece)).all())
            facts.low, facts.high = min(facts.low, float(piece.min())), max(facts.high, float(piece.max()))
        if rows:
            counts = " and ".join(f"{n} {what}" for n, what in ((nan, "NaN"), (infinite, "inf")) if n)
            raise DataError(f"{where}: {key} has {counts} in {rows} of {len(array)} rows; remove or fill them")
    return facts


def _levels(where: str, x: Mapping[str, Array], asked: int | None) -> int | None:
    """Number of levels, None for real data."""
    facts = _facts(where, x)
    array = next(iter(x.values()))
    span = f"{facts.low:g} to {facts.high:g}"
    if asked is not None:
        if not 2 <= asked <= 256:
            raise DataError(f"{where}: expected levels from 2 to 256; got {asked}")
        if not facts.whole or facts.low < 0 or facts.high >= asked:
            what = "whole numbers" if facts.whole else "numbers that are not whole,"
            raise DataError(f"{where}: {asked} levels are codes 0 to {asked - 1}; got {what} from {span}")
        return asked
    if array.dtype.kind == "f":
        if facts.whole:
            log.warning("%s holds whole numbers as floats, %s: taken as real data; levels says otherwise", where, span)
        return None
    if facts.low < 0 or facts.high > 255:
        raise DataError(
            f"{where}: whole numbers are codes 0 to 255; got {span}. For real data, store floats (in a CSV: 1.0 for 1)"
        )
    if array.shape[1:] == (1,):
        raise DataError(f"{where}: one whole number a row: labels, it seems, not examples; if not, say how many levels")
    levels = 2 if facts.high <= 1 else 256
    if array.dtype.kind != "b" and array.dtype != np.uint8:
        log.warning("%s holds %s from %s: taken as codes with %d levels", where, array.dtype, span, levels)
    if array.ndim == 4 and array.shape[-1] in (3, 4) and array.shape[1] not in (1, 3, 4):
        log.warning("%s has shape %s; genzoo reads images as (N, channels, height, width)", where, array.shape)
    return levels


def _labels(where: str, y: Array) -> Tensor:
    if y.dtype.kind not in "bui" or y.min() < 0:
        got = str(y.dtype) if y.dtype.kind not in "bui" else str(y.min())
        raise DataError(f"{where}: expected labels as whole numbers from 0; got {got}")
    if y.max() >= CLASSES:
        raise DataError(f"{where}: expected labels below {CLASSES:,}, one for each class; got {y.max()}")
    return torch.from_numpy(y.astype(np.int64))


def _split(where: str, x: Mapping[str, Array], ys: Mapping[str, Tensor], dtype: np.dtype[Any]) -> Made:
    """Train, valid and test by name, and how they were made, in words."""

    def make(key: str, rows: Array | None = None) -> Split:
        rows = np.arange(len(x[key])) if rows is None else np.sort(rows)
        y = ys[key][torch.from_numpy(rows)] if key in ys else None
        if isinstance(x[key], np.memmap):
            return MappedSplit(x[key], rows, dtype, y)
        return TensorSplit(torch.from_numpy(x[key][rows].astype(dtype)), y)

    if all(part in x for part in PARTS):
        return {part: make(part) for part in PARTS}, "as given"
    key = "x" if "x" in x else "train"
    n, tenth = len(x[key]), len(x[key]) // 10
    if n < FEWEST:
        raise DataError(f"{where}: {key} has {n} rows, too few to split; expected {FEWEST}, or train, valid and test")
    order = permutation(n, seed=0)
    if key == "train":
        made = {"train": make(key, order[tenth:]), "valid": make(key, order[:tenth]), "test": make("test")}
        return made, "train and test as given; validation is a tenth of train by seed 0"
    rows = {"train": order[2 * tenth :], "valid": order[:tenth], "test": order[tenth : 2 * tenth]}
    return {part: make(key, rows[part]) for part in PARTS}, "80/10/10 by seed 0"
