"""The bound as an estimator, with its network calls counted."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from genzoo.interface import Estimator
from genzoo.likelihood import LogLikelihood


class Bound(Protocol):
    """`GenerativeModel.log_likelihood`, or another estimate with its arguments."""

    def __call__(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood: ...


class BoundEstimator(Estimator):
    """A bound that costs `calls` network evaluations a draw.

    Args:
        name: of the estimate, with the variances that decide it.
        bound: what it evaluates.
        calls: network evaluations of one example for one draw.
    """

    def __init__(self, name: str, bound: Bound, calls: int) -> None:
        self.name = name
        self._bound = bound
        self.calls = calls

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """See GenerativeModel.log_likelihood."""
        return self._bound(x, num_samples, seed, condition)
