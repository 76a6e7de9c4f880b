"""A section of the page: all about one protocol, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from genzoo.report import anatomy, bands, frontier, tightness
from genzoo.report.collect import Entry, Group
from genzoo.report.curves import Curves, curves
from genzoo.report.details import PAIRS, details
from genzoo.report.figures import COLOURS
from genzoo.report.grids import Grid, Text, grid, in_units
from genzoo.report.leagues import Match
from genzoo.report.pictures import Pictures, pictures
from genzoo.report.strips import Gallery, galleries
from genzoo.report.table import Table, failures, protocol_line, results
from genzoo.report.units import UNITS, Unit
from genzoo.report.verdict import verdict
from genzoo.text import plain


@dataclass(frozen=True)
class Failure:
    """A cell that failed, and its traceback if it has one; why others were skipped stands under the matrix."""

    sentence: str
    traceback: list[str]


@dataclass(frozen=True)
class Section:
    """All about one protocol. `league`: its results; `details`: tables under their names, folded but for `opened`."""

    anchor: str
    title: str
    headline: Text
    says: list[Text]
    protocol: str
    league: Grid
    pictures: Pictures | None
    galleries: list[Gallery]
    curves: Curves | None
    ladder: tightness.Ladder | None
    anatomy: list[anatomy.Bars]
    frontier: list[frontier.Chart]
    bands: bands.Bands | None
    models: list[tuple[int, str]]
    numbered: bool
    details: list[tuple[str, Grid]]
    opened: str
    failures: list[Failure]


OPENED = 6
"""Ranked models up to which their pairs stand open."""


def section(
    group: Group, number: int, colours: dict[str, int], groups: Sequence[Group], match: Match | None
) -> Section:
    """Section `number` of the page, about `group`; `colours` by label, `groups`: all that the page holds."""
    alone = sum(other.dataset == group.dataset for other in groups) == 1
    title = group.dataset if alone else f"{group.dataset} ({group.split}, protocol {number})"
    drawn = [standing for standing in group.standings if standing.entries[0].arrays]
    drawn_frontier = frontier.drawings(group, colours)
    models = {(colours[s.label], s.label) for s in group.ranked} if drawn_frontier else ()
    league = grid(lambda unit: _league(group, unit))
    assert league is not None
    said = [verdict(group, unit) for unit in UNITS]
    return Section(
        anchor=f"data-{number}",
        title=plain(title),
        headline=in_units([each.headline for each in said]),
        says=[in_units(same) for same in zip(*(each.details for each in said), strict=True)],
        protocol=protocol_line(group),
        league=league,
        pictures=pictures(group, drawn),
        galleries=galleries(group, drawn),
        curves=curves(group, colours),
        ladder=tightness.ladder(group, colours),
        anatomy=anatomy.drawings(group, colours),
        frontier=drawn_frontier,
        bands=bands.drawing(group, colours),
        models=sorted(models, key=lambda item: item[1]),
        numbered=any(colour >= COLOURS for colour, _ in models),
        details=[(name, made) for name, make in details(group, match) if (made := grid(make)) is not None],
        opened=PAIRS if len(group.ranked) <= OPENED else "",
        failures=[_failure(entry) for entry in group.failed if entry.record.status != "skipped"],
    )


def _league(group: Group, unit: Unit) -> Table:
    """The results; the reasons of failed cells are told below, with their tracebacks."""
    made, told = results(group, unit), failures(group)
    return dataclasses.replace(made, notes=tuple(note for note in made.notes if note not in told))


def _failure(entry: Entry) -> Failure:
    record, error = entry.record, entry.record.error or {}
    where = f"{record.label} on {record.dataset}, seed {record.seed}, {record.status}"
    reason = f"{error.get('type', 'error')}: {error.get('message', 'no reason recorded')}"
    # line by line, since `plain` makes one line of many and drops the indent
    lines = str(error.get("traceback") or "").splitlines()
    trace = [" " * min(40, len(line) - len(line.lstrip())) + plain(line) for line in lines]
    return Failure(f"{where}: {reason}", trace)
