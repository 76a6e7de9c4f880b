"""The anatomy of a bound: a term taken apart into what each latent, layer or time step gives to it.

`arrays.npz` holds `anatomy_<term>_per_<part>`, the mean over the test points in nats; its sum is the term in the
record, which is checked here again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from genzoo.report.collect import Arrays, Entry, Group
from genzoo.report.figures import ticks
from genzoo.report.numbers import count, fixed
from genzoo.report.table import Column, Row, Table
from genzoo.report.units import NATS, Unit
from genzoo.text import plain

PREFIX, PER = "anatomy_", "_per_"
ACTIVE = 0.01
"""Nats that a part must give to count as active: for a latent, the divergence below which it is unused."""
SLACK = 1e-3
NAME, LARGEST = 80, 3


@dataclass(frozen=True)
class Part:
    """A term of one cell taken apart: `values (n,)` nats, summing to `term`."""

    label: str
    seed: int
    term: str
    what: str
    values: np.ndarray[tuple[int], np.dtype[np.float64]]
    expected: float | None

    @property
    def sound(self) -> bool:
        """Whether the parts sum to the term that the record prints."""
        total = float(self.values.sum())
        return self.expected is not None and abs(total - self.expected) <= SLACK * (1 + abs(self.expected))


@dataclass(frozen=True)
class Bars:
    """Contributions as bars from zero: `bars (x, y, height)` of width `bar`, in the drawing's coordinates."""

    title: str
    bars: tuple[tuple[float, float, float], ...]
    bar: float
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str
    colour: int
    alt: str
    width: int = 480
    height: int = 180
    left: int = 56
    right: int = 468
    top: int = 10
    bottom: int = 138


def parts(group: Group) -> Iterator[Part]:
    """Every term that is taken apart, of the first readings, best model first."""
    for standing in group.standings:
        for entry in standing.entries:
            yield from _parts(entry, entry.arrays)


def _parts(entry: Entry, arrays: Arrays) -> Iterator[Part]:
    record = entry.record
    for name, values in arrays.items():
        term, found, what = name.removeprefix(PREFIX).partition(PER)
        if name.startswith(PREFIX) and found and values.size and bool(np.isfinite(values).all()):
            flat = values.astype(np.float64).ravel()
            yield Part(plain(record.label, NAME), record.seed, plain(term), plain(what), flat, record.terms.get(term))


def table(group: Group, unit: Unit = NATS) -> Table | None:
    """One row a term: how many parts, how many active, the sum and the largest; None where nothing is taken apart."""
    rows = []
    factor = unit.factor(group.first_record.event_shape)
    notes = [
        f"Active: parts that give more than {ACTIVE} nats, in absolute value, on average over the test points.",
        "Each row of parts sums to the term of the bound above.",
    ]
    for part in parts(group):
        largest = np.argsort(-np.abs(part.values), kind="stable")[:LARGEST]
        cells = (
            part.label,
            str(part.seed),
            part.term,
            part.what,
            count(part.values.size),
            count(int((np.abs(part.values) > ACTIVE).sum())),
            fixed(factor * float(part.values.sum()), 4),
            ", ".join(f"{i + 1}: {fixed(factor * float(part.values[i]), 3)}" for i in largest),
        )
        rows.append(Row(cells))
        if not part.sound:
            notes.append(
                f"BUG {part.label}, seed {part.seed}: the parts of {part.term} sum to {part.values.sum():.4f} nats, "
                f"the record says {part.expected}."
            )
    titles = ("model", "seed", "term", "per", "parts", "active", f"sum, {unit}", "largest")
    columns = tuple(Column(title, text=title in ("model", "term", "per", "largest")) for title in titles)
    return Table(columns, tuple(rows), tuple(notes)) if rows else None


def drawings(group: Group, colours: dict[str, int]) -> list[Bars]:
    """One drawing a term, of the first seed of each model."""
    first = {standing.label: standing.entries[0].record.seed for standing in group.standings}
    return [_bars(part, colours.get(part.label, 0)) for part in parts(group) if part.seed == first.get(part.label)]


def _bars(part: Part, colour: int) -> Bars:
    values = part.values
    n = len(values)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if high - low < 1e-9:
        high = low + 1e-3
    step = (Bars.right - Bars.left) / n

    def down(value: float) -> float:
        return round(Bars.bottom - (Bars.bottom - Bars.top) * (value - low) / (high - low), 2)

    bars = tuple(
        (round(Bars.left + step * i, 2), min(down(0.0), down(v)), round(abs(down(v) - down(0.0)), 2))
        for i, v in enumerate(values.tolist())
    )
    marks = sorted({1, n} if n < 5 else {1, round(n / 4), round(n / 2), round(3 * n / 4), n})
    x_ticks = tuple((round(Bars.left + step * (i - 0.5), 1), f"{i:,}") for i in marks)
    y_ticks = tuple((down(value), text) for value, text in ticks(low, high, 3))
    title = f"{part.label}: {part.term} per {part.what}, {fixed(float(values.sum()), 3)} nats of the bound"
    peak = int(np.abs(values).argmax())
    alt = f"{title}; {n:,} parts, the largest {fixed(float(values[peak]), 3)} nats at {part.what} {peak + 1:,}"
    return Bars(title, bars, max(0.4, round(0.8 * step, 2)), x_ticks, y_ticks, part.what, colour, alt)
