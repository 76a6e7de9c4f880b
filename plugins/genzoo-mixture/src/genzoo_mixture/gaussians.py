"""Gaussian components (McLachlan and Peel 2000). Factor analysers, for many dimensions, are in `factors.py`.

full        C_k free                      diagonal    C_k = diag(v_k)                      tied        C_k = C
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from genzoo_mixture.components import Components, Statistics, least_variance, regressed

Covariance = Literal["full", "diagonal", "tied"]


class Gaussians(Components):
    """K Gaussians.

    Args:
        count: K. dims: D.
        covariance: how the C_k are tied.
        ridge: least variance in units of the data's mean variance, added to the diagonal.
    """

    loc: Tensor
    factor: Tensor
    noise: Tensor
    floor: Tensor

    def __init__(self, count: int, dims: int, covariance: Covariance, ridge: float) -> None:
        super().__init__()
        self.count, self.dims, self.covariance, self.ridge = count, dims, covariance, ridge
        diagonal = covariance == "diagonal"
        eye = torch.eye(dims, dtype=torch.float64)
        kept = {"full": count, "tied": 1, "diagonal": 0}[covariance]
        self.register_buffer("loc", torch.zeros(count, dims, dtype=torch.float64))
        self.register_buffer("factor", eye.repeat(kept, 1, 1))  # Cholesky factors of C_k
        self.register_buffer("noise", torch.ones(count if diagonal else 0, dims, dtype=torch.float64))
        self.register_buffer("floor", torch.zeros((), dtype=torch.float64))

    def begin(self, x: Tensor) -> None:
        """See Components."""
        self.floor.copy_(least_variance(x, self.ridge))

    def free(self) -> int:
        """See Components."""
        symmetric = self.dims * (self.dims + 1) // 2
        spread = {"full": self.count * symmetric, "tied": symmetric, "diagonal": self.noise.numel()}
        return self.loc.numel() + spread[self.covariance]

    def covariances(self) -> Tensor:
        """C_k, `(K, D, D)`."""
        if self.covariance == "diagonal":
            return torch.diag_embed(self.noise)
        return (self.factor @ self.factor.transpose(1, 2)).expand(self.count, -1, -1)

    def log_prob(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """See Components."""
        if seen is not None:
            x, loc = x[:, seen], self.loc[:, seen]
            factor = torch.linalg.cholesky(self.covariances()[:, seen][:, :, seen])
        elif self.covariance == "diagonal":
            centred = (x[:, None] - self.loc).square() / self.noise  # (N, K, D)
            return -0.5 * (centred + self.noise.log() + math.log(2 * math.pi)).sum(2)
        else:
            loc, factor = self.loc, self.factor
        centred = (x[None] - loc[:, None]).transpose(1, 2)  # (K, D, N)
        z = torch.linalg.solve_triangular(factor.expand(self.count, -1, -1), centred, upper=False)
        log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        log_p: Tensor = -0.5 * (z.square().sum(1).T + x.shape[1] * math.log(2 * math.pi)) - log_det
        return log_p

    def statistics(self, x: Tensor, responsibility: Tensor) -> Statistics:
        """See Components: sums of x, and of squares or products."""
        sums = {"n": responsibility.sum(0), "x": responsibility.T @ x}
        if self.covariance == "diagonal":
            return sums | {"xx": responsibility.T @ x.square()}
        if self.covariance == "tied":
            return sums | {"xx": (x.T @ x)[None]}
        return sums | {"xx": torch.stack([(x * r[:, None]).T @ x for r in responsibility.T])}

    def maximise(self, statistics: Mapping[str, Tensor]) -> None:
        """See Components. A component that lost all its examples stays as it is."""
        n = statistics["n"]
        alive = n > 1e-12
        safe = n.clamp(min=1e-12)[:, None]
        loc = torch.where(alive[:, None], statistics["x"] / safe, self.loc)
        if self.covariance == "tied":
            outer = torch.einsum("k,ki,kj->ij", n, loc, loc)
            scatter = (statistics["xx"][0] - outer) / n.sum()
            self.loc.copy_(loc)
            self.factor.copy_(self._cholesky(scatter)[None])
            return
        if self.covariance == "diagonal":
            noise = (statistics["xx"] / safe - loc.square()).clamp(min=0) + self.floor
            self.noise.copy_(torch.where(alive[:, None], noise, self.noise))
            self.loc.copy_(loc)
            return
        self.loc.copy_(loc)
        for k in alive.nonzero()[:, 0].tolist():
            scatter = statistics["xx"][k] / n[k] - loc[k][:, None] * loc[k]
            self.factor[k] = self._cholesky(scatter)

    def _cholesky(self, covariance: Tensor) -> Tensor:
        """Of a covariance with the floor on its diagonal, which rounding may need more of."""
        symmetric = 0.5 * (covariance + covariance.T)
        extra = self.floor.clamp(min=torch.finfo(torch.float64).tiny)
        while True:
            factor: Tensor
            factor, failed = torch.linalg.cholesky_ex(symmetric + extra * torch.eye(self.dims).to(symmetric))
            if not int(failed):
                return factor
            extra = extra * 10

    def sample(self, k: Tensor) -> Tensor:
        """See Components."""
        eps = torch.randn(len(k), self.dims, dtype=torch.float64, device=k.device)
        if self.covariance == "diagonal":
            return self.loc[k] + self.noise[k].sqrt() * eps
        x = torch.empty_like(eps)
        factor = self.factor.expand(self.count, -1, -1)
        for j in torch.unique(k).tolist():  # type: ignore[no-untyped-call]
            x[k == j] = self.loc[j] + eps[k == j] @ factor[j].T
        return x

    def sample_rest(self, x: Tensor, seen: Tensor, k: Tensor) -> Tensor:
        """See Components: a joint draw, moved by the regression of the rest on what is seen."""
        covariances = self.covariances()
        return regressed(self.sample(k), x, seen, k, lambda j: covariances[j])
