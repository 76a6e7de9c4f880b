"""Gaussian components (McLachlan and Peel 2000; factor analysers: Ghahramani and Hinton 1996, CRG-TR-96-1).

    full        C_k free                      diagonal    C_k = diag(v_k)
    tied        C_k = C                       factors     C_k = W_k W_k^T + diag(v_k), W_k of rank r

The M-step of all but the last is in closed form. For factor analysers, with S_k the scatter about the mean and
B = W^T (W W^T + V)^-1, a round sets W <- S B^T (I - B W + B S B^T)^-1, V <- diag(S - W B S): an EM of its own, which
never lowers the likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from genzoo_mixture.components import Components, Statistics

Covariance = Literal["full", "diagonal", "tied", "factors"]
ROUNDS = 3
"""Rounds of the inner EM of factor analysers in an M-step."""


class Gaussians(Components):
    """K Gaussians.

    Args:
        count: K. dims: D.
        covariance: how the C_k are tied.
        rank: r of factor analysers.
        ridge: least variance in units of the data's mean variance, added to the diagonal.
    """

    loc: Tensor
    factor: Tensor
    loadings: Tensor
    noise: Tensor
    floor: Tensor

    def __init__(self, count: int, dims: int, covariance: Covariance, rank: int, ridge: float) -> None:
        super().__init__()
        self.count, self.dims, self.covariance, self.ridge = count, dims, covariance, ridge
        diagonal, factors = covariance == "diagonal", covariance == "factors"
        eye = torch.eye(dims, dtype=torch.float64)
        kept = {"full": count, "factors": count, "tied": 1, "diagonal": 0}[covariance]
        self.register_buffer("loc", torch.zeros(count, dims, dtype=torch.float64))
        self.register_buffer("factor", eye.repeat(kept, 1, 1))  # Cholesky factors of C_k
        self.register_buffer("noise", torch.ones(count if diagonal or factors else 0, dims, dtype=torch.float64))
        self.register_buffer("loadings", torch.zeros(count if factors else 0, dims, rank, dtype=torch.float64))
        self.register_buffer("floor", torch.zeros((), dtype=torch.float64))

    def begin(self, x: Tensor) -> None:
        """Take the least variance from the data's scale."""
        scale = x.var(0, correction=0).mean().clamp(min=torch.finfo(torch.float32).tiny)
        self.floor.copy_((self.ridge * scale).clamp(min=torch.finfo(torch.float32).tiny))

    def free(self) -> int:
        """See Components."""
        symmetric = self.dims * (self.dims + 1) // 2
        spread = {
            "full": self.count * symmetric,
            "tied": symmetric,
            "diagonal": self.noise.numel(),
            "factors": self.loadings.numel() + self.noise.numel(),
        }
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
            if self.covariance == "factors":
                scatter = self._analysed(k, scatter)
            self.factor[k] = self._cholesky(scatter)

    def _analysed(self, k: int, scatter: Tensor) -> Tensor:
        """W_k and v_k after some rounds of EM on `scatter (D, D)`; gives W W^T + diag(v), less the floor."""
        w, v = self.loadings[k], self.noise[k]
        if not bool(w.any()):  # the first time: principal directions, as for probabilistic PCA
            values, vectors = torch.linalg.eigh(scatter)
            rank = w.shape[1]
            rest = values[:-rank].mean() if rank < self.dims else values.new_zeros(())
            w = vectors[:, -rank:] * (values[-rank:] - rest).clamp(min=0).sqrt()
            v = (scatter - w @ w.T).diagonal().clamp(min=0) + self.floor
        eye = torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
        for _ in range(ROUNDS):
            whitened = w / v[:, None]  # B by the matrix inversion lemma: (I + W^T V^-1 W)^-1 W^T V^-1
            b = torch.linalg.solve(eye + w.T @ whitened, whitened.T)
            sb = scatter @ b.T
            w = torch.linalg.solve(eye - b @ w + b @ sb, sb.T).T
            v = (scatter - w @ b @ scatter).diagonal().clamp(min=0) + self.floor
        self.loadings[k], self.noise[k] = w, v
        return w @ w.T + (v - self.floor).diag()

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
        drawn = self.sample(k)
        covariances = self.covariances()
        for j in torch.unique(k).tolist():  # type: ignore[no-untyped-call]
            rows = k == j
            gap = (x[rows] - drawn[rows])[:, seen]
            system = covariances[j][seen][:, seen]
            drawn[rows] += torch.linalg.solve(system, gap.T).T @ covariances[j][seen]
        return drawn
