"""The three errors against simulations whose truth is a closed form.

Coverage of mean +- 1.96 stderr over R = 4,000 repeats must lie in 93..97 %: the nominal 95 % has deviation 0.35 % over
4,000 repeats, and Student's t at N = 60 takes 0.4 % off. Error ratios are held to 5 %: four deviations of the
root of a sample variance of 4,000 repeats, 1/sqrt(8,000) = 1.1 %.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genzoo.errors import NumericsError
from genzoo.likelihood import LogLikelihood
from genzoo.means import MeanResult, mean_and_errors

REPEATS, N = 4000, 60
DATA, NOISE = 1.5, 0.8  # deviations of the values over examples, and of the Monte Carlo noise of each


def simulated(shared: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Per repeat: (values (R, N), claimed variances (R, N), true means over data alone (R,)), population mean 0."""
    g = torch.Generator().manual_seed(seed)
    clean = DATA * torch.randn(REPEATS, N, dtype=torch.float64, generator=g)
    noise = NOISE * torch.randn(REPEATS, N, dtype=torch.float64, generator=g)
    offset = math.sqrt(shared) * torch.randn(REPEATS, 1, dtype=torch.float64, generator=g)
    return clean + noise + offset, torch.full((REPEATS, N), NOISE**2, dtype=torch.float64), clean.mean(1)


def errors(values: Tensor, variances: Tensor, shared: float) -> Tensor:
    """(mean, stderr, stderr_data, stderr_mc) of each repeat, `(R, 4)`."""
    offset = torch.tensor(shared, dtype=torch.float64)
    return torch.tensor(
        [mean_and_errors(v, s, offset) for v, s in zip(values, variances, strict=True)], dtype=torch.float64
    )


@pytest.mark.parametrize("shared", [0.0, 0.09])
def test_coverage_of_the_three_errors(shared: float) -> None:
    values, variances, clean = simulated(shared)
    mean, stderr, data, mc = errors(values, variances, shared).T

    def covers(error: Tensor, centre: Tensor | float) -> bool:
        return 0.93 < float(((mean - centre).abs() <= 1.96 * error).double().mean()) < 0.97

    assert covers(stderr, 0.0)  # of the population
    assert covers(mc, clean)  # of these examples, noise alone
    assert not covers(1.2 * stderr, 0.0)
    assert not covers(mc / 1.2, clean)
    if shared:
        without = errors(values, variances, 0.0).T
        assert not covers(without[1], 0.0), "a shared offset that is left out goes unnoticed"
        assert not covers(without[3], clean)

    def near(found: Tensor, truth: float, tolerance: float = 0.01) -> bool:
        return abs(float(found.square().mean().sqrt()) / truth - 1) < tolerance

    assert near(stderr, math.sqrt((DATA**2 + NOISE**2) / N + shared))
    assert near(mc, math.sqrt(NOISE**2 / N + shared), 1e-9)
    assert not near(1.01 * mc, math.sqrt(NOISE**2 / N + shared), 1e-9)
    assert near(data, DATA / math.sqrt(N))
    assert abs(float(mean.std()) / float(stderr.square().mean().sqrt()) - 1) < 0.05


def test_values_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    variances = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
    found = mean_and_errors(values, variances, torch.tensor(0.5, dtype=torch.float64))
    expected = (3.0, math.sqrt(7 / 3 + 0.5), math.sqrt(7 / 3 - 0.2), math.sqrt(0.2 + 0.5))

    def agrees(numbers: tuple[float, ...]) -> bool:
        return found == pytest.approx(numbers, rel=1e-12)

    assert agrees(expected)
    assert not any(agrees((*expected[:i], 1.01 * expected[i], *expected[i + 1 :])) for i in range(4))


def test_edges() -> None:
    zero = torch.zeros((), dtype=torch.float64)
    assert mean_and_errors(torch.ones(1), None, zero) == (1.0, math.inf, None, None)
    assert mean_and_errors(torch.ones(4), None, zero) == (1.0, 0.0, None, None)
    noisy = mean_and_errors(torch.ones(4), torch.ones(4), zero)
    assert noisy[2] == 0.0  # s^2 below the claimed noise
    infinite = mean_and_errors(torch.tensor([0.0, -math.inf]), torch.zeros(2), zero)
    assert infinite == (-math.inf, math.inf, None, None)


def test_what_fails_and_what_is_a_result() -> None:
    said = LogLikelihood.exact(torch.tensor([0.0, math.nan, math.inf, math.nan]))
    with pytest.raises(NumericsError, match=r"4 points has 2 NaN and 1 \+inf"):
        MeanResult.of(said)
    found = MeanResult.of(LogLikelihood.exact(torch.tensor([0.0, -math.inf, -math.inf])))
    assert (found.mean, found.infinite, found.stderr) == (-math.inf, 2, math.inf)
