"""What the kit checks: a model after training on a problem, however it came there.

Subject             what the checks of an answer look at
├── ModelSubject    one registered model, built and briefly trained on each problem when a check asks for it
└── CellSubject     a trained cell of a run (cell.py)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genzoo.building import Blueprint
from genzoo.config import Budget, Reference, TrainSettings
from genzoo.errors import CapabilityError
from genzoo.interface import GenerativeModel, Learner
from genzoo.likelihood import Kind, LogLikelihood
from genzoo.registry import Registry
from genzoo.seeding import derive_seed
from genzoo.spec import Batch, Dataset
from genzoo.testing.problems import PROBLEMS
from genzoo.training import Trainer, points_of


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
        work: draws that a check of some examples may ask for, of up to 16 dimensions; fewer of larger ones.
    """

    name: str
    problems: tuple[str, ...]
    steps: int
    draws: int
    num_samples: int
    grid: int
    rows: int
    work: int


BATCH = 4096
SMALL = 16
"""Dimensions up to which an example counts as one unit of work; one of 784 counts as 49."""
TIGHT, TIGHT_DRAWS, DRAWS = 400, 64, 8
"""Examples on which a bound is looked at closely, and its draws: of importance weights, and of anything else."""
REACH = 4.5
"""Half side of the box, in deviations of the data."""

QUICK = Level("quick", ("plane", "binary", "levels_image", "labelled"), 60, 8_000, 16, 108, 60_000, 30_000)
FULL = Level("full", tuple(PROBLEMS), 800, 40_000, 64, 216, 800_000, 400_000)
LEVELS = {level.name: level for level in (QUICK, FULL)}


@dataclass
class Trained:
    """A trained model and its data.

    Attributes:
        answers, drawn: what several checks look at: answers and samples (with labels), by name.
    """

    data: Dataset
    model: GenerativeModel
    answers: dict[str, LogLikelihood] = field(default_factory=dict, kw_only=True)
    drawn: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict, kw_only=True)

    def examples(self, n: int) -> Batch:
        """`n` held-out examples (of validation, which no result rests on), and labels for a conditional model."""
        x, y = points_of(self.data, "valid", n)
        return Batch(x, None if self.model.spec.classes is None else y)


@dataclass
class Training(Trained):
    """The same with what the kit's own training leaves.

    Attributes:
        untrained: the model as built from the same seed.
        learner: the learner, after its last step.
        raw: the model that was trained in place, with its last weights.
    """

    untrained: GenerativeModel
    learner: Learner
    raw: GenerativeModel


class Subject(ABC):
    """What is under check.

    Args:
        level: how much effort. seed: of batches and draws.
    """

    least: int
    """A receipt with fewer passed checks is none: the kit found too little to look at."""

    def __init__(self, level: Level, seed: int) -> None:
        self.level = level
        self.seed = seed

    @property
    @abstractmethod
    def name(self) -> str:
        """As the receipt calls it."""

    @abstractmethod
    def problems(self) -> Iterator[str]:
        """What it is checked on."""

    @abstractmethod
    def trained(self, problem: str) -> Trained:
        """The model trained on a problem; the same object at each call."""

    @abstractmethod
    def box(self, data: Dataset) -> tuple[float, float]:
        """The side of the square that is integrated over in the plane."""

    def notes(self) -> tuple[str, ...]:
        """What a reader of the receipt must know."""
        return ()

    def effort(self, nodes: int) -> int:
        """Monte Carlo draws a node: what the level grants, within its rows; at least two, to know their spread."""
        return max(2, min(self.level.num_samples, self.level.rows // max(1, nodes)))

    def points(self, data: Dataset, most: int, draws: int) -> int:
        """How many examples a check may look at with so many draws each: `most`, or fewer within the level's work."""
        return min(most, self.level.work * SMALL // max(SMALL, data.spec.dims) // draws)

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

    def kind(self, trained: Trained) -> Kind:
        """Of the model's answers."""
        x, y = trained.examples(2)
        return self.answer(trained, x, 2, "kind", y).kind

    def tight(self, trained: Trained) -> tuple[Batch, LogLikelihood]:
        """Some examples, and the answer about them with many draws."""
        draws = TIGHT_DRAWS if self.kind(trained) == "weights" else DRAWS
        batch = trained.examples(self.points(trained.data, TIGHT, draws))
        return batch, self.answer(trained, batch.x, draws, "tight", batch.y)


class ModelSubject(Subject):
    """One registered model.

    Args:
        registry: where the model's card is. name: registered name.
        options: inline config, beside what the card says of a model under check.
        level: QUICK or FULL. seed: of weights, batches and draws.
    """

    least = 12

    def __init__(
        self,
        registry: Registry,
        name: str,
        options: Mapping[str, Any] | None = None,
        level: Level = QUICK,
        seed: int = 0,
    ) -> None:
        super().__init__(level, seed)
        self.registry = registry
        self.card = registry.model(name)
        self.options = {**self.card.checked, **(options or {})}
        self._trained: dict[str, Training] = {}

    @property
    def name(self) -> str:
        """Registered name and options."""
        return str(Reference(self.card.name, self.options))

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
        """The model's own, with the subject's seed and one validation, at the end."""
        own = model.default_training().model_dump()
        return TrainSettings.parse({**own, "seed": self.seed, "validations": (1.0,)}, "kit")

    def trained(self, problem: str) -> Training:
        """Trained for the level's steps; once."""
        if problem not in self._trained:
            data = PROBLEMS[problem].load()
            raw = self.build(problem)
            learner = raw.learner(self.settings(raw))
            trainer = Trainer(learner, data, Budget(self.level.steps, "steps"))
            for _ in trainer.run():
                pass
            self._trained[problem] = Training(data, trainer.finish().eval(), self.build(problem), learner, raw)
        return self._trained[problem]

    def box(self, data: Dataset) -> tuple[float, float]:
        """Around the training data."""
        return around(data)


def around(data: Dataset) -> tuple[float, float]:
    """The side of a square around the training data."""
    x = data.train.batch(torch.arange(len(data.train)), torch.Generator()).x.to(torch.float64)
    centre, reach = float(x.mean()), REACH * float(x.std())
    return centre - reach, centre + reach


def require(condition: bool, message: str) -> None:
    """Raise CheckFailed with `message` unless `condition`."""
    if not condition:
        raise CheckFailed(message)
