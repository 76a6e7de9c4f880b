"""The sum over t of the bound, estimated without bias from K steps an example.

With h_t(x, eps) the term at step t, any baseline b_t and slope c_t, and D = E |eps|^2,

    sum_t E h_t = sum_t b_t + E_{t ~ q} [r_t / q_t],    r_t = h_t - b_t - c_t (|eps|^2 - D).

(Other noise than eps brings its own control variate of mean 0.) h_t is averaged over eps and -eps, which share |eps|^2.
b, c and q are fitted by a pilot (b_t = mean h_t; c_t by least squares; q_t proportional to the root mean square of r_t,
the Neyman allocation) and no choice of them is wrong: they change the variance only. Steps are drawn by inverting the
CDF of q in floor(K / 2) strata, two independent draws in each (three in the last for odd K), so that the spread inside
the strata estimates the variance without bias.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

LIKE = 28
"""A chain has about this many parts within which steps are alike: half a unit of log-SNR. A rough q costs variance."""

ROUNDING = 1e-12
"""Squared size of a control variate over that of the values, below which it is none."""

UNIFORM_SHARE = 0.05
"""Part of q spread evenly, since a pilot may miss a rare large term."""


class Draws(NamedTuple):
    """Steps, their probabilities q, and a place in [0, 1) inside each, uniform given the step; one shape."""

    step: Tensor
    probability: Tensor
    place: Tensor


class Allocation(nn.Module):
    """Baseline, slope and probability of each step; unfitted: 0, 0 and uniform over `first..steps - 1`.

    Args:
        steps, first: which there are.
        alone: how many at the start are unlike their neighbours: a Gaussian decoder, where it is drawn.
    """

    baseline: Tensor
    slope: Tensor
    probability: Tensor

    def __init__(self, steps: int, first: int, alone: int) -> None:
        super().__init__()
        self.first = first
        self.alone = alone
        probability = (torch.arange(steps) >= first).to(torch.float64)
        self.register_buffer("baseline", torch.zeros(steps, dtype=torch.float64))
        self.register_buffer("slope", torch.zeros(steps, dtype=torch.float64))
        self.register_buffer("probability", probability / probability.sum())

    def fit(self, step: Tensor, values: Tensor, excess: Tensor, spread: float | None) -> None:
        """Fit to a pilot `(R,)` that saw every step from `first` on: h_t, and the control variate, whose variance is
        `spread` where that is known."""
        alone = self.alone
        count = torch.bincount(step, minlength=len(self.baseline))[self.first :]
        n = int(count[alone:].min())

        def smoothed(values: Tensor, n: int) -> Tensor:
            total = torch.zeros_like(self.baseline).index_add(0, step, values)[self.first :]
            x = total / count
            return torch.cat([x[:alone], smooth(x[alone:], n, len(x) // LIKE)])

        self.baseline[self.first :] = smoothed(values, n)
        tiny = torch.finfo(torch.float64).tiny
        if spread is None:
            own = smoothed(excess.square(), n)
            # one that is nothing but rounding explains nothing, and its slope would be as large as it is small
            some = own > ROUNDING * smoothed(values.square(), n)
            slope = torch.where(some, smoothed(values * excess, n) / own.clamp(min=tiny), 0.0)
        else:
            slope = smoothed(values * excess / spread, n)
        self.slope[self.first :] = slope
        square = smoothed(self.residual(values, excess, step).square(), min(n, 8))
        share = square.sqrt() / square.sqrt().sum().clamp(min=tiny)
        even = 1 / len(share)
        share = (1 - UNIFORM_SHARE) * share + UNIFORM_SHARE * even
        self.probability[self.first :] = share / share.sum()

    def residual(self, values: Tensor, excess: Tensor, step: Tensor) -> Tensor:
        """r_t = h_t - b_t - c_t times the control variate."""
        return values - self.baseline[step] - self.slope[step] * excess

    def draw(self, num_samples: int, n: int) -> Draws:
        """Stratified steps `(K, n)`, independent between examples."""
        device = self.probability.device
        stratum = strata(num_samples, device)
        size = torch.bincount(stratum).to(torch.float64)  # (H,)
        low = size.cumsum(0) - size
        place = torch.rand(num_samples, n, dtype=torch.float64, device=device)
        place = (low[stratum][:, None] + size[stratum][:, None] * place) / num_samples
        return self.at(place)

    def at(self, place: Tensor) -> Draws:
        """The steps at `place` in [0, 1), any shape, of the CDF of q."""
        cdf = self.probability.cumsum(0)
        place = place.contiguous() * cdf[-1]
        step = torch.searchsorted(cdf, place, right=True).clamp(self.first, len(cdf) - 1)
        probability = self.probability[step]
        inside = (place - cdf[step] + probability) / probability
        return Draws(step, probability, inside.clamp(0, 1))


def strata(num_samples: int, device: torch.device) -> Tensor:
    """Stratum of each of K draws `(K,)`: two a stratum, a third in the last for odd K."""
    count = max(1, num_samples // 2)
    return (torch.arange(num_samples, device=device) // 2).clamp(max=count - 1)


def stratified_variance(weighted: Tensor) -> Tensor | None:
    """Unbiased variance `(B,)` of the mean over K of r / q `(K, B)` drawn by `strata`; None for K = 1.

    var = sum_h (n_h / K)^2 s_h^2 / n_h, s_h^2 the sample variance inside stratum h of n_h draws.
    """
    k = len(weighted)
    if k == 1:
        return None
    stratum = strata(k, weighted.device)
    size = torch.bincount(stratum).to(weighted.dtype)[:, None]  # (H, 1)
    total = torch.zeros(len(size), weighted.shape[1], dtype=weighted.dtype, device=weighted.device)
    centre = total.index_add(0, stratum, weighted) / size
    spread = total.index_add(0, stratum, (weighted - centre[stratum]).square()) / (size - 1)
    return (spread * size).sum(0) / k**2


def smooth(x: Tensor, n: int, least: int = 1) -> Tensor:
    """Running mean of means `x (T,)` of `n` examples over about 16 examples and `least` steps: neighbours are alike."""
    width = min(2 * (max(16 // n, least) // 2) + 1, len(x) - (len(x) + 1) % 2)
    padded = nn.functional.pad(x[None, None], (width // 2, width // 2), mode="replicate")
    return nn.functional.avg_pool1d(padded, width, stride=1)[0, 0]
