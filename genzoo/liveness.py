"""Signs of life of a cell, and how long there was none.

A sign is the modification time of the cell's `progress.jsonl`. It is set by every line written there, by each training
step, and, outside of the training loop (validation, evaluation, sampling), by each call of a torch module, each batch
and each temperature of an annealing, at most once a second. The watcher compares times of the file with each other
only: its clock need not agree with the worker's.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from torch.nn.modules.module import register_module_forward_pre_hook

from genzoo import signs

BEAT_SECONDS = 1.0


class Liveness:
    """Gives signs of life through `path`, a file that is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last = -BEAT_SECONDS

    def beat(self, *_: object) -> None:
        """One sign, if the last is a second old; takes and ignores what a hook of torch is given."""
        now = time.monotonic()
        if now - self._last >= BEAT_SECONDS:
            self._last = now
            with contextlib.suppress(OSError):
                os.utime(self.path)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Each call of a torch module or of `signs.alive` is a sign inside. Not around training steps: a hook costs
        microseconds a call."""
        handle = register_module_forward_pre_hook(self.beat)
        signs.LISTENERS.append(self.beat)
        try:
            yield
        finally:
            signs.LISTENERS.remove(self.beat)
            handle.remove()


class Pulse:
    """How long a file has given no sign of life.

    Attributes:
        changed: whether there was a sign since the beginning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changed = False
        self._seen = self._time()
        self._since = time.monotonic()

    def reset(self) -> None:
        """Begin to count again."""
        self._since = time.monotonic()

    def silence(self) -> float:
        """Seconds since the time of the file was last seen to change, or since the beginning."""
        seen = self._time()
        if seen != self._seen:
            self._seen, self.changed = seen, True
            self.reset()
        return time.monotonic() - self._since

    def _time(self) -> int | None:
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return None
