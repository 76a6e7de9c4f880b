"""The page: one HTML file with everything inside. Data classes first, then a template that only lays them out.

No request leaves it: a Content-Security-Policy forbids all but its own style (by hash) and inlined images.
Everything from a record is text to the template, which escapes it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from genzoo.report import figures
from genzoo.report.collect import collect
from genzoo.report.figures import Image
from genzoo.report.leagues import Match
from genzoo.report.numbers import typeset
from genzoo.report.origins import cells, command, provenance
from genzoo.report.sections import Section, section
from genzoo.report.table import Table, entries_in_order
from genzoo.text import plain

COLOURS = 8
POLICY = "default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    subtitle: str
    sections: list[Section]
    bar: Image | None
    commands: list[str]
    provenance: list[tuple[str, str]]
    cells: Table


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
    assert environment.loader is not None
    style = environment.loader.get_source(environment, "style.css")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = environment.get_template("page.html")
    return template.render(page=view(runs, match), style=Markup(style), policy=POLICY.format(digest=digest)) + "\n"


def view(runs: Sequence[Path], match: Match | None = None) -> Page:
    """What the page shows, as data."""
    groups = collect(runs)
    labels = sorted({standing.label for group in groups for standing in group.standings})
    colours = {label: number % COLOURS for number, label in enumerate(labels)}
    sections = [section(group, number, colours, groups, match) for number, group in enumerate(groups, start=1)]
    entries = [entry for group in groups for entry in entries_in_order(group)]
    records = [entry.record for entry in entries]
    failed = sum(len(group.failed) for group in groups)
    ok = len({entry.folder.path for entry in entries}) - failed
    mapped = any(each.pictures and each.pictures.top for each in sections)
    return Page(
        title=f"genzoo: {', '.join(labels)}" if labels else "genzoo",
        subtitle=f"{_plural(ok, 'cell')} evaluated" + (f", {_plural(failed, 'cell')} failed" if failed else ""),
        sections=sections,
        bar=figures.colour_bar() if mapped else None,
        commands=[plain(command(run, records)) for run in runs],
        provenance=provenance(records),
        cells=cells(entries),
    )


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
