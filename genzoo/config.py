"""Configuration: frozen pydantic models, `name[key=value,...]`, budgets and training settings. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genzoo.errors import BudgetError, ConfigError, UnknownNameError
from genzoo.safe_toml import parse_toml
from genzoo.text import complaints, shown

BARE_WORD = re.compile(r"[\w.+-]+")
ADAPTER_KEYS = ("dequantization", "logit", "standardize", "class_mixture")
"""Config keys of every model that the host reads; they are stored under `config.adapters`."""

MOST = 1e15
"""Largest amount of a budget: whole numbers up to here are exact in float64."""

LONGEST = 10_000
"""Characters of a reference or a budget: one with every key of a model set has some three hundred."""


class Config(BaseModel):
    """Base of every model's config: frozen, unknown keys forbidden. An odd default has its reason beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], owner: str) -> Self:
        """Validate `values`, turning pydantic's errors into one ConfigError that names every wrong key."""
        unknown = [key for key in values if key not in cls.model_fields]
        if unknown:
            raise UnknownNameError(f"config key of {owner}", unknown[0], cls.model_fields)
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(f"config of {owner}: {complaints(error.errors(), 'config')}") from None


class AdapterConfig(Config):
    """The reserved keys: what stands between a model and the data."""

    dequantization: Literal["none", "uniform", "variational"] = Field(
        "none", description="how discrete codes become reals: u in [0, 1), uniform or from a learned q(u given x)"
    )
    logit: float | None = Field(
        None, gt=0, lt=0.5, description="l of y = logit(l + (1 - 2l) x / levels), for dequantised or [0, 1] data"
    )
    standardize: bool = Field(False, description="shift and scale by statistics of the training data")
    class_mixture: Literal["none", "joint", "marginal"] = Field(
        "none", description="make p(x, y) or p(x) of a conditional model by the class frequencies"
    )


Share = Annotated[float, Field(gt=0, le=1)]


class TrainSettings(Config):
    """How a learner trains. A model proposes its own by `default_training`; a plan's `[training]` overrides fields."""

    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of Adam")
    batch_size: int | None = Field(256, ge=1, description="examples a step; none: the whole split")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay (AdamW)")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Adam's decay rates")
    warmup: float = Field(0.02, ge=0, lt=1, description="share of the training in which the learning rate rises")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="learning rate after warm-up")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights that are evaluated; 0: none")
    clip: float | None = Field(10.0, gt=0, description="largest gradient norm; none: no clipping")
    validations: tuple[Share, ...] = Field(
        (0.03, 0.06, 0.1, 0.15, 0.25, 0.4, 0.6, 0.8, 1.0),
        max_length=100,
        description="shares of the training after which the model is validated; it always is at the end",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of initialisation, batches and noise")

    def learning_rate_at(self, progress: float) -> float:
        """Learning rate at `progress` in [0, 1]: linear warm-up, then constant or a half cosine to zero."""
        if progress < self.warmup:
            return self.learning_rate * max(progress / self.warmup, 0.01)
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))


@dataclass(frozen=True)
class Budget:
    """How long to train: steps, epochs or seconds of training alone."""

    amount: float
    unit: Literal["steps", "epochs", "s"]

    @classmethod
    def parse(cls, text: str | Budget) -> Budget:
        """Read `2000steps`, `10epochs` or `60s`; BudgetError otherwise."""
        if isinstance(text, Budget):
            return text
        match = re.fullmatch(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*(steps?|epochs?|s)", str(text)[:LONGEST].strip())
        if not match or not 0 < float(match[1]) <= MOST:
            raise BudgetError(f"{shown(text)} is not a budget: expected a positive 2000steps, 10epochs or 60s")
        unit: Literal["steps", "epochs", "s"]
        unit = "s" if match[2] == "s" else "steps" if match[2].startswith("step") else "epochs"
        amount = float(match[1])
        if unit == "steps" and amount != int(amount):
            raise BudgetError(f"{shown(text)} is not a budget: steps are whole")
        return cls(amount, unit)

    def __str__(self) -> str:
        whole = self.amount == int(self.amount)
        return f"{int(self.amount) if whole else self.amount}{self.unit}"


@dataclass(frozen=True)
class Reference:
    """A registered name with inline options, as in `flow[layers=8,dequantization=variational]`."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, what: str = "model") -> Reference:
        """Read `name` or `name[key=value,...]`. Values are TOML; a bare word is a string."""
        if len(text) > LONGEST:
            raise ConfigError(f"{what} {shown(text)} has {len(text):,} characters; at most {LONGEST:,} are read")
        name, bracket, inside = text.strip().partition("[")
        name = name.strip()
        if not name or "]" in name or (bracket and not inside.endswith("]")) or not _is_text(text):
            raise ConfigError(f"cannot read {what} {shown(text)}: expected name or name[key=value,...]")
        options: dict[str, Any] = {}
        for part in split_outside_brackets(inside[:-1]):
            key, sign, value = part.partition("=")
            key = key.strip()
            if not sign or not key.isidentifier():
                raise ConfigError(f"cannot read {shown(part)} in {what} {shown(text)}: expected key=value")
            if key in options:
                raise ConfigError(f"key {shown(key)} stands twice in {what} {shown(text)}")
            options[key] = _value(value.strip())
        return cls(name, options)

    def __str__(self) -> str:
        if not self.options:
            return self.name
        return f"{self.name}[{','.join(f'{k}={_text(v)}' for k, v in self.options.items())}]"


def split_outside_brackets(text: str) -> list[str]:
    """Split at commas outside brackets and quotes: `a,b[c=1,d=2]` gives `a` and `b[c=1,d=2]`."""
    parts, depth, start, quote, escaped = [], 0, 0, "", False
    for at, char in enumerate(text):
        if escaped:
            escaped = False
        elif quote:
            escaped = char == "\\" and quote == '"'  # TOML: a string in single quotes has no escapes
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[{(":
            depth += 1
        elif char in "]})":
            depth -= 1
            if depth < 0:
                raise ConfigError(f"unbalanced bracket in {shown(text)}")
        elif char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    if depth or quote:
        raise ConfigError(f"unbalanced {'quote' if quote else 'bracket'} in {shown(text)}")
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def _value(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        if "\n" not in text:  # else it could be more than one value
            return parse_toml(f"value = {text}")["value"]
    except ValueError:
        if BARE_WORD.fullmatch(text):
            return text
    raise ConfigError(f"cannot read value {shown(text)}: expected a number, true, false, none, a word or a list")


def _is_text(text: str) -> bool:
    """Whether it can be written to a file: halves of surrogate pairs, from bytes in an argument, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(toml_value, value))}]"
    if isinstance(value, str) and BARE_WORD.fullmatch(value) and _value(value) == value:
        return value
    return toml_value(value)


def toml_value(value: Any) -> str:
    """`value` as TOML: strings (control characters escaped), numbers, booleans, lists, tables; ConfigError else."""
    if isinstance(value, str):
        # json.dumps would write surrogate pairs, which TOML refuses
        escaped = ("\\" + c if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in value)
        return f'"{"".join(escaped)}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_value(str(k))} = {toml_value(v)}" for k, v in value.items()) + "}"
    raise ConfigError(f"cannot write {shown(value)} as TOML: expected strings, numbers, booleans, lists or tables")
