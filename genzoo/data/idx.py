"""IDX files (LeCun, Cortes and Burges, the MNIST page): a magic number, sizes as big-endian uint32, then the values.

Nothing that a file says of itself is believed until it agrees with the number of bytes that are there.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import DataError

LIMIT = 2**31  # bytes after unpacking
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_AGAIN = "fetch the file again or write it anew"


def read_idx(path: Path, limit: int = LIMIT) -> NDArray[Any]:
    """The array in an IDX file, gzipped or not, read-only. Raises DataError that names the file."""
    return parse_idx(read_bytes(path, limit), path)


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """Content of `path`, unpacked if it is gzip, at most `limit` bytes. Raises DataError for more, or if broken."""
    content = bytearray()
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if packed else raw as stream:
                while len(content) <= limit and (piece := stream.read(2**20)):
                    content += piece
    except (OSError, EOFError, zlib.error) as cause:
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
        raise DataError(f"cannot read {path}: {reason}; {_AGAIN}") from cause
    if len(content) > limit:
        raise DataError(f"{path} unpacks to more than {limit:,} bytes, the most that is accepted here")
    return bytes(content)


def parse_idx(content: bytes, name: Path | str) -> NDArray[Any]:
    """The array that `content` holds, as a view of it. Raises DataError where header and length disagree."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES or content[3] == 0:
        raise DataError(f"{name} is not an IDX file: it starts with {content[:4].hex(' ') or 'nothing'}; {_AGAIN}")
    dtype, dims = np.dtype(_TYPES[content[2]]), content[3]
    start = 4 + 4 * dims
    if len(content) < start:
        raise DataError(f"{name} ends within its header: {len(content)} of {start} bytes; {_AGAIN}")
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        said = f"{name} says it holds {shape} {dtype.name} in {expected:,} bytes"
        raise DataError(f"{said}; it has {len(content):,}; {_AGAIN}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)
