"""Arrays of a stranger: npy and npz (NumPy's format, versions 1 to 3), without pickle and without NumPy's own parser.

A header is read by a pattern, not evaluated; the size it promises is compared with the bytes that are there, or that
the archive promises and may hold, before anything is made from it. No torch.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from genzoo.safe_files import unpacked_limit

Array = NDArray[Any]
Order = Literal["C", "F"]
MAGIC = b"\x93NUMPY"
HEADER = 10_000
"""Bytes of a header: NumPy writes 128, and takes no more than this from a stranger."""

AXES = 32
"""Axes of an array: NumPy 1 had no more."""

UNPACKED = 2 * 2**30
"""Bytes that an archive may unpack to, however large it is: it is read into memory, unlike an npy."""

MEMBERS = 1000
"""Arrays in an archive: a cell has some thirty."""

PIECE = 2**20
"""Bytes read at a time."""

_ENTRY = re.compile(
    r"""\s*(['"])(descr|fortran_order|shape)\1\s*:\s*(?:(['"])([^'"]*)\3|(True|False)|\(([\d\s,L]*)\))\s*(?:,|(?=\}))"""
)
_DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f(?:2|4|8|16)|c(?:8|16)|[SU]\d{1,9})")
_OBJECTS = "it holds Python objects, which are not read: save numbers"


def read_npy(file: BinaryIO, size: int, mapped: int | None = None) -> Array:
    """The array of an npy of `size` bytes; one of more than `mapped` bytes stays on disk, read-only.

    Raises ValueError, which says what is wrong.
    """
    dtype, shape, order, start = _header(file, size)
    if mapped is not None and size - start > mapped:
        return np.memmap(cast(Any, file), dtype, "r", start, shape, order)
    return _array(file, dtype, shape, order)


def read_npz(file: BinaryIO, size: int, names: Collection[str] | None = None) -> tuple[list[str], dict[str, Array]]:
    """The names of all arrays in an npz of `size` bytes, and the arrays themselves, or those of `names` that are there.

    Raises ValueError, which says what is wrong.
    """
    with _archive(file) as archive:
        members = _members(archive, size)
        made = {}
        for name, info in members.items():
            if names is None or name in names:
                try:
                    with archive.open(info) as stream:
                        dtype, shape, order, _ = _header(stream, info.file_size)
                        made[name] = _array(stream, dtype, shape, order)
                except (ValueError, zipfile.BadZipFile) as cause:
                    raise ValueError(f"{name[:80]}: {str(cause)[:300]}") from None
    return list(members), made


@contextmanager
def _archive(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    # What zipfile was seen to raise for damaged archives, by flipping bytes.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError) as cause:
        raise ValueError(f"the archive is broken: {str(cause)[:300]}") from cause


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members by the names of their arrays, once their names, sorts and sizes are found to be sound."""
    members: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > MEMBERS:
        raise ValueError(f"it has {len(infos):,} members; at most {MEMBERS:,} are read")
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name == info.filename:
            raise ValueError(f"its member {info.filename[:80]!r} is no .npy")
        if name in members:
            raise ValueError(f"it has more than one array called {name[:80]!r}")
        if not name or ".." in re.split(r"[/\\]", name) or name[0] in "/\\":
            raise ValueError(f"its member {info.filename[:80]!r} points out of the archive")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"its member {name[:80]!r} is encrypted, or packed in a way that numpy does not write")
        members[name] = info
    total, limit = sum(info.file_size for info in infos), min(UNPACKED, unpacked_limit(size))
    if total > limit:
        words = "store it unpacked, with np.savez or as .npy" if total <= UNPACKED else "store it as .npy"
        raise ValueError(f"it unpacks to {total:,} bytes, from {size:,}; at most {limit:,} are read: {words}")
    return members


def _header(file: Any, size: int) -> tuple[np.dtype[Any], tuple[int, ...], Order, int]:
    """dtype, shape, order (C or F) and where the data starts, of a stream of `size` bytes that holds just these."""
    magic = file.read(8)
    if magic[:6] != MAGIC or len(magic) < 8 or magic[6] not in (1, 2, 3):
        raise ValueError("it is not a NumPy file of numbers")
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    start = 8 + width + length
    if length > HEADER or start > size:
        raise ValueError(f"its header is {length:,} bytes long; expected at most {min(HEADER, size):,}")
    text = file.read(length).decode("latin-1")
    entries = _entries(text)
    descr, shape = entries["descr"], entries["shape"]
    if "O" in descr:
        raise ValueError(_OBJECTS)
    if not _DTYPE.fullmatch(descr):
        raise ValueError(f"it holds {descr[:40]!r}; expected numbers")
    dtype = np.dtype(descr)
    promised, there = math.prod(shape) * dtype.itemsize, size - start
    if len(shape) > AXES or not dtype.itemsize or math.prod(n or 1 for n in shape) * dtype.itemsize >= 2**63:
        raise ValueError(f"its shape of {len(shape)} axes, {str(shape)[:80]}, is none of an array of {dtype}")
    if promised != there:
        raise ValueError(f"its header says {str(shape)[:80]} {dtype} in {promised:,} bytes; there are {there:,}")
    return dtype, shape, "F" if entries["fortran_order"] else "C", start


def _entries(text: str) -> dict[str, Any]:
    """The three entries of a header such as `{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }`."""
    found: dict[str, Any] = {}
    at = 1
    while text.startswith("{") and (match := _ENTRY.match(text, at)):
        key, word, truth, numbers = match[2], match[4], match[5], match[6]
        if key == "descr" and word is not None:
            found[key] = word
        elif key == "fortran_order" and truth is not None:
            found[key] = truth == "True"
        elif key == "shape" and numbers is not None:
            parts = [part.strip().removesuffix("L") for part in numbers.split(",") if part.strip()]
            if not all(part.isdecimal() and len(part) < 20 for part in parts):
                break
            found[key] = tuple(map(int, parts))
        else:
            break
        at = match.end()
    if found.keys() != {"descr", "fortran_order", "shape"} or text[at:].strip() != "}":
        objects = re.search(r"['\"]descr['\"]\s*:\s*\[", text)
        raise ValueError("it holds records of named fields; expected numbers" if objects else "its header is broken")
    return found


def _array(stream: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Order) -> Array:
    """The numbers that follow a header whose size is known to be right; an array that may be written to."""
    content = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    view, at = content.data, 0
    while at < len(view) and (got := stream.readinto(view[at : at + PIECE])):
        at += got
    if at < len(view):
        raise ValueError(f"it ends after {at:,} of {len(view):,} bytes of numbers")
    flat = content != 0 if dtype.kind == "b" else content.view(dtype)  # a byte of 7 is no bool, whatever it is called
    return flat.reshape(shape, order=order)
