"""The header of a safetensors file of a stranger: what it promises, checked against the file before a tensor is made.

The format (Hugging Face): eight bytes of length, little-endian; a JSON object that gives each tensor's dtype, shape and
place; then the tensors, back to back. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genzoo.safe_files import open_regular
from genzoo.safe_json import parse_json

HEADER = 16 * 2**20
"""Bytes of a header: a checkpoint's, which holds the tree of the state as well, has some ten thousand."""

AXES = 32
"""Axes of a tensor; torch takes 64."""

SIZES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
    "C64": 8,
}
"""Bytes of the types that torch can be given; those of less than a byte cannot."""


@dataclass(frozen=True)
class Entry:
    """What a header promises of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * SIZES[self.dtype]


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata; the file is as long as they say.

    Raises OSError, and ValueError, which says what is wrong.
    """
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or not 2 <= length <= min(HEADER, size - 8):
            raise ValueError(f"it is no safetensors file: its header would have {length:,} of {size:,} bytes")
        header = parse_json(file.read(length))
    return check_header(header, size - 8 - length)


def check_header(header: Any, room: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """The same of a parsed header that is followed by `room` bytes."""
    if not isinstance(header, dict):
        raise ValueError("it is no safetensors file: its header is no object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not of strings")
    entries, places = {}, []
    for name, entry in header.items():
        dtype, shape, place = _parts(name, entry)
        entries[name] = Entry(dtype, shape)
        places.append((*place, name))
    at = 0
    for start, end, name in sorted(places):
        if start != at:
            raise ValueError(
                f"tensor {name[:80]!r} starts at byte {start:,}; expected {at:,}, the end of the one before"
            )
        at = end
    if at != room:
        raise ValueError(f"its header promises {at:,} bytes of tensors; there are {room:,}")
    return entries, metadata


def _parts(name: str, entry: object) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    if not isinstance(entry, Mapping) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name[:80]!r} lacks its dtype, shape or data_offsets")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise ValueError(f"tensor {name[:80]!r} is of type {str(dtype)[:20]!r}; expected one of {', '.join(SIZES)}")
    if not _are_sizes(shape) or len(shape) > AXES or math.prod(n or 1 for n in shape) * SIZES[dtype] >= 2**63:
        raise ValueError(f"tensor {name[:80]!r} has shape {str(shape)[:80]}; expected sizes of at most {AXES} axes")
    if not _are_sizes(place) or len(place) != 2 or place[1] - place[0] != math.prod(shape) * SIZES[dtype]:
        raise ValueError(f"tensor {name[:80]!r}, {shape} {dtype}, has its data at {str(place)[:80]}: another size")
    return dtype, tuple(shape), (place[0], place[1])


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)
