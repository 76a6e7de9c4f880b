"""Building a model that a record of a stranger describes: no more memory and tensors than its weights account for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FREE_BYTES, FREE_CALLS = 64 * 2**20, 10_000
"""What any model may make while it is built: masks, schedules and tables are not among its weights."""

TIMES_BYTES, TIMES_CALLS = 8, 50
"""And for each byte and tensor of its weights: what is drawn, scaled and thrown away on the way to them."""

WIDTH = 8
"""Bytes of a number, whatever its type."""

_SIZED = ("empty", "zeros", "ones", "rand", "randn", "full", "randint", "empty_strided")
_COUNTED = ("arange", "eye", "linspace", "logspace", "randperm")
_METHODS = ("new_empty", "new_full", "new_ones", "new_zeros", "repeat", "resize_")
_MAKERS = {getattr(torch, name): name for name in (*_SIZED, *_COUNTED)}
_MAKERS |= {getattr(torch.Tensor, name): name for name in _METHODS}


class TooLargeError(Exception):
    """What is built goes beyond its allowance."""


class Allowance(TorchFunctionMode):
    """While it is entered, tensors are made up to `size` bytes in all, by up to `calls` calls; then TooLargeError.

    What a call would make is told from its arguments, before it is made.
    """

    def __init__(self, size: int, calls: int) -> None:
        super().__init__()
        self.size, self.calls = size, calls

    @classmethod
    def of(cls, weights: Sequence[int]) -> Allowance:
        """For a model whose weights, stored, have these numbers of bytes."""
        return cls(FREE_BYTES + TIMES_BYTES * sum(weights), FREE_CALLS + TIMES_CALLS * len(weights))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _MAKERS:
            self.calls -= 1
            self.size -= WIDTH * _numbers(_MAKERS[func], args, kwargs)
            if self.size < 0 or self.calls < 0:
                raise TooLargeError
        return func(*args, **kwargs)


def _numbers(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """How many numbers a call would make; it need not be right where the call is wrong."""
    own = args[0].numel() if name == "repeat" else 1
    args = args[1:] if name in _METHODS else args
    if name == "arange":
        bounds = dict(zip(("start", "end", "step") if len(args) > 1 else ("end",), args, strict=False)) | dict(kwargs)
        return int(abs(bounds.get("end", 0) - bounds.get("start", 0)) / (abs(bounds.get("step", 1)) or 1)) + 1
    if name in ("linspace", "logspace"):
        return int(kwargs.get("steps", args[2] if len(args) > 2 else 0))
    if name == "eye":
        n = int(args[0]) if args else int(kwargs.get("n", 0))
        return n * int(args[1] if len(args) > 1 else kwargs.get("m", n))
    sizes: Any = kwargs.get("size", next((arg for arg in args if isinstance(arg, (tuple, list))), args))
    return own * math.prod(int(n) for n in sizes if isinstance(n, int))
