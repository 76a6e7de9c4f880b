"""What the kit checks: one registered model, built and briefly trained on each problem when a check asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from genzoo.building import Blueprint
from genzoo.config import Budget, TrainSettings
from genzoo.errors import CapabilityError
from genzoo.interface import GenerativeModel, Learner, derive_seed
from genzoo.likelihood import LogLikelihood
from genzoo.registry import Registry
from genzoo.spec import Dataset
from genzoo.testing.problems import PROBLEMS
from genzoo.training import Trainer


class CheckFailed(AssertionError):
    """A check found the model wrong; says what was expected and what came."""


class CheckSkipped(Exception):
    """A check does not apply; says why."""


@dataclass(frozen=True)
class Level:
    """How much effort.

    Attributes:
        problems: which are looked at. steps: of training. draws: samples of the model. grid: nodes a side in the plane,
            a multiple of the cells a side, so that every cell holds as many.
        num_samples: most Monte Carlo draws a node; rows: most draws over all nodes (two a node are always taken).
    """

    name: str
    problems: tuple[str, ...]
    steps: int
    draws: int
    num_samples: int
    grid: int
    rows: int


BATCH = 4096

QUICK = Level("quick", ("plane", "binary", "levels_image", "labelled"), 60, 8_000, 16, 108, 60_000)
FULL = Level("full", tuple(PROBLEMS), 800, 40_000, 64, 216, 1_000_000)
LEVELS = {level.name: level for level in (QUICK, FULL)}


@dataclass
class Trained:
    """A model before and after training on one problem.

    Attributes:
        untrained: the model as built from the same seed.
        model: the evaluated model after training.
        learner: the learner, after its last step.
        raw: the model that was trained in place, with its last weights.
        answers, drawn: what several checks look at: answers and samples (with labels), by name.
    """

    data: Dataset
    untrained: GenerativeModel
    model: GenerativeModel
    learner: Learner
    raw: GenerativeModel
    answers: dict[str, LogLikelihood] = field(default_factory=dict)
    drawn: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)


class Subject:
    """One model under check.

    Args:
        registry: where the model's card is. name: registered name. options: inline config.
        level: QUICK or FULL. seed: of weights, batches and draws.
    """

    def __init__(
        self,
        registry: Registry,
        name: str,
        options: Mapping[str, Any] | None = None,
        level: Level = QUICK,
        seed: int = 0,
    ) -> None:
        self.registry = registry
        self.card = registry.model(name)
        self.options = dict(options or {})
        self.level = level
        self.seed = seed
        self._trained: dict[str, Trained] = {}

    def problems(self) -> Iterator[str]:
        """Problems of the level whose data the card takes."""
        for name in self.level.problems:
            spec = PROBLEMS[name].load().spec
            high = self.card.max_dims
            if spec.kind in self.card.data and self.card.min_dims <= spec.dims and (high is None or spec.dims <= high):
                yield name

    def blueprint(self, problem: str) -> Blueprint:
        """Resolved for a problem; CheckSkipped where the model declines such data."""
        try:
            return Blueprint.of(self.registry, self.card.name, self.options, PROBLEMS[problem].load().spec)
        except CapabilityError as reason:
            raise CheckSkipped(str(reason)) from None

    def build(self, problem: str) -> GenerativeModel:
        """A fresh model from the subject's seed."""
        try:
            return self.blueprint(problem).build(self.seed)
        except CapabilityError as reason:
            raise CheckSkipped(str(reason)) from None

    def settings(self, model: GenerativeModel) -> TrainSettings:
        """The model's own, with the subject's seed."""
        return TrainSettings.parse({**model.default_training().model_dump(), "seed": self.seed}, "kit")

    def trained(self, problem: str) -> Trained:
        """Trained for the level's steps; once."""
        if problem not in self._trained:
            data = PROBLEMS[problem].load()
            raw = self.build(problem)
            learner = raw.learner(self.settings(raw))
            trainer = Trainer(learner, data, Budget(self.level.steps, "steps"))
            for _ in trainer.run():
                pass
            self._trained[problem] = Trained(data, self.build(problem), trainer.finish().eval(), learner, raw)
        return self._trained[problem]

    def effort(self, nodes: int) -> int:
        """Monte Carlo draws a node: what the level grants, within its rows; at least two, to know their spread."""
        return max(2, min(self.level.num_samples, self.level.rows // max(1, nodes)))

    def answer(
        self, trained: Trained, x: Tensor, num_samples: int, key: str, condition: Tensor | None = None, seed: int = 0
    ) -> LogLikelihood:
        """`log_likelihood` of many points in batches; kept under `key`, since several checks look at the same nodes."""
        if key not in trained.answers:
            parts = []
            for at in range(0, len(x), BATCH):
                y = None if condition is None else condition[at : at + BATCH]
                batch_seed = derive_seed("kit", self.seed, seed, at)
                parts.append(trained.model.log_likelihood(x[at : at + BATCH], num_samples, batch_seed, y))
            trained.answers[key] = LogLikelihood.concat(parts)
        return trained.answers[key]


def require(condition: bool, message: str) -> None:
    """Raise CheckFailed with `message` unless `condition`."""
    if not condition:
        raise CheckFailed(message)
