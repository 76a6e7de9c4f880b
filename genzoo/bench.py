"""Run a plan: check everything, run the cells in processes, keep what is finished, make the report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path

from genzoo.building import Blueprint, load_reference
from genzoo.cells import pick_device, read_progress, run_cell
from genzoo.config import Budget, Reference
from genzoo.errors import CapabilityError, DataError, PlanError, RunError, WorkerDied
from genzoo.executors import LocalExecutor
from genzoo.plan import Cell, Plan
from genzoo.records import RunRecord, find_cells, write_bytes
from genzoo.registry import load_registry
from genzoo.spec import Dataset

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class CellState:
    """Where one cell stands.

    Attributes:
        status: waiting, running, kept (finished by an earlier run), ok, failed or skipped.
        progress: the last line that it wrote while running.
    """

    cell: Cell
    status: str
    progress: dict[str, object]
    record: RunRecord | None = None


Watch = Callable[[Sequence[CellState]], None]


def check(plan: Plan, plugins: tuple[str, ...] = ()) -> dict[str, Dataset]:
    """Load every data set and resolve every model, so that nothing is written when something is wrong.

    Returns the data sets by reference. Raises the UsageError that says what is wrong.
    """
    registry = load_registry(plugins)
    pick_device(plan.device)
    datasets = {}
    for text in plan.datasets:
        datasets[text] = load_reference(registry, Reference.parse(text, "data set"))
    for text in plan.models:
        reference = Reference.parse(text)
        refused = []
        for data in datasets.values():
            try:
                Blueprint.of(registry, reference.name, reference.options, data.spec)
            except CapabilityError as error:
                refused.append(error)
        if len(refused) == len(datasets):
            raise refused[0]
    return datasets


def planned(plan: Plan, folder: Path, plugins: tuple[str, ...] = ()) -> list[Cell]:
    """Every cell of a plan that has passed `check`, with its data's protocol in its name."""
    datasets = check(plan, plugins)
    return list(plan.cells(folder, plugins, {text: data.protocol.key for text, data in datasets.items()}))


def stand_in(plan: Plan) -> tuple[Plan, str | None]:
    """The plan with digits for mnist where MNIST cannot be had, and the sentence that says so; for the bare default."""
    if "mnist" not in plan.datasets:
        return plan, None
    try:
        load_reference(load_registry(), Reference("mnist"))
    except DataError as error:
        datasets = tuple("digits" if name == "mnist" else name for name in plan.datasets)
        return plan.model_copy(update={"datasets": datasets}), f"digits stands in for mnist: {error}"
    return plan, None


def expected_seconds(plan: Plan, cells: int, jobs: int) -> float | None:
    """Training and evaluation at their limits, rounds of cells one after another; None where one has no limit in time:
    a budget in steps or epochs, an evaluation without max_seconds."""
    budget = Budget.parse(plan.budget)
    if budget.unit != "s" or not plan.evaluation.max_seconds:
        return None
    return -(-cells // jobs) * (budget.amount + plan.evaluation.max_seconds)


def default_jobs(threads: int) -> int:
    """Cores this process may use, divided by the threads of a cell."""
    return max(1, len(os.sched_getaffinity(0)) // threads)


def replayed(cells: Sequence[Cell], earlier: Path) -> list[Cell]:
    """The same cells with their steps fixed by the records of an earlier run; RunError for one without."""
    steps = {}
    for done in find_cells(earlier):
        key = (done.record.label, done.record.dataset, done.record.seed)
        steps[key] = done.record.training.get("total_steps")
    fixed = []
    for cell in cells:
        key = (str(Reference.parse(cell.model)), str(Reference.parse(cell.dataset, "data set")), cell.seed)
        if not isinstance(steps.get(key), int):
            raise RunError(f"{earlier} has no steps for {key[0]} on {key[1]}, seed {key[2]}: nothing to replay")
        fixed.append(cell.model_copy(update={"total_steps": steps[key]}))
    return fixed


def run(
    plan: Plan,
    folder: Path,
    *,
    cells: Sequence[Cell] | None = None,
    jobs: int | None = None,
    plugins: tuple[str, ...] = (),
    replay: Path | None = None,
    notes: Sequence[str] = (),
    watch: Watch | None = None,
    executor: Executor | None = None,
) -> list[CellState]:
    """Run every cell of `plan` that `folder` does not hold yet; failed cells are run again.

    Args:
        folder: the run folder; it may hold an unfinished run of the same plan.
        cells: from `planned`; None to plan here.
        jobs: processes at a time; None for cores / threads.
        notes: sentences that go into every record (stand-in data).
        watch: called before the first cell, about twice a second, and when a cell ends.
        executor: anything with `submit`; None for local processes.

    Raises:
        PlanError: the folder holds another plan.
    """
    cells = planned(plan, folder, plugins) if cells is None else cells
    if replay is not None:
        cells = replayed(cells, replay)
    stored = folder / "plan.toml"
    if folder.exists() and not folder.is_dir():
        raise PlanError(f"cannot run in {folder}: expected a folder; it is a file")
    if stored.exists() and Plan.read(stored).key != plan.key:
        raise PlanError(f"{folder} holds another plan: give another folder with -o, or run `genzoo bench {stored}`")
    write_bytes(stored, plan.to_toml().encode())
    states = {cell.name: CellState(cell, "waiting", {}) for cell in cells}
    for cell in cells:
        record = _finished(cell)
        if record is not None:
            states[cell.name] = CellState(cell, "kept", {}, record)
    if watch is not None:
        watch(list(states.values()))
    own = executor is None
    pool = executor or LocalExecutor(jobs or default_jobs(plan.threads), plan.threads)
    try:
        pending: dict[Future[str], Cell] = {
            pool.submit(run_cell, cell): cell for cell in cells if states[cell.name].record is None
        }
        while pending:
            done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                cell = pending.pop(future)
                states[cell.name] = _ended(cell, future, notes)
            for future, cell in pending.items():
                if future.running():
                    last = list(read_progress(cell.folder))[-1:]
                    states[cell.name] = CellState(cell, "running", last[0] if last else {})
            if watch is not None:
                watch(list(states.values()))
    except BaseException:
        if own:
            pool.shutdown(wait=True, cancel_futures=True)
        raise
    if own:
        pool.shutdown()
    return list(states.values())


def _finished(cell: Cell) -> RunRecord | None:
    if not (cell.folder / "record.json").exists():
        return None
    record = RunRecord.load(cell.folder)
    return None if record.status == "failed" else record


def _ended(cell: Cell, future: Future[str], notes: Sequence[str]) -> CellState:
    try:
        future.result()
        record = RunRecord.load(cell.folder)
    except WorkerDied as error:
        reference = Reference.parse(cell.model)
        record = RunRecord(
            cell=cell.name,
            status="failed",
            model=reference.name,
            label=str(reference),
            dataset=str(Reference.parse(cell.dataset, "data set")),
            seed=cell.seed,
            budget=cell.plan.budget,
            threads=cell.plan.threads,
            started=time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
            error={"type": "WorkerDied", "message": str(error), "traceback": ""},
        )
        record.save(cell.folder)
    if notes:
        record = replace(record, notes=[*notes, *record.notes])
        record.save(cell.folder)
    return CellState(cell, record.status, {}, record)
