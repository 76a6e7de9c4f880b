"""Nats, bits and bits a dimension: a record with its numbers in another unit, so that any table can be made in it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from genzoo.records import RunRecord

NUMBERS = ("nll", "nll_lower", "stderr", "stderr_data", "stderr_mc", "entropy", "kl", "kl_stderr", "kl_quadrature")


@dataclass(frozen=True)
class Unit:
    """A unit of information, of an example or, where `each`, of one of its dimensions."""

    name: str
    per_nat: float
    each: bool = False

    def __str__(self) -> str:
        return self.name

    def factor(self, event_shape: Sequence[int]) -> float:
        """What nats of an example of `event_shape` are multiplied by."""
        return self.per_nat / (math.prod(event_shape) or 1) if self.each else self.per_nat


NATS = Unit("nats", 1.0)
BITS = Unit("bits", 1 / math.log(2))
BITS_PER_DIM = Unit("bits/dim", 1 / math.log(2), each=True)
UNITS = (NATS, BITS, BITS_PER_DIM)


def in_unit(record: RunRecord, unit: Unit) -> RunRecord:
    """The record with its likelihood, divergences, their errors and its terms in `unit`; the same one for nats."""
    if unit is NATS:
        return record
    factor = unit.factor(record.event_shape)
    values = {name: getattr(record, name) for name in NUMBERS}
    changed: dict[str, Any] = {name: None if value is None else factor * value for name, value in values.items()}
    terms = {name: None if value is None else factor * value for name, value in record.terms.items()}
    return dataclasses.replace(record, **changed, terms=terms)
