"""The bound's mean over test points, with its network calls counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from torch import Tensor

from genzoo.interface import Estimator
from genzoo.likelihood import LogLikelihood
from genzoo.means import MeanResult


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
        self._calls = calls

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """See GenerativeModel.log_likelihood."""
        return self._bound(x, num_samples, seed, condition)

    def mean(
        self,
        x: Tensor,
        num_samples: int = 1,
        seed: int = 0,
        condition: Tensor | None = None,
        *,
        until_se: float | None = None,
        batch_size: int | None = None,
        max_seconds: float | None = None,
    ) -> MeanResult:
        """See Estimator.mean; `calls` leaves out the pilot of `until_se`."""
        result = super().mean(
            x, num_samples, seed, condition, until_se=until_se, batch_size=batch_size, max_seconds=max_seconds
        )
        return replace(result, calls=len(result.values) * result.num_samples * self._calls)
