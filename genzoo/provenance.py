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

from genzoo.hookspecs import GROUP
from genzoo.text import plain

LIBRARIES = ("genzoo", "torch", "numpy")


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
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        # only when this very file is tracked there, not when an environment lies inside some other checkout
        if not git("ls-files", __file__):
            return None
        head, dirty = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return f"{head}-dirty" if dirty else head or None


@functools.cache
def machine() -> dict[str, Any]:
    """Cores and architecture; no host name, no user."""
    return {"cores": os.cpu_count(), "architecture": platform.machine(), "system": platform.system()}
