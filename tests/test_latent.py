"""Refined posteriors and annealed chains against a linear-Gaussian decoder, whose evidence and posterior are known.

z ~ N(0, I), x = W z + b_y + s e:  p(x) = N(b_y, W W^T + s^2 I),  p(z given x) = N(C W^T (x - b_y) / s^2, C),
C = (I + W^T W / s^2)^-1. The proposal is a Gaussian with a wrong mean and independent, wrong scales.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from genzoo.data.splits import TensorSplit
from genzoo.errors import InputError
from genzoo.interface import Learner
from genzoo.latent import UNTUNED, AnnealedImportance, LatentJoint, RefinedELBO
from genzoo.likelihood import LogLikelihood
from genzoo.spec import DataSpec


class LinearGaussian(LatentJoint):
    """See the module; b depends on the label where there are labels."""

    def __init__(self, classes: int | None = None) -> None:
        super().__init__(DataSpec((4,), None, classes))
        generator = torch.Generator().manual_seed(0)
        self.w = 0.5 * torch.randn(4, 3, generator=generator).double()
        self.b = torch.randn(classes or 1, 4, generator=generator).double()
        self.s = 0.6
        precision = torch.eye(3).double() + self.w.T @ self.w / self.s**2
        self.covariance = torch.linalg.inv(precision)
        self.wide = 1.2 * self.covariance.diagonal().sqrt()
        # KL of the best independent Gaussian from the posterior: (sum_i log P_ii - log det P) / 2
        self.best_gap = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
        self.asked: list[int] = []

    def offset(self, condition: Tensor | None) -> Tensor:
        return self.b[0] if condition is None else self.b[condition]

    def evidence(self, condition: Tensor | None) -> MultivariateNormal:
        return MultivariateNormal(self.offset(condition), self.w @ self.w.T + self.s**2 * torch.eye(4))

    def posterior_mean(self, x: Tensor, condition: Tensor | None) -> Tensor:
        return (x.double() - self.offset(condition)) @ self.w @ self.covariance / self.s**2

    def proposal(self, x: Tensor, condition: Tensor | None) -> Distribution:
        loc = self.posterior_mean(x, condition) + 0.15
        return Independent(Normal(loc, self.wide, validate_args=False), 1, validate_args=False)

    def log_joint(self, x: Tensor, z: Tensor, condition: Tensor | None) -> Tensor:
        self.asked.append(z.shape[0] * z.shape[1])
        residual = (x.double() - self.offset(condition) - z @ self.w.T) / self.s
        squares = residual.square().sum(-1) + z.square().sum(-1)
        return -0.5 * squares - 4 * math.log(self.s) - 3.5 * math.log(2 * math.pi)

    def sample_joint(self, n: int, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        z = torch.randn(n, 3)
        x = z.double() @ self.w.T + self.offset(condition) + self.s * torch.randn(n, 4).double()
        return x.float(), z

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return LogLikelihood.exact(self.evidence(condition).log_prob(x.double()))

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return self.sample_joint(n, condition)[0]

    def learner(self, settings: Any) -> Learner:
        raise NotImplementedError


def mean_and_error(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


@pytest.fixture
def model() -> LinearGaussian:
    return LinearGaussian()


def test_the_proposal_is_off(model: LinearGaussian) -> None:
    """By more than half a nat, and the best independent Gaussian by more than 0.1."""
    x = model.sample(3000, seed=0)
    with torch.no_grad():
        q = model.proposal(x, None)
        z = q.sample(torch.Size((8,)))
        gap = model.log_likelihood(x).lower - (model.log_joint(x, z, None) - q.log_prob(z)).mean(0)
    assert float(gap.mean()) > 0.5
    assert model.best_gap > 0.1


@pytest.mark.parametrize("tuned", [False, True])
def test_annealed_weights_are_unbiased(model: LinearGaussian, tuned: bool) -> None:
    """Three distributions, steps tuned or not: the mean weight over p(x) is 1 within three errors, each 0.5 %."""
    x = model.sample(40_000, seed=0)
    ais = AnnealedImportance(model, distributions=3)
    if tuned:
        ais.start(TensorSplit(model.sample(50, seed=1)), 0)
        assert ais.steps.sizes != [UNTUNED]
    answer = ais.log_likelihood(x, 2, seed=2)
    assert (answer.kind, answer.num_samples) == ("weights", 2)
    ratio, error = mean_and_error((answer.lower - model.log_likelihood(x).lower).exp())
    assert error < 0.03 / 6
    assert abs(ratio - 1) < 3 * error
    assert not abs(1.03 * ratio - 1) < 3 * error  # a planted error of 3 %


def test_annealing_tightens_from_below(model: LinearGaussian) -> None:
    """Below log p(x) by more than three errors with two distributions; closer with 10, closer still with 100."""
    x = model.sample(400, seed=0)
    truth = model.log_likelihood(x).lower
    gaps = []
    for distributions in (2, 10, 100):
        ais = AnnealedImportance(model, distributions)
        ais.start(TensorSplit(model.sample(50, seed=1)), 0)
        gap, error = mean_and_error(truth - ais.log_likelihood(x, 1, seed=2).lower)
        assert gap > (3 if distributions == 2 else -3) * error
        gaps.append(gap)
    assert gaps[0] > 2 * gaps[1] > 8 * gaps[2]


class FromThePrior(LinearGaussian):
    """Without an encoder, as a generator with an observation model has none: the proposal is the prior."""

    def proposal(self, x: Tensor, condition: Tensor | None) -> Distribution:
        loc = torch.zeros(len(x), 3, dtype=torch.float64)
        return Independent(Normal(loc, 1.0, validate_args=False), 1, validate_args=False)


def test_chains_from_the_prior_reach_the_posterior() -> None:
    """Importance sampling from the prior misses two nats; 200 distributions end within 0.02, from below."""
    model = FromThePrior()
    x, answer = AnnealedImportance(model, 1).bracket(300, 1, seed=0)
    assert float((model.log_likelihood(x).lower - answer.lower).mean()) > 2
    ais = AnnealedImportance(model, 200)
    ais.start(TensorSplit(model.sample(50, seed=1)), 0)
    assert ais.steps.sizes[0] > 1.2 * ais.steps.sizes[-1]  # the posterior is narrower than the prior
    x, answer = ais.bracket(300, 4, seed=0)
    gap, error = mean_and_error(model.log_likelihood(x).lower - answer.lower)
    assert -3 * error < gap < 0.02 + 3 * error


def test_simulated_bracket_holds_the_evidence(model: LinearGaussian) -> None:
    """BDMC: certified; each end on its side by more than three errors with few distributions; narrow with 200."""
    for distributions, least, width in ((3, 3, 10.0), (200, -3, 0.05)):
        ais = AnnealedImportance(model, distributions)
        ais.start(TensorSplit(model.sample(50, seed=1)), 0)
        x, answer = ais.bracket(300, 4, seed=3)
        assert (answer.kind, answer.certified, answer.num_samples) == ("bracket", True, 4)
        assert ais.name == f"ais[chains=4,distributions={distributions},leapfrog=2]"
        assert answer.upper is not None
        truth = model.log_likelihood(x).lower
        for gap, error in (mean_and_error(truth - answer.lower), mean_and_error(answer.upper - truth)):
            assert gap > least * error
        assert float((answer.upper - answer.lower).mean()) < width


def test_refined_posterior_is_the_best_of_its_family(model: LinearGaussian) -> None:
    """ELBO < refined ELBO = log p(x) - KL(best independent Gaussian, posterior), in closed form: within three errors
    and 0.01 nats of optimisation, and not above it."""
    x = model.sample(400, seed=0)
    refined = RefinedELBO(model)
    answer = refined.log_likelihood(x, 400, seed=1)
    assert (answer.kind, answer.num_samples) == ("lower_bound", 400)
    assert answer.variance is not None
    best = model.log_likelihood(x).lower - model.best_gap
    error = float(answer.variance.sum().sqrt()) / len(x)
    short = float((best - answer.lower).mean())
    assert -3 * error < short < 0.01 + 3 * error
    assert error < 0.004
    gap = answer.arrays["amortisation_gap"]
    with torch.no_grad():
        q = model.proposal(x, None)
        z = q.sample(torch.Size((400,)))
        elbo = (model.log_joint(x, z, None) - q.log_prob(z)).mean(0)
    assert float(gap.mean()) == pytest.approx(float((answer.lower - elbo).mean()), abs=0.03)
    assert bool((gap > 0).all())


class Repeated:
    """A proposal that gives the same draws each time: what a refinement that reuses its draws would see."""

    def __init__(self, law: Any) -> None:
        self.law = law
        self.mean, self.stddev = law.mean, law.stddev

    def sample(self, sample_shape: torch.Size) -> Tensor:
        torch.manual_seed(0)
        return self.law.sample(sample_shape)  # type: ignore[no-any-return]

    def log_prob(self, value: Tensor) -> Tensor:
        return self.law.log_prob(value)  # type: ignore[no-any-return]


def test_final_draws_are_fresh(model: LinearGaussian, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two draws a step the refined law is poor, and its bound still a bound. Judged on draws that the gradient
    saw it would lie above log p(x)."""
    x = model.sample(300, seed=0)
    truth = model.log_likelihood(x).lower
    estimator = RefinedELBO(model, steps=300, draws=2)
    gap, error = mean_and_error(truth - estimator.log_likelihood(x, 2, seed=1).lower)
    assert gap > model.best_gap - 3 * error
    inner = model.proposal
    monkeypatch.setattr(model, "proposal", lambda x, condition: Repeated(inner(x, condition)))
    monkeypatch.setattr("genzoo.latent.CHOICE", 2)
    reused, error = mean_and_error(truth - estimator.log_likelihood(x, 2, seed=1).lower)
    assert reused < -10 * error


def test_an_example_keeps_a_proposal_that_cannot_be_bettered(model: LinearGaussian) -> None:
    """At a huge learning rate the refinement ends nowhere; the proposal is kept, and the gap is zero, not negative."""
    x = model.sample(50, seed=0)
    answer = RefinedELBO(model, steps=3, learning_rate=50.0).log_likelihood(x, 8, seed=1)
    torch.testing.assert_close(answer.arrays["amortisation_gap"], torch.zeros(50).double(), atol=0, rtol=0)


@pytest.mark.parametrize(
    "make", [lambda m: AnnealedImportance(m, 5), lambda m: RefinedELBO(m, 100)], ids=["ais", "refined"]
)
def test_chunks_bound_memory_and_labels_follow(make: Any) -> None:
    """Never more rows at once than the model grants (or one example's least), and each example has its own label."""
    model = LinearGaussian(classes=3)
    model.rows = 128
    y = torch.arange(30) % 3
    x = model.sample(30, seed=0, condition=y)
    estimator = make(model)
    estimator.start(TensorSplit(x, y), 0)
    model.asked.clear()
    answer, again = (estimator.log_likelihood(x, 200, seed=1, condition=y) for _ in range(2))
    assert max(model.asked) <= 128
    torch.testing.assert_close(answer.lower, again.lower, atol=0, rtol=0)
    truth = model.log_likelihood(x, condition=y).lower
    assert float((truth - answer.lower).abs().mean()) < 0.5
    other = estimator.log_likelihood(x, 200, seed=1, condition=(y + 1) % 3)
    assert float((truth - other.lower).mean()) > 1
    with pytest.raises(InputError, match="condition"):
        estimator.log_likelihood(x, 2, seed=1)


def test_the_name_tells_the_effort(model: LinearGaussian) -> None:
    ais = AnnealedImportance(model, 7, leapfrog=3)
    assert (ais.name, ais.calls) == ("ais[chains=16,distributions=7,leapfrog=3]", 21)
    ais.mean(model.sample(5, seed=0), 2)
    assert ais.name == "ais[chains=2,distributions=7,leapfrog=3]"
    assert (AnnealedImportance(model).suggested_samples, AnnealedImportance(model).suggested_points) == (16, 100)
    assert AnnealedImportance(model).calls == 2000
    assert RefinedELBO(model, 7).name == "refined[steps=7]"


def test_effort_falls_by_fewer_examples(model: LinearGaussian) -> None:
    """A time limit cuts the points after a batch; those that are answered had all their distributions."""
    x = model.sample(60, seed=0)
    ais = AnnealedImportance(model, 5)
    some, all_points = (ais.mean(x, 2, max_seconds=limit) for limit in (0.0, None))
    assert (len(some.values), len(all_points.values)) == (25, 60)
    torch.testing.assert_close(some.values, all_points.values[:25], atol=0, rtol=0)
