"""Regenerate the tables of README.md from the records under benchmarks/results.

    python benchmarks/readme_tables.py            rewrite README.md
    python benchmarks/readme_tables.py --check    exit 1 when README.md is not what the records say

Between `<!-- table:NAME -->` and `<!-- /table:NAME -->` goes the table of `benchmarks/results/NAME`: where every data
set has a known truth, data sets by models with the KL to the truth; otherwise the results of each data set.

Between `<!-- field:NAME,NAME -->` and its end goes one table of these results, models by data sets: the KL to the truth
where it is known, else the NLL, with its sign; a hyphen where a card declines the data.

Between `<!-- beside:NAME,NAME -->` and its end go, for each data set of these plans with published values, ours, then
floors and ceilings, then of each family the best published values that somebody has checked. A plan without results
has a row that says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from genzoo.errors import GenzooError, RunError
from genzoo.plan import Plan
from genzoo.records import write_bytes
from genzoo.report import floors, published
from genzoo.report.collect import Group, collect
from genzoo.report.formats import escape_markdown, markdown
from genzoo.report.numbers import NONE, bound, divergence
from genzoo.report.table import Column, Row, Table, failures, kl_matrix, results

ROOT = Path(__file__).resolve().parent.parent
PLANS = ROOT / "benchmarks"
MARKED = re.compile(
    r"(<!-- (?P<what>table|field|beside):(?P<name>[\w.,-]+) -->\n).*?(<!-- /(?P=what):(?P=name) -->)", re.DOTALL
)
OPENED = re.compile(r"<!-- ((?:table|field|beside):[\w.,-]+) -->")
BEST = 3
"""Published values of a family that a README has room for; a report shows all."""
NOT_RUN, COMPUTED = "not run", "computed here"


def table(run: Path) -> str:
    """The markdown of one run folder."""
    groups = collect([run])
    if all(group.first_record.entropy is not None for group in groups if group.entries):
        return markdown(kl_matrix(groups))
    blocks = [f"**{escape_markdown(group.dataset)}**\n\n{markdown(results(group))}" for group in groups]
    return "\n\n".join(blocks)


def field(runs: Sequence[Path]) -> str:
    """The markdown of models by data sets. Raises RunError where a data set has results of several protocols."""
    groups = sorted(
        (group for group in collect(runs) if group.entries), key=lambda group: math.prod(group.first_record.event_shape)
    )
    names = [group.dataset for group in groups]
    if len({*names}) < len(names):
        raise RunError(f"expected one protocol a data set; got several of {', '.join(sorted(names))}")
    shown = {
        (standing.label, group.dataset): bound(summary) if summary.kl is None else divergence(summary)
        for group in groups
        for standing in group.standings
        for summary in [standing.summary]
    }
    heads = (f"{g.dataset}, {'NLL' if g.first_record.entropy is None else 'KL'}" for g in groups)
    labels = sorted({label for label, _ in shown})
    rows = (Row((label, *(shown.get((label, name), NONE) for name in names))) for label in labels)
    return markdown(Table((Column("model", text=True), *map(Column, heads)), tuple(rows)))


def beside(names: Sequence[str], folder: Path) -> str:
    """The markdown of several plans beside published values, one table a data set of theirs.

    Raises:
        PlanError: a plan that is not under `benchmarks/`. RunError: records that cannot be read.
    """
    plans = {name: Plan.read(PLANS / f"{name}.toml") for name in names}
    there = [folder / name for name in names if (folder / name).is_dir()]
    groups = collect(there) if there else []
    blocks = []
    for dataset in dict.fromkeys(dataset for plan in plans.values() for dataset in plan.datasets):
        empty = Group(dataset, {"dataset": dataset, "target": "p(x)"}, "test")
        group = next((each for each in groups if each.dataset == dataset and published.of(each)), empty)
        made = published.table(group, checked=True)
        if made is None:
            continue
        missing = [name for name, plan in plans.items() if folder / name not in there and dataset in plan.datasets]
        blocks.append(f"**{escape_markdown(dataset)}**\n\n{markdown(_joined(group, made, missing))}")
    return "\n\n".join(blocks)


def _joined(group: Group, made: Table, missing: Sequence[str]) -> Table:
    """The table of published values with a row for each plan that was not run, and floors and ceilings, under ours."""
    own, width = len(group.standings), len(made.columns)
    theirs, families = [], Counter[str]()
    for each in made.rows[own:]:  # best first
        families[each.cells[1]] += 1
        if families[each.cells[1]] <= BEST:
            theirs.append(each)

    def row(what: str, number: str, how: str, tag: str) -> Row:
        return Row((what, NONE, number, how, NONE, tag, *[NONE] * (width - 6)))

    ground = floors.table(group, published.native(found)) if (found := published.of(group)) else None
    added = [row(f"{name}: {NOT_RUN}", NONE, NONE, NOT_RUN) for name in missing]
    if ground is not None:
        for name, side, number, how in (each.cells for each in ground.rows):
            added.append(row(f"{name} ({side})", number, how, COMPUTED))
    rows = (*made.rows[:own], *added, *theirs)
    notes = (f"Of each family the {BEST} best that somebody has seen.", *made.notes, *failures(group))
    return dataclasses.replace(made, rows=rows, notes=notes)


def regenerate(text: str, folder: Path) -> str:
    """`text` with each marked table made anew from `folder`/NAME; RunError for a marker that is not closed."""

    def made(match: re.Match[str]) -> str:
        names = match["name"].split(",")
        runs = [folder / name for name in names]
        make = {"beside": lambda: beside(names, folder), "field": lambda: field(runs), "table": lambda: table(*runs)}
        block = make[match["what"]]()
        return f"{match[1]}{block}\n{match[4]}"

    closed = {f"{match['what']}:{match['name']}" for match in MARKED.finditer(text)}
    unclosed = {*OPENED.findall(text)} - closed
    if unclosed:
        raise RunError(f"expected <!-- /{min(unclosed)} --> after <!-- {min(unclosed)} -->; it is not there")
    return MARKED.sub(made, text)


def main(args: list[str] | None = None) -> int:
    """Rewrite or check; the exit code."""
    parser = argparse.ArgumentParser(description="Regenerate the tables of README.md from benchmarks/results.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if README.md is stale")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(args)
    text = options.readme.read_text(encoding="utf-8")
    try:
        made = regenerate(text, options.results)
    except GenzooError as error:
        print(f"{options.readme}: {error}", file=sys.stderr)
        return 1
    if made == text:
        return 0
    if options.check:
        print(f"{options.readme} is stale: run python benchmarks/readme_tables.py", file=sys.stderr)
        return 1
    write_bytes(options.readme, made.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
