"""How tight each bound of a model is: every reading of one checkpoint beside the first, paired point by point.

From loosest to tightest; what has no direction (an estimate, which may be of another model too) stands below, unranked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from genzoo.records import RunRecord
from genzoo.report.collect import Entry, Group
from genzoo.report.figures import ticks
from genzoo.report.numbers import NONE, bound, brief, count, with_error
from genzoo.report.table import Column, Row, Table
from genzoo.report.units import NATS, Unit, in_unit
from genzoo.text import plain

NAME, LABEL, MOST = 80, 46, 40
RUNG = 32.0
"""From one bound to the next, in the drawing: its name stands above it."""


@dataclass(frozen=True)
class Mark:
    """One bound: where it stands and reaches (its error), in the drawing's coordinates; `faint` for an estimate."""

    label: str
    y: float
    x: float
    low: float
    high: float
    colour: int
    faint: bool


@dataclass(frozen=True)
class Ladder:
    """The bounds of a group on one axis of nats. `truth`: where the truth stands on the row's points, if known."""

    marks: tuple[Mark, ...]
    x_ticks: tuple[tuple[float, str], ...]
    truth: float | None
    alt: str
    height: int
    width: int = 480
    left: int = 8
    right: int = 472


@dataclass(frozen=True)
class Reading:
    """One bound of one checkpoint. `paired`: `{"nats", "stderr", "points"}` against the first reading, if known."""

    label: str
    record: RunRecord
    paired: dict[str, Any] | None


def table(group: Group, unit: Unit = NATS) -> Table | None:
    """Every bound of the checkpoints that were read more than once; None where there is none."""
    rows = []
    for reading in readings(group):
        record, said = in_unit(reading.record, unit), reading.record.evaluation
        gain = "the row" if record.reading == 1 else NONE
        if reading.paired is not None:
            factor = unit.factor(record.event_shape)
            gain = with_error(factor * reading.paired["nats"], factor * reading.paired["stderr"])
        cells = (
            plain(reading.label, NAME),
            str(record.seed),
            plain(said.get("estimator", NONE), NAME),
            (record.kind or NONE).replace("_", " "),
            count(said.get("num_samples")),
            count(said.get("points")),
            bound(record),
            NONE if record.stderr_mc is None else brief(record.stderr_mc),
            gain,
            brief(record.seconds_eval),
        )
        rows.append(Row(cells, "model" if record.reading == 1 else "reading"))
    if not rows:
        return None
    bounds = (f"NLL, {unit}", "MC error", "tighter by")
    titles = ("model", "seed", "estimator", "kind", "draws", "points", *bounds, "seconds")
    texts = ("model", "estimator", "kind")
    columns = tuple(Column(title, text=title in texts) for title in titles)
    notes = (
        f"Loosest first. 'tighter by': {unit} by which the NLL bound lies below the row's, paired over the points in "
        "common; negative: looser.",
        "Bounds on different points differ by these points too: compare them by the paired column.",
    )
    return Table(columns, tuple(rows), notes)


def readings(group: Group) -> list[Reading]:
    """The readings of every checkpoint with more than one, loosest first, estimates last."""
    found = []
    for standing in group.standings:
        for first in standing.entries:
            later = [entry for entry in standing.later if entry.folder.path == first.folder.path]
            if not later:
                continue
            pairs = {reading.get("reading"): reading.get("paired") for reading in first.folder.readings()}
            entries = sorted([first, *later], key=lambda entry: _looseness(entry, pairs))
            found += [Reading(standing.label, entry.record, _pair(pairs, entry)) for entry in entries]
    return found


def ladder(group: Group, colours: dict[str, int]) -> Ladder | None:
    """The same as a drawing, by the paired differences where they are known: bounds may rest on different points."""
    shown = [reading for reading in readings(group) if reading.record.nll is not None][:MOST]
    if len(shown) < 2:
        return None
    base = {(r.label, r.record.cell): r.record.nll for r in shown if r.record.reading == 1}
    values: list[tuple[float, float]] = []
    for reading in shown:
        record, first = reading.record, base.get((reading.label, reading.record.cell))
        if reading.paired is not None and first is not None:
            values.append((first - reading.paired["nats"], 1.96 * reading.paired["stderr"]))
        else:
            values.append((record.nll or 0.0, 0.0 if record.reading == 1 else 1.96 * (record.stderr or 0.0)))
    row = next((reading.record for reading in shown if reading.record.reading == 1), shown[0].record)
    truth = None if row.nll is None or row.kl is None else row.nll - row.kl
    edges = [value + sign * error for value, error in values for sign in (-1, 1)]
    edges += [truth] if truth is not None else []
    # one very loose bound would press the others together: it leaves the drawing at the right, at its place in the list
    low, high = min(edges), min(max(edges), min(edges) + 4 * max(_middle(edges) - min(edges), 1e-3))
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)

    def across(value: float) -> float:
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return round(Ladder.left + (Ladder.right - Ladder.left) * share, 1)

    marks = tuple(
        Mark(
            plain(f"{reading.label}: {_short(reading.record)}", LABEL) + (" \u2192" if value > high else ""),
            RUNG * (i + 1) - 6,
            across(value),
            across(value - error),
            across(value + error),
            colours.get(reading.label, 0),
            reading.record.kind == "estimate",
        )
        for i, (reading, (value, error)) in enumerate(zip(shown, values, strict=True))
    )
    x_ticks = tuple((across(value), text) for value, text in ticks(low, high))
    alt = f"bounds of each model on {plain(group.dataset)}, loosest first: " + "; ".join(
        f"{mark.label} {value:.4f}" for mark, (value, _) in zip(marks, values, strict=True)
    )
    place = None if truth is None else across(truth)
    return Ladder(marks, x_ticks, place, alt, height=int(RUNG * len(marks) + 6))


def _middle(edges: list[float]) -> float:
    return sorted(edges)[len(edges) // 2]


def _short(record: RunRecord) -> str:
    name = str(record.evaluation.get("estimator", "")).partition("[")[0]
    draws = record.evaluation.get("num_samples", 1)
    return f"{name}, K={draws}" if draws != 1 else name


def _pair(pairs: dict[Any, Any], entry: Entry) -> dict[str, Any] | None:
    pair = pairs.get(entry.record.reading)
    usable = isinstance(pair, dict) and all(isinstance(pair.get(key), (int, float)) for key in ("nats", "stderr"))
    return pair if usable and entry.record.reading != 1 else None


def _looseness(entry: Entry, pairs: dict[Any, Any]) -> tuple[bool, float]:
    pair = _pair(pairs, entry)
    gain = 0.0 if entry.record.reading == 1 else -math.inf if pair is None else pair["nats"]
    return entry.record.kind == "estimate", float(gain)
