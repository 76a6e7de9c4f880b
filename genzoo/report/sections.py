"""A section of the page: all about one protocol, as data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from genzoo.report import anatomy, classifiers, figures, frontier, leagues, tightness
from genzoo.report.collect import Entry, Group
from genzoo.report.figures import Chart, Curve
from genzoo.report.leagues import Match
from genzoo.report.pairs import pair_table
from genzoo.report.pictures import Pictures, pictures
from genzoo.report.table import Table, failures, metrics, protocol_line, results, terms
from genzoo.report.verdict import Verdict, verdict
from genzoo.text import plain


@dataclass(frozen=True)
class Failure:
    """A failed or skipped cell, and its traceback if it has one."""

    sentence: str
    traceback: list[str]


@dataclass(frozen=True)
class Section:
    """All about one protocol."""

    anchor: str
    title: str
    verdict: Verdict
    protocol: str
    table: Table
    pictures: Pictures | None
    chart: Chart | None
    legend: list[tuple[int, str]]
    floor: str
    ladder: tightness.Ladder | None
    anatomy: list[anatomy.Bars]
    frontier: list[frontier.Chart]
    models: list[tuple[int, str]]
    details: list[tuple[str, Table]]
    failures: list[Failure]


def section(
    group: Group, number: int, colours: dict[str, int], groups: Sequence[Group], match: Match | None
) -> Section:
    """Section `number` of the page, about `group`; `colours` by label, `groups`: all that the page holds."""
    alone = sum(other.dataset == group.dataset for other in groups) == 1
    title = group.dataset if alone else f"{group.dataset} ({group.split}, protocol {number})"
    drawn = [standing for standing in group.standings if standing.entries[0].arrays]
    floor, floor_text = _floor(group)
    made = results(group)  # its failed cells are told below, with their tracebacks
    chart = _chart(group, colours, floor)
    legend = {colours[s.label]: s.label for s in drawn if any("valid_nll" in e.arrays for e in s.entries)}
    drawn_frontier = frontier.drawings(group, colours)
    models = {(colours[s.label], s.label) for s in group.ranked} if drawn_frontier else ()
    details = [
        *([(f"Leagues of equal {match}", leagues.table(group, match))] if match else []),
        ("Pairs of models", pair_table(group)),
        ("Bound and cost", frontier.table(group)),
        ("Sample metrics", metrics(group)),
        ("Classification by Bayes' rule", classifiers.table(group)),
        ("Terms of the bound", terms(group)),
        ("Every bound of each model", tightness.table(group)),
        ("Anatomy of the bound", anatomy.table(group)),
    ]
    return Section(
        anchor=f"data-{number}",
        title=plain(title),
        verdict=verdict(group),
        protocol=protocol_line(group),
        table=dataclasses.replace(made, notes=tuple(note for note in made.notes if note not in failures(group))),
        pictures=pictures(group, drawn),
        chart=chart,
        legend=sorted(legend.items(), key=lambda item: item[1]) if chart else [],
        ladder=tightness.ladder(group, colours),
        anatomy=anatomy.drawings(group, colours),
        frontier=drawn_frontier,
        models=sorted(models, key=lambda item: item[1]),
        floor=floor_text,
        details=[(name, table) for name, table in details if table is not None],
        failures=[_failure(entry) for entry in group.failed],
    )


def _floor(group: Group) -> tuple[float | None, str]:
    """Where the truth stands in the learning curves: its NLL on the validation points, or its entropy where a run does
    not hold that."""
    for entry in group.entries:
        held = entry.arrays.get("valid_truth")
        if held is not None and held.size == 1 and math.isfinite(float(held)):
            return float(held), f"the truth on the same points, {float(held):.4f} nats"
    entropy = group.first_record.entropy
    return entropy, "" if entropy is None else f"entropy of the truth, {entropy:.4f} nats"


def _chart(group: Group, colours: dict[str, int], floor: float | None) -> Chart | None:
    entries = [entry for standing in group.standings for entry in standing.entries if "valid_nll" in entry.arrays]
    axis = "seconds" if all("valid_seconds" in entry.arrays for entry in entries) else "step"
    curves = [
        Curve(entry.arrays[f"valid_{axis}"], entry.arrays["valid_nll"], colours[entry.record.label])
        for entry in entries
        if f"valid_{axis}" in entry.arrays
    ]
    label = "seconds of training" if axis == "seconds" else "steps"
    return figures.chart(curves, floor, label, f"validation bound against {label} on {plain(group.dataset)}")


def _failure(entry: Entry) -> Failure:
    record, error = entry.record, entry.record.error or {}
    where = f"{record.label} on {record.dataset}, seed {record.seed}, {record.status}"
    reason = f"{error.get('type', 'error')}: {error.get('message', 'no reason recorded')}"
    # line by line, since `plain` makes one line of many and drops the indent
    lines = str(error.get("traceback") or "").splitlines()
    trace = [" " * min(40, len(line) - len(line.lstrip())) + plain(line) for line in lines]
    return Failure(f"{where}: {reason}", trace)
