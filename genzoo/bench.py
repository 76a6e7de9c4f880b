"""Run a plan: check everything, run the cells in processes, keep what is finished, make the report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path

from genzoo.building import Blueprint, load_reference
from genzoo.cells import DATA, PROGRESS, last_progress, pick_device, run_cell, tidy
from genzoo.config import Budget, Reference
from genzoo.errors import (
    CapabilityError,
    DataError,
    PlanError,
    PluginError,
    ProvenanceError,
    RunError,
    WorkerDied,
    WorkerHung,
)
from genzoo.executors import LocalExecutor
from genzoo.liveness import Pulse
from genzoo.locking import locked
from genzoo.plan import Cell, Plan
from genzoo.provenance import require_clean
from genzoo.records import RunRecord, Status, find_cells, remove_temporaries, write_bytes
from genzoo.registry import load_registry
from genzoo.report.notebook import runs_html, runs_text
from genzoo.spec import Dataset

POLL_SECONDS = 0.5
HANG_SECONDS = 600.0
"""Without a sign of life for this long a worker is taken to hang; a network call is one, see `genzoo.liveness`."""
START_SECONDS = 300.0
"""A worker that starts may be silent for this long at least: it imports torch and the model."""


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


class Results(list[CellState]):
    """What a bench gives: the state of each cell. Printed, and in a notebook, it is the verdicts and tables of their
    records."""

    def __repr__(self) -> str:
        return runs_text(self._folders()) if self else "<Results: no cells>"

    def _repr_html_(self) -> str:
        return runs_html(self._folders()) if self else "<p>no cells</p>"

    def _folders(self) -> list[Path]:
        return [state.cell.folder for state in self]


Watch = Callable[[Sequence[CellState]], None]


@dataclass(frozen=True)
class Checked:
    """A plan in which nothing is wrong.

    Attributes:
        datasets: by reference. models: names with options, `all` written out.
        declined: why a model's card does not take a data set, by model and data set.
    """

    datasets: dict[str, Dataset]
    models: list[str]
    declined: dict[tuple[str, str], str]


def check(plan: Plan, plugins: tuple[str, ...] = ()) -> Checked:
    """Load every data set and resolve every model, so that nothing is written when something is wrong.

    Raises the UsageError that says what is wrong; a model that takes none of the data is wrong where it was named.
    """
    registry = load_registry(plugins)
    cpu = pick_device(plan.device).type == "cpu"
    datasets = {}
    for text in plan.datasets:
        datasets[text] = load_reference(registry, Reference.parse(text, "data set"))
    models, declined = plan.models_of(registry.models), {}
    for text in models:
        reference = Reference.parse(text)
        needs_gpu = cpu and registry.model(reference.name).gpu
        for name, data in datasets.items():
            try:
                Blueprint.of(registry, reference.name, reference.options, data.spec)
            except CapabilityError as error:
                declined[text, name] = str(error)
            except PluginError:  # of `all`, one that cannot be imported is a failed cell among many
                if text in plan.models:
                    raise
            else:
                if needs_gpu:
                    declined[text, name] = f"{reference.name} is trained on a GPU; this bench runs on the CPU"
    for text in models:
        refused = [declined[text, name] for name in datasets if (text, name) in declined]
        if len(refused) == len(datasets) and (text in plan.models or len(declined) == len(models) * len(datasets)):
            raise CapabilityError(refused[0])
    return Checked(datasets, models, declined)


def planned(plan: Plan, folder: Path, plugins: tuple[str, ...] = ()) -> list[Cell]:
    """Every cell of a plan that has passed `check`, with its data's protocol in its name; those whose card declines the
    data say so."""
    checked = check(plan, plugins)
    keys = {text: data.protocol.key for text, data in checked.datasets.items()}
    return [
        cell.model_copy(update={"declined": checked.declined.get((cell.model, cell.dataset))})
        for cell in plan.cells(folder, plugins, keys, checked.models)
    ]


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
    hang_seconds: float = HANG_SECONDS,
    clean: bool = False,
) -> Results:
    """Run every cell of `plan` that `folder` does not hold yet; failed cells are run again.

    Args:
        folder: the run folder; it may hold an unfinished run of the same plan.
        cells: from `planned`; None to plan here.
        jobs: processes at a time; None for cores / threads.
        notes: sentences that go into every record (stand-in data).
        watch: called before the first cell, about twice a second, and when a cell ends.
        executor: anything with `submit`; None for local processes.
        hang_seconds: a local worker without a sign of life for this long is killed, and its cell has failed; 0: never.
        clean: refuse code, and results kept from an earlier run, that no commit holds.

    Raises:
        PlanError: the folder holds another plan.
        ProvenanceError: `clean`, and the checkout or a kept result is not.
        LockedError: another bench is running in the folder.
        StorageError: the disk is full, or the folder cannot be written.
        KeyboardInterrupt: says what is finished.
    """
    cells = planned(plan, folder, plugins) if cells is None else cells
    if replay is not None:
        cells = replayed(cells, replay)
    cells = [cell.model_copy(update={"notes": tuple(notes)}) for cell in cells]
    if folder.exists() and not folder.is_dir():
        raise PlanError(f"cannot run in {folder}: expected a folder; it is a file")
    if clean:
        require_clean()
        _require_clean_results(cells)
    with locked(folder):
        _claim(plan, folder)
        states = {cell.name: _state(cell) for cell in cells}
        if watch is not None:
            watch(list(states.values()))
        own = executor is None
        pool = executor or LocalExecutor(jobs or default_jobs(plan.threads), plan.threads)
        try:
            _run_all(pool, states, watch, hang_seconds)
        except BaseException as error:
            if own:
                pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                done = sum(_finished(cell) is not None for cell in cells)
                raise KeyboardInterrupt(
                    f"with {done} of {len(cells)} cells finished in {folder}; the same command goes on from there"
                ) from None
            raise
        if own:
            pool.shutdown()
    return Results(states.values())


def _require_clean_results(cells: Sequence[Cell]) -> None:
    """ProvenanceError, naming the first, unless what earlier runs have left was made from a commit."""
    for cell in cells:
        record = _finished(cell)
        if record is not None and record.status == "ok" and (record.commit or "-dirty").endswith("-dirty"):
            raise ProvenanceError(
                f"expected {cell.folder} to be made from a commit; its record says {record.commit or 'none'}: remove "
                "the folder, and it is trained again, or run without --clean"
            )


def _claim(plan: Plan, folder: Path) -> None:
    """Write the plan into the folder, which holds no other; tidy up after a bench that was killed."""
    stored = folder / "plan.toml"
    if stored.exists() and Plan.read(stored).key != plan.key:
        raise PlanError(f"{folder} holds another plan: give another folder with -o, or run `genzoo bench {stored}`")
    remove_temporaries(folder)
    write_bytes(stored, plan.to_toml().encode())


def _state(cell: Cell) -> CellState:
    """Waiting, or kept from an earlier run."""
    record = _finished(cell)
    if record is None:
        return CellState(cell, "waiting", {})
    tidy(cell)
    return CellState(cell, "kept", {}, record)


def _run_all(pool: Executor, states: dict[str, CellState], watch: Watch | None, hang_seconds: float) -> None:
    """Run the cells that wait; `states` follows. Those that a card declines are skipped first."""
    waiting = []
    for state in list(states.values()):
        cell = state.cell
        if state.record is None and cell.declined is not None:
            states[cell.name] = CellState(cell, "skipped", {}, _skipped(cell, cell.declined))
        elif state.record is None:
            waiting.append(cell)
    pending: dict[Future[str], Cell] = {pool.submit(run_cell, cell): cell for cell in waiting}
    pulses: dict[str, Pulse] = {}
    while pending:
        done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            cell = pending.pop(future)
            states[cell.name] = _ended(cell, future)
        for future, cell in pending.items():
            if future.running():
                last = last_progress(cell.folder)
                states[cell.name] = CellState(cell, "running", last)
                pulse = pulses.setdefault(cell.name, Pulse(cell.folder / PROGRESS))
                if pulse.changed and last.get("stage") == DATA:  # a large file takes its time, and took it in `check`
                    pulse.reset()
                silence = pulse.silence()
                limit = hang_seconds if pulse.changed else max(hang_seconds, START_SECONDS)
                if isinstance(pool, LocalExecutor) and hang_seconds and silence > limit:
                    pool.kill(future, _hung(limit, last if pulse.changed else {}))
        if watch is not None:
            watch(list(states.values()))


def _hung(seconds: float, last: dict[str, object]) -> WorkerHung:
    where = f"at step {last['step']}" if "step" in last else f"in {last.get('stage', 'its start')}"
    return WorkerHung(
        f"no sign of life for {seconds:g} s {where}: the worker was killed; the same command goes on from the last "
        "checkpoint; --hang-seconds gives it longer"
    )


def _finished(cell: Cell) -> RunRecord | None:
    if not (cell.folder / "record.json").exists():
        return None
    record = RunRecord.load(cell.folder)
    return None if record.status == "failed" else record


def _ended(cell: Cell, future: Future[str]) -> CellState:
    try:
        future.result()
        record = RunRecord.load(cell.folder)
    except WorkerDied as error:
        # it may have died with its record already written
        record = _finished(cell) or _unrun(cell, "failed", error)
    return CellState(cell, record.status, {}, record)


def _skipped(cell: Cell, reason: str) -> RunRecord:
    return _unrun(cell, "skipped", CapabilityError(reason))


def _unrun(cell: Cell, status: Status, error: Exception) -> RunRecord:
    """The record of a cell that no worker wrote one for."""
    reference = Reference.parse(cell.model)
    record = RunRecord(
        cell=cell.name,
        status=status,
        model=reference.name,
        label=str(reference),
        dataset=str(Reference.parse(cell.dataset, "data set")),
        seed=cell.seed,
        budget=cell.plan.budget,
        threads=cell.plan.threads,
        started=time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        notes=[*cell.notes],
        error={"type": type(error).__name__, "message": str(error), "traceback": ""},
    )
    record.save(cell.folder)
    return record
