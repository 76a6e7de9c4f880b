"""Building a model that a record of a stranger describes: no more memory and tensors than its weights account for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FREE_BYTES, FREE_CALLS = 64 * 2**20, 10_000
"""What any model may make while it is built: masks, schedules and tables are not among its weights."""

TIMES_BYTES, TIMES_CALLS = 8, 50
"""And for each byte and tensor of its weights: what is drawn, scaled and thrown away on the way to them."""

_MAKERS = frozenset(
    getattr(torch, name)
    for name in (
        *("arange", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint", "randn", "randperm"),
        *("range", "tril_indices", "triu_indices", "zeros", "empty_strided"),
        *("bartlett_window", "blackman_window", "hamming_window", "hann_window", "kaiser_window"),
    )
) | frozenset(
    getattr(torch.Tensor, name) for name in ("new_empty", "new_full", "new_ones", "new_zeros", "repeat", "resize_")
)


class TooLargeError(Exception):
    """What is built goes beyond its allowance."""


class Allowance(TorchFunctionMode):
    """While it is entered, tensors are made up to `size` bytes in all, by up to `calls` calls; then TooLargeError.

    What a call would make is found on the meta device, where nothing is allocated.
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
            self.size -= _bytes(func, args, kwargs)
            if self.size < 0 or self.calls < 0:
                raise TooLargeError
        return func(*args, **kwargs)


def _bytes(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    tried = {key: value for key, value in kwargs.items() if key not in ("generator", "out", "pin_memory", "device")}
    if args and isinstance(args[0], torch.Tensor):
        made = func(args[0].to("meta"), *args[1:], **tried)
    else:
        made = func(*args, **tried, device="meta")
    return int(made.numel() * made.element_size())
