"""When memory runs out: the same work in smaller parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def halving(call: Callable[[int], T], size: int) -> tuple[T, int]:
    """`call(size)`, with half the size each time that the device's memory runs out; its result, and the size that fits.

    Raises torch.OutOfMemoryError where not even one fits.
    """
    while True:
        try:
            return call(size), size
        except torch.OutOfMemoryError:
            if size <= 1:
                raise
        # out of the handler: while the exception lives, its frames hold the tensors
        torch.cuda.empty_cache()
        size = size // 2
