"""Variants of one job, timed in turns within one process: what else the machine does falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3
"""Rounds that are not counted."""


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + WARM_UP):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if i >= WARM_UP:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def without_grad(call: Callable[[Tensor], object], x: Tensor) -> Callable[[], object]:
    """`call(x)` as in evaluation."""

    def run() -> object:
        with torch.no_grad():
            return call(x)

    return run
