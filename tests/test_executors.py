"""Local processes: results, errors that cross them, and a pool that outlives its workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from genzoo.errors import UnknownNameError, WorkerDied
from genzoo.executors import LocalExecutor

# What runs in the workers comes from the standard library, so that they need not find this file, and start in no time.


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalExecutor]:
    executor = LocalExecutor(jobs=1, threads=3)
    yield executor
    executor.shutdown()


def test_results_and_errors_come_back(pool: LocalExecutor) -> None:
    assert pool.submit(divmod, 7, 3).result(60) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result(60)


def test_threads_are_set_before_anything_is_imported(pool: LocalExecutor) -> None:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY")
    assert [pool.submit(os.getenv, name).result(60) for name in names] == ["3", "3", "3", "passive"]


def test_our_errors_survive_the_way_between_processes(pool: LocalExecutor) -> None:
    import pickle

    error = UnknownNameError("model", "flw", ["flow"], "hint")
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.known, type(back)) == (str(error), ["flow"], UnknownNameError)


def test_a_killed_worker_costs_one_task_and_is_replaced(pool: LocalExecutor) -> None:
    first = pool.submit(os.getpid).result(60)
    killed, after = pool.submit(signal.raise_signal, signal.SIGKILL), pool.submit(os.getpid)
    with pytest.raises(WorkerDied, match=r"worker process died \(killed, out of memory, or crashed\)"):
        killed.result(60)
    assert after.result(60) not in (first, os.getpid())


def test_shutdown_stops_what_runs_and_drops_what_waits(tmp_path: Path) -> None:
    executor = LocalExecutor(jobs=1, threads=1)
    started = executor.submit(os.mkdir, tmp_path / "started")
    running, waiting = executor.submit(time.sleep, 600), executor.submit(os.mkdir, tmp_path / "late")
    started.result(60)
    while not running.running():
        time.sleep(0.01)
    start = time.monotonic()
    executor.shutdown(cancel_futures=True)
    assert time.monotonic() - start < 30
    assert waiting.cancelled()
    assert isinstance(running.exception(1), WorkerDied)
    assert not (tmp_path / "late").exists()
