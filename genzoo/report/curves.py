"""Learning curves: the validation bound of each cell against steps and against seconds, beside the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from genzoo.report import figures
from genzoo.report.collect import Entry, Group
from genzoo.report.figures import Chart, Curve
from genzoo.report.numbers import fixed
from genzoo.text import plain

AXES = {"valid_step": "steps", "valid_seconds": "seconds of training"}
MOST = 20
"""Curves whose ends are told in words."""


@dataclass(frozen=True)
class Curves:
    """`charts`: one an axis; `legend`: colours and labels; `floor`: what the dashed line is, in words."""

    charts: list[Chart]
    legend: list[tuple[int, str]]
    floor: str


def curves(group: Group, colours: dict[str, int]) -> Curves | None:
    """Those of a group; None where no cell has stored any. `colours` by label."""
    entries = [entry for standing in group.standings for entry in standing.entries if "valid_nll" in entry.arrays]
    floor, words = _floor(group)
    charts = []
    for name, label in AXES.items():
        drawn = [
            Curve(entry.arrays[name], entry.arrays["valid_nll"], colours[entry.record.label])
            for entry in entries
            if name in entry.arrays
        ]
        alt = f"validation bound in nats against {label} on {plain(group.dataset)}{_ends(entries)}"
        charts.append(figures.chart(drawn, floor, label, alt))
    made = [chart for chart in charts if chart is not None]
    labels = sorted({entry.record.label for entry in entries})
    return Curves(made, [(colours[label], label) for label in labels], words) if made else None


def _ends(entries: Sequence[Entry]) -> str:
    """Where each curve ends, in words, for who cannot see it."""
    ends = [(e.record, e.arrays["valid_nll"]) for e in entries]
    said = [f"{plain(r.label, 40)}, seed {r.seed}, {fixed(float(y[-1]), 3)}" for r, y in ends if y.ndim == 1 and y.size]
    return f"; last: {'; '.join(said[:MOST])}" if said else ""


def _floor(group: Group) -> tuple[float | None, str]:
    """Where the truth stands in the learning curves: its NLL on the validation points, or its entropy where a run does
    not hold that."""
    for entry in group.entries:
        held = entry.arrays.get("valid_truth")
        if held is not None and held.size == 1 and math.isfinite(float(held)):
            return float(held), f"the truth on the same points, {float(held):.4f} nats"
    entropy = group.first_record.entropy
    return entropy, "" if entropy is None else f"entropy of the truth, {entropy:.4f} nats"
