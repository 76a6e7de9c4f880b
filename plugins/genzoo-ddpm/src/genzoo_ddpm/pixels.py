"""The exact denoiser of independent pixels: E[x_0 given x_t] and Var[x_0 given x_t] where p(x_0) = prod_i p_i(x_0,i).

    p_i(k given x_t) proportional to p_i(k) exp(-(y - v_k)^2 / 2 sigma^2),   y = x_t,i / a_t,  sigma = s_t / a_t

p_i is the histogram of dimension i in the training data and v_k = 2 k / (L - 1) - 1 the value of level k. The mean goes
to the nearest level as the noise falls below the spacing of levels, which a network would have to learn level by level.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genzoo_ddpm.networks import Denoised

NEAR = 2.0
"""Noise over spacing below which the `REACH` levels on each side of y suffice: they hold 8 standard deviations."""

REACH = 16

MERGED = (2, 4, 16)
"""Levels merged into one where the noise is at least `WIDER` times as wide as what is merged. Merged levels have their
mass, mean and second moment, and the likelihood at their mean: an error of order (width / noise)^2."""

WIDER = 8.0

MERGING = 64
"""Fewer levels than this are not merged: they cost little, and one merged level would be much of the range."""

LEAST = 1e-30
"""Below every variance met: the derivative of its root stays finite at 0."""

ENTRIES = 1 << 21
"""Pairs of pixel and level computed at once; more leave the cache."""


class PixelDenoiser(nn.Module):
    """Posterior mean and variance of each dimension alone; buffers are set by `fit` (before: all levels alike)."""

    sides = 2
    prior_ratio = 1.0
    mass: Tensor

    def __init__(self, dims: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.spacing = 2 / (levels - 1)
        self.merged = MERGED if levels >= MERGING else ()
        self.register_buffer("mass", torch.full((dims, levels), 1 / levels))

    def fit(self, x: Tensor) -> None:
        """Histograms of `x (N, D)` at the levels' values; one further example is spread over all levels."""
        counts = torch.zeros(self.mass.shape, dtype=torch.float64, device=x.device)
        for part in torch.split(x, 4096):
            codes = ((part + 1) / self.spacing).round().to(torch.int64).T
            counts.scatter_add_(1, codes, torch.ones_like(codes, dtype=torch.float64))
        self.mass.copy_((counts + 1 / self.levels) / (len(x) + 1))

    @property
    def values(self) -> Tensor:
        """v_k `(L,)`."""
        return torch.arange(self.levels, dtype=self.mass.dtype, device=self.mass.device) * self.spacing - 1

    @property
    def loc(self) -> Tensor:
        """Mean of each dimension `(D,)`."""
        return self.mass @ self.values

    @property
    def variances(self) -> Tensor:
        """Variance of each dimension `(D,)`."""
        return (self.mass * (self.values - self.loc[:, None]).square()).sum(1)

    def forward(self, x: Tensor, signal: Tensor, noise: Tensor) -> Denoised:
        """At x_t `(R, D)`, a_t and s_t `(R, 1)`. The network's output is in posterior standard deviations."""
        with torch.set_grad_enabled(x.requires_grad and torch.is_grad_enabled()):  # of x_t alone: no parameters
            y, sigma = x / signal, noise / signal
            mean, variance = torch.empty_like(x), torch.empty_like(x)
            kind = self._kind(sigma[:, 0])
            for k in range(2 + len(self.merged)):
                rows = (kind == k).nonzero()[:, 0]
                if len(rows):
                    parts = self._near(y[rows], sigma[rows]) if k == 0 else self._all(y[rows], sigma[rows], k - 1)
                    mean[rows], variance[rows] = parts
            scale = variance.clamp(min=LEAST).sqrt()
            return Denoised(mean, scale, variance, torch.cat([mean, scale / noise], 1))

    def _kind(self, sigma: Tensor) -> Tensor:
        """`(R,)`: 0 near levels only, 1 all levels, 2 and on merged ones."""
        edges = [NEAR, *(WIDER * size for size in self.merged)]
        return torch.bucketize(sigma / self.spacing, torch.tensor(edges, dtype=sigma.dtype, device=sigma.device))

    def _near(self, y: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Moments over the levels around y, taken about the nearest one: the variance is far below its square."""
        reach = min(REACH, self.levels - 1)
        padded = nn.functional.pad(self.mass, (reach, reach)).flatten()
        nearest = ((y + 1) / self.spacing).round().clamp(0, self.levels - 1)
        offset = y - (nearest * self.spacing - 1)
        start = torch.arange(len(self.mass), device=y.device) * (self.levels + 2 * reach) + reach
        index = nearest.to(torch.int64) + start
        half = 0.5 / sigma.square()
        total, first, second = (torch.zeros_like(y) for _ in range(3))
        for j in range(-reach, reach + 1):
            shift = j * self.spacing
            # above 0 only beyond the ends of the range, where there is no mass
            score = (half * (2 * shift * offset - shift**2)).clamp(max=0)
            weight = padded[index + j] * score.exp()
            total += weight
            first += shift * weight
            second += shift**2 * weight
        moved = first / total
        return nearest * self.spacing - 1 + moved, (second / total - moved.square()).clamp(min=0)

    def _all(self, y: Tensor, sigma: Tensor, merging: int) -> tuple[Tensor, Tensor]:
        """Moments over all levels, merged as `MERGED` says; values are counted from -1, the level of empty pixels."""
        values, moments = self._merged(1 if merging == 0 else self.merged[merging - 1])
        means, variances = [], []
        rows = max(1, ENTRIES // values.numel())
        # scores are counted from y's distance to the range of values: no sum underflows
        least = (y - y.clamp(-1, 1)).abs().T[:, :, None]  # (D, R, 1)
        for y_, sigma_, least_ in zip(
            torch.split(y, rows), torch.split(sigma, rows), torch.split(least, rows, dim=1), strict=True
        ):
            offset = y_.T[:, :, None] - values[:, None]  # (D, r, K)
            scores = torch.square(offset, out=None if offset.requires_grad else offset)
            weights = scores.sub_(least_.square()).mul_(-0.5 / sigma_.square()[None]).exp_()
            total, first, second = torch.bmm(weights, moments).unbind(-1)
            mean = first / total
            means.append(mean.T - 1)
            variances.append((second / total - mean.square()).clamp(min=0).T)
        return torch.cat(means), torch.cat(variances)

    def _merged(self, size: int) -> tuple[Tensor, Tensor]:
        """Values `(D, K)` of `size` neighbouring levels merged, and mass * u^{0, 1, 2} `(D, K, 3)`, u = v + 1."""
        count = math.ceil(self.levels / size)
        mass = nn.functional.pad(self.mass, (0, count * size - self.levels)).view(-1, count, size)
        shifted = torch.arange(count * size, dtype=mass.dtype, device=mass.device).view(count, size) * self.spacing
        moments = torch.stack([mass.sum(2), (mass * shifted).sum(2), (mass * shifted.square()).sum(2)], 2)
        return moments[..., 1] / moments[..., 0] - 1, moments
