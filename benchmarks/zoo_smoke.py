"""CI's share of the zoo: every cell of a plan, several a process, and the matrix of what became of them.

    python benchmarks/zoo_smoke.py [PLAN.toml] [--jobs 2]

A process that starts imports torch and loads the data once, where a bench starts one for each cell. Exit code 1 where a
cell failed, or was skipped for any other reason than its card's declared data.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from genzoo import bench
from genzoo.bench import CellState
from genzoo.plan import Plan
from genzoo.report.formats import text
from genzoo.report.matrix import WORDS, Place, matrix

PLAN = Path(__file__).parent / "zoo-ci.toml"
SLOWEST = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the plan in a folder that is thrown away; 1 where a cell is not as its card says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", nargs="?", type=Path, default=PLAN)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--models", help="in place of the plan's")
    asked = parser.parse_args(arguments)
    plan = Plan.read(asked.plan)
    if asked.models:
        plan = plan.model_copy(update={"models": tuple(asked.models.split(","))})
    start = time.monotonic()
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(asked.jobs, spawn, functools.partial(torch.set_num_threads, plan.threads)) as pool,
    ):
        states = bench.run(plan, Path(folder), executor=pool)
    wrong = [state for state in states if state.status != ("ok" if state.cell.declined is None else "skipped")]
    print(report(states, wrong))
    print(f"{len(states)} cells, {len(wrong)} not as their cards say, in {time.monotonic() - start:.0f} s")
    return 1 if wrong else 0


def report(states: Sequence[CellState], wrong: Sequence[CellState]) -> str:
    """The matrix, then the longest cells and where their seconds went."""
    places = [
        Place(state.cell.model, state.cell.dataset, WORDS.get(state.status, state.status), message(state))
        for state in states
    ]
    table = matrix(places)
    lines = [] if table is None else [text(table), ""]
    lines += [f"WRONG: {state.cell.model} on {state.cell.dataset}: {message(state)}" for state in wrong]
    costs = [(cost(state), state) for state in states]
    for each, state in sorted(costs, key=lambda pair: -sum(pair[0]))[:SLOWEST]:
        train, evaluate, sample = each
        name = f"{state.cell.model} on {state.cell.dataset}"
        lines.append(f"{name}: {train:.1f} s to train, {evaluate:.1f} to evaluate, {sample:.1f} to sample")
    return "\n".join(lines)


def message(state: CellState) -> str:
    """Why it was skipped or has failed."""
    error = None if state.record is None else state.record.error
    return (
        ""
        if error is None
        else f"{error['type']}: {error['message']}"
        if state.status == "failed"
        else error["message"]
    )


def cost(state: CellState) -> tuple[float, float, float]:
    """Wall seconds of training, evaluation and sampling."""
    record = state.record
    if record is None:
        return 0.0, 0.0, 0.0
    return record.seconds_train or 0.0, record.seconds_eval or 0.0, record.seconds_sample or 0.0


if __name__ == "__main__":
    sys.exit(main())
