"""Files of strangers: regular ones only, with a limit on what is read and on what it may unpack to. No torch.

The parsers beside this module (`safe_json`, `safe_toml`, `safe_arrays`, `safe_tensors`) raise ValueError in plain
words; whoever knows the file makes a typed error of it. None of them runs anything that the file says.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

UNPACKED_FREE = 64 * 2**20
"""Bytes that any file may unpack to: constant arrays are a thousandth of their size when compressed, and small."""

UNPACKED_RATIO = 100
"""Beyond that, how often a file's own size: images reach 20, and sparse ones 60; deflate's bombs reach 1,032."""


class NotRegularError(OSError):
    """A pipe, a device or a socket: reading it could wait for ever."""


def open_regular(path: Path) -> BinaryIO:
    """`path` for reading. Raises OSError: NotRegularError for pipes and devices, which are not waited for."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise NotRegularError("it is a folder, not a file")
        if not stat.S_ISREG(mode):
            raise NotRegularError("it is not a regular file")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_limited(path: Path, limit: int) -> bytes:
    """Content of a regular file. Raises OSError, and ValueError for more than `limit` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > limit else file.read(limit + 1)
    if size > limit or len(content) > limit:
        raise ValueError(f"it has {max(size, len(content)):,} bytes; at most {limit:,} are read")
    return content


def reason(error: OSError) -> str:
    """Why the system refused, in words."""
    return error.strerror or str(error) or type(error).__name__


def unpacked_limit(packed: int) -> int:
    """Bytes that a compressed file of `packed` bytes may unpack to."""
    return max(UNPACKED_FREE, UNPACKED_RATIO * packed)
