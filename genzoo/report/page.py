"""The page: one HTML file with everything inside. Data classes first, then a template that only lays them out.

No request leaves it: a Content-Security-Policy forbids all but its own style and script (by hash) and inlined images.
It can be read without the script, which sorts, filters, changes the unit and saves the records that the page carries.
Everything from a record is text to the template, which escapes it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from genzoo.report import change_tables, embedded, figures
from genzoo.report.changes import Comparison, comparisons
from genzoo.report.collect import collect
from genzoo.report.figures import COLOURS, Image
from genzoo.report.grids import Grid, Text, grid
from genzoo.report.leagues import Match
from genzoo.report.matrix import matrix, of_groups
from genzoo.report.numbers import typeset
from genzoo.report.origins import cells, commands, provenance, unrun
from genzoo.report.ratio import ratio_bar
from genzoo.report.sections import Section, section
from genzoo.report.table import entries_in_order
from genzoo.text import plain

LOOKS = 4 * COLOURS
"""Ways in which models are told apart: each colour whole, dashed, dotted, and both."""
POLICY = (
    "default-src 'none'; img-src data:; style-src '{style}'; script-src '{script}'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Changes:
    """What changed from one run to another."""

    title: str
    sentences: list[str]
    table: Grid | None
    settings: Grid | None

    @classmethod
    def of(cls, comparison: Comparison) -> Changes:
        """As the page shows it."""
        return cls(
            change_tables.heading(comparison),
            change_tables.sentences(comparison),
            grid(lambda unit: change_tables.table(comparison, unit)),
            grid(lambda _: change_tables.settings(comparison)),
        )


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    subtitle: str
    matrix: Grid | None
    changes: list[Changes]
    sections: list[Section]
    remarks: list[Text]
    bar: Image | None
    ratio_bar: Image | None
    commands: list[str]
    provenance: list[tuple[str, str]]
    cells: Grid | None
    records: Markup


def page(runs: Sequence[Path], match: Match | None = None) -> str:
    """The report of `runs` as HTML, with the leagues of `match` where they are asked for."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("genzoo.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = lambda text: typeset(plain(text))
    environment.filters["look"] = lambda number: f"c{number % COLOURS} v{number // COLOURS}"
    assert environment.loader is not None
    style, script = (environment.loader.get_source(environment, name)[0] for name in ("style.css", "page.js"))
    policy = POLICY.format(style=_digest(style), script=_digest(script))
    template = environment.get_template("page.html")
    shown = view(runs, match)
    return template.render(page=shown, style=Markup(style), script=Markup(script), policy=policy) + "\n"


def view(runs: Sequence[Path], match: Match | None = None) -> Page:
    """What the page shows, as data."""
    groups = collect(runs)
    labels = sorted({standing.label for group in groups for standing in group.standings})
    colours = {label: number % LOOKS for number, label in enumerate(labels)}
    sections = [section(group, number, colours, groups, match) for number, group in enumerate(groups, start=1)]
    entries = [entry for group in groups for entry in entries_in_order(group)]
    records, stored = [entry.record for entry in entries], [entry.folder.record for entry in entries]
    ends = Counter(entry.record.status for group in groups for entry in group.failed)
    ok = len({entry.folder.path for entry in entries}) - ends.total()
    counted = [f"{_plural(ok, 'cell')} evaluated", *(f"{_plural(n, 'cell')} {end}" for end, n in sorted(ends.items()))]
    if rest := sum(unrun(run) for run in runs):
        counted.append(f"{_plural(rest, 'cell')} of the plan not yet run")
    mapped = any(each.pictures and each.pictures.top for each in sections)
    remarks = _in_common(sections)
    return Page(
        title=f"genzoo: {', '.join(labels)}" if labels else "genzoo",
        subtitle=", ".join(counted),
        matrix=grid(lambda _: matrix(of_groups(groups))),
        changes=[Changes.of(comparison) for comparison in comparisons(runs)],
        sections=[dataclasses.replace(each, says=[s for s in each.says if s not in remarks]) for each in sections],
        remarks=remarks,
        bar=figures.colour_bar() if mapped else None,
        ratio_bar=ratio_bar() if any(each.pictures and each.pictures.reach for each in sections) else None,
        commands=commands(runs, stored),
        provenance=provenance(records),
        cells=grid(lambda _: cells(entries)),
        records=Markup(embedded.data(records)),
    )


def _in_common(sections: Sequence[Section]) -> list[Text]:
    """What every verdict with details says, which is told once."""
    spoken = [section.says for section in sections if section.says]
    return [said for said in spoken[0] if all(said in says for says in spoken)] if len(spoken) > 1 else []


def _digest(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
