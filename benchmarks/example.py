"""The example report and a picture of its top, in benchmarks/example, from committed records: `make example`. The
arrays of the planes, which are not committed, are those that `make toys` leaves beside them.

The picture wants Chromium; without it the page alone is written, and that is said.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from browser import Browser, chromium

from genzoo.records import find_cells
from genzoo.report import write

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("benchmarks/example")
RESULTS = Path("benchmarks/results")
PLANES = ("moons", "checkerboard", "rings")
SIZE = (1280, 2280)


def runs() -> list[Path]:
    """Three of the ten planes, and binary images."""
    planes = [cell for name in PLANES for cell in sorted((RESULTS / "toys" / "cells").glob(f"*-{name}-0-*"))]
    return [*planes, RESULTS / "static", RESULTS / "mnist-cpu-binary"]


def main() -> int:
    """Write both; the exit code."""
    os.chdir(ROOT)  # paths in the page are as from here
    if bare := [cell.path for run in runs() for cell in find_cells(run) if not cell.arrays()]:
        print(f"{bare[0]} has no arrays.npz, which is not committed: make toys trains it again", file=sys.stderr)
        return 1
    page = write(runs(), FOLDER / "report.html")
    print(page)
    if chromium() is None:
        print("no Chromium on the path: report.png stays as it is", file=sys.stderr)
        return 1
    with Browser() as browser:
        browser.open(page, *SIZE).screenshot(FOLDER / "report.png")
    print(FOLDER / "report.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
