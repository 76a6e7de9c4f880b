"""Signs of life from long loops that call no torch module; `genzoo.liveness` listens, and ends workers that hang."""

from __future__ import annotations

from collections.abc import Callable

LISTENERS: list[Callable[[], None]] = []


def alive() -> None:
    """Tell whoever listens; next to nothing where nobody does."""
    for listener in LISTENERS:
        listener()
