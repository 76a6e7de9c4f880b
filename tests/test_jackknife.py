"""The jackknife against leaving each draw out, and against the closed form of Gamma weights.

The mean of K weights Gamma(a) is Gamma(K a) / K: the variance of its logarithm is trigamma(K a), whatever K and a.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genzoo.jackknife import Jackknife
from genzoo.likelihood import LogLikelihood


def variance(log_w: Tensor, chunk: int) -> Tensor:
    made = Jackknife()
    for part in torch.split(log_w, chunk):
        made.add(part)
    return made.variance(log_w.logsumexp(0))


def by_leaving_out(log_w: Tensor) -> Tensor:
    """The definition: the statistic of all draws but one, K times."""
    k = len(log_w)
    kept = [torch.cat([log_w[:i], log_w[i + 1 :]]).logsumexp(0) - math.log(k - 1) for i in range(k)]
    return (k - 1) ** 2 / k * torch.stack(kept).var(0)


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
@pytest.mark.parametrize(
    ("k", "chunk", "tolerance"), [(2, 1, 1e-9), (40, 7, 1e-9), (1500, 1500, 3e-4), (1500, 9, 3e-4)]
)
def test_leaving_each_out(spread: float, k: int, chunk: int, tolerance: float) -> None:
    """Nothing is approximated up to BUFFER draws; beyond, 3e-4 is what stands beside LARGEST."""
    torch.manual_seed(k)
    log_w = spread * torch.randn(k, 5, dtype=torch.float64) - 700
    truth = by_leaving_out(log_w)
    found = variance(log_w, chunk)
    torch.testing.assert_close(found, truth, rtol=tolerance, atol=1e-9 / k)
    assert not torch.allclose(1.01 * found, truth, rtol=tolerance, atol=1e-9 / k)


@pytest.mark.parametrize(("shape", "k"), [(1.0, 50), (0.3, 50), (0.3, 1000)])
def test_variance_of_gamma_weights(shape: float, k: int) -> None:
    """Mean variance over trigamma(K a) is 1 within 6 %: the jackknife's own bias is below 4 % here, and 4,000 repeats
    leave 1 %. The delta method is 10 % short at (0.3, 50)."""
    torch.manual_seed(0)
    a = torch.tensor(shape, dtype=torch.float64)
    said = LogLikelihood.weights(torch.distributions.Gamma(a, 1.0).sample((k, 4000)).log())
    truth = float(torch.special.polygamma(1, k * a))
    assert said.variance is not None
    assert float(said.variance.mean()) / truth == pytest.approx(1.0, abs=0.06)


def test_heavy_weights_are_not_made_light() -> None:
    """Log-weights of deviation 2, K = 50: the truth is the variance over 4,000 repeats (2 %), the jackknife is within
    15 % of it, the delta method at 0.54."""
    torch.manual_seed(0)
    log_w = 2 * torch.randn(50, 4000, dtype=torch.float64)
    said = LogLikelihood.weights(log_w)
    truth = float(said.lower.var())
    assert said.variance is not None
    assert float(said.variance.mean()) / truth == pytest.approx(1.0, abs=0.15)
    shares = torch.softmax(log_w, 0).square().sum(0)
    assert float(((50 * shares - 1) / 49).mean()) / truth < 0.6


def test_one_weight_that_is_all_there_is() -> None:
    log_w = torch.full((4, 3), -math.inf, dtype=torch.float64)
    log_w[0, 1] = 2.0
    log_w[:, 2] = 0.0
    said = LogLikelihood.weights(log_w)
    assert said.variance is not None
    assert said.variance.tolist() == [1.0, 1.0, 0.0]  # no other weight to judge by: the delta method's largest value
    many = LogLikelihood.weights(log_w.repeat(1000, 1)).variance
    assert many is not None
    assert many.tolist() == pytest.approx([1.0, 3 / 4000, 0.0], abs=2e-6)  # one in four: (1 - p) / (p K)


def test_a_dominant_weight_keeps_its_digits() -> None:
    log_w = torch.tensor(
        [[0.0], [-60.0], [-61.0]], dtype=torch.float64
    )  # 1 - q is 1e-26, far below float64's spacing at 1
    torch.testing.assert_close(variance(log_w, 3), by_leaving_out(log_w), rtol=1e-9, atol=0)
