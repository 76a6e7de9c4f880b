"""Checks of truth at their edges: a model that has little to learn, and a bound over codes against samples.

The model is nine independent bits, whose likelihood is a product; as a bound it is the same, less a known slack.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from genzoo import DataSpec, GradientModel, LogLikelihood
from genzoo.cards import ModelCard
from genzoo.config import Config, TrainSettings
from genzoo.registry import Registry
from genzoo.testing import kit
from genzoo.testing.problems import COMMON, PROBLEMS
from genzoo.testing.spaces import ALIKE, alike, frequent, inner_samples, node_of
from genzoo.testing.subject import CheckFailed


class Bits(GradientModel):
    """x_i ~ Bernoulli(sigmoid(b_i)), independent; at its start every code is as likely as any other."""

    def __init__(self, spec: DataSpec, config: Config | None = None) -> None:
        super().__init__(spec, config)
        self.logits = nn.Parameter(torch.zeros(spec.event_shape))

    def default_training(self) -> TrainSettings:
        return TrainSettings(learning_rate=0.05)

    def log_prob(self, x: Tensor) -> Tensor:
        return -nn.functional.binary_cross_entropy_with_logits(
            self.logits.double().expand(x.shape), x.double(), reduction="none"
        ).sum(1)

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return -self.log_prob(x).float()

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return LogLikelihood.exact(self.log_prob(x))

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return torch.bernoulli(self.logits.sigmoid().expand(n, -1)).to(torch.uint8)


class Bound(Bits):
    """A bound that lies `slack` nats too low, and whose draws have a standard deviation of `noise` nats."""

    slack, noise = 0.05, 0.3

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        draws = self.log_prob(x) - self.slack + self.noise * torch.randn(num_samples, len(x), dtype=torch.float64)
        variance = draws.var(0) / num_samples if num_samples > 1 else None
        return LogLikelihood.lower_bound(draws.mean(0), num_samples=num_samples, variance=variance)


class WrongSampler(Bound):
    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return torch.bernoulli(torch.full((n, self.spec.dims), 0.5)).to(torch.uint8)


class TooHigh(Bound):
    """Above the truth by more than what is granted to the noise: every cell is short of samples."""

    slack = -0.7


class TooNoisy(WrongSampler):
    noise = 40.0


class Elsewhere(GradientModel):
    """A normal density whose likelihood is right, and which lies far from all data."""

    def __init__(self, spec: DataSpec, config: Config | None = None) -> None:
        super().__init__(spec, config)
        self.loc = nn.Parameter(torch.full(spec.event_shape, 1000.0))

    def default_training(self) -> TrainSettings:
        return TrainSettings(learning_rate=1e-3)

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.distributions.Normal(self.loc, 1.0).log_prob(x).flatten(1).sum(1)

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return -self.log_prob(x)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return LogLikelihood.exact(self.log_prob(x))

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return self.loc + torch.randn(n, *self.spec.event_shape)


def subject(model: type[GradientModel]) -> kit.ModelSubject:
    card = ModelCard(
        name="bits",
        summary="bits",
        family="test",
        target=f"{__name__}:{model.__name__}",
        data=("real", "discrete") if model is Elsewhere else ("binary",),
        adapters={"discrete": {"dequantization": "uniform"}} if model is Elsewhere else {},
    )
    registry = Registry(models={"bits": card}, datasets={}, metrics={}, origins={}, plugins=(), failures=())
    return kit.subject_of(registry, "bits")


def run(model: type[GradientModel], check: str, problem: str = "binary") -> kit.Result:
    torch.set_num_threads(1)
    found = next(each for each in kit.CHECKS if each.name == check)
    return kit.run_check(subject(model), found, problem, {})


def test_independent_bits_have_something_to_learn() -> None:
    """Marginals of 1/2 would leave a correct model of independent bits without a gain."""
    x = PROBLEMS["binary"].load().train.batch(torch.arange(4000), torch.Generator()).x.double()
    marginal = x.mean(0)
    even = 5 / (2 * 4000**0.5)  # five deviations of a mean of 4,000 fair bits
    assert ((marginal[:COMMON] - 0.5).abs() > 0.35).all()
    assert ((marginal[COMMON:] - 0.5).abs() < even).all()
    assert float(torch.corrcoef(x[:, COMMON : COMMON + 2].T)[0, 1]) < -0.5  # and the rest depend on each other
    assert run(Bits, "training_helps").outcome == "passed"
    assert kit.run(subject(Bits)).ok


@pytest.mark.parametrize(
    ("model", "outcome", "words"),
    [
        (Bound, "passed", ""),
        (WrongSampler, "failed", "too few samples"),
        (TooHigh, "failed", "too few samples"),
        (TooNoisy, "skipped", "so noisy"),
    ],
)
def test_samples_against_a_bound_over_codes(model: type[Bits], outcome: str, words: str) -> None:
    result = run(model, "samples_match")
    assert result.outcome == outcome, result.message
    assert words in result.message


def test_cells_hold_states_that_are_as_frequent() -> None:
    trained = subject(Bits).trained("binary")
    often, cells = frequent(trained, 200), alike(trained, 512, 200)
    sizes = torch.bincount(cells)
    assert sizes.tolist()[:-1] == [ALIKE] * (len(sizes) - 1)
    assert int(sizes.sum()) == 512
    x = trained.data.train.batch(torch.arange(len(trained.data.train)), torch.Generator()).x
    counts = torch.bincount(node_of(trained, x, None), minlength=512)
    for cell in range(len(sizes) - 1):
        assert counts[cells == cell].min() >= counts[cells == cell + 1].max()
    assert set(often.tolist()) == set((cells < len(sizes) - 1).nonzero()[:, 0].tolist())


@pytest.mark.parametrize("check", ["mass_is_one", "samples_match"])
@pytest.mark.parametrize(("problem", "where"), [("levels", r"the codes, [0, 3)"), ("plane", "^2 around the data")])
def test_samples_that_all_lie_elsewhere_fail(check: str, problem: str, where: str) -> None:
    """No mass and no sample inside: nothing contradicts, and nothing is shown. It was a division by zero."""
    result = run(Elsewhere, check, problem)
    assert result.outcome == "failed"
    assert result.message.startswith("none of 8,000 samples lies in ")
    assert where in result.message


def test_no_sample_left_to_count_fails() -> None:
    torch.set_num_threads(1)
    one = subject(Elsewhere)
    with pytest.raises(CheckFailed, match=r"none of 100 inner samples lies in the range of the codes, \[0, 3\)"):
        inner_samples(one, one.trained("levels"), "samples", 100)
