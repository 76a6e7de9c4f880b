"""What stands beside our numbers and was not measured by a bench: published values, and floors and ceilings. No torch.

Published values lie in one TOML file a data set, with the provenance of each; floors and ceilings in `floors.json`,
which `benchmarks/floors.py` computes from the data. Both speak of one test set: that of the data set's name, whose
files genzoo knows by their digest, and that of the two hashes of a protocol.
"""

from __future__ import annotations

import functools
import json
import math
from importlib.resources import files
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from genzoo.config import Config
from genzoo.safe_toml import parse_toml

__all__ = ["CHECKED", "TAGS", "Floor", "Floors", "Published", "Value", "floors", "in_nats", "published"]

Unit = Literal["nats", "bits/dim"]
Kind = Literal["exact", "bound", "estimate"]
Tag = Literal["V", "V2", "R", "R?", "C", "D"]
Words = Annotated[str, Field(min_length=1)]

TAGS: dict[Tag, str] = {
    "V": "seen in a primary source: the paper, its authors' README or code",
    "V2": "seen in a secondary source",
    "R": "recalled, not seen: not checked",
    "R?": "recalled with little confidence: not checked",
    "C": "computed by quadrature",
    "D": "arithmetic on a value with the tag in brackets",
}
CHECKED: frozenset[Tag] = frozenset({"V", "V2", "C"})
"""Tags of values that somebody has seen; what is derived is as good as what it is derived from."""

LOGIT_SHIFT, LOGIT_DIMS = 273.0, 784
"""Nats between logit space (l = 1e-6) and the unit cube on MNIST, from MAF(5): -1300.5 nats stand for 1.89 bits/dim."""


class Value(Config):
    """A published test NLL. `kind`: exact; bound, which the model's own NLL lies below; estimate, without direction."""

    model: Words
    family: Words
    value: float = Field(gt=0, description="in the unit of its file")
    stderr: float | None = Field(None, gt=0, description="as published")
    kind: Kind
    how: str = Field("", description="likelihood or estimator")
    note: str = Field("", description="where its protocol is not that of the others")
    tag: Tag
    origin: Tag | None = Field(None, description="tag of what a D is derived from")
    source: str = Field("", description="where it was seen; empty: not kept")
    logit_nats: float | None = Field(None, description="as published, in logit space with l = 1e-6 on MNIST")

    @property
    def checked(self) -> bool:
        """Whether somebody has seen it, or what it is derived from."""
        return (self.origin or self.tag) in CHECKED

    @property
    def provenance(self) -> str:
        """The tag, with that of its origin in brackets."""
        return self.tag if self.origin is None else f"{self.tag} ({self.origin})"

    @model_validator(mode="after")
    def _derived(self) -> Self:
        if (self.tag == "D") != (self.origin is not None) or self.origin == "D":
            raise ValueError("a value tagged D, and no other, needs the tag of its origin")
        if self.tag == "D" and self.logit_nats is None:
            raise ValueError("a value tagged D needs what it was derived from: logit_nats")
        if self.logit_nats is not None:
            derived = (-self.logit_nats - LOGIT_SHIFT) / (LOGIT_DIMS * math.log(2))
            if abs(derived - self.value) > 0.005 + 1e-9:  # two decimals are quoted
                raise ValueError(f"{self.logit_nats} nats in logit space are {derived:.3f} bits/dim; got {self.value}")
        return self


class Published(Config):
    """Published values on one data set, best first. `differs`: sentences on what sets their protocols apart."""

    dataset: Words
    unit: Unit
    dims: int = Field(ge=1)
    differs: tuple[Words, ...] = Field(min_length=1)
    rows: tuple[Value, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> Self:
        names = [(row.model, row.how) for row in self.rows]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{' by '.join(twice)} stands twice")
        if any(row.logit_nats is not None for row in self.rows) and (self.unit, self.dims) != ("bits/dim", LOGIT_DIMS):
            raise ValueError("logit_nats are converted to bits/dim over 784 dimensions alone")
        return self


class Floor(Config):
    """A number that no model of the data is needed for. `side`: a floor, which no model's NLL lies below in expectation
    over test sets; or a ceiling, which a model should be below."""

    name: Words
    side: Literal["floor", "ceiling"]
    nats: float
    stderr: float | None = Field(None, ge=0, description="of the mean over the test examples")
    kind: Kind
    how: Words


class Floors(Config):
    """Floors and ceilings of one test set, in nats an example."""

    dataset: Words
    data_hash: Words
    test_hash: Words
    dims: int = Field(ge=1)
    points: int = Field(ge=1, description="test examples")
    floors: tuple[Floor, ...]


def in_nats(value: float, unit: Unit, dims: int) -> float:
    """Nats an example of a value in nats, or in bits a dimension: nats = bits/dim * dims * ln 2."""
    return value if unit == "nats" else value * dims * math.log(2)


@functools.cache
def published(dataset: str) -> Published | None:
    """What is published on the data set registered as `dataset`, best first; None where nothing is kept."""
    for file in files(__package__).iterdir():
        if file.name == f"{dataset}.toml":
            found = Published.parse(parse_toml(file.read_text(encoding="utf-8")), file.name)
            return found.model_copy(update={"rows": tuple(sorted(found.rows, key=lambda row: row.value))})
    return None


@functools.cache
def _floors() -> dict[tuple[str, str], Floors]:
    kept = json.loads((files(__package__) / "floors.json").read_text(encoding="utf-8"))
    made = [Floors.parse(each, "floors.json") for each in kept]
    return {(each.data_hash, each.test_hash): each for each in made}


def floors(data_hash: object, test_hash: object) -> Floors | None:
    """Floors and ceilings of the test set that a protocol names by its two hashes; None where none were computed."""
    return _floors().get((str(data_hash), str(test_hash)))
