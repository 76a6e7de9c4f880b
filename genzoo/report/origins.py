"""Where the numbers of a report come from: the command that makes them again, machine, versions, every cell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from genzoo.errors import PlanError
from genzoo.plan import ALL, Plan
from genzoo.records import RunRecord
from genzoo.report.collect import Entry
from genzoo.report.numbers import count
from genzoo.report.table import Column, Row, Table
from genzoo.text import plain

AGAIN = "runs/again"  # another folder: in its own, a finished plan has nothing left to run


def commands(runs: Sequence[Path], records: Sequence[RunRecord]) -> list[str]:
    """What makes `runs` again, each into a folder of its own, in printable text."""
    made = list(dict.fromkeys(_command(run, records) for run in runs))
    folders = [AGAIN] if len(made) == 1 else [f"{AGAIN}-{number}" for number in range(1, len(made) + 1)]
    return [plain(f"{line} -o {folder}") for line, folder in zip(made, folders, strict=True)]


def _command(run: Path, records: Sequence[RunRecord]) -> str:
    """What runs `run` again, but for the folder."""
    root = run if (run / "cells").is_dir() else run.parent.parent
    if (root / "plan.toml").exists():
        return shlex.join(["genzoo", "bench", str(root / "plan.toml")])
    names = {record.cell for record in records}
    own = [record for record in records if record.cell in names & {path.name for path in (root / "cells").glob("*")}]
    models, data, budgets = (
        sorted({getattr(record, key) for record in own or records}) for key in ("label", "dataset", "budget")
    )
    seeds = max(record.seed for record in own or records) + 1
    parts = ["genzoo", "bench", "-m", ",".join(models), "-d", ",".join(data), "--seeds", str(seeds)]
    return shlex.join([*parts, *(["--budget", budgets[0]] if len(budgets) == 1 and budgets[0] else [])])


def unrun(run: Path) -> int:
    """How many cells of a run's plan have no record yet; 0 where that cannot be told."""
    try:
        plan = Plan.read(run / "plan.toml")
    except PlanError:
        return 0
    if ALL in plan.models:  # which plugins were installed is not on record
        return 0
    cells = len(plan.models) * len(plan.datasets) * len(plan.seeds)
    return max(0, cells - sum(1 for _ in (run / "cells").glob("*/record.json")))


def provenance(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """What the records were made by and on: facts and their values, several where the records differ."""
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


def cells(entries: Sequence[Entry]) -> Table:
    """Every cell: who made its model, and every setting of it."""
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
