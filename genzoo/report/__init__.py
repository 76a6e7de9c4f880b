"""Reports from records alone: the page, the terminal table, markdown, LaTeX, CSV, JSON. Imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genzoo.records import finite, row, write_bytes
from genzoo.report import change_tables, floors, formats, frontier, leagues, published
from genzoo.report.changes import Comparison, comparisons, demanded
from genzoo.report.collect import Group, collect
from genzoo.report.details import details
from genzoo.report.matrix import matrix, of_groups
from genzoo.report.numbers import typeset
from genzoo.report.origins import cells, commands, provenance
from genzoo.report.pairs import pair_rows, pair_table
from genzoo.report.table import Table, entries_in_order, protocol_line, results
from genzoo.report.units import NATS
from genzoo.report.verdict import verdict
from genzoo.text import plain

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["FORMATS", "VIEWS", "render", "rows", "terminal", "view_rows", "write"]

FORMATS = ("html", "md", "csv", "tex", "json")


@dataclass(frozen=True)
class View:
    """Something to show of a group beside its results: a table under a title, and its rows for JSON and CSV."""

    title: str
    table: Callable[[Group], Table | None]
    rows: Callable[[Group], list[dict[str, object]]]


VIEWS: dict[str, View] = {
    "pairs": View("Pairs of models", pair_table, pair_rows),
    "frontier": View("Bound and cost", frontier.table, frontier.rows),
    "published": View(published.TITLE, published.table, published.rows),
    "floors": View(floors.TITLE, floors.table, floors.rows),
    **{
        match: View(
            f"Leagues of equal {match}",
            functools.partial(leagues.table, match=match),
            functools.partial(leagues.rows, match=match),
        )
        for match in leagues.MATCHES
    },
}
CHANGES = "changes"
"""The view of several runs: what changed from the first to each other."""


def rows(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """One row a reading, with the keys of `genzoo.records.ROW_KEYS`, group by group and best first; free of NaN.

    Raises:
        RunError: a folder without cells, or a record that cannot be read. The same for all functions here.
    """
    records = (entry.record for group in collect(runs) for entry in entries_in_order(group))
    return [finite(row(record)) for record in records]


def write(runs: Sequence[Path], path: Path, view: str = "results") -> Path:
    """Write the self-contained page to `path`, atomically, and return it."""
    write_bytes(path, render(runs, "html", view).encode())
    return path


def render(runs: Sequence[Path], format: str, view: str = "results") -> str:
    """The report of `runs` as text, in one of `FORMATS`; `view`: the results, one of `VIEWS`, or what changed.

    The page shows everything, but leagues only where they are the view.
    """
    if view == CHANGES:
        demanded(runs)
    if format == "html":
        from genzoo.report.page import page  # here: only the page needs jinja2

        return page(runs, next((match for match in leagues.MATCHES if match == view), None))
    if format in ("csv", "json"):
        made = rows(runs) if view == "results" else view_rows(runs, view)
        if format == "json":
            return formats.json_text(made)
        return formats.csv_text(made) if view == "results" else formats.csv_text(made, [*made[0]] if made else [])
    form, headings = (formats.markdown, True) if format == "md" else (formats.tex, False)
    told = _changes(comparisons(runs), form, headings) if view == CHANGES or (view == "results" and headings) else []
    if view == CHANGES:
        return "\n\n".join(told)
    groups = collect(runs)
    origins = _origins(groups, runs, form, headings) if view == "results" else []
    return "\n\n".join([*told, *_sections(groups, form, headings, view), *origins])


def view_rows(runs: Sequence[Path], view: str) -> list[dict[str, Any]]:
    """One mapping a pair of models, a model and cost, a model of a league, or a cell of two runs, by `view`; free of
    NaN."""
    if view == CHANGES:
        return [finite(row) for comparison in comparisons(runs) for row in change_tables.rows(comparison)]
    return [finite(row) for group in collect(runs) for row in VIEWS[view].rows(group)]


def terminal(runs: Sequence[Path], console: Console) -> None:
    """Print, for each protocol, the verdict and the table: fitted on a terminal, plain and whole elsewhere."""
    from rich.text import Text  # here: the other formats do without

    fancy = console.is_terminal and console.encoding.lower().startswith("utf")
    groups = collect(runs)
    for number, group in enumerate(groups):
        if number:
            console.print()
        said = verdict(group)
        for style, sentence in [("bold", said.headline), *(("", detail) for detail in said.details)]:
            line = plain(sentence)
            console.print(Text(typeset(line) if fancy else line, style=style), soft_wrap=True)
        console.print(Text(protocol_line(group), style="dim"), soft_wrap=True)
        console.print()
        formats.print_table(results(group), console)
    if (ends := matrix(of_groups(groups))) is not None:
        console.print()
        formats.print_table(ends, console)


def _changes(found: Sequence[Comparison], form: Callable[[Table], str], headings: bool) -> list[str]:
    blocks = []
    for comparison in found:
        title, said = change_tables.heading(comparison), " ".join(change_tables.sentences(comparison))
        blocks += (
            [f"## {formats.escape_markdown(title)}", formats.escape_markdown(said)] if headings else [f"% {title}"]
        )
        tables = (change_tables.table(comparison), change_tables.settings(comparison))
        blocks += [form(table) for table in tables if table is not None]
    return blocks


def _sections(groups: Sequence[Group], form: Callable[[Table], str], headings: bool, view: str) -> list[str]:
    blocks = []
    for group in groups:
        said = verdict(group)
        if headings:
            blocks.append(f"## {formats.escape_markdown(plain(group.dataset))}")
            blocks.append(formats.escape_markdown(plain(" ".join([said.headline, *said.details]))))
            blocks.append(formats.escape_markdown(protocol_line(group)))
        else:
            blocks.append(f"% {plain(said.headline)}\n% {protocol_line(group)}")
        if view == "results":
            blocks.append(form(results(group)))
            beside = [(title, make(NATS)) for title, make in details(group)]
        else:
            beside = [(VIEWS[view].title, VIEWS[view].table(group))]
        for title, table in beside:
            if table is not None:
                blocks.extend([f"### {title}", form(table)] if headings else [f"% {title}\n{form(table)}"])
    if view == "results" and (ends := matrix(of_groups(groups))) is not None:
        blocks.extend(["## Cells", form(ends)] if headings else [form(ends)])
    return blocks


def _origins(groups: Sequence[Group], runs: Sequence[Path], form: Callable[[Table], str], headings: bool) -> list[str]:
    """How the numbers came about: commands, machine and versions, every cell with its settings."""
    entries = [entry for group in groups for entry in entries_in_order(group)]
    records = [entry.record for entry in entries]
    stored = [entry.folder.record for entry in entries]  # without the run that a label may name
    again = commands(runs, stored)
    facts = [f"{key}: {value}" for key, value in provenance(records)]
    if not headings:
        return ["\n".join(f"% {line}" for line in [*again, *facts])]
    listed = "\n".join(f"- {formats.escape_markdown(fact)}" for fact in facts)
    return ["## Provenance", *map(formats.quote_markdown, again), listed, form(cells(entries))]
