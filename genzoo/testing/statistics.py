"""The statistics that the kit's checks rest on, each with its null law. False alarms are below 1e-7 a check."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ALPHA = 1e-7
Z = 5.33
"""Two-sided normal quantile of 1e-7."""
LEAST_EXPECTED = 30.0
"""Draws that a cell must be expected to hold; rarer ones are pooled, so that a count is near normal."""


def integral(lower: Tensor, variance: Tensor | None, weights: Tensor) -> tuple[float, float]:
    """Sum of weights * exp(lower), and its standard error from the Monte Carlo `variance` of lower (delta method)."""
    mass = weights * lower.exp()
    error = 0.0 if variance is None else float((mass.square() * variance).sum().sqrt())
    return float(mass.sum()), error


def lower_integral(lower: Tensor, variance: Tensor, weights: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """What the integral of exp(E lower) over each group of nodes is at least, and the variance of that, `(G,)` each.

    W exp(mean of lower over the group) is at most the sum of weights * exp(lower) (Jensen), and the noise of a mean
    over nodes and draws is small where that of one node is not: the exponential of a node's noise would be too large by
    far more than half its variance once it is not Gaussian. Half the variance of the group's mean is taken off.

    Args:
        lower, variance, weights: `(N,)`; group: `(N,)` int64.
    """
    size = int(group.max()) + 1
    empty = torch.zeros(size, dtype=torch.float64)
    total = empty.index_add(0, group, weights)
    mean = empty.index_add(0, group, weights * lower) / total
    spread = empty.index_add(0, group, (weights.square() * variance).nan_to_num(nan=0.0)) / total**2
    mass = total * (mean - 0.5 * spread).exp()
    return mass, mass.square() * spread


def chi_square_limit(dof: int, alpha: float = ALPHA) -> float:
    """Upper quantile of the chi-square law, by bisection on its survival function."""
    low, high = float(dof), dof + 40 * math.sqrt(2 * dof) + 200
    shape = torch.tensor(dof / 2, dtype=torch.float64)
    for _ in range(100):
        middle = (low + high) / 2
        survival = float(torch.special.gammaincc(shape, torch.tensor(middle / 2, dtype=torch.float64)))
        low, high = (middle, high) if survival > alpha else (low, middle)
    return high


def pooled(expected: Tensor, *others: Tensor) -> list[Tensor]:
    """Cells with fewer than LEAST_EXPECTED expected draws summed into one; `others` likewise."""
    rare = expected < LEAST_EXPECTED
    return [torch.cat([values[~rare], values[rare].sum().reshape(1)]) for values in (expected, *others)]


def cell_deviations(
    counts: Tensor, share: Tensor, share_variance: Tensor, systematic: float, *, scaled: bool = False
) -> Tensor:
    """Standardised deviation of each cell's count from N times its share.

    Counts are multinomial, and their covariance N (diag p - p p') is at most N diag p: with N p as the variance of a
    count, and independent errors of the shares, the deviations' sum of squares is at most chi-square with one degree a
    cell, however few and large the cells are. `scaled` fits one factor to all shares, by weighted least squares, for
    shares that are known up to a constant; a fit can only lower the sum of squares.

    Args:
        counts: `(C,)` draws in each cell, N in all.
        share: `(C,)` probability of each cell, by quadrature or enumeration.
        share_variance: `(C,)` Monte Carlo variance of the share.
        systematic: relative error of the shares that is granted (quadrature), as a standard deviation.
    """
    n = float(counts.sum())
    if scaled:
        total = share.sum()
        share, share_variance = share / total, share_variance / total**2
    expected, counts, variance = pooled(n * share, counts, n * n * share_variance)
    noise = (expected + variance + (systematic * expected).square()).clamp(min=1.0)
    if scaled:
        expected = expected * (counts * expected / noise).sum() / (expected.square() / noise).sum()
    return (counts - expected) / noise.sqrt()


def paired_z(difference: Tensor, extra_variance: float = 0.0) -> float:
    """Mean of `difference (N,)` over its standard error."""
    error = math.sqrt(float(difference.var()) / len(difference) + extra_variance)
    return float(difference.mean()) / max(error, 1e-12)
