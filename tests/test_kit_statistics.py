"""The null law of each statistic that the kit rests on, and that a departure of about one per cent shows.

Laws are compared by their mean and by one tail over simulated experiments: means to five standard errors, tails to
five binomial deviations. Seeds are fixed, so a test never fails by chance.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from genzoo.testing.statistics import (
    ALPHA,
    Z,
    cell_deviations,
    chi_square_limit,
    integral,
    lower_integral,
    paired_z,
    pooled,
)

REPEATS = 2000


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


@pytest.mark.parametrize("dof", [1, 2, 10, 150])
def test_chi_square_limit(dof: int) -> None:
    limit = float(chi2.isf(ALPHA, dof))
    assert chi_square_limit(dof) == pytest.approx(limit, rel=1e-9)
    assert chi_square_limit(dof) != pytest.approx(1.01 * limit, rel=1e-9)
    assert chi_square_limit(2) == pytest.approx(-2 * math.log(ALPHA))  # its survival function is exp(-x / 2)


def test_z_is_the_two_sided_quantile() -> None:
    assert math.erfc(Z / math.sqrt(2)) == pytest.approx(ALPHA, rel=0.05)
    assert math.erfc(0.99 * Z / math.sqrt(2)) != pytest.approx(ALPHA, rel=0.05)


def multinomials(share: Tensor, draws: int, seed: int) -> Tensor:
    """`(REPEATS, C)` counts."""
    drawn = torch.multinomial(share, REPEATS * draws, replacement=True, generator=generator(seed)).view(REPEATS, draws)
    return torch.zeros(REPEATS, len(share)).scatter_add_(1, drawn, torch.ones(REPEATS, draws)).to(torch.float64)


@pytest.mark.parametrize("cells", [2, 20])
@pytest.mark.parametrize("scaled", [False, True])
def test_cells_sum_of_squares_is_at_most_chi_square(cells: int, scaled: bool) -> None:
    """Two cells are the hard case: their deviations are the same one, and with the binomial variance for each, twice a
    chi-square with one degree would come out, whose tail is far above that of two degrees."""
    share = torch.linspace(1, 3, cells, dtype=torch.float64)
    share = share / share.sum()
    none = torch.zeros_like(share)
    statistics = torch.tensor(
        [
            float(cell_deviations(counts, share, none, 0.0, scaled=scaled).square().sum())
            for counts in multinomials(share, 2000, seed=cells)
        ]
    )
    # Pearson's statistic has C - 1 degrees (the empty pool adds none), and that is what the limit for C + 1 is above
    assert float(statistics.mean()) == pytest.approx(cells - 1, abs=5 * math.sqrt(2 * (cells - 1) / REPEATS))
    tail = float((statistics > chi_square_limit(cells, 1e-2)).double().mean())
    assert tail < 1e-2 + 5 * math.sqrt(1e-2 / REPEATS)


def test_cells_with_noisy_shares_of_unknown_scale() -> None:
    """Shares with Monte Carlo errors of their own, all multiplied by one unknown factor."""
    share = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
    errors = torch.tensor([0.002, 0.01, 0.01, 0.02], dtype=torch.float64)

    def mean_statistic(inflation: float) -> float:
        noisy = (share + inflation * errors * normal(REPEATS, 4, seed=1)) * 0.7
        pairs = zip(multinomials(share, 5000, seed=2), noisy, strict=True)
        values = [cell_deviations(c, s, (0.7 * errors).square(), 0.0, scaled=True).square().sum() for c, s in pairs]
        return float(torch.stack(values).mean())

    assert mean_statistic(1.0) < 4 + 5 * math.sqrt(8 / REPEATS)
    assert mean_statistic(3.0) > 4 + 5 * math.sqrt(8 / REPEATS)  # errors thrice what they are said to be


def test_cells_see_a_tilt() -> None:
    share = torch.full((20,), 0.05, dtype=torch.float64)
    tilted = share * torch.linspace(0.8, 1.2, 20, dtype=torch.float64)
    counts = 8000 * tilted
    statistic = cell_deviations(counts, share, torch.zeros_like(share), 0.0).square().sum()
    assert float(statistic) > chi_square_limit(21)
    assert float(cell_deviations(8000 * share, share, torch.zeros_like(share), 0.0).square().sum()) == 0


def test_rare_cells_are_pooled() -> None:
    expected, counts = torch.tensor([100.0, 10.0, 5.0]), torch.tensor([90.0, 20.0, 5.0])
    assert [values.tolist() for values in pooled(expected, counts)] == [[100.0, 15.0], [90.0, 25.0]]


def test_paired_z_is_standard_normal() -> None:
    z = torch.tensor([paired_z(row) for row in normal(REPEATS, 200, seed=3)])
    assert float(z.mean()) == pytest.approx(0, abs=5 / math.sqrt(REPEATS))
    # Student's t with 199 degrees has variance 199 / 197
    assert float(z.var()) == pytest.approx(1.01, abs=5 * math.sqrt(2 / REPEATS))
    shifted = torch.tensor([paired_z(row + 0.2) for row in normal(REPEATS, 200, seed=3)])
    assert float(shifted.mean()) == pytest.approx(0.2 * math.sqrt(200), rel=0.05)
    assert abs(paired_z(normal(200, seed=4) + 0.5, extra_variance=1.0)) < 1.0  # an error that all examples share


def test_integral_and_its_error() -> None:
    weights = torch.full((50,), 0.02, dtype=torch.float64)
    variance = torch.full((50,), 1e-4, dtype=torch.float64)
    totals = [integral(0.01 * noise, variance, weights) for noise in normal(REPEATS, 50, seed=5)]
    values = torch.tensor([total for total, _ in totals])
    assert float(values.std()) == pytest.approx(totals[0][1], rel=5 / math.sqrt(2 * REPEATS))
    assert float(values.mean()) == pytest.approx(1, abs=1e-3)
    assert integral(torch.zeros(50, dtype=torch.float64) + 0.01, None, weights)[0] == pytest.approx(math.exp(0.01))


def test_lower_integral_is_below_the_integral_under_noise() -> None:
    """The noise of a draw is a centred exponential of 1.5 nats, far from Gaussian, and two draws tell its spread. The
    node-by-node correction is too high by more than 5 %; over groups of nine, the integral is met to 2 %."""
    nodes, sigma = 9 * 50, 1.5
    truth = torch.zeros(nodes, dtype=torch.float64)
    weights = torch.full((nodes,), 1 / nodes, dtype=torch.float64)
    group = torch.arange(nodes) // 9
    uniform = torch.rand(400, 2, nodes, dtype=torch.float64, generator=generator(6))
    noise = sigma * (-uniform.log() - 1)
    found, apart, claimed = [], [], []
    for draws in noise:
        lower, variance = truth + draws.mean(0), draws.var(0) / 2
        mass, spread = lower_integral(lower, variance, weights, group)
        found.append(float(mass.sum()))
        claimed.append(float(spread.sum()))
        apart.append(float((weights * (lower - 0.5 * variance).exp()).sum()))
    values = torch.tensor(found, dtype=torch.float64)
    assert float(values.mean()) == pytest.approx(1, abs=0.02)
    assert sum(apart) / len(apart) > 1.05
    assert float(values.var()) == pytest.approx(sum(claimed) / len(claimed), rel=0.25)


def test_lower_integral_of_uneven_values_is_lower_and_of_nothing_is_nothing() -> None:
    lower = torch.tensor([0.0, 1.0, -math.inf, -math.inf], dtype=torch.float64)
    weights, none = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    mass, _ = lower_integral(lower, none, weights, torch.tensor([0, 0, 1, 1]))
    assert mass.tolist() == pytest.approx([2 * math.exp(0.5), 0.0])
    assert float(mass[0]) < 1 + math.e
