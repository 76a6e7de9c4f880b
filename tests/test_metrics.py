"""Sample metrics against closed forms and direct formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genzoo.metrics import classifier_accuracy, mmd, sliced_wasserstein


def test_sliced_wasserstein_of_shifted_points() -> None:
    """Moving points by d moves each projection by d.u, whose mean over directions in the plane is |d| 2/pi. The mean
    over 256 random directions has relative deviation 0.030: 0.1 is three; the seed is fixed. A shift twice as long
    doubles the number exactly, to float32 rounding of the shift."""
    torch.manual_seed(0)
    x = torch.randn(500, 2)
    d = torch.tensor([3.0, 4.0])
    found = sliced_wasserstein(x + d, x, 0)
    assert found == pytest.approx(5 * 2 / math.pi, rel=0.1)
    twice = sliced_wasserstein(x + 2 * d, x, 0)
    assert twice == pytest.approx(2 * found, rel=1e-5)
    assert 1.01 * twice != pytest.approx(2 * found, rel=1e-5)
    assert sliced_wasserstein(x, x, 0) == 0
    assert sliced_wasserstein(x, x[torch.randperm(500)], 0) < 1e-12


def test_sliced_wasserstein_of_gaussians() -> None:
    """Between N(0, 1) and N(0, s^2) each projection is |s - 1| E|N| = (s - 1) sqrt(2/pi), whatever the direction.
    Tolerance 3 %: sampling of 4,000 points moves the mean absolute deviation by 1.2 % and the difference of two."""
    torch.manual_seed(0)
    found = sliced_wasserstein(torch.randn(4000, 2), 3 * torch.randn(4000, 2), 0)
    assert found == pytest.approx(2 * math.sqrt(2 / math.pi), rel=0.03)
    assert 1.1 * found != pytest.approx(2 * math.sqrt(2 / math.pi), rel=0.03)


def direct_mmd(x: Tensor, y: Tensor) -> float:
    """The same by loops over pairs."""
    x, y = x.double(), y.double()
    within = [float((a - b).norm()) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    median = sorted(within)[(len(within) - 1) // 2]

    def k(a: Tensor, b: Tensor) -> float:
        square = float((a - b).square().sum()) / median**2
        return sum(math.exp(-square / (2 * w * w)) for w in (0.25, 0.5, 1, 2, 4)) / 5

    def pairs(a: Tensor, b: Tensor, same: bool) -> float:
        values = [k(p, q) for i, p in enumerate(a) for j, q in enumerate(b) if not (same and i == j)]
        return sum(values) / len(values)

    return pairs(x, x, True) + pairs(y, y, True) - 2 * pairs(x, y, False)


def test_mmd_against_a_direct_formula() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(25, 2), torch.randn(30, 2) + 0.5
    expected = direct_mmd(x, y)
    assert mmd(x, y, 0) == pytest.approx(expected, abs=1e-10)
    assert 1.01 * mmd(x, y, 0) != pytest.approx(expected, abs=1e-10)


def test_mmd_has_mean_zero_under_the_null() -> None:
    """Unbiased: over 200 repeats the mean lies within four of its standard errors. With the diagonals left in (the
    biased estimator, the twin) it is far off."""
    torch.manual_seed(0)
    values = torch.tensor([mmd(torch.randn(60, 2), torch.randn(60, 2), seed) for seed in range(200)])

    def centred(v: Tensor) -> bool:
        return abs(float(v.mean())) < 4 * float(v.std()) / math.sqrt(len(v))

    assert centred(values)
    assert not centred(values + 0.01)
    assert mmd(torch.randn(60, 2) + 2, torch.randn(60, 2), 0) > 10 * float(values.std())


def test_classifier_accuracy_under_the_null_and_far_away() -> None:
    """Two samples of one law: hits among the m = 600 classified are binomial(m, 1/2) but for their sharing a training
    set, which adds little; the mean of 40 lies within 4 of the binomial errors of the mean. Samples apart by five
    deviations are always told apart."""
    torch.manual_seed(0)
    found = torch.tensor([classifier_accuracy(torch.randn(600, 2), torch.randn(600, 2), seed) for seed in range(40)])
    assert abs(float(found.mean()) - 0.5) < 4 * 0.5 / math.sqrt(600 * 40)
    assert float(found.std()) < 2 * 0.5 / math.sqrt(600)
    assert classifier_accuracy(torch.randn(600, 2) + 5, torch.randn(600, 2), 0) == 1


def test_classifier_accuracy_approaches_the_best_rule() -> None:
    """N(0, 1) against N(d, 1): the best rule cuts at d/2 and is right with probability Phi(d/2), 0.6915 for d = 1. The
    nearest neighbours come within three binomial errors (0.011 each) plus their own loss, about 0.01; the bare error of
    one side, 0.5, would not pass."""
    torch.manual_seed(0)
    found = classifier_accuracy(torch.randn(4000, 1) + 1, torch.randn(4000, 1), 0)
    best = 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))
    assert best - 0.045 < found < best + 0.033


def test_classifier_accuracy_sees_structure_and_codes() -> None:
    """A mixture with the moments of a Gaussian is told from it; so are binary images from their negatives, while a
    dimension that never moves breaks nothing. A seed repeats the number."""
    torch.manual_seed(0)
    ring = torch.nn.functional.normalize(torch.randn(2000, 2), dim=1) * 2**0.5
    assert classifier_accuracy(ring, torch.randn(2000, 2), 0) > 0.8
    images = (torch.rand(200, 1, 4, 4) < 0.2).to(torch.uint8)
    images[:, :, 0, 0] = 0
    others = images.clone()
    others[:, :, 1:, 1:] = 1 - others[:, :, 1:, 1:]
    assert classifier_accuracy(others, images, 0) > 0.95
    assert classifier_accuracy(others, images, 3) == classifier_accuracy(others, images, 3)


def test_classifier_accuracy_does_not_depend_on_where_the_data_lie() -> None:
    """Two laws that are told apart at the origin are as far from it: float32 distances of raw points are not."""
    torch.manual_seed(0)
    x, y = torch.randn(1500, 2, dtype=torch.float64), 0.5 * torch.randn(1500, 2, dtype=torch.float64)
    near = classifier_accuracy(x, y, 0)
    assert near > 0.68
    assert classifier_accuracy(x + 10_000, y + 10_000, 0) == pytest.approx(near, abs=0.01)
