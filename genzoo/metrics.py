"""Sample metrics: `(samples, reference, seed) -> float`, on real vectors `(n, D)`; 0 is best."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PROJECTIONS = 256
MMD_POINTS = 2000


def sliced_wasserstein(samples: Tensor, reference: Tensor, seed: int) -> float:
    """Sliced Wasserstein-1 distance in data units: the mean over random directions of the 1D distance between sorted
    projections (Bonneel et al. 2015). Uses as many points as the smaller set has."""
    n = min(len(samples), len(reference))
    generator = np.random.Generator(np.random.PCG64(seed))
    directions = torch.from_numpy(generator.standard_normal((samples[0].numel(), PROJECTIONS)))
    directions = directions / directions.norm(dim=0, keepdim=True)
    first, second = (part[:n].flatten(1).to(torch.float64) @ directions for part in (samples, reference))
    return float((first.sort(dim=0).values - second.sort(dim=0).values).abs().mean())


def mmd(samples: Tensor, reference: Tensor, seed: int) -> float:
    """Squared maximum mean discrepancy, unbiased (Gretton et al. 2012, eq. 3; it can be below zero).

    The kernel is a mean of Gaussians with widths 1/4, 1/2, 1, 2, 4 times the median distance within the reference, on
    at most 2,000 points of each side, drawn by `seed`.
    """
    generator = np.random.Generator(np.random.PCG64(seed))

    def subset(part: Tensor) -> Tensor:
        chosen = generator.permutation(len(part))[:MMD_POINTS]
        return part[torch.from_numpy(chosen)].flatten(1).to(torch.float64)

    x, y = subset(samples), subset(reference)
    within = torch.cdist(y, y)
    median = float(within[within > 0].median()) if bool((within > 0).any()) else 1.0

    def kernel(distance: Tensor) -> Tensor:
        # halving a width raises the kernel to its fourth power: one exponential for all five
        power = torch.exp(-(distance / median).square() / (2 * 4.0**2))
        total = power.clone()
        for _ in range(4):
            power = power.square().square()
            total += power
        return total / 5

    def off_diagonal_mean(gram: Tensor) -> Tensor:
        n = len(gram)
        return (gram.sum() - gram.diagonal().sum()) / (n * (n - 1))

    cross = kernel(torch.cdist(x, y)).mean()
    return float(off_diagonal_mean(kernel(torch.cdist(x, x))) + off_diagonal_mean(kernel(within)) - 2 * cross)
