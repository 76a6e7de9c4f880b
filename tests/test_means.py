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

from genzoo.errors import InputError, NumericsError
from genzoo.likelihood import LogLikelihood
from genzoo.means import MeanResult, errors, errors_of_replicates

REPEATS, N = 4000, 60
DATA, NOISE = 1.5, 0.8  # deviations of the values over examples, and of the Monte Carlo noise of each


def simulated(shared: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Per repeat: (values (R, N), claimed variances (R, N), true means over data alone (R,)), population mean 0."""
    g = torch.Generator().manual_seed(seed)
    clean = DATA * torch.randn(REPEATS, N, dtype=torch.float64, generator=g)
    noise = NOISE * torch.randn(REPEATS, N, dtype=torch.float64, generator=g)
    offset = math.sqrt(shared) * torch.randn(REPEATS, 1, dtype=torch.float64, generator=g)
    return clean + noise + offset, torch.full((REPEATS, N), NOISE**2, dtype=torch.float64), clean.mean(1)


def three(values: Tensor, variances: Tensor | None, shared: float) -> tuple[float, float | None, float | None]:
    """(stderr, stderr_data, stderr_mc) of the mean of values `(N,)`."""
    found = errors(values, variances, torch.tensor(shared, dtype=torch.float64))
    return found.stderr, found.stderr_data, found.stderr_mc


def of_repeats(values: Tensor, variances: Tensor, shared: float) -> Tensor:
    """(mean, stderr, stderr_data, stderr_mc) of each repeat, `(R, 4)`."""
    found = [(float(v.mean()), *three(v, s, shared)) for v, s in zip(values, variances, strict=True)]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("shared", [0.0, 0.09])
def test_coverage_of_the_three_errors(shared: float) -> None:
    values, variances, clean = simulated(shared)
    mean, stderr, data, mc = of_repeats(values, variances, shared).T

    def covers(error: Tensor, centre: Tensor | float) -> bool:
        return 0.93 < float(((mean - centre).abs() <= 1.96 * error).double().mean()) < 0.97

    assert covers(stderr, 0.0)  # of the population
    assert covers(mc, clean)  # of these examples, noise alone
    assert not covers(1.2 * stderr, 0.0)
    assert not covers(mc / 1.2, clean)
    if shared:
        without = of_repeats(values, variances, 0.0).T
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
    found = three(values, variances, 0.5)
    expected = (math.sqrt(7 / 3 + 0.5), math.sqrt(7 / 3 - 0.2), math.sqrt(0.2 + 0.5))

    def agrees(numbers: tuple[float, ...]) -> bool:
        return found == pytest.approx(numbers, rel=1e-12)

    assert agrees(expected)
    assert not any(agrees((*expected[:i], 1.01 * expected[i], *expected[i + 1 :])) for i in range(3))


def test_degrees_by_hand() -> None:
    """Satterthwaite's formula, part by part; K = 5 draws an example give each v_i four degrees."""
    values = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    variances = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
    found = errors(values, variances, torch.tensor(0.5, dtype=torch.float64), num_samples=5)
    square, noise = 7 / 3, 0.2
    assert found.dof == pytest.approx((square + 0.5) ** 2 / (square**2 / 2), rel=1e-12)
    each = sum(v**2 / 4 for v in (0.3, 0.6, 0.9)) / 9**2
    assert found.dof_mc == pytest.approx((noise + 0.5) ** 2 / each, rel=1e-12)
    known = errors(values, variances, torch.tensor(0.5, dtype=torch.float64))
    assert (known.dof, known.dof_mc) == (found.dof, math.inf)


REPLICATES = torch.tensor([[1.0, 2.0], [2.0, 5.0], [3.0, 3.0], [2.0, 2.0]], dtype=torch.float64).repeat(2, 1)


def test_replicates_by_hand() -> None:
    """Eight randomisations of two examples; every number from its definition in the module's head."""
    shared = 0.01
    result = MeanResult.of_replicates(
        REPLICATES, kind="lower_bound", num_samples=8, shared_variance=torch.tensor(shared, dtype=torch.float64)
    )
    means = [1.5, 3.5, 3.0, 2.0] * 2
    between = sum((m - 2.5) ** 2 for m in means) / 7 / 8
    own = [
        sum((v - c) ** 2 for v in column) / 7 / 8 for column, c in (([1, 2, 3, 2] * 2, 2.0), ([2, 5, 3, 2] * 2, 3.0))
    ]
    square = 0.5 / 2  # the averages are 2 and 3
    data = square - sum(own) / 4
    assert data > 0
    assert result.mean == 2.5
    assert result.values.tolist() == [2.0, 3.0]
    assert result.result.variance is not None
    assert result.result.variance.tolist() == pytest.approx(own, rel=1e-12)
    assert result.stderr_mc == pytest.approx(math.sqrt(between + shared), rel=1e-12)
    assert result.stderr_data == pytest.approx(math.sqrt(data), rel=1e-12)
    assert result.stderr == pytest.approx(math.sqrt(data + between + shared), rel=1e-12)
    assert result.dof_mc == pytest.approx((between + shared) ** 2 / (between**2 / 7), rel=1e-12)
    total = data + between + shared
    assert result.dof == pytest.approx(total**2 / (data**2 / 1 + between**2 / 7), rel=1e-12)
    assert (result.kind, result.num_samples, result.stratified) == ("lower_bound", 8, True)
    difference, found = result.minus(torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert (difference, found.stderr_data) == (1.0, 0.0)  # the averages less these have no deviation
    assert found.stderr == pytest.approx(result.stderr_mc, rel=1e-12)


@pytest.mark.parametrize(("deviation", "own"), [(3.0, None), (0.05, 7.0)])
def test_degrees_of_the_data_part(deviation: float, own: float | None) -> None:
    """(N - 1) (data / s^2 N)^2, which is Satterthwaite's for a difference, but no fewer than the noise's seven."""
    torch.manual_seed(0)
    n, values = 50, deviation * torch.randn(50, dtype=torch.float64) + torch.randn(8, 50, dtype=torch.float64)
    result = MeanResult.of_replicates(values, kind="lower_bound", num_samples=8)
    assert result.stderr_data
    assert result.stderr_mc
    data, mc = result.stderr_data**2, result.stderr_mc**2
    expected = own or (n - 1) * (data / (float(values.mean(0).var()) / n)) ** 2
    assert expected >= 7
    assert result.dof == pytest.approx((data + mc) ** 2 / (data**2 / expected + mc**2 / 7), rel=1e-9)


def test_intervals_are_students() -> None:
    result = MeanResult.of_replicates(REPLICATES, kind="lower_bound", num_samples=8)
    low, high = result.interval(0.95, these_points=True)
    assert result.stderr_mc is not None
    assert (high - low) / 2 == pytest.approx(2.364624 * result.stderr_mc, rel=1e-6)  # t of 7 degrees, from a table
    assert (high + low) / 2 == pytest.approx(2.5)
    wide = result.interval(0.99, these_points=True)
    assert (wide[1] - wide[0]) / 2 == pytest.approx(3.499483 * result.stderr_mc, rel=1e-6)
    one = MeanResult.of(LogLikelihood.lower_bound(torch.randn(9)))
    assert one.interval(these_points=True) == (-math.inf, math.inf)  # one draw cannot tell
    assert one.interval()[1] - one.mean == pytest.approx(2.306004 * one.stderr, rel=1e-6)  # t of 8 degrees


def test_edges() -> None:
    assert three(torch.ones(1), None, 0.0) == (math.inf, None, None)
    assert three(torch.ones(4), None, 0.0) == (0.0, None, None)
    assert three(torch.ones(4), torch.ones(4), 0.0)[1] == 0.0  # s^2 below the claimed noise
    assert three(torch.tensor([0.0, -math.inf]), torch.zeros(2), 0.0) == (math.inf, None, None)
    infinite = errors_of_replicates(torch.full((8, 2), -math.inf), torch.zeros(()))
    assert (infinite.stderr, infinite.stderr_mc) == (math.inf, None)
    alone = errors_of_replicates(torch.randn(8, 1, dtype=torch.float64), torch.zeros(()))
    assert (alone.stderr, alone.stderr_data) == (math.inf, math.inf)


def test_what_fails_and_what_is_a_result() -> None:
    said = LogLikelihood.exact(torch.tensor([0.0, math.nan, math.inf, math.nan]))
    with pytest.raises(NumericsError, match=r"4 points has 2 NaN and 1 \+inf"):
        MeanResult.of(said)
    found = MeanResult.of(LogLikelihood.exact(torch.tensor([0.0, -math.inf, -math.inf])))
    assert (found.mean, found.infinite, found.stderr) == (-math.inf, 2, math.inf)
    values = torch.zeros(8, 3)
    values[2, 1] = -math.inf
    lost = MeanResult.of_replicates(values, kind="lower_bound", num_samples=8)
    assert (lost.mean, lost.infinite, lost.stderr, lost.stderr_mc) == (-math.inf, 1, math.inf, None)
    assert lost.minus(torch.zeros(3))[0] == -math.inf
    values[3, 1] = math.nan
    with pytest.raises(NumericsError, match="3 points has 1 NaN"):
        MeanResult.of_replicates(values, kind="lower_bound", num_samples=8)
    with pytest.raises(InputError, match=r"\(R, B\) with R >= 8; got \(7, 3\)"):
        MeanResult.of_replicates(values[:7], kind="lower_bound", num_samples=8)
