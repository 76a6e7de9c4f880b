"""Calling code that is not ours, so that whatever it does becomes a value: its error, what it printed, what it took."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Generic, TypeVar

from genzoo.errors import PluginError
from genzoo.text import plain

CAUSE_LIMIT = 400  # characters: a cause is one line of a log

T = TypeVar("T")


@contextlib.contextmanager
def descriptor_to(target: int) -> Iterator[None]:
    """Point file descriptor 1 at the descriptor `target`: what `os.write(1, ...)`, C code and child processes print.

    Of the whole process, other threads too. What C code keeps in a buffer of its own until the end is not reached.
    """
    try:
        kept = os.dup(1)
    except OSError:  # there is none to print to
        kept = -1
    _flush()
    if kept >= 0:
        os.dup2(target, 1)
    try:
        yield
    finally:
        _flush()
        if kept >= 0:
            os.dup2(kept, 1)
            os.close(kept)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):  # a reader that has gone, a stream that is closed
        if sys.__stdout__ is not None:
            sys.__stdout__.flush()


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What a guarded call gave: a value or the exception; what it wrote to stderr; which streams of sys it replaced."""

    value: T | None
    error: BaseException | None
    stderr: str
    replaced: tuple[str, ...]


class PrintedError(PluginError):
    """Something was printed where a plugin must not."""


def guarded(call: Callable[[], T]) -> Outcome[T]:
    """Call with stdout (its descriptor too) and stderr held back, and put back what was replaced.

    Printing to stdout is an error, since it would end up in the result.
    """
    stdout, stderr = io.StringIO(), io.StringIO()
    value: T | None = None
    error: BaseException | None = None
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), _sink() as sink:
        with descriptor_to(sink.fileno()):
            try:
                value = call()
            except KeyboardInterrupt:
                raise
            except BaseException as caught:  # SystemExit and its like too: one plugin must not end the process
                error = caught
        replaced = tuple(
            name for name, stream in (("stdout", stdout), ("stderr", stderr)) if getattr(sys, name, None) is not stream
        )
        sink.seek(0)
        printed = stdout.getvalue() or sink.read(CAUSE_LIMIT).decode(errors="replace")
    if error is None and printed:
        error = PrintedError(f"printed to stdout: {plain(printed, 80)!r}")
    return Outcome(value, error, plain(stderr.getvalue(), CAUSE_LIMIT), replaced)


def _sink() -> IO[bytes]:
    """A file for what is printed to the descriptor; where nothing can be written, that is dropped unread."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        return open(os.devnull, "r+b")


def cause_of(error: BaseException) -> str:
    """The exception in one line; errors of ours speak for themselves."""
    try:
        words = str(error)
    except Exception:  # an exception whose own __str__ fails
        words = "(its message cannot be shown)"
    if isinstance(error, PluginError):
        return plain(words, CAUSE_LIMIT)
    return plain(f"{type(error).__name__}: {words}", CAUSE_LIMIT)


def traceback_of(error: BaseException) -> str:
    """Its lines, each of printable text."""
    try:
        lines = "".join(traceback.format_exception(error)).splitlines()
    except Exception:  # an exception whose own __str__ fails
        return ""
    return "\n".join(" " * (len(line) - len(line.lstrip(" "))) + plain(line) for line in lines)
