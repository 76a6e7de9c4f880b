"""Advisory locks on folders: one writer at a time, and a lock that dies with its owner.

The lock is the kernel's, flock on `<folder>/.lock`: a process that is killed, by whatever signal, leaves none behind.
What stands in the file, pid and host, is for the message alone. Whoever only reads takes no lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from genzoo.errors import LockedError, StorageError
from genzoo.safe_files import read_limited
from genzoo.safe_json import parse_json

log = logging.getLogger(__name__)
NAME = ".lock"
RETRY_SECONDS = 0.05
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold `folder`, which is made when it is missing, for this process alone.

    On a file system without locks it goes on with a warning.

    Args:
        folder: what is written to.
        patience: seconds to wait for another owner, such as the last worker of a bench that was just killed.

    Raises:
        LockedError: another process holds it; names its pid and host.
        StorageError: the lock file cannot be made.
    """
    path, end = folder / NAME, time.monotonic() + patience
    while (handle := _take(path)) is None:
        if time.monotonic() >= end:
            raise LockedError(
                f"{folder} is in use by {_owner(path)}: wait until that has ended, stop it, or give another folder"
            )
        time.sleep(RETRY_SECONDS)
    try:
        yield
    finally:
        # while it is still held: whoever opened the file before takes a lock on what has no name, and sees that
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(handle)


def _take(path: Path) -> int | None:
    """The open and locked file, or None where another process holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise StorageError.of(path, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(handle)
            raise StorageError.of(path, error) from error
        log.warning("%s: this file system has no locks; do not run two benches on it at once", path.parent)
    if not _is_named(handle, path):  # its last owner removed it between the opening and the lock
        os.close(handle)
        return None
    with contextlib.suppress(OSError):  # a full disk: the lock holds, its message says less
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
    return handle


def _is_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _owner(path: Path) -> str:
    try:
        said = parse_json(read_limited(path, 1000))
        return f"process {int(said['pid'])} on {str(said['host'])[:200]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
