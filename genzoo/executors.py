"""Where cells run. Anything with `concurrent.futures`' `submit` serves; a Dask client's executor does too."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from genzoo.errors import WorkerDied

Task = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]


DIED = "the worker process died (killed, out of memory, or crashed); the same command runs the cell again"


class LocalExecutor(Executor):
    """`jobs` spawned processes, each with a pool of its own, so that one killed worker costs one cell.

    A pool shared by all workers breaks as a whole when one of them dies; here only that slot's does, and is rebuilt.
    A worker ends with the process that started it, however that ends.

    Args:
        jobs: processes at a time.
        threads: OMP_NUM_THREADS of each. More threads than free cores make OpenMP's barriers collapse; passive waiting
            costs little and keeps neighbours alive.
    """

    def __init__(self, jobs: int, threads: int) -> None:
        self._environment = {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "passive",
        }
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._slots = [threading.Thread(target=self._serve, daemon=True) for _ in range(jobs)]
        self._lock = threading.Lock()
        self._pools: set[ProcessPoolExecutor] = set()
        self._running: dict[Future[Any], ProcessPoolExecutor] = {}
        self._killed: dict[Future[Any], WorkerDied] = {}
        for slot in self._slots:
            slot.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn(*args, **kwargs)` in the next free process; WorkerDied when that process ends under it."""
        future: Future[Any] = Future()
        self._tasks.put((future, fn, args, kwargs))
        return future

    def kill(self, future: Future[Any], reason: WorkerDied) -> None:
        """End the process that runs `future`, which then raises `reason`; nothing where it runs no longer."""
        with self._lock:
            pool = self._running.get(future)
            if pool is not None:
                self._killed[future] = reason
                for process in list((pool._processes or {}).values()):
                    process.kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the slots once their work is done; with cancel_futures, drop what has not begun and stop what runs."""
        if cancel_futures:
            while not self._tasks.empty():
                task = self._tasks.get()
                if task is not None:
                    task[0].cancel()
            with self._lock:
                for pool in self._pools:
                    for process in list((pool._processes or {}).values()):
                        process.terminate()
        for _ in self._slots:
            self._tasks.put(None)
        if wait:
            for slot in self._slots:
                slot.join()

    def _serve(self) -> None:
        pool: ProcessPoolExecutor | None = None
        while (task := self._tasks.get()) is not None:
            future, fn, args, kwargs = task
            if not future.set_running_or_notify_cancel():
                continue
            if pool is None:
                pool = self._new_pool()
            result, error = None, None
            try:
                inner = pool.submit(fn, *args, **kwargs)
                with self._lock:
                    self._running[future] = pool
                result = inner.result()
            except BaseException as caught:
                error = caught
            with self._lock:
                self._running.pop(future, None)
                reason = self._killed.pop(future, None)
            if isinstance(error, BrokenProcessPool):
                with self._lock:
                    self._pools.discard(pool)
                pool.shutdown(wait=False)
                pool = None
                error = reason or WorkerDied(DIED)
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        if pool is not None:
            with self._lock:
                self._pools.discard(pool)
            pool.shutdown()

    def _new_pool(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_prepare, initargs=(self._environment,)
        )
        with self._lock:
            self._pools.add(pool)
        return pool


def _prepare(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the whole group: the bench decides, and stops us
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose bench was killed would go on writing, and beside the next bench."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)
