"""p(x, y) and p(x) from p(x given y) against closed forms, to 1e-10: float64 sums of three terms."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from genzoo.adapters import adapt
from genzoo.baseline import Gaussian
from genzoo.class_mixture import ClassMixture
from genzoo.config import AdapterConfig, TrainSettings
from genzoo.data.splits import TensorSplit
from genzoo.errors import CapabilityError, InputError
from genzoo.interface import GenerativeModel, Learner
from genzoo.likelihood import LogLikelihood
from genzoo.spec import Batch, DataSpec

SPEC = DataSpec((2,), classes=3)
COUNTS = (97, 197, 3)  # Laplace: 98, 198, 4 of 300
CENTRES = torch.tensor([-2.0, 0.0, 1.5])


def labelled() -> TensorSplit:
    torch.manual_seed(0)
    y = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    return TensorSplit(torch.randn(len(y), 2) + CENTRES[y, None], y)


class Stub(GenerativeModel):
    """N(centre of the class, 1) that answers in the kind it is told to."""

    kind = "weights"

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        assert condition is not None
        log_p = class_log_prob(x, condition)
        if self.kind == "weights":
            s = 0.3 * (1 + condition.double())
            noise = s * torch.randn(num_samples, len(x), dtype=torch.float64) - s.square() / 2  # E exp = 1
            return LogLikelihood.weights(log_p + noise, shared_variance=torch.tensor(0.01))
        if self.kind == "exact":
            return LogLikelihood.exact(log_p, shared_variance=torch.tensor(0.01))
        if self.kind == "bracket":
            return LogLikelihood.bracket(log_p, log_p + 1, False)
        return LogLikelihood.lower_bound(log_p)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        assert condition is not None
        return torch.randn(n, 2) + CENTRES[condition, None]

    def traces(self, x: Tensor, n: int, seed: int) -> dict[str, Tensor]:
        return {"path": torch.stack([x[:n], torch.zeros_like(x[:n])], 1), "path_at": torch.tensor([0, 5])}

    def learner(self, settings: TrainSettings) -> Learner:
        raise NotImplementedError


def class_log_prob(x: Tensor, y: Tensor) -> Tensor:
    square = (x.double() - CENTRES[y, None].double()).square().sum(1)
    return -0.5 * square - math.log(2 * math.pi)


def mixture(kind: str, of: str) -> ClassMixture:
    model = adapt(Stub, SPEC, AdapterConfig.parse({"class_mixture": of}, "stub"))
    assert isinstance(model, ClassMixture)
    model.inner.kind = kind
    model.count(labelled())
    return model


def log_prior() -> Tensor:
    return (torch.tensor([98.0, 198.0, 4.0], dtype=torch.float64) / 300).log()


def marginal(x: Tensor, prior: Tensor) -> Tensor:
    return torch.stack([prior[c] + class_log_prob(x, torch.full((len(x),), c)) for c in range(3)]).logsumexp(0)


@pytest.mark.parametrize("kind", ["exact", "lower_bound", "bracket"])
def test_joint_adds_the_class(kind: str) -> None:
    split = labelled()
    said = mixture(kind, "joint").log_likelihood(split.x, condition=split.y)
    assert said.kind == kind
    expected = log_prior()[split.y] + class_log_prob(split.x, split.y)

    def agrees(value: Tensor) -> bool:
        return torch.allclose(value, expected, rtol=1e-10, atol=1e-10)

    assert agrees(said.lower)
    assert not agrees(1.01 * said.lower)
    if said.upper is not None:
        assert agrees(said.upper - 1)


def test_exact_marginal_sums_over_classes() -> None:
    x = labelled().x
    said = mixture("exact", "marginal").log_likelihood(x)
    assert said.kind == "exact"
    assert float(said.shared_variance) == pytest.approx(0.01)

    def agrees(value: Tensor) -> bool:
        return torch.allclose(said.lower, value, rtol=1e-10, atol=1e-10)

    assert agrees(marginal(x, log_prior()))
    assert not agrees(1.01 * marginal(x, log_prior()))
    assert not agrees(marginal(x, torch.tensor([1 / 3] * 3).double().log()))


def test_weighted_marginal_is_unbiased_and_knows_its_error() -> None:
    """4,000 copies of one point between two classes: exp(lower) has mean p(x) within five standard errors; claimed
    over true variance is 1 within 0.1 (deviation 0.022; the delta method at 50 draws costs some hundredths)."""
    x = torch.full((4000, 2), -1.0)
    said = mixture("weights", "marginal").log_likelihood(x, 50, seed=0)
    assert (said.kind, said.num_samples) == ("weights", 50)
    assert float(said.shared_variance) == pytest.approx(0.01)
    p, truth = said.lower.exp(), float(marginal(x[:1], log_prior()).exp())

    def unbiased(scale: float) -> bool:
        return abs(scale * float(p.mean()) - truth) < 5 * float(p.std()) / math.sqrt(4000)

    assert unbiased(1.0)
    assert not unbiased(1.01)
    assert said.variance is not None
    ratio = float(said.variance.mean() / said.lower.var())
    assert abs(ratio - 1) < 0.1
    assert not abs(1.2 * ratio - 1) < 0.1
    assert mixture("weights", "marginal").log_likelihood(x, 1, seed=0).variance is None


@pytest.mark.parametrize("kind", ["lower_bound", "bracket"])
def test_a_mean_in_nats_has_no_sum(kind: str) -> None:
    with pytest.raises(CapabilityError, match=f"exact or weights; this one is {kind}"):
        mixture(kind, "marginal").log_likelihood(labelled().x)


def test_conditions_are_those_of_the_target() -> None:
    split = labelled()
    with pytest.raises(InputError, match="not conditional"):
        mixture("exact", "marginal").log_likelihood(split.x, condition=split.y)
    with pytest.raises(InputError, match="this model is conditional"):
        mixture("exact", "joint").log_likelihood(split.x)


def test_marginal_samples_have_the_class_frequencies() -> None:
    """The mean of 20,000 samples is sum pi_y centre_y within five standard errors; with equal classes it is not."""
    x = mixture("exact", "marginal").sample(20_000, seed=0)

    def fits(prior: Tensor) -> bool:
        truth = float((prior * CENTRES.double()).sum())
        return abs(float(x.mean()) - truth) < 5 * float(x.mean(1).std()) / math.sqrt(20_000)

    assert fits(log_prior().exp())
    assert not fits(torch.full((3,), 1 / 3).double())
    assert mixture("exact", "marginal").sample(0).shape == (0, 2)
    given = mixture("exact", "joint").sample(3, seed=0, condition=torch.tensor([0, 1, 2]))
    assert given.shape == (3, 2)


@pytest.mark.parametrize("of", ["joint", "marginal"])
def test_a_mixture_traces_what_its_conditional_model_does(of: str) -> None:
    x = labelled().x
    traces = mixture("exact", of).traces(x, 4, 0)
    assert torch.equal(traces["path"][:, 0], x[:4])
    assert traces["path_at"].tolist() == [0, 5]


@pytest.mark.parametrize("options", [{}, {"standardize": True}])
def test_learner_counts_and_trains_and_resumes(options: Mapping[str, object]) -> None:
    split, config = labelled(), AdapterConfig.parse({"class_mixture": "marginal", **options}, "gaussian")
    model = adapt(Gaussian, SPEC, config)
    learner = model.learner(model.default_training())
    learner.start(split)
    learner.step(Batch(split.x, split.y), 0.0)
    assert learner.converged
    learner.converged = False
    assert not learner.converged
    evaluated = learner.evaluated()
    assert isinstance(evaluated, ClassMixture)
    torch.testing.assert_close(evaluated.log_prior, log_prior())
    said = evaluated.log_likelihood(split.x)
    laws = []
    for c in range(3):
        part = split.x[split.y == c].double()
        law = torch.distributions.MultivariateNormal(
            part.mean(0), torch.cov(part.T, correction=0) + 1e-5 * torch.eye(2)
        )
        laws.append(log_prior()[c] + law.log_prob(split.x.double()))
    assert abs(float(said.lower.mean() - torch.stack(laws).logsumexp(0).mean())) < 0.02  # the ridges differ
    other = adapt(Gaussian, SPEC, config)
    restored = other.learner(other.default_training())
    restored.load_state_dict(learner.state_dict())
    assert torch.equal(restored.evaluated().log_likelihood(split.x).lower, said.lower)


def test_counting_needs_labels() -> None:
    with pytest.raises(CapabilityError, match="needs labels"):
        mixture("exact", "marginal").count(TensorSplit(torch.zeros(3, 2)))
