"""Each check of form fails for the fault that it is there for, and passes without it.

One small Gaussian in the plane; a fault is a subclass with one method wrong. Every check runs on the model without a
fault first, so that a check that always failed would show.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genzoo import DataSpec, GradientModel, Learner, LogLikelihood
from genzoo.cards import ModelCard
from genzoo.config import Config, TrainSettings
from genzoo.learners import GradientLearner
from genzoo.registry import Registry
from genzoo.spec import Batch
from genzoo.testing import kit

PROBLEM = "plane"


class Sound(GradientModel):
    """N(x; loc, scale^2), and a network of no use to it that batch norm and dropout can stand in."""

    def __init__(self, spec: DataSpec, config: Config | None = None) -> None:
        super().__init__(spec, config)
        self.loc = nn.Parameter(torch.zeros(2))
        self.log_scale = nn.Parameter(torch.zeros(2))
        self.norm = nn.BatchNorm1d(2, affine=False)

    def default_training(self) -> TrainSettings:
        return TrainSettings(learning_rate=0.03)

    def log_prob(self, x: Tensor) -> Tensor:
        z = (x - self.loc) * (-self.log_scale).exp()
        return (-0.5 * z.square() - self.log_scale - 0.5 * math.log(2 * math.pi)).sum(1)

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return -self.log_prob(x)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return LogLikelihood.exact(self.log_prob(x))

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return self.loc + self.log_scale.exp() * torch.randn(n, 2)


class OpenConfig(Config):
    @classmethod
    def parse(cls, values: Mapping[str, Any], owner: str) -> Any:
        return cls()


class TakesAnyKey(Sound):
    Config = OpenConfig


class Impure(Sound):
    def __init__(self, spec: DataSpec, config: Config | None = None) -> None:
        super().__init__(spec, config)
        with torch.no_grad():
            self.loc.fill_(random.random())


class SumsTheBatch(Sound):
    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return LogLikelihood.exact(self.log_prob(x).sum().expand(1))


class OwnGenerator(Sound):
    generator = torch.Generator()

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return self.loc + self.log_scale.exp() * torch.randn(n, 2, generator=self.generator)


class BatchNorm(Sound):
    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x) + 0.1 * (x - x.mean(0)).square().sum(1)


class LeavesEvalMode(Sound):
    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        self.norm = nn.BatchNorm1d(2, affine=False).train()
        return super()._sample(n, condition)


class TrainsInside(Sound):
    def log_prob(self, x: Tensor) -> Tensor:
        self.norm.train()
        with torch.no_grad():
            self.norm(x)
        return super().log_prob(x) + self.norm.running_mean[0] * 1e-2


class Underflows(Sound):
    def log_prob(self, x: Tensor) -> Tensor:
        p = super().log_prob(x).exp()
        return p.log() + 0 / p


class Detached(Sound):
    def log_prob(self, x: Tensor) -> Tensor:
        z = (x - self.loc.detach()) * (-self.log_scale).exp()
        unused = 0 * self.loc.sum()
        return (-0.5 * z.square() - self.log_scale - 0.5 * math.log(2 * math.pi)).sum(1) + unused


class Attribute(Sound):
    shift = 0.0

    def _initialise(self, train: Any) -> None:
        self.shift = float(train.batch(torch.arange(100), torch.Generator()).x.mean())

    def log_prob(self, x: Tensor) -> Tensor:
        return super().log_prob(x - self.shift)


class Forgetful(GradientLearner):
    """Its steps shrink with a count that its state does not hold."""

    count = 0

    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        self.count += 1
        return super().step(Batch(batch.x / self.count, batch.y), progress)


class HasForgetfulLearner(Sound):
    def learner(self, settings: TrainSettings) -> Learner:
        return Forgetful(self, settings)


class Ascends(Sound):
    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return (self.log_prob(x) / 10).clamp(min=-50)


class LossMissesConstant(Sound):
    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return super()._loss(x, progress, condition) - math.log(2 * math.pi)


class Raises(Sound):
    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        raise ZeroDivisionError("nothing here")


FAULTS: dict[type[Sound], tuple[str, str]] = {
    TakesAnyKey: ("config_round_trips", "unknown key"),
    Impure: ("constructor_is_pure", "differ in loc"),
    SumsTheBatch: ("shapes_and_types", "answered 1 values"),
    OwnGenerator: ("same_seed_same_value", "two different samples"),
    BatchNorm: ("neighbours_do_not_matter", "with its neighbours"),
    LeavesEvalMode: ("modes_are_restored", "another mode"),
    TrainsInside: ("modes_are_restored", "ignores eval mode"),
    Underflows: ("finite_at_the_tails", "NaN"),
    Detached: ("parameters_move", "never moves: loc"),
    Attribute: ("state_round_trips", "differs by"),
    HasForgetfulLearner: ("learner_resumes", "losses differ"),
    Ascends: ("training_helps", "expected a gain"),
    LossMissesConstant: ("loss_is_a_bound", "beats the bound"),
}


def subject(model: type[Sound]) -> kit.ModelSubject:
    name = model.__name__.lower()
    card = ModelCard(
        name=name,
        summary=name,
        family="test",
        target=f"{__name__}:{model.__name__}",
        data=("real",),
        max_dims=2,
    )
    registry = Registry(models={name: card}, datasets={}, metrics={}, origins={}, plugins=(), failures=())
    return kit.subject_of(registry, name)


def run(model: type[Sound], check: str) -> kit.Result:
    torch.set_num_threads(1)
    found = next(each for each in kit.CHECKS if each.name == check)
    return kit.run_check(subject(model), found, PROBLEM, {})


@pytest.mark.parametrize("model", FAULTS, ids=lambda model: model.__name__)
def test_fault_is_found(model: type[Sound]) -> None:
    check, words = FAULTS[model]
    sound, faulty = run(Sound, check), run(model, check)
    assert sound.outcome == "passed", sound.message
    assert faulty.outcome == "failed", faulty.message
    assert words in faulty.message


def test_every_check_of_form_has_a_fault() -> None:
    of_form = {check.name for check in kit.CHECKS if check.run.__module__ == "genzoo.testing.form"}
    assert {check for check, _ in FAULTS.values()} == of_form


def test_a_declared_failure_is_expected_and_an_error_is_a_failure() -> None:
    check = next(each for each in kit.CHECKS if each.name == "parameters_move")
    declared = kit.run_check(subject(Detached), check, PROBLEM, {"parameters_move[plane]": "loc is fixed"})
    assert declared.outcome == "expected"
    assert "loc is fixed" in declared.message
    result = kit.run_check(subject(Raises), check, PROBLEM, {})
    assert result.outcome == "failed"
    assert "ZeroDivisionError: nothing here" in result.message


def test_receipt_needs_a_least_number_of_passes() -> None:
    few = kit.run(subject(Sound), only=["parameters_move"])
    assert few.count("failed") == 0
    assert not few.ok
    assert "expected at least" in few.summary()
    assert kit.run(subject(Sound)).ok
