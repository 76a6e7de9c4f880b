"""Sample metrics: `(samples, reference, seed) -> float`, on events `(n, *event_shape)` of any kind; lower is better.

Discrete data are compared by their codes as numbers, so that a distance is in units of one level. Each value depends
on how many samples it rests on: it is read beside its value on a second real sample of the same size.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

PROJECTIONS = 256
MMD_POINTS = 2000
CLASSIFIER_POINTS = 4000
"""Most points of each side in the classifier two-sample test: half of them to learn from, half to be told apart."""


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


def classifier_accuracy(samples: Tensor, reference: Tensor, seed: int) -> float:
    """Classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv:1610.06545): how often samples and real points that
    the classifier has not seen are told apart. 1/2 is best; two samples of one law lie within 1/2 +- 1/(2 sqrt(m)),
    m points being classified, in two of three cases.

    The classifier of section 3 there without a network: the majority of the k nearest of n training points, k the root
    of n rounded down to an odd number, on dimensions scaled to deviation one. Both sides give as many points, at most
    4,000; those that are equally far from k or more are settled by their order, which is random.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    n = min(len(samples), len(reference), CLASSIFIER_POINTS)
    sides = [part[torch.from_numpy(generator.permutation(len(part))[:n])] for part in (samples, reference)]
    points = torch.cat(sides).flatten(1).to(torch.float64)
    label = torch.arange(2 * n) // n
    half = n // 2
    if half < 2:
        return math.nan
    train = torch.cat([torch.arange(half), torch.arange(n, n + half)])[
        torch.from_numpy(generator.permutation(2 * half))
    ]
    test = torch.cat([torch.arange(half, n), torch.arange(n + half, 2 * n)])
    scale = points[train].std(0, correction=0)
    # centred before float32, in which distances far from zero are lost
    points = ((points - points[train].mean(0)) / torch.where(scale > 0, scale, torch.ones_like(scale))).to(
        torch.float32
    )
    k = math.isqrt(len(train))
    k -= 1 - k % 2
    nearest = torch.cdist(points[test], points[train]).topk(k, largest=False).indices  # (m, k)
    votes = label[train][nearest].sum(1)
    return float(((2 * votes > k).to(torch.int64) == label[test]).double().mean())
