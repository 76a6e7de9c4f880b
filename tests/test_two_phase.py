"""Double sampling against closed forms: importance weights that are Gamma draws.

The mean of K weights Gamma(a, rate a) is Gamma(K a, rate K a), so the bound with K draws of an example whose
log-likelihood is t has expectation t + digamma(K a) - log(K a), exactly.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from genzoo import api, student
from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError, InputError
from genzoo.evaluation import evaluate
from genzoo.interface import GenerativeModel, Learner
from genzoo.likelihood import LogLikelihood
from genzoo.means import MeanResult
from genzoo.spec import Dataset, DataSpec, Density
from genzoo.two_phase import TwoPhase, subset_of

SHAPE = 0.5
FEW, MANY = 5, 100
N, M = 200, 60


def gap(k: int) -> float:
    """Expected bound less log-likelihood, nats."""
    return float(torch.special.digamma(torch.tensor(k * SHAPE, dtype=torch.float64))) - math.log(k * SHAPE)


def log_weights(t: Tensor, k: int) -> Tensor:
    """`(K, B)` around log-likelihoods `t (B,)`."""
    a = torch.tensor(SHAPE, dtype=torch.float64)
    return torch.distributions.Gamma(a, a).sample((k, len(t))).log() + t


def joined(t: Tensor, spread: float = 0.0) -> TwoPhase:
    """Both phases; the dear bound is `spread` times |t| higher, so that the gain depends on the point."""
    subset = torch.randperm(len(t))[:M].sort().values
    first = MeanResult.of(LogLikelihood.weights(log_weights(t, FEW)))
    second = MeanResult.of(LogLikelihood.weights(log_weights(t[subset] + spread * t[subset].abs(), MANY)))
    return TwoPhase.of(first, second, subset)


def test_unbiased_and_the_errors_cover() -> None:
    """400 repeats. The mean of the estimates is the all-points expectation within 4 of its standard errors; each
    interval covers in 95 % but for 3.3 binomial deviations (3.6 %): by chance alone once in 1,000."""
    torch.manual_seed(0)
    misses, inside, total = [], {"points": 0, "population": 0}, 400
    expected_abs = math.sqrt(2 / math.pi)
    for _ in range(total):
        t = torch.randn(N, dtype=torch.float64)
        found = joined(t, 0.3)
        truth = float((t + 0.3 * t.abs()).mean()) + gap(MANY)
        assert found.stderr_mc is not None
        misses.append(found.mean - truth)
        inside["points"] += abs(found.mean - truth) < student.quantile(0.95, found.dof_mc) * found.stderr_mc
        whole = 0.3 * expected_abs + gap(MANY)
        inside["population"] += abs(found.mean - whole) < student.quantile(0.95, found.dof) * found.stderr
    off = torch.tensor(misses, dtype=torch.float64)
    assert abs(float(off.mean())) < 4 * float(off.std()) / math.sqrt(total)
    band = 3.3 * math.sqrt(0.95 * 0.05 / total)
    for name, count in inside.items():
        assert count / total == pytest.approx(0.95, abs=band), name


def test_errors_by_hand() -> None:
    a = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    b, subset = torch.tensor([3.0, 5.0], dtype=torch.float64), torch.tensor([1, 2])
    first = MeanResult.of(LogLikelihood.lower_bound(a))
    noise = torch.tensor([0.2, 0.4], dtype=torch.float64)
    said = LogLikelihood.lower_bound(b, num_samples=7, variance=noise)
    found = TwoPhase.of(
        first, MeanResult.of(replace(said, shared_variance=torch.tensor(0.01, dtype=torch.float64))), subset
    )
    d = [1.0, 1.0]
    s_a = sum((v - 4) ** 2 for v in (1, 2, 4, 9)) / 3
    assert (found.mean, found.gain, found.gain_stderr) == (5.0, 1.0, 0.0)
    assert found.stderr == pytest.approx(math.sqrt(s_a / 4 + 0.01))  # d does not vary
    assert found.stderr_mc == pytest.approx(math.sqrt(0.3 / 4 + 0.01))
    assert found.stderr_data == pytest.approx(math.sqrt((s_a - 0.3) / 4))
    # and where it does: d = 1, 3
    said = LogLikelihood.lower_bound(torch.tensor([3.0, 7.0], dtype=torch.float64), num_samples=7, variance=noise)
    found = TwoPhase.of(first, MeanResult.of(said), subset)
    d = [1.0, 3.0]
    s_d, s_ad = 2.0, (2 - 3) * (d[0] - 2) + (4 - 3) * (d[1] - 2)
    assert found.mean == pytest.approx(4 + 2)
    assert found.gain_stderr == pytest.approx(math.sqrt(s_d / 2))
    assert found.stderr == pytest.approx(math.sqrt(s_a / 4 + 2 * s_ad / 4 + s_d / 2))
    assert found.stderr_mc == pytest.approx(math.sqrt(s_d * (1 / 2 - 1 / 4) + 0.3 / 4))
    assert found.stderr_data == pytest.approx(math.sqrt((s_a + 2 * s_ad + s_d - 0.3) / 4))
    difference, errors = found.minus(a)
    assert (difference, errors.stderr) == (2.0, pytest.approx(math.sqrt(s_d / 2)))  # b - a = d: nothing else varies


def test_all_points_twice_is_the_dear_bound() -> None:
    """m = n: the mean and errors are those of the second phase alone."""
    torch.manual_seed(1)
    t = torch.randn(40, dtype=torch.float64)
    first, second = (MeanResult.of(LogLikelihood.weights(log_weights(t, k))) for k in (FEW, MANY))
    found = TwoPhase.of(first, second, torch.arange(40))
    for name in ("mean", "stderr", "stderr_mc", "stderr_data"):
        assert getattr(found, name) == pytest.approx(getattr(second, name), rel=1e-9), name


def test_edges() -> None:
    first = MeanResult.of(LogLikelihood.lower_bound(torch.zeros(5)))
    second = MeanResult.of(LogLikelihood.lower_bound(torch.tensor([1.0, -math.inf])))
    lost = TwoPhase.of(first, second, torch.tensor([0, 1]))
    assert (lost.mean, lost.stderr, lost.stderr_mc) == (-math.inf, math.inf, None)
    with pytest.raises(InputError, match="got 2 values at 1 of 5 points"):
        TwoPhase.of(first, second, torch.tensor([0]))
    chosen = subset_of(100, 30, 5)
    assert len(set(chosen.tolist())) == 30
    assert torch.equal(chosen, chosen.sort().values)
    assert torch.equal(chosen, subset_of(100, 30, 5))
    assert not torch.equal(chosen, subset_of(100, 30, 6))
    assert torch.equal(subset_of(3, 10, 0), torch.arange(3))


class Weighted(GenerativeModel):
    """The truth behind Gamma importance weights."""

    def __init__(self, truth: Density, bound: bool = False) -> None:
        super().__init__(DataSpec((2,)))
        self.truth, self.bound = truth, bound

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        log_w = log_weights(self.truth.log_prob(x.to(torch.float64)), num_samples)
        return LogLikelihood.lower_bound(log_w.mean(0)) if self.bound else LogLikelihood.weights(log_w)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        raise NotImplementedError

    def learner(self, settings: TrainSettings) -> Learner:
        raise NotImplementedError


@pytest.fixture(scope="module")
def moons() -> Dataset:
    return api.load_dataset("moons")


def test_evaluation_in_two_phases(moons: Dataset) -> None:
    assert moons.truth is not None
    model = Weighted(moons.truth)
    errors, kl_errors, misses = [], [], []
    for seed in range(40):
        result = evaluate(model, moons, points=300, num_samples=FEW, refine=(MANY, 60), seed=seed)
        assert result.kl is not None
        assert result.kl_stderr is not None
        assert result.stderr_mc is not None
        errors.append(result.stderr_mc)
        kl_errors.append(result.kl_stderr)
        misses.append(result.kl + gap(MANY))  # the truth cancels: KL of the dear bound is minus its gap
    off = torch.tensor(misses, dtype=torch.float64)
    assert abs(float(off.mean())) < 4 * float(off.std()) / math.sqrt(40)
    # a deviation from 40 values is known to 11 %, the stated error is their typical size
    for stated in (errors, kl_errors):
        assert float(off.std()) == pytest.approx(sum(stated) / 40, rel=0.4)
    all_points = evaluate(model, moons, points=300, num_samples=MANY, seed=99)
    assert abs(all_points.nll - result.nll) < 4 * math.hypot(result.stderr_mc, all_points.stderr_mc or 0.0)


def test_what_a_two_phase_evaluation_says(moons: Dataset) -> None:
    assert moons.truth is not None
    model = Weighted(moons.truth)
    result = evaluate(model, moons, points=300, num_samples=FEW, refine=(MANY, 60))
    plain = evaluate(model, moons, points=300, num_samples=FEW)
    assert result.refined is not None
    assert (result.kind, plain.kind) == ("lower_bound", "weights")
    assert torch.equal(result.result.lower, plain.result.lower)
    assert result.nll == pytest.approx(plain.nll - result.refined.gain)
    assert (result.num_samples, result.points) == (MANY, 300)
    assert "with 5 draws on 300 points, less" in str(result)
    again = evaluate(model, moons, points=300, num_samples=FEW, refine=(MANY, 60))
    assert (again.nll, again.stderr) == (result.nll, result.stderr)
    # the second phase draws anew: with the first's seeds the difference would have less noise than it states
    assert not torch.equal(result.refined.second.values, plain.result.lower[result.refined.subset])
    with pytest.raises(CapabilityError, match="refine is for importance weights; estimator default gives lower_bound"):
        evaluate(Weighted(moons.truth, bound=True), moons, points=20, refine=(MANY, 10))
    with pytest.raises(InputError, match="more draws than the first phase, on 2 points or more; got 5 draws after 5"):
        evaluate(model, moons, points=20, num_samples=FEW, refine=(FEW, 10))
