"""Where a number came from: versions, commit, machine. No torch."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from genzoo.errors import ProvenanceError
from genzoo.hookspecs import GROUP
from genzoo.text import plain

LIBRARIES = ("genzoo", "torch", "numpy")
RESULTS = "benchmarks/results"
"""Of the checkout: where committed results lie."""
CODE = ("genzoo/", "plugins/")
NAMED = 5
"""Changed files in a message."""


@functools.cache
def versions() -> dict[str, str]:
    """Python, genzoo, torch, numpy, and every distribution with an entry point of ours."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    for distribution in importlib.metadata.distributions():
        # one by one: a single broken entry_points.txt makes `importlib.metadata.entry_points` raise for all
        with contextlib.suppress(Exception):
            name = distribution.metadata["Name"]
            if name and any(point.group == GROUP for point in distribution.entry_points):
                found.setdefault(plain(name, 80), plain(distribution.version, 80))
    return dict(sorted(found.items()))


@functools.cache
def commit() -> str | None:
    """Commit of the checkout that this package runs from, with `-dirty` for local changes; None outside of one."""
    changes = changed()
    return None if changes is None else f"{_git('rev-parse', 'HEAD')}-dirty" if changes else _git("rev-parse", "HEAD")


def changed(file: Path = Path(__file__)) -> tuple[str, ...] | None:
    """Files of the checkout that tracks `file` which are not as committed; None where no checkout does, or git does not
    answer.

    New files count where code lies, in genzoo/ and plugins/; committed results, on which no number depends, never.
    """
    # only when this very file is tracked there, not when an environment lies inside some other checkout
    if not _git("ls-files", file.name, file=file) or not _git("rev-parse", "HEAD", file=file):
        return None
    said = _git("status", "--porcelain", "--untracked-files=all", "--", ":/", f":(top,exclude){RESULTS}", file=file)
    if said is None:
        return None
    lines = [(line[:2], line[3:].strip('"')) for line in said.splitlines()]
    return tuple(name for state, name in lines if state != "??" or name.startswith(CODE))


def require_clean(file: Path = Path(__file__)) -> None:
    """ProvenanceError, naming the files, unless the code that runs is that of a commit."""
    changes = changed(file)
    if changes is None:
        raise ProvenanceError(
            f"{file.parent} lies in no git checkout, or git does not answer: no commit can be named; run from a clone"
        )
    if changes:
        first = ", ".join(plain(name, 80) for name in changes[:NAMED])
        more = f" and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
        raise ProvenanceError(
            f"expected a checkout without local changes; {first}{more} {'is' if len(changes) == 1 else 'are'} not as "
            "committed: commit first, or run without --clean"
        )


def _git(*arguments: str, file: Path = Path(__file__)) -> str | None:
    """What git says, in the folder of `file`; None where it fails."""
    command = ["git", "-C", str(file.resolve().parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None


@functools.cache
def machine() -> dict[str, Any]:
    """Cores, architecture and processor, on which the last digits depend; no host name, no user."""
    return {
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "system": platform.system(),
    }


def _processor() -> str:
    """The processor's name, as Linux tells it; elsewhere, as the platform does."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return plain(line.partition(":")[2].strip(), 80)
    return plain(platform.processor(), 80)
