"""Our models, the published values of each family and the floors and ceilings on one axis: reference bands.

A band reaches from the best to the worst published value of a family, with a stroke for each; what nobody has checked
is faint. Published values are of other protocols, and stand beside ours without being compared by errors.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from genzoo.references import Floor, Published, Value, in_nats
from genzoo.report import floors, published
from genzoo.report.collect import Group, Standing
from genzoo.report.figures import ticks
from genzoo.report.numbers import fixed
from genzoo.report.units import BITS_PER_DIM, NATS
from genzoo.text import plain

ROW, TOP, NAME = 20, 18, 34


@dataclass(frozen=True)
class Stroke:
    """One published value in the drawing's coordinates, with its words; `faint`: not checked."""

    x: float
    title: str
    faint: bool


@dataclass(frozen=True)
class Line:
    """One line of the drawing: ours with its interval and colour, a family's band with its strokes, or a floor."""

    label: str
    y: float
    low: float
    high: float
    x: float | None = None
    colour: int | None = None
    strokes: tuple[Stroke, ...] = ()


@dataclass(frozen=True)
class Bands:
    """The drawing: ours, then bands, then floors and ceilings, on one axis of `unit`."""

    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    unit: str
    alt: str
    height: int
    width: int = 580
    left: int = 256
    right: int = 568


def drawing(group: Group, colours: dict[str, int]) -> Bands | None:
    """Of a group with a number of ours and something to stand beside it; `colours` by label."""
    theirs, ground = published.of(group), floors.of(group)
    ours = [standing for standing in group.standings if standing.summary.nll is not None]
    if not ours or (theirs is None and ground is None):
        return None
    unit = published.native(theirs) if theirs else NATS if group.first_record.levels == 2 else BITS_PER_DIM
    scale = unit.factor(group.first_record.event_shape)
    families = {} if theirs is None else _families(theirs, scale)
    known = [] if ground is None else sorted(ground.floors, key=lambda floor: floor.nats)
    axis = _Axis.over(
        [(standing.summary.nll or 0.0) * scale for standing in ours],
        [value for band in families.values() for value, _ in band] or [floor.nats * scale for floor in known],
    )
    places = 1 if unit is NATS else 3
    lines: list[Line] = []
    for standing in ours:
        lines.append(_ours(standing, axis, scale, colours, len(lines)))
    for family, band in families.items():
        lines.append(_band(family, band, axis, len(lines)))
    for floor in known:
        lines.append(_floor(floor, axis, scale, places, len(lines)))
    said = [f"{plain(s.label, NAME)} {fixed((s.summary.nll or 0.0) * scale, places)}" for s in ours]
    said += [f"published {name} {fixed(b[0][0], places)} to {fixed(b[-1][0], places)}" for name, b in families.items()]
    said += [f"{floor.name} {fixed(floor.nats * scale, places)}" for floor in known]
    alt = f"NLL in {unit} on {plain(group.dataset)}: {'; '.join(said)}"
    marks = tuple((axis.across(value), text) for value, text in ticks(axis.low, axis.high))
    return Bands(tuple(lines), marks, unit.name, alt, height=TOP + ROW * len(lines))


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    @classmethod
    def over(cls, ours: list[float], theirs: list[float]) -> _Axis:
        """Holds ours and, but for what lies far off, theirs: a few very loose values would press the others together.

        `theirs`: where nothing is published, the floors and ceilings."""
        every = [*ours, *theirs]
        low = min(every)
        far = low + 4 * max(statistics.median(theirs) - low, 0.05 * abs(low), 1e-3)
        high = max(*ours, min(max(every), far))
        room = 0.05 * (high - low) or 0.05 * abs(low) or 1e-3
        return cls(low - room, high + room)

    def across(self, value: float) -> float:
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return round(Bands.left + (Bands.right - Bands.left) * share, 1)

    def arrow(self, value: float) -> str:
        """Behind the label of what lies beyond the drawing."""
        return " \u2190" if value < self.low else " \u2192" if value > self.high else ""


def _families(theirs: Published, scale: float) -> dict[str, list[tuple[float, Value]]]:
    """Values by family, best first, families by their best."""
    found: dict[str, list[tuple[float, Value]]] = {}
    for row in theirs.rows:  # best first
        found.setdefault(row.family, []).append((in_nats(row.value, theirs.unit, theirs.dims) * scale, row))
    return found


def _ours(standing: Standing, axis: _Axis, scale: float, colours: dict[str, int], at: int) -> Line:
    value, error = (standing.summary.nll or 0.0) * scale, 1.96 * (standing.summary.stderr or 0.0) * scale
    ends = axis.across(value - error), axis.across(value + error)
    return Line(plain(standing.label, NAME), _y(at), *ends, x=axis.across(value), colour=colours.get(standing.label, 0))


def _band(family: str, band: list[tuple[float, Value]], axis: _Axis, at: int) -> Line:
    strokes = tuple(
        Stroke(axis.across(value), f"{row.model}: {published.value_text(row)} ({row.provenance})", not row.checked)
        for value, row in band
        if not axis.arrow(value)
    )
    best, worst = band[0][0], band[-1][0]
    label = f"{family}, published ({len(band)}){axis.arrow(worst)}"
    return Line(label, _y(at), axis.across(best), axis.across(worst), strokes=strokes)


def _floor(floor: Floor, axis: _Axis, scale: float, places: int, at: int) -> Line:
    """With its number where the drawing does not reach it."""
    value = floor.nats * scale
    place, arrow = axis.across(value), axis.arrow(value)
    return Line(f"{floor.name} {fixed(value, places)}{arrow}" if arrow else floor.name, _y(at), place, place, x=place)


def _y(at: int) -> float:
    return float(TOP + ROW * at)
