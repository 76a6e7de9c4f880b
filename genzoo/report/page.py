"""The page: one HTML file with everything inside. Data classes first, then a template that only lays them out.

No request leaves it: a Content-Security-Policy forbids all but its own style (by hash) and inlined images.
Everything from a record is text to the template, which escapes it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from genzoo.records import RunRecord
from genzoo.report import anatomy, classifiers, figures, frontier, leagues, tightness
from genzoo.report.collect import Entry, Group, Standing, collect
from genzoo.report.figures import Chart, Curve, Image
from genzoo.report.leagues import Match
from genzoo.report.numbers import count, divergence, typeset
from genzoo.report.pairs import pair_table
from genzoo.report.table import Column, Row, Table, entries_in_order, failures, metrics, protocol_line, results, terms
from genzoo.report.verdict import Verdict, verdict
from genzoo.text import plain

COLOURS = 8
AGAIN = "runs/again"  # another folder: in its own, a finished plan has nothing left to run
POLICY = "default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Panel:
    """One model's pictures, or the truth's: a density map and samples."""

    title: str
    caption: str
    density: Image | None
    samples: Image | None


@dataclass(frozen=True)
class Pictures:
    """Panels on one colour scale, whose top is `top` (a density), drawn pixel by pixel if `pixelated`."""

    panels: list[Panel]
    top: str = ""
    pixelated: bool = False


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
    sections = [_section(group, number, colours, groups, match) for number, group in enumerate(groups, start=1)]
    entries = [entry for group in groups for entry in entries_in_order(group)]
    records = [entry.record for entry in entries]
    failed = sum(len(group.failed) for group in groups)
    ok = len({entry.folder.path for entry in entries}) - failed
    mapped = any(section.pictures and section.pictures.top for section in sections)
    return Page(
        title=f"genzoo: {', '.join(labels)}" if labels else "genzoo",
        subtitle=f"{_plural(ok, 'cell')} evaluated" + (f", {_plural(failed, 'cell')} failed" if failed else ""),
        sections=sections,
        bar=figures.colour_bar() if mapped else None,
        commands=[plain(_command(run, records)) for run in runs],
        provenance=_provenance(records),
        cells=_cells(entries),
    )


def _section(
    group: Group, number: int, colours: dict[str, int], groups: Sequence[Group], match: Match | None
) -> Section:
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
        pictures=_planes(group, drawn) if group.first_record.event_shape == [2] else _images(group, drawn),
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


def _planes(group: Group, drawn: Sequence[Standing]) -> Pictures | None:
    arrays = [standing.entries[0].arrays for standing in drawn]
    truth = next((held["grid_truth"] for held in arrays if "grid_truth" in held), None)
    reference = next((held["reference"] for held in arrays if "reference" in held), None)
    grids = next((held for held in arrays if {"grid_x", "grid_y"} <= held.keys()), {})
    window = figures.extent(grids.get("grid_x"), grids.get("grid_y"), reference)
    top = figures.density_scale(truth)
    name = plain(group.dataset)
    first = Panel(
        "truth",
        "density and test points",
        figures.density_map(truth, top, f"density of the truth of {name}"),
        figures.scatter(reference, window, f"test points of {name}"),
    )
    panels = [first, *(_plane(standing, name, window, top) for standing in drawn)]
    shown = [panel for panel in panels if panel.density or panel.samples]
    return Pictures(shown, top=f"{top:.3g}" if top else "") if shown else None


def _plane(standing: Standing, name: str, window: figures.Extent | None, top: float | None) -> Panel:
    held, record = standing.entries[0].arrays, standing.entries[0].record
    label = plain(standing.label, 80)
    sort = "density" if record.kind == "exact" else "bound on the density"
    density = figures.density_map(held.get("grid_model"), top, f"{sort} of {label} on {name}")
    samples = figures.scatter(held.get("samples"), window, f"samples of {label} on {name}")
    caption = sort if density else "samples"
    if record.kl is not None:
        caption += f"; KL {divergence(record)}"
    return Panel(label, caption + _seed(standing), density, samples)


def _images(group: Group, drawn: Sequence[Standing]) -> Pictures | None:
    arrays = [standing.entries[0].arrays for standing in drawn]
    levels, name = group.first_record.levels, plain(group.dataset)
    reference = next((held["reference"] for held in arrays if "reference" in held), None)
    span = None if reference is None or levels else figures.value_span(reference)
    sheets = [("test data", "", figures.tiles(reference, levels, f"test images of {name}", span))]
    for standing, held in zip(drawn, arrays, strict=True):
        label = plain(standing.label, 80)
        sheet = figures.tiles(held.get("samples"), levels, f"samples of {label} on {name}", span)
        sheets.append((label, f"samples{_seed(standing)}", sheet))
    panels = [Panel(title, caption, None, sheet) for title, caption, sheet in sheets if sheet]
    return Pictures(panels, pixelated=True) if panels else None


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


def _seed(standing: Standing) -> str:
    return f"; seed {standing.entries[0].record.seed}" if len(standing.entries) > 1 else ""


def _failure(entry: Entry) -> Failure:
    record, error = entry.record, entry.record.error or {}
    where = f"{record.label} on {record.dataset}, seed {record.seed}, {record.status}"
    reason = f"{error.get('type', 'error')}: {error.get('message', 'no reason recorded')}"
    # line by line, since `plain` makes one line of many and drops the indent
    lines = str(error.get("traceback") or "").splitlines()
    trace = [" " * min(40, len(line) - len(line.lstrip())) + plain(line) for line in lines]
    return Failure(f"{where}: {reason}", trace)


def _command(run: Path, records: Sequence[RunRecord]) -> str:
    root = run if (run / "cells").is_dir() else run.parent.parent
    if (root / "plan.toml").exists():
        return shlex.join(["genzoo", "bench", str(root / "plan.toml"), "-o", AGAIN])
    names = {record.cell for record in records}
    own = [record for record in records if record.cell in names & {path.name for path in (root / "cells").glob("*")}]
    models, data, budgets = (
        sorted({getattr(record, key) for record in own or records}) for key in ("label", "dataset", "budget")
    )
    seeds = max(record.seed for record in own or records) + 1
    parts = ["genzoo", "bench", "-m", ",".join(models), "-d", ",".join(data), "--seeds", str(seeds)]
    return shlex.join([*parts, *(["--budget", budgets[0]] if len(budgets) == 1 and budgets[0] else []), "-o", AGAIN])


def _provenance(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    facts: dict[str, Iterable[object]] = {
        "commit": (record.commit for record in records),
        "device": (record.device for record in records),
        "threads a cell": (record.threads for record in records),
        "budget": (record.budget for record in records),
        "started": [min((record.started for record in records if record.started), default="")],
    }
    for key in sorted({key for record in records for key in record.machine}):
        facts[key] = [record.machine.get(key) for record in records]
    for key in sorted({key for record in records for key in record.versions}):
        facts[key] = [record.versions.get(key) for record in records]
    joined = ((key, dict.fromkeys(str(v) for v in values if v not in (None, ""))) for key, values in facts.items())
    return [(plain(key), plain(", ".join(values))) for key, values in joined if values]


def _cells(entries: Sequence[Entry]) -> Table:
    columns = tuple(
        Column(title, text=title not in ("parameters", "seed"))
        for title in ("cell", "model", "family", "plugin", "paper", "parameters", "seed", "config")
    )
    rows = (
        (
            r.cell,
            r.label,
            r.family,
            r.plugin,
            r.paper,
            count(r.parameters),
            str(r.seed),
            json.dumps(r.config, sort_keys=True),
        )
        for r in (entry.record for entry in entries if entry.first)
    )
    return Table(columns, tuple(Row(tuple(plain(cell, 400) for cell in row)) for row in rows))


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
