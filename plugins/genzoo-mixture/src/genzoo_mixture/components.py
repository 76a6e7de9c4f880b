"""Components of a mixture: K laws of x in D dimensions, with what EM needs of them. All in float64; values in nats.

An exponential family has sufficient statistics T(x): given responsibilities r, EM needs sum_n r_nk T(x_n) alone, so the
same code serves full batches and running averages of small ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Statistics = dict[str, Tensor]
"""Sums over examples weighted by responsibilities: `n (K,)`, and what the component adds, `(K, ...)`; divided by the
number of examples once they are used, so that batches of any size can be averaged."""


class Components(nn.Module, ABC):
    """K laws of x `(N, D)`."""

    count: int

    def begin(self, x: Tensor) -> None:  # most laws need nothing
        """Look at training examples `(N, D)` before all else."""

    def start(self, x: Tensor, assigned: Tensor) -> None:  # most laws need nothing
        """Take what EM does not find by itself from clusters, `assigned (N, K)` one-hot."""

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


def least_variance(x: Tensor, ridge: float) -> Tensor:
    """`ridge` times the mean variance of `x (N, D)`, and no less than float32 can tell from 0: `()`."""
    tiny = torch.finfo(torch.float32).tiny
    return (ridge * x.var(0, correction=0).mean().clamp(min=tiny)).clamp(min=tiny)


def regressed(drawn: Tensor, x: Tensor, seen: Tensor, k: Tensor, covariance: Callable[[int], Tensor]) -> Tensor:
    """Joint draws `(n, D)` of Gaussian components `k (n,)`, moved so that they are draws given `x` where `seen (D,)`:
    y + C_.s C_ss^-1 (x_s - y_s), with C `covariance(k)`."""
    moved = drawn.clone()
    for j in torch.unique(k).tolist():  # type: ignore[no-untyped-call]
        rows, c = k == j, covariance(j)
        gap = (x[rows] - drawn[rows])[:, seen]
        moved[rows] += torch.linalg.solve(c[seen][:, seen], gap.T).T @ c[seen]
    return moved
