"""Noise around points: what is added to a centre, and the log-density of a weighted mixture of such noisy centres.

Both classes work in log space relative to the nearest centre, so that far tails are finite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

# Terms below exp(-32) = 1e-14 of the largest are left out.
NEGLIGIBLE = 32.0


class Noise(Protocol):
    """Independent noise with the same law on each axis."""

    def draw(self, rng: np.random.Generator, n: int, dims: int) -> Tensor:
        """`(n, dims)` float64, independent draws."""
        ...

    def log_mixture(self, x: Tensor, centres: Tensor, log_weights: Tensor) -> Tensor:
        """log sum_j w_j k(x - c_j) `(N,)`, nats, for `x (N, D)`, `centres (M, D)`, `log_weights (M,)`."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """Isotropic N(0, scale^2)."""

    scale: float

    def draw(self, rng: np.random.Generator, n: int, dims: int) -> Tensor:
        return torch.from_numpy(self.scale * rng.standard_normal((n, dims)))

    def log_mixture(self, x: Tensor, centres: Tensor, log_weights: Tensor) -> Tensor:
        # |x - c|^2 - |x|^2 in one matrix product: |x|^2 is common to all centres.
        offset = log_weights - centres.square().sum(1) / (2 * self.scale**2)
        exponent = torch.addmm(offset, x, centres.T, alpha=self.scale**-2)
        log_sum = torch.logsumexp(exponent, 1) - x.square().sum(1) / (2 * self.scale**2)
        return log_sum - x.shape[1] * math.log(self.scale * math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class BoxGaussian:
    """N(0, scale^2) plus uniform noise on [-half_width, half_width], on each axis.

    k(u) = (Phi((u + w)/s) - Phi((u - w)/s)) / 2w, written with erfcx and |u|, so that no tail cancels or underflows.
    """

    scale: float
    half_width: float

    def draw(self, rng: np.random.Generator, n: int, dims: int) -> Tensor:
        box = rng.uniform(-self.half_width, self.half_width, (n, dims))
        return torch.from_numpy(box + self.scale * rng.standard_normal((n, dims)))

    def log_mixture(self, x: Tensor, centres: Tensor, log_weights: Tensor) -> Tensor:
        unit = self.scale * math.sqrt(2)
        width = 2 * self.half_width / unit
        half = width / 2
        # Near ends of the boxes, in units of the Gaussian: k(u) = exp(-near^2) g(near), with a slowly varying g.
        x, centres = x / unit, centres / unit
        nears = [(x[:, i, None] - centres[:, i]).abs_().sub_(half) for i in range(x.shape[1])]  # each (N, M)
        exponent = log_weights.expand(len(x), -1)
        for near in nears:
            exponent = torch.addcmul(exponent, near, near, value=-1)
        top = exponent.amax(1)
        exponent -= top[:, None]
        # erfcx is dear: only the few centres that count are given to it.
        index = torch.nonzero(exponent.flatten() > -NEGLIGIBLE).squeeze(1)
        value = exponent.take(index).exp_()
        for near in nears:
            a = near.take(index)
            b = a + width
            value *= torch.special.erfcx(a) - torch.special.erfcx(b) * torch.exp(-width * (a + b))
        total = torch.zeros_like(top).index_add_(0, index // len(centres), value)
        return top + total.log() - x.shape[1] * math.log(4 * self.half_width)
