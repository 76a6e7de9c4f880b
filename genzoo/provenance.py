"""Where a number came from: versions, commit, machine. No torch."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from genzoo.hookspecs import GROUP

LIBRARIES = ("genzoo", "torch", "numpy")


@functools.cache
def versions() -> dict[str, str]:
    """Python, genzoo, torch, numpy, and every distribution with an entry point of ours."""
    names = {*LIBRARIES}
    for entry in importlib.metadata.entry_points(group=GROUP):
        if entry.dist is not None:
            names.add(entry.dist.name)
    found = {"python": platform.python_version()}
    for name in sorted(names):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


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
