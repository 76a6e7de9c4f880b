"""What a bench is to do: models, data sets, seeds, budget and evaluation, from flags or a TOML file. No torch."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from genzoo.config import Budget, Config, Reference, TrainSettings, toml_value
from genzoo.errors import PlanError, UsageError
from genzoo.records import cell_name
from genzoo.safe_fields import THREADS, Seed
from genzoo.safe_files import read_limited, reason
from genzoo.safe_toml import SIZE, parse_toml

DEFAULT_DATASETS = ("moons", "checkerboard", "mnist")
DEFAULT_MAX_SECONDS = 40.0
CELLS = 10_000
"""Of a plan, at most: each is a folder and a row of the table."""
ALL = "all"
"""Among the models of a plan: every registered one; those that do not take a data set are skipped there."""
NONE = "none"
"""How TOML, which has no word for it, says None: `clip = "none"`."""


LATER = ("samples",)
"""Keys of `[evaluation]` that runs of the first release did not have."""

Draws = Annotated[int, Field(ge=1, lt=2**31)]
Points = Annotated[int, Field(ge=2, lt=2**63)]
Samples = Annotated[int, Field(ge=4, le=1_000_000)]


class EvaluationPlan(Config):
    """How each trained model is evaluated."""

    estimator: str | None = Field(None, description="a name that the model gives; none: its default")
    num_samples: Draws | None = Field(None, description="draws an example; none: the card's default effort")
    until_se: float | None = Field(None, gt=0, description="Monte Carlo standard error to reach, nats")
    points: Points | None = Field(None, description="test points; none: 10,000 in the plane, 2,000 elsewhere")
    max_seconds: float = Field(
        DEFAULT_MAX_SECONDS, ge=0, description="stop after the batch in which this has passed; 0: no limit"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the draws")
    samples: Samples | None = Field(
        None, description="samples that the metrics speak of; none: 10,000 in the plane, 64 elsewhere"
    )

    def identity(self) -> dict[str, Any]:
        """What goes into hashes. A key that came later counts once it is set, so that older runs keep their names."""
        values = self.model_dump(mode="json")
        return {key: value for key, value in values.items() if key not in LATER or value is not None}


class Plan(Config):
    """A bench: every model on every data set from every seed."""

    models: tuple[str, ...] = Field(min_length=1, description="names with inline options: flow[layers=8]; or all")
    datasets: tuple[str, ...] = Field(DEFAULT_DATASETS, min_length=1, description="names with options, or paths")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="a list; a number n means 0..n-1")
    budget: str = Field("30s", description="2000steps, 10epochs or 60s a cell")
    threads: int = Field(1, ge=1, le=THREADS, description="torch threads a cell; never derived from the number of jobs")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description="auto, cpu, cuda or cuda:i")
    training: dict[str, Any] = Field(default_factory=dict, description="fields of TrainSettings that override models'")
    evaluation: EvaluationPlan = Field(default_factory=lambda: EvaluationPlan(), description="see EvaluationPlan")
    test: bool = Field(True, description="false ends at validation, for tuning")

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if value > CELLS:
                raise ValueError(f"expected at most {CELLS:,} seeds")
            return list(range(value))
        return value

    @field_validator("models", mode="before")
    @classmethod
    def _all(cls, value: Any) -> Any:
        return (ALL,) if value == ALL else value

    @field_validator("budget")
    @classmethod
    def _budget(cls, value: str) -> str:
        return str(Budget.parse(value))

    @field_validator("models", "datasets", "seeds")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        # two cells of one name would write to one folder at the same time
        names = [str(Reference.parse(value)) if isinstance(value, str) else value for value in values]
        name, times = Counter(names).most_common(1)[0] if names else ("", 1)
        if times > 1:
            raise ValueError(f"{name} stands twice")
        return values

    @model_validator(mode="after")
    def _few(self) -> Self:
        cells = len(self.models) * len(self.datasets) * len(self.seeds)
        if cells > CELLS:
            raise ValueError(f"{cells:,} cells; expected at most {CELLS:,}")
        return self

    @field_validator("training", mode="before")
    @classmethod
    def _training(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        settings = {key: None if item == NONE else item for key, item in value.items()}
        TrainSettings.parse(settings, "[training]")
        return settings

    @field_validator("evaluation", mode="before")
    @classmethod
    def _evaluation(cls, value: Any) -> Any:
        return EvaluationPlan.parse(value, "[evaluation]") if isinstance(value, Mapping) else value

    @classmethod
    def read(cls, path: Path) -> Self:
        """A plan from TOML; PlanError naming the file."""
        try:
            values = parse_toml(read_limited(path, 4 * SIZE).decode())
        except OSError as error:
            raise PlanError(f"cannot read plan {path}: {reason(error)}") from None
        except ValueError as error:
            raise PlanError(f"plan {path} is not valid TOML: {error}") from None
        try:
            return cls.parse(values, f"plan {path}")
        except UsageError as error:
            words = str(error)
            raise PlanError(words if str(path) in words else f"plan {path}: {words}") from None

    def to_toml(self) -> str:
        """The plan as TOML that `read` reads back."""
        values = self.model_dump(mode="json")
        tables = {key: values.pop(key) for key in ("training", "evaluation")}
        lines = [f"{key} = {toml_value(value)}" for key, value in values.items()]
        for name, table in tables.items():
            kept = {k: v for k, v in table.items() if v is not None or name == "training"}  # others default to None
            lines += ["", f"[{name}]", *(f"{k} = {toml_value(NONE if v is None else v)}" for k, v in kept.items())]
        return "\n".join(lines) + "\n"

    @property
    def key(self) -> str:
        """Ten hex digits over everything that changes a number."""
        values = self.model_dump(mode="json") | {"evaluation": self.evaluation.identity()}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]

    def models_of(self, registered: Iterable[str]) -> list[str]:
        """The models, `all` written out as the registered ones that are not named beside it."""
        named = {str(Reference.parse(model)) for model in self.models}
        return [each for model in self.models for each in (sorted({*registered} - named) if model == ALL else [model])]

    def cells(
        self,
        folder: Path,
        plugin_files: tuple[str, ...] = (),
        data_keys: Mapping[str, str] | None = None,
        models: Sequence[str] | None = None,
    ) -> Iterator[Cell]:
        """Every cell, data set by data set, so that models on one data set finish near each other.

        Args:
            data_keys: protocol key of each data set, so that a file that changed under its name makes new cells.
            models: what `models_of` gives; None for the plan's own names.
        """
        for dataset in self.datasets:
            for seed in self.seeds:
                for model in self.models if models is None else models:
                    key = (data_keys or {}).get(dataset, "")
                    yield Cell(
                        plan=self,
                        model=model,
                        dataset=dataset,
                        data_key=key,
                        seed=seed,
                        run=folder,
                        plugins=plugin_files,
                    )


class Cell(Config):
    """One model on one data set from one seed, as it travels to a worker."""

    plan: Plan
    model: str
    dataset: str
    seed: int
    run: Path
    data_key: str = ""
    plugins: tuple[str, ...] = ()
    total_steps: int | None = None
    """Steps fixed by an earlier run whose budget was in seconds (`--replay`)."""
    notes: tuple[str, ...] = ()
    """Sentences that go into the record (stand-in data)."""
    declined: str | None = None
    """Why the model's card does not take this data: the cell is skipped, without a process."""

    @property
    def name(self) -> str:
        """Folder name; its hash covers what changes the number: model, data, seed, training, evaluation."""
        model, data = Reference.parse(self.model), Reference.parse(self.dataset, "data set")
        identity = {
            "model": str(model),
            "dataset": str(data),
            "protocol": self.data_key,
            "seed": self.seed,
            "budget": self.plan.budget,
            "threads": self.plan.threads,
            "device": self.plan.device.split(":")[0],
            "training": self.plan.training,
            "evaluation": self.plan.evaluation.identity(),
            "test": self.plan.test,
        }
        return cell_name(model.name, data.name.split("/")[-1], self.seed, identity)

    @property
    def folder(self) -> Path:
        """Where its files go."""
        return self.run / "cells" / self.name
