"""The frontier of the bound against what it costs: training seconds, sampling seconds a sample, parameters.

A model is on the frontier of a cost when none is at most as dear and at least as good, and better in one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from genzoo.records import RunRecord
from genzoo.report.collect import Group, Standing
from genzoo.report.figures import ticks
from genzoo.report.numbers import NONE, bound, brief, count
from genzoo.report.table import Column, Row, Table
from genzoo.report.units import NATS, Unit, in_unit
from genzoo.text import plain


def seconds_a_sample(record: RunRecord) -> float | None:
    """Seconds of sampling for one sample."""
    return record.seconds_sample / record.samples if record.samples and record.seconds_sample is not None else None


COSTS: dict[str, Callable[[RunRecord], float | None]] = {
    "train s": lambda record: record.seconds_train,
    "s a sample": seconds_a_sample,
    "parameters": lambda record: record.parameters,
}


@dataclass(frozen=True)
class Costed:
    """One ranked model with a finite NLL, and `costs {name: (cost, whether it is on that cost's frontier)}`."""

    standing: Standing
    nll: float
    costs: dict[str, tuple[float, bool]]


def members(group: Group) -> list[Costed]:
    """The ranked models of a group with their costs, best first; empty for fewer than two."""
    shown = [standing for standing in group.ranked if math.isfinite(standing.score)]
    if len(shown) < 2:
        return []
    costs: list[dict[str, tuple[float, bool]]] = [{} for _ in shown]
    for name, cost in COSTS.items():
        known = [(i, value) for i, s in enumerate(shown) if (value := cost(s.summary)) is not None]
        points = [(value, shown[i].score) for i, value in known]
        for (i, value), on in zip(known, undominated(points), strict=True):
            costs[i][name] = (value, on)
    return [Costed(standing, standing.score, each) for standing, each in zip(shown, costs, strict=True)]


def undominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether no other point is at most as large in both coordinates and smaller in one.

    >>> undominated([(1, 5), (2, 3), (3, 4), (2, 3)])
    [True, True, False, True]
    """
    return [not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points) for x, y in points]


def table(group: Group, unit: Unit = NATS) -> Table | None:
    """Models, their bound and their costs, each marked where it is on the frontier."""
    shown = members(group)
    if not shown:
        return None
    made = []
    for each in shown:
        cells = (_cost(*each.costs[name], name) if name in each.costs else NONE for name in COSTS)
        made.append(Row((plain(each.standing.label, 80), bound(in_unit(each.standing.summary, unit)), *cells)))
    columns = (Column("model", text=True), Column(f"NLL, {unit}"), *(Column(name) for name in COSTS))
    notes = (
        "* on the frontier: no ranked model here is at most as dear and at least as good, and better in one. By the "
        "numbers as they stand, without their errors.",
    )
    return Table(columns, tuple(made), notes)


def rows(group: Group) -> list[dict[str, object]]:
    """The same as one mapping a model and cost, for JSON and CSV."""
    return [
        {
            "dataset": group.dataset,
            "model": each.standing.label,
            "nll": each.nll,
            "cost": name,
            "value": value,
            "frontier": on,
        }
        for each in members(group)
        for name, (value, on) in each.costs.items()
    ]


def _cost(value: float, on: bool, name: str) -> str:
    text = count(value) if name == "parameters" else f"{value:.3g}" if value < 1e-3 else brief(value)
    return f"{text} *" if on else text


@dataclass(frozen=True)
class Spot:
    """A model in the drawing's coordinates; `on` the frontier or not."""

    name: str
    colour: int
    x: float
    y: float
    on: bool


@dataclass(frozen=True)
class Chart:
    """Models by cost, on a logarithmic axis, and NLL in nats; `stairs`: the polyline of their frontier."""

    spots: tuple[Spot, ...]
    stairs: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str
    alt: str
    width: int = 320
    height: int = 220
    left: int = 56
    right: int = 290
    top: int = 12
    bottom: int = 176


def drawings(group: Group, colours: dict[str, int]) -> list[Chart]:
    """A chart a cost that two models or more have; `colours` by label."""
    shown = members(group)
    charts = []
    for cost in COSTS:
        placed = [(each.standing.label, each.nll, *each.costs[cost]) for each in shown if cost in each.costs]
        known = [(label, math.log10(value), nll, on) for label, nll, value, on in placed if value > 0]
        if len(known) > 1:
            charts.append(_chart(known, colours, cost, f"NLL against {cost} on {plain(group.dataset)}"))
    return charts


def _chart(placed: Sequence[tuple[str, float, float, bool]], colours: dict[str, int], x_label: str, alt: str) -> Chart:
    """Lay out models given as (label, log10 of the cost, NLL, on the frontier)."""
    frame = Chart((), "", (), (), x_label, alt)
    left, right = _padded([log for _, log, _, _ in placed], 0.1)
    low, high = _padded([nll for _, _, nll, _ in placed], 1e-3)

    def across(log: float) -> float:
        return round(frame.left + (frame.right - frame.left) * (log - left) / (right - left), 1)

    def down(nll: float) -> float:
        return round(frame.bottom - (frame.bottom - frame.top) * (nll - low) / (high - low), 1)

    spots = [Spot(plain(label, 80), colours[label], across(log), down(nll), on) for label, log, nll, on in placed]
    corners, height = [], float(frame.top)
    for spot in sorted((spot for spot in spots if spot.on), key=lambda spot: (spot.x, -spot.y)):
        corners += [(spot.x, height), (spot.x, spot.y)]
        height = spot.y
    corners.append((float(frame.right), height))
    return Chart(
        tuple(spots),
        " ".join(f"{x},{y}" for x, y in corners),
        spaced([(across(math.log10(value)), text) for value, text in log_ticks(10**left, 10**right)]),
        tuple((down(value), text) for value, text in ticks(low, high)),
        x_label,
        alt,
    )


def spaced(ticks: Sequence[tuple[float, str]], digit: float = 8.0, gap: float = 8.0) -> tuple[tuple[float, str], ...]:
    """Ticks `(position, text)` from the left, without the text of those that would touch the one before.

    >>> spaced([(0, "100"), (20, "200"), (40, "300")])
    ((0, '100'), (20, ''), (40, '300'))
    """
    shown: list[tuple[float, str]] = []
    end = -math.inf
    for x, text in ticks:
        half = digit * len(text) / 2
        fits = x - half >= end + gap
        shown.append((x, text if fits else ""))
        end = x + half if fits else end
    return tuple(shown)


def _padded(values: Sequence[float], least: float) -> tuple[float, float]:
    room = max(0.1 * (max(values) - min(values)), least)
    return min(values) - room, max(values) + room


def log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Powers of ten between `low` and `high`, with 3, or 2 and 5, times them where there are fewer than three."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values: list[float] = []
    for multiples in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        values = [m * 10.0**power for power in powers for m in multiples if low <= m * 10.0**power <= high]
        if len(values) >= 3:
            break
    return [(value, f"{value:,.0f}" if value >= 1 else f"{value:g}") for value in values]
