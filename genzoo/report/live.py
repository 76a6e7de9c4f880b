"""The page of a run that goes on: written again as cells end, seldom enough to cost the run little."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from genzoo.report import write

SHARE = 0.02
"""Part of the time that writing the page may take at most: the cells that train beside it count their seconds."""
LEAST_SECONDS = 10.0
"""From the end of one writing to the next, at least."""


class LivePage:
    """Writes `report.html` of a run folder while its cells run; each writing is whole or not at all.

    Args:
        folder: of the run. clock: seconds that pass.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = folder / "report.html"
        self._folder = folder
        self._clock = clock
        self._held = 0
        self._next = -LEAST_SECONDS

    def update(self, cells: int) -> bool:
        """Write the page if it holds fewer than `cells` that have ended and the time has come; whether it was written.

        Raises what `genzoo.report.write` raises; the next try then comes as late as after a page that was written.
        """
        start = self._clock()
        if cells <= self._held or start < self._next:
            return False
        try:
            write([self._folder], self.path)
            self._held = cells
        finally:
            end = self._clock()
            self._next = end + max(LEAST_SECONDS, (end - start) * (1 / SHARE - 1))
        return True
