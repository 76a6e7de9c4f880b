"""IDX files (LeCun, Cortes and Burges, the MNIST page): a magic number, sizes as big-endian uint32, then the values.

Nothing that a file says of itself is believed until it agrees with the number of bytes that are there.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import DataError
from genzoo.safe_arrays import AXES
from genzoo.safe_files import open_regular, reason, unpacked_limit

LIMIT = 2**31  # bytes after unpacking
PIECE = 2**20  # bytes read at a time
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_AGAIN = "fetch the file again or write it anew"
Reader = Callable[[int], bytes]


def read_idx(path: Path, limit: int = LIMIT) -> NDArray[Any]:
    """The array in an IDX file, gzipped or not. Raises DataError that names the file.

    The header is read first: of what follows, no more is unpacked than it promises and a byte, which there must not be.
    """
    with _unpacked(path, limit) as (read, most):
        content = bytearray()
        _read_to(4, content, read)
        _read_to(_header_size(content, path), content, read)
        _read_to(min(_promised(content, path)[2], most) + 1, content, read)
    _check_size(len(content), most, path)
    return parse_idx(content, path)


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """Content of `path`, unpacked if it is gzip, at most `limit` bytes. Raises DataError for more, or if broken."""
    with _unpacked(path, limit) as (read, most):
        content = bytearray()
        _read_to(most + 1, content, read)
    _check_size(len(content), most, path)
    return bytes(content)


def _check_size(size: int, most: int, path: Path) -> None:
    if size > most:
        raise DataError(f"{path} unpacks to more than {most:,} bytes, the most that is accepted here")


@contextmanager
def _unpacked(path: Path, limit: int) -> Iterator[tuple[Reader, int]]:
    """A function that reads so many bytes of `path`, unpacked if it is gzip, and how many may be read in all."""
    try:
        with open_regular(path) as raw:
            size, packed = os.fstat(raw.fileno()).st_size, raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if packed else raw as stream:
                yield stream.read, min(limit, unpacked_limit(size)) if packed else limit
    except (OSError, EOFError, zlib.error) as cause:
        words = reason(cause) if isinstance(cause, OSError) else str(cause)
        raise DataError(f"cannot read {path}: {words}; {_AGAIN}") from cause


def _read_to(size: int, content: bytearray, read: Reader) -> None:
    """Fill `content` up to so many bytes, or with all that there are; in place, since a copy would be as large."""
    while len(content) < size and (piece := read(min(PIECE, size - len(content)))):
        content += piece


def parse_idx(content: bytes | bytearray, name: Path | str) -> NDArray[Any]:
    """The array that `content` holds, as a view of it. Raises DataError where header and length disagree."""
    start = _header_size(content, name)
    dtype, shape, promised = _promised(content, name)
    if len(content) != promised:
        said = f"{name} says it holds {_short(shape)} {dtype.name} in {promised:,} bytes"
        raise DataError(f"{said}; it has {len(content):,}{' or more' * (len(content) > promised)}; {_AGAIN}")
    if math.prod(n or 1 for n in shape) * dtype.itemsize >= 2**63:  # empty, and still more than numpy can count
        raise DataError(f"{name} says it holds {_short(shape)} {dtype.name}, which no array can be; {_AGAIN}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def _header_size(content: bytes | bytearray, name: Path | str) -> int:
    """Bytes before the values, from the first four."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES or content[3] == 0:
        raise DataError(f"{name} is not an IDX file: it starts with {content[:4].hex(' ') or 'nothing'}; {_AGAIN}")
    return 4 + 4 * content[3]


def _promised(content: bytes | bytearray, name: Path | str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """dtype and shape of the values, and the length of the file that holds them, from a header."""
    dtype, start = np.dtype(_TYPES[content[2]]), _header_size(content, name)
    if len(content) < start:
        raise DataError(f"{name} ends within its header: {len(content)} of {start} bytes; {_AGAIN}")
    if content[3] > AXES:
        raise DataError(f"{name} says it holds an array of {content[3]} axes; at most {AXES} are read; {_AGAIN}")
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    return dtype, shape, start + math.prod(shape) * dtype.itemsize


def _short(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) <= 8 else f"{str(shape[:8])[:-1]}, ...)"
