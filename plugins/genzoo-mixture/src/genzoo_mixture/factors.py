"""Factor analysers (Ghahramani and Hinton 1996, CRG-TR-96-1): Gaussians of many dimensions in D (r + 1) numbers each.

    C_k = W_k W_k^T + V_k,  V_k = diag(v_k), W_k (D, r)            x = m_k + W_k z + noise,  z ~ N(0, I)
    z given x ~ N(B_k (x - m_k), M_k^-1),   M_k = I + W_k^T V_k^-1 W_k,   B_k = M_k^-1 W_k^T V_k^-1
    (x - m)^T C^-1 (x - m) = sum_d (x - m)_d^2 / v_d - |L^T W^T V^-1 (x - m)|^2,  M^-1 = L L^T;  |C| = |M| prod_d v_d

No matrix of D x D is made. EM fills in z beside the component: its statistics are sums of x, x^2, z, x z^T and
z z^T + M^-1, which batches average (Cappe and Moulines 2009), and [W, m] is the regression of x on [z, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genzoo_mixture.components import Components, Statistics, least_variance, regressed


class FactorAnalysers(Components):
    """K factor analysers.

    Args:
        count: K. dims: D. rank: r.
        ridge: least variance in units of the data's mean variance, added to v.
    """

    loc: Tensor
    loadings: Tensor
    noise: Tensor
    floor: Tensor

    def __init__(self, count: int, dims: int, rank: int, ridge: float) -> None:
        super().__init__()
        self.count, self.dims, self.rank, self.ridge = count, dims, rank, ridge
        self.register_buffer("loc", torch.zeros(count, dims, dtype=torch.float64))
        self.register_buffer("noise", torch.ones(count, dims, dtype=torch.float64))
        self.register_buffer("loadings", torch.zeros(count, dims, rank, dtype=torch.float64))
        self.register_buffer("floor", torch.zeros((), dtype=torch.float64))

    def begin(self, x: Tensor) -> None:
        """See Components."""
        self.floor.copy_(least_variance(x, self.ridge))

    def start(self, x: Tensor, assigned: Tensor) -> None:
        """See Components: the principal directions of each cluster (Tipping and Bishop 1999); small random ones where
        it has too few examples, since EM leaves no direction that is 0."""
        small = 0.01 * x.var(0, correction=0).mean().sqrt()
        for k in range(self.count):
            rows = x[assigned[:, k] > 0]
            if not len(rows):
                continue
            loc = rows.mean(0)
            _, values, directions = torch.linalg.svd((rows - loc) / math.sqrt(len(rows)), full_matrices=False)
            variances = values.square()
            rank = min(self.rank, len(variances))
            rest = variances[rank:].sum() / max(1, self.dims - rank)
            loadings = small * torch.randn_like(self.loadings[k])
            loadings[:, :rank] = directions[:rank].T * (variances[:rank] - rest).clamp(min=0).sqrt()
            self.loc[k], self.loadings[k] = loc, loadings
            left = rows.var(0, correction=0) - loadings.square().sum(1)
            self.noise[k] = left.clamp(min=0) + self.floor

    def free(self) -> int:
        """See Components."""
        return self.loc.numel() + self.loadings.numel() + self.noise.numel()

    def covariance(self, k: int) -> Tensor:
        """C_k, `(D, D)`."""
        return self.loadings[k] @ self.loadings[k].T + self.noise[k].diag()

    def _whitened(self, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """m_k, v_k, V_k^-1 W_k `(K, D, r)` and the Cholesky factor of M_k, of the dimensions that are `seen`."""
        loc, noise, loadings = self.loc, self.noise, self.loadings
        if seen is not None:
            loc, noise, loadings = loc[:, seen], noise[:, seen], loadings[:, seen]
        whitened = loadings / noise[:, :, None]
        eye = torch.eye(self.rank, dtype=loc.dtype, device=loc.device)
        return loc, noise, whitened, torch.linalg.cholesky(eye + loadings.transpose(1, 2) @ whitened)

    def log_prob(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """See Components."""
        loc, noise, whitened, root = self._whitened(seen)
        x = x if seen is None else x[:, seen]
        middle = loc.mean(0)  # products of what lies about it keep their digits
        x, loc = x - middle, loc - middle
        precision = 1 / noise
        squares = x.square() @ precision.T - 2 * x @ (precision * loc).T + (precision * loc.square()).sum(1)
        projected = self._projected(x, loc, whitened)  # (K, r, N)
        inner = torch.linalg.solve_triangular(root, projected, upper=False).square().sum(1).T
        log_det = noise.log().sum(1) + 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
        log_p: Tensor = -0.5 * (squares - inner + log_det + x.shape[1] * math.log(2 * math.pi))
        return log_p

    def _projected(self, x: Tensor, loc: Tensor, whitened: Tensor) -> Tensor:
        """W_k^T V_k^-1 (x - m_k), `(K, r, N)`, in one product for all components."""
        flat = whitened.transpose(1, 2).reshape(-1, x.shape[1])  # (K r, D)
        shift = (loc[:, None] @ whitened).transpose(1, 2)
        return (flat @ x.T).view(len(loc), self.rank, len(x)) - shift

    def statistics(self, x: Tensor, responsibility: Tensor) -> Statistics:
        """See Components; sums of z are of its mean given x."""
        loc, _, whitened, root = self._whitened(None)
        z = torch.cholesky_solve(self._projected(x, loc, whitened), root)  # (K, r, N)
        weighted = z * responsibility.T[:, None]
        n = responsibility.sum(0)
        return {
            "n": n,
            "x": responsibility.T @ x,
            "xx": responsibility.T @ x.square(),
            "z": weighted.sum(2),
            "xz": (weighted.reshape(-1, len(x)) @ x).view(self.count, self.rank, self.dims),
            "zz": weighted @ z.transpose(1, 2) + n[:, None, None] * torch.cholesky_inverse(root),
        }

    def maximise(self, statistics: Mapping[str, Tensor]) -> None:
        """See Components. A component that lost all its examples stays as it is."""
        alive = statistics["n"] > 1e-12
        n, x, xx, z, xz, zz = (statistics[name][alive] for name in ("n", "x", "xx", "z", "xz", "zz"))
        z_one = torch.cat([torch.cat([zz, z[:, :, None]], 2), torch.cat([z, n[:, None]], 1)[:, None]], 1)
        x_one = torch.cat([xz, x[:, None]], 1)  # (K, r + 1, D)
        coefficients = torch.linalg.solve(z_one, x_one)
        noise = (xx - (coefficients * x_one).sum(1)) / n[:, None]
        self.loadings[alive] = coefficients[:, :-1].transpose(1, 2)
        self.loc[alive] = coefficients[:, -1]
        self.noise[alive] = noise.clamp(min=0) + self.floor

    def sample(self, k: Tensor) -> Tensor:
        """See Components."""
        z = torch.randn(len(k), self.rank, dtype=torch.float64, device=k.device)
        x = self.loc[k] + self.noise[k].sqrt() * torch.randn(len(k), self.dims, dtype=torch.float64, device=k.device)
        for j in torch.unique(k).tolist():  # type: ignore[no-untyped-call]
            x[k == j] += z[k == j] @ self.loadings[j].T
        return x

    def sample_rest(self, x: Tensor, seen: Tensor, k: Tensor) -> Tensor:
        """See Components: a joint draw, moved by the regression of the rest on what is seen."""
        return regressed(self.sample(k), x, seen, k, self.covariance)
