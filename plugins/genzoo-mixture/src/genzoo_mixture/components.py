"""Components of a mixture: K laws of x in D dimensions, with what EM needs of them. All in float64; values in nats.

An exponential family has sufficient statistics T(x): given responsibilities r, EM needs sum_n r_nk T(x_n) alone, so the
same code serves full batches and running averages of small ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

Statistics = dict[str, Tensor]
"""Sums over examples weighted by responsibilities: `n (K,)`, and what the component adds, `(K, ...)`; divided by the
number of examples once they are used, so that batches of any size can be averaged."""


class Components(nn.Module, ABC):
    """K laws of x `(N, D)`."""

    count: int

    @abstractmethod
    def free(self) -> int:
        """How many numbers are learned."""

    @abstractmethod
    def log_prob(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """log p_k(x), `(N, K)`; of the dimensions where `seen (D,)` alone, the others integrated out."""

    @abstractmethod
    def statistics(self, x: Tensor, responsibility: Tensor) -> Statistics:
        """Weighted sums over `x (N, D)` with `responsibility (N, K)`."""

    @abstractmethod
    def maximise(self, statistics: Mapping[str, Tensor]) -> None:
        """Set the parameters to the maximum of the expected log-likelihood."""

    @abstractmethod
    def sample(self, k: Tensor) -> Tensor:
        """A draw `(n, D)` of component `k (n,)` for each."""

    @abstractmethod
    def sample_rest(self, x: Tensor, seen: Tensor, k: Tensor) -> Tensor:
        """Draws `(n, D)` of components `k (n,)` given `x (n, D)` where `seen (D,)`."""
