"""Benches that are interrupted, workers that hang or die, memory that runs out: what is finished stays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from genzoo import api, bench, liveness, readings, signs
from genzoo.baseline import Gaussian
from genzoo.cells import last_progress, run_cell
from genzoo.cli import main
from genzoo.errors import WorkerDied, WorkerHung
from genzoo.evaluation import evaluate
from genzoo.executors import LocalExecutor
from genzoo.interface import ModelEstimator
from genzoo.liveness import Liveness, Pulse
from genzoo.memory import halving
from genzoo.plan import Cell, EvaluationPlan, Plan
from genzoo.records import RunRecord, find_cells
from genzoo.spec import DataSpec

Streams = pytest.CaptureFixture[str]
OF_THE_MOMENT = ("seconds_train", "seconds_eval", "seconds_sample", "started", "commit", "cell")


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    """Of all its threads."""
    with contextlib.suppress(FileNotFoundError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


def descendants(pid: int) -> list[int]:
    return [other for child in children(pid) for other in (child, *descendants(child))]


def result(run: Path) -> dict[str, tuple[dict[str, Any], bytes]]:
    """Of each cell its record but for the moment, and its weights."""
    found = {}
    for cell in find_cells(run):
        record = {key: value for key, value in vars(cell.record).items() if key not in OF_THE_MOMENT}
        found[cell.path.name] = (record, (cell.path / "model.safetensors").read_bytes())
    return found


def plan_of(models: tuple[str, ...], data: Path, **options: Any) -> Plan:
    evaluation = EvaluationPlan(points=16, num_samples=2, samples=16)
    training = {"batch_size": 32}
    return Plan(
        models=models, datasets=(str(data),), budget="20steps", evaluation=evaluation, training=training, **options
    )


@pytest.fixture
def ended() -> Iterator[contextlib.ExitStack]:
    """What is to be done at the end, whatever happens."""
    with contextlib.ExitStack() as stack:
        yield stack


def test_a_bench_goes_on_after_every_signal(
    tiny: Path, tmp_path: Path, inline: Executor, brittle: tuple[str, ...], ended: contextlib.ExitStack
) -> None:
    """Ctrl-C and SIGTERM: exit code 130 and one line; SIGKILL: the workers see it. None of them is left, what is
    finished is intact, the report can be made, and the end is what an untouched run gives."""
    go = tmp_path / "go"
    plan = plan_of(("gaussian", f'brittle[wait_from=0.7,until="{go}"]'), tiny / "points.npz", device="cpu")
    (tmp_path / "plan.toml").write_text(plan.to_toml())
    run = tmp_path / "run"
    command = ["bench", str(tmp_path / "plan.toml"), "--plugin", brittle[0], "-o", str(run), "--jobs", "1"]
    quick, slow = bench.planned(plan, run, brittle)
    kept: dict[Path, bytes] = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        progress = slow.folder / "progress.jsonl"
        progress.unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "genzoo", *command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        ended.callback(process.kill)
        wait_until(lambda: last_progress(slow.folder).get("step", 0) >= 12 and (quick.folder / "record.json").exists())
        workers = descendants(process.pid)
        assert workers
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        wait_until(lambda: not any(map(alive, workers)))  # noqa: B023
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130, err
            words = f"interrupted with 1 of 2 cells finished in {run}; the same command goes on from there"
            assert f"genzoo: error: {words}" in err
            assert "Traceback" not in err
        assert not (slow.folder / "record.json").exists()
        assert max(path.name for path in slow.folder.glob("checkpoint-*")) == "checkpoint-000000012.safetensors"
        kept = kept or {path: path.read_bytes() for path in quick.folder.iterdir()}
        assert {path: path.read_bytes() for path in quick.folder.iterdir()} == kept
        assert main(["report", str(run), "--format", "json", "-o", str(tmp_path / "rows.json")]) == 0
    go.touch()
    assert main(command) == 0
    told = map(json.loads, (slow.folder / "progress.jsonl").read_text().splitlines())
    assert min(line["step"] for line in told if "step" in line) > 12  # the last two attempts began at the checkpoint
    bench.run(plan, tmp_path / "untouched", executor=inline, plugins=brittle)
    assert result(run) == result(tmp_path / "untouched")


def test_workers_that_hang_are_killed_and_their_cells_have_failed(
    tiny: Path, tmp_path: Path, inline: Executor, brittle: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in training, one in sampling; the same command goes on from their checkpoints."""
    monkeypatch.undo()  # real processes
    go = tmp_path / "go"
    models = (f'brittle[wait_from=0.6,until="{go}"]', f'brittle[wait_in_sample=true,until="{go}"]')
    plan = plan_of(models, tiny / "points.npz")
    states = bench.run(plan, tmp_path / "run", jobs=2, plugins=brittle, hang_seconds=10.0)
    for state, where in zip(states, ("at step 12", "in sampling"), strict=True):
        assert state.record is not None
        assert state.record.error is not None
        assert (state.status, state.record.error["type"]) == ("failed", "WorkerHung")
        words = f"no sign of life for 10 s {where}: the worker was killed; the same command goes on from the "
        assert state.record.error["message"].startswith(words)
        assert list(state.cell.folder.glob("checkpoint-*"))
    go.touch()
    assert {state.status for state in bench.run(plan, tmp_path / "run", executor=inline, plugins=brittle)} == {"ok"}
    bench.run(plan, tmp_path / "untouched", executor=inline, plugins=brittle)
    assert result(tmp_path / "run") == result(tmp_path / "untouched")


def test_the_limit_is_an_option_and_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    seen = []
    monkeypatch.setattr(bench, "run", lambda *args, **options: seen.append(options["hang_seconds"]) or [])
    monkeypatch.setattr("genzoo.report.terminal", lambda *_: None)
    monkeypatch.setattr("genzoo.report.write", lambda *_: None)
    for extra in ([], ["--hang-seconds", "0"], ["--hang-seconds", "1.5"]):
        assert main(["bench", "-m", "gaussian", "-d", str(tiny / "points.npz"), *extra]) == 0
    assert seen == [600.0, 0.0, 1.5]


class Watched(Executor):
    """Says that it runs what it is given, and ends it when it is told to."""

    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self.future


def test_loading_data_has_no_limit_and_other_executors_are_not_killed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(("gaussian",), tiny / "points.npz")
    (cell,) = bench.planned(plan, tmp_path)
    cell.folder.mkdir(parents=True)
    monkeypatch.setattr(bench, "POLL_SECONDS", 0.01)
    for executor, stage, killed in (
        (LocalExecutor(0, 1), "training", True),
        (LocalExecutor(0, 1), "data", False),
        (Watched(), "training", False),
    ):
        progress = cell.folder / "progress.jsonl"
        progress.write_text(json.dumps({"stage": stage}) + "\n")
        watched, polls, kills = Watched(), [0], []

        def kill(future: Future[Any], reason: WorkerDied) -> None:
            kills.append(reason)  # noqa: B023
            if not future.done():
                future.set_exception(reason)

        def watch(states: Any) -> None:
            polls[0] += 1  # noqa: B023
            if polls[0] == 3:  # noqa: B023
                os.utime(progress, ns=(1, 1))  # noqa: B023
            if polls[0] == 20 and not watched.future.done():  # noqa: B023
                watched.future.set_exception(WorkerDied("the end of the test"))  # noqa: B023

        if isinstance(executor, Watched):
            watched = executor
        else:
            monkeypatch.setattr(executor, "submit", watched.submit)
            monkeypatch.setattr(executor, "kill", kill)
        (state,) = bench.run(plan, tmp_path, executor=executor, hang_seconds=0.05, watch=watch)
        assert state.status == "failed"
        assert bool(kills) == killed
        assert all(isinstance(reason, WorkerHung) for reason in kills)


def test_a_worker_that_dies_with_its_record_written_has_not_failed(
    tiny: Path, tmp_path: Path, inline: Executor
) -> None:
    plan = plan_of(("gaussian",), tiny / "points.npz")

    class Dying(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            fn(*args, **kwargs)
            future.set_exception(WorkerDied("after the rename"))
            return future

    (state,) = bench.run(plan, tmp_path, executor=Dying())
    assert state.status == "ok"
    assert find_cells(tmp_path)[0].record.status == "ok"


def test_notes_are_in_the_record_from_the_first(tiny: Path, tmp_path: Path) -> None:
    """A bench that is killed just after a record was written has nothing left to add to it."""
    (cell,) = bench.planned(plan_of(("gaussian",), tiny / "points.npz"), tmp_path)
    run_cell(Cell.model_validate({**cell.model_dump(), "notes": ("digits stands in for mnist",)}))
    assert RunRecord.load(cell.folder).notes == ["digits stands in for mnist"]


# signs of life


def test_steps_and_network_calls_are_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "progress.jsonl"
    path.touch()
    now = [0.0]
    monkeypatch.setattr(liveness.time, "monotonic", lambda: now[0])
    sign, pulse = Liveness(path), Pulse(path)
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    def silence_after(seconds: float, act: Callable[[], object]) -> float:
        now[0] += seconds
        os.utime(path, ns=(1, int(now[0] * 1e9)))
        pulse.silence()
        now[0] += seconds
        act()
        return pulse.silence()

    assert silence_after(5, lambda: None) == 5
    assert silence_after(5, sign.beat) == 0
    assert silence_after(5, lambda: net(torch.zeros(1, 2))) == 5
    with sign.listening():
        assert silence_after(5, lambda: net(torch.zeros(1, 2))) == 0
        assert silence_after(0.25, lambda: net(torch.zeros(1, 2))) == 0.25  # at most one a second
    assert silence_after(5, lambda: net(torch.zeros(1, 2))) == 5
    assert silence_after(5, signs.alive) == 5
    with sign.listening():
        assert silence_after(5, signs.alive) == 0
        points = torch.zeros(6, 2)
        assert silence_after(5, lambda: ModelEstimator("exact", Gaussian(DataSpec((2,)))).mean(points)) == 0
    path.unlink()
    sign.beat()  # not an error
    assert not path.exists()


def test_the_silence_of_a_file_that_never_comes_is_counted(tmp_path: Path) -> None:
    pulse = Pulse(tmp_path / "none")
    time.sleep(0.02)
    assert pulse.silence() >= 0.02
    assert not pulse.changed


def test_the_last_line_of_progress_is_read_from_the_end(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    assert last_progress(tmp_path) == {}
    path.write_text("".join(json.dumps({"step": n, "seconds": 1.0}) + "\n" for n in range(5000)) + '{"step": 50')
    assert last_progress(tmp_path)["step"] == 4999
    path.write_bytes(b"\xff\n[]\n")
    assert last_progress(tmp_path) == {}


# workers


@pytest.fixture
def pool() -> Iterator[LocalExecutor]:
    executor = LocalExecutor(jobs=1, threads=1)
    yield executor
    executor.shutdown(cancel_futures=True)


def test_a_task_can_be_killed_with_a_reason(pool: LocalExecutor) -> None:
    sleeping, after = pool.submit(time.sleep, 600), pool.submit(os.getpid)
    wait_until(lambda: sleeping.running() and sleeping in pool._running)
    pool.kill(sleeping, WorkerHung("too quiet"))
    with pytest.raises(WorkerHung, match="too quiet"):
        sleeping.result(60)
    assert after.result(60) > 0
    pool.kill(after, WorkerHung("it has ended: nothing to kill"))
    assert pool.submit(os.getpid).result(60) == after.result()


PARENT = """
import os, sys, time
from genzoo.executors import LocalExecutor
if __name__ == "__main__":
    pool = LocalExecutor(1, 1)
    print(pool.submit(os.getpid).result(60), flush=True)
    pool.submit(time.sleep, 600)
    time.sleep(600)
"""


def test_a_worker_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    process = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    assert alive(worker)
    process.kill()
    process.wait(30)
    wait_until(lambda: not alive(worker), 30)
    process.stdout.close()


# memory


def test_memory_that_runs_out_halves_until_it_fits() -> None:
    tried = []

    def call(size: int) -> str:
        tried.append(size)
        if size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    assert halving(call, 100) == ("done", 3)
    assert tried == [100, 50, 25, 12, 6, 3]
    with pytest.raises(torch.OutOfMemoryError):
        halving(lambda size: call(size + 10), 4)


def test_an_evaluation_that_does_not_fit_is_halved_and_the_record_says_so(
    tiny: Path, tmp_path: Path, inline: Executor, brittle: tuple[str, ...], capsys: Streams
) -> None:
    """The very number of the batch size that fits, in the record, in a reading, and from Python."""
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((1000, 2)).astype(np.float32))
    plan = plan_of(("brittle[fits=10]", "brittle"), tmp_path / "x.npz")
    plan = plan.model_copy(update={"evaluation": EvaluationPlan(points=100, samples=16)})
    small, large = (state.record for state in bench.run(plan, tmp_path / "run", executor=inline, plugins=brittle))
    assert small is not None
    assert large is not None
    assert (small.status, large.status) == ("ok", "ok")
    assert small.evaluation["batch_size"] == 6
    assert "evaluated 6 examples at a time: 100 did not fit into memory" in small.notes
    assert "no samples: CUDA out of memory. Tried to allocate 16 samples" in small.notes
    assert "batch_size" not in large.evaluation
    assert large.notes == []
    assert (large.samples, small.samples) == (16, None)
    cell = next(cell for cell in find_cells(tmp_path / "run") if "fits" in cell.record.label)
    data = api.cell_dataset(cell)
    again = evaluate(api.load_cell(cell, brittle), data, points=100, batch_size=6)
    assert (again.nll, again.batch_size, again.first_batch_size) == (small.nll, 6, 6)
    read = readings.read_again(cell, api.load_cell(cell, brittle), plugins=brittle)
    assert (read.nll, read.batch_size) == (small.nll, 6)


def test_readings_at_once_are_all_counted(
    tiny: Path, tmp_path: Path, inline: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for the other between the reading of the list and its writing."""
    bench.run(plan_of(("gaussian",), tiny / "points.npz"), tmp_path, executor=inline)
    (cell,) = find_cells(tmp_path)
    model = api.load_cell(cell)
    write = readings.write_json

    def slow(path: Path, value: Any) -> None:
        time.sleep(0.1)
        write(path, value)

    monkeypatch.setattr(readings, "write_json", slow)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda seed: readings.read_again(cell, model, seed=seed), range(4)))
    found = cell.readings()
    assert [reading["reading"] for reading in found] == [2, 3, 4, 5]
    assert sorted(reading["evaluation"]["seed"] for reading in found) == [0, 1, 2, 3]
