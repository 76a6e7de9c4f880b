"""A bench that is killed again and again, resumed each time, and compared with one that nobody touched.

    make torture                                    # 50 kills, writes benchmarks/results/torture.json
    .venv/bin/python benchmarks/torture.py --kills 6 --no-receipt

A kill is SIGKILL, given from inside by a hook at the n-th time that a place is passed: a training step, a write of a
checkpoint, a likelihood in evaluation, a write of a record. A write is struck in one of four phases: half of the file
written, all written and not synced, synced and not renamed, renamed. What is killed:
    process     a bench that runs its cells itself: a fork of this process, so that fifty starts cost little;
    group       `genzoo bench --jobs 2` and its workers at once, as by a power cut;
    bench       that bench alone: its workers notice, and end; the next bench starts at once;
    worker      one of its workers alone: the bench goes on, and the cell has failed.
After each kill, what was finished must be byte for byte what it was, every file under a final name must be whole, and
the report can be made. At the end each cell's record, arrays and weights equal the untouched run's, but for seconds and
time stamps. No product code knows of this script: the hooks are installed from here.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genzoo import bench, cells, interface
from genzoo.cli import main as genzoo
from genzoo.plan import Cell, EvaluationPlan, Plan
from genzoo.provenance import commit, machine, versions
from genzoo.records import RunRecord, find_cells, write_json
from genzoo.report import render
from genzoo.state import load_state
from genzoo.training import Trainer

RECEIPT = Path(__file__).parent / "results" / "torture.json"
SITES = ("training", "checkpoint", "evaluation", "record")
PHASES = ("half", "unsynced", "unrenamed", "renamed")
FILES = {"checkpoint": "checkpoint-", "record": "record.json"}
MOST = {"training": 40, "checkpoint": 4, "evaluation": 4, "record": 2}
"""The largest n of each place: a cell passes it about as often, so that a killed bench gets on."""
MODELS = (
    "gaussian",
    "flow[layers=1,hidden=8,bins=4]",
    "vae[hidden=[8],latents=2]",
    "ddpm[steps=8,width=16,blocks=1]",
    "pyro_mixture[components=2]",
)
OF_THE_MOMENT = {"started", "commit"}
"""What may differ beside seconds: time stamps, and the commit of a checkout that moves under a long run."""


@dataclass(frozen=True)
class Kill:
    """One kill: where, at which time that the place is passed, in which phase of a write, and what is killed."""

    site: str
    nth: int
    phase: str
    victim: str


def schedule(kills: int, seed: int = 0) -> list[Kill]:
    """All four places in turn. Workers come last: their bench goes on, and leaves only the killed cell to do."""
    generator = random.Random(seed)
    workers = max(1, kills // 12)
    plan = []
    for at in range(kills - workers):
        site = SITES[at % len(SITES)]
        phase = generator.choice(PHASES) if site in FILES else ""
        victim = "process" if at % 5 < 4 else ("group", "bench")[at // 5 % 2]
        plan.append(Kill(site, generator.randint(1, MOST[site]), phase, victim))
    # in the order in which a cell passes the places: the one that was killed is the only one left to do
    for at in range(workers):
        site = SITES[at % len(SITES)]
        plan.append(Kill(site, 1, generator.choice(PHASES[:3]) if site in FILES else "", "worker"))
    return plan


# the hooks, which live in the process that is to be killed


def install(kill: Kill, struck: Path) -> None:
    """Let this process die by `kill`; `struck` is made just before, and once it is there nothing is killed."""
    passed = Counter[str]()

    def strike() -> None:
        try:
            os.close(os.open(struck, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        if kill.victim == "group":
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getppid() if kill.victim == "bench" else os.getpid(), signal.SIGKILL)

    def pass_by() -> bool:
        passed[kill.site] += 1
        return passed[kill.site] == kill.nth

    if kill.site in FILES:
        _hook_writes(FILES[kill.site], kill.phase, pass_by, strike)
    elif kill.site == "training":
        _hook(Trainer, "_train_step", pass_by, strike)
    else:

        def evaluate(*args: Any, **options: Any) -> Any:
            _hook(interface.GenerativeModel, "log_likelihood", pass_by, strike)
            return original(*args, **options)

        original, cells.evaluate = cells.evaluate, evaluate


def _hook(owner: Any, name: str, pass_by: Callable[[], bool], strike: Callable[[], None]) -> None:
    """Strike after the n-th call of a method."""
    original = getattr(owner, name)
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def hooked(*args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        if pass_by():
            strike()
        return result

    setattr(owner, name, hooked)


class _HalfWriter:
    """A file that writes half of what it is given, and strikes."""

    def __init__(self, file: Any, strike: Callable[[], None]) -> None:
        self.file, self.strike = file, strike

    def write(self, data: bytes) -> int:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        self.strike()
        return self.file.write(data[len(data) // 2 :])  # for a bench that is killed from here, and not we

    def __enter__(self) -> _HalfWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _hook_writes(prefix: str, phase: str, pass_by: Callable[[], bool], strike: Callable[[], None]) -> None:
    """Strike in `phase` of the n-th write of a file whose name begins with `prefix`."""
    fdopen, fsync, replace = os.fdopen, os.fsync, os.replace
    armed = False

    def ours(handle: int) -> bool:
        return Path(os.readlink(f"/proc/self/fd/{handle}")).name.startswith(f".{prefix}")

    def hooked_fdopen(handle: int, *args: Any, **options: Any) -> Any:
        nonlocal armed
        file = fdopen(handle, *args, **options)
        armed = ours(handle) and pass_by()
        return _HalfWriter(file, strike) if armed and phase == "half" else file

    def hooked_fsync(handle: int) -> None:
        if armed and phase == "unsynced" and ours(handle):
            strike()
        fsync(handle)

    def hooked_replace(source: Any, target: Any) -> None:
        hit = armed and Path(target).name.startswith(prefix)
        if hit and phase == "unrenamed":
            strike()
        replace(source, target)
        if hit and phase == "renamed":
            strike()

    os.fdopen, os.fsync, os.replace = hooked_fdopen, hooked_fsync, hooked_replace  # type: ignore[assignment]


# one attempt


class Inline(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        future.set_result(fn(*args, **kwargs))
        return future


def hooked_cell(kill: Kill, struck: Path, cell: Cell) -> str:
    """What a worker runs in place of `run_cell`."""
    install(kill, struck)
    return cells.run_cell(cell)


def arguments_of(plan: Path, run: Path) -> list[str]:
    return ["bench", str(plan), "-o", str(run), "--jobs", "2"]


def attempt(kill: Kill, plan: Path, run: Path, struck: Path) -> int:
    """Go on with the bench until it is killed, or ends; its exit code, negative for a signal."""
    struck.unlink(missing_ok=True)
    if kill.victim != "process":
        command = [sys.executable, __file__, "--attempt", json.dumps(asdict(kill)), str(plan), str(run), str(struck)]
        done = subprocess.run(command, start_new_session=True, capture_output=True, check=False)
        return done.returncode
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.setsid()
            quiet = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(quiet, stream)
            install(kill, struck)
            bench.LocalExecutor = lambda jobs, threads: Inline()  # type: ignore[assignment,misc]
            code = genzoo(arguments_of(plan, run))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def attempted(kill: Kill, plan: Path, run: Path, struck: Path) -> int:
    """In a process of its own: the bench whose workers are hooked."""
    bench.run_cell = functools.partial(hooked_cell, kill, struck)  # type: ignore[assignment]
    return genzoo(arguments_of(plan, run))


# what must hold


def finished(run: Path) -> dict[Path, bytes]:
    """All files of the cells that are done, but for the lines of progress."""
    done = [path.parent for path in run.glob("cells/*/record.json") if RunRecord.load(path.parent).status == "ok"]
    return {path: path.read_bytes() for cell in done for path in cell.iterdir() if path.suffix in (".json", ".npz")}


def check_whole(run: Path) -> None:
    """Every file under a final name can be read; the report can be made. Raises what a reader raises."""
    Plan.read(run / "plan.toml")
    for path in run.glob("cells/*/checkpoint-*.safetensors"):
        load_state(path)
    if any(run.glob("cells/*/record.json")):
        for cell in find_cells(run):
            cell.arrays()
        render([run], "json")


def results(run: Path) -> dict[str, dict[str, Any]]:
    """Of each cell all that lasts: its record, arrays and weights, but for seconds and time stamps."""
    found: dict[str, dict[str, Any]] = {}
    for cell in find_cells(run):
        lasting = {f"record {key}": value for key, value in _lasting(asdict(cell.record)).items()}
        arrays = {f"array {key}": value for key, value in cell.arrays().items() if not key.endswith("_seconds")}
        weights = cell.path / "model.safetensors"
        found[cell.path.name] = lasting | arrays | {"weights": weights.read_bytes() if weights.exists() else b""}
    return found


def _lasting(value: Any) -> Any:
    """The same tree without what is of the moment."""
    if not isinstance(value, dict):
        return value
    return {k: _lasting(v) for k, v in value.items() if k not in OF_THE_MOMENT and not k.startswith("seconds")}


def differences(run: Path, untouched: Path) -> Iterator[str]:
    """In words: cells that are missing, and what of a cell is not the same."""
    ours, theirs = results(run), results(untouched)
    for name in sorted(ours.keys() ^ theirs.keys()):
        yield f"{name} is only in {run if name in ours else untouched}"
    for name in sorted(ours.keys() & theirs.keys()):
        for key in sorted(ours[name].keys() | theirs[name].keys()):
            mine, other = ours[name].get(key), theirs[name].get(key)
            arrays = isinstance(mine, np.ndarray) and isinstance(other, np.ndarray)
            same = mine.dtype == other.dtype and np.array_equal(mine, other, True) if arrays else mine == other
            if not same:
                yield f"{name}: {key} differs"


def make_plan(folder: Path, kills: int) -> Path:
    """Five small models on three data sets, one with a known truth, from as many seeds as the kills need."""
    generator = np.random.default_rng(0)
    np.savez(folder / "labelled.npz", x=generator.standard_normal((160, 2)).astype(np.float32), y=np.arange(160) % 3)
    np.savez(folder / "images.npz", x=generator.integers(0, 256, (160, 1, 4, 4)).astype(np.uint8))
    plan = Plan(
        models=MODELS,
        datasets=(f"{folder}/labelled.npz[labels=true]", f"{folder}/images.npz", "rings[points=300]"),
        seeds=tuple(range(1 + kills // 20)),
        budget="40steps",
        training={"batch_size": 32},
        evaluation=EvaluationPlan(points=16, num_samples=2, max_seconds=0, samples=64),
        device="cpu",
    )
    path = folder / "plan.toml"
    path.write_text(plan.to_toml())
    bench.check(plan)  # so that forks need not import the models
    return path


def torture(kills: int, folder: Path) -> dict[str, Any]:
    """Kill, resume, compare; the receipt."""
    plan, run, untouched, struck = make_plan(folder, kills), folder / "run", folder / "untouched", folder / "struck"
    start, told = time.monotonic(), []
    spent = _processor_seconds()
    for kill in schedule(kills):
        before = finished(run)
        code = attempt(kill, plan, run, struck)
        kept = all(path.read_bytes() == content for path, content in before.items())
        check_whole(run)
        told.append({**asdict(kill), "struck": struck.exists(), "exit": code, "kept": kept, "finished": len(before)})
        print(f"{len(told)}/{kills} {kill.victim} at {kill.site} {kill.nth} {kill.phase}: exit {code}", flush=True)
    last = subprocess.run([sys.executable, "-m", "genzoo", *arguments_of(plan, run)], capture_output=True, check=False)
    once = subprocess.run(
        [sys.executable, "-m", "genzoo", *arguments_of(plan, untouched)], capture_output=True, check=False
    )
    left = [str(path.relative_to(run)) for path in run.rglob("*") if path.name.startswith((".", "checkpoint-"))]
    return {
        "kills": told,
        "by_site": dict(Counter(each["site"] for each in told if each["struck"])),
        "by_victim": dict(Counter(each["victim"] for each in told if each["struck"])),
        "exits": {"killed": last.returncode, "untouched": once.returncode},
        "cells": len(results(untouched)),
        "differences": list(differences(run, untouched)),
        "left_over": left,
        "seconds": round(time.monotonic() - start, 1),
        "processor_seconds": round(_processor_seconds() - spent, 1),
        "versions": versions(),
        "machine": machine(),
        "commit": commit(),
    }


def _processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def sound(receipt: dict[str, Any]) -> bool:
    """Whether every kill took place and nothing was lost."""
    happened = all(
        each["struck"] and each["kept"] and each["exit"] == (3 if each["victim"] == "worker" else -signal.SIGKILL)
        for each in receipt["kills"]
    )
    same = not receipt["differences"] and not receipt["left_over"] and receipt["exits"] == {"killed": 0, "untouched": 0}
    return happened and same and receipt["cells"] > 0


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--no-receipt", action="store_true")
    parser.add_argument("--keep", type=Path, help="work in this folder, which must not exist, and leave it")
    parser.add_argument("--attempt", nargs=4, metavar=("KILL", "PLAN", "RUN", "STRUCK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.attempt:
        kill, *paths = arguments.attempt
        return attempted(Kill(**json.loads(kill)), *map(Path, paths))
    torch.set_num_threads(1)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="torture-"))
    folder.mkdir(parents=True, exist_ok=arguments.keep is None)
    receipt = torture(arguments.kills, folder)
    if arguments.keep is None:
        shutil.rmtree(folder)
    print(json.dumps({key: value for key, value in receipt.items() if key != "kills"}, indent=1))
    if not arguments.no_receipt:
        write_json(RECEIPT, receipt)
    return 0 if sound(receipt) else 1


if __name__ == "__main__":
    sys.exit(main())
