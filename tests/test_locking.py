"""The lock on a folder: one writer, a message that names it, and nothing left when it dies."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import pytest

from genzoo import bench
from genzoo.cli import main
from genzoo.errors import LockedError, StorageError
from genzoo.locking import NAME, locked
from genzoo.plan import EvaluationPlan, Plan

HOLD = """
import sys
from pathlib import Path
from genzoo.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds `folder` until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()
    process.wait(30)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, None])
def test_another_process_is_named_and_its_lock_dies_with_it(number: signal.Signals | None, tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        words = rf"{tmp_path} is in use by process {process.pid} on {socket.gethostname()}: wait until that has ended"
        with pytest.raises(LockedError, match=words), locked(tmp_path):
            pass
        assert (tmp_path / NAME).exists()  # whoever is refused leaves it as it is
        if number is not None:
            process.send_signal(number)
            process.wait(30)
            assert (tmp_path / NAME).exists()  # only the file, which says nothing
    finally:
        end(process)
    with locked(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_the_same_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(LockedError, match=f"process {os.getpid()} on"), locked(tmp_path):
        pass


def test_patience_waits_for_the_owner(tmp_path: Path) -> None:
    process = holder(tmp_path)
    timer = threading.Timer(0.2, process.kill)
    timer.start()
    with locked(tmp_path, patience=60):
        timer.join()
        assert process.poll() is not None
    end(process)


def test_a_lock_that_lost_its_name_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last owner removes the file between our opening and our lock: two owners of two files would both write."""
    flock: Callable[[int, int], None] = fcntl.flock
    path, calls = tmp_path / NAME, []

    def late(handle: int, how: int) -> None:
        calls.append(handle)
        if len(calls) == 1:
            os.unlink(path)
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path, patience=10):
        assert len(calls) == 2
        assert json.loads(path.read_text())["pid"] == os.getpid()
        with pytest.raises(LockedError), locked(tmp_path):
            pass


def test_an_owner_that_says_nothing_is_refused_all_the_same(tmp_path: Path) -> None:
    with locked(tmp_path):
        for content in (b"", b"\xff", b"[]", b'{"pid": "x", "host": 1}'):
            (tmp_path / NAME).write_bytes(content)
            with pytest.raises(LockedError, match="is in use by another process"), locked(tmp_path):
                pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*file/.lock: "), locked(tmp_path / "file"):
        pass


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        pass
    assert "this file system has no locks" in caplog.text


def small(data: Path) -> Plan:
    evaluation = EvaluationPlan(points=16, num_samples=2)
    return Plan(models=("gaussian",), datasets=(str(data),), budget="2steps", evaluation=evaluation)


def test_two_benches_on_one_folder_do_not_harm_each_other(
    tiny: Path, tmp_path: Path, inline: Executor, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second is refused with words and exit code 2, writes nothing, and the first goes on; readers read."""
    folder, data = tmp_path / "run", tiny / "points.npz"
    arguments = ["bench", "-m", "gaussian", "-d", str(data), "--budget", "2steps", "--points", "16", "-o", str(folder)]
    assert main(arguments) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    process = holder(folder)
    try:
        capsys.readouterr()
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert f"genzoo: error: {folder} is in use by process {process.pid} on {socket.gethostname()}" in err
        assert main(["report", str(folder), "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["status"] == "ok"
        after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != NAME}
        assert after == before
    finally:
        end(process)
    assert main(arguments) == 0


def test_a_cell_is_run_by_one_worker_at_a_time(
    tiny: Path, tmp_path: Path, inline: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last worker of a bench that was killed may still write: the next one waits for it, and says so if in vain."""
    monkeypatch.setattr("genzoo.cells.PATIENCE", 0.1)
    plan = small(tiny / "points.npz")
    (cell,) = bench.planned(plan, tmp_path / "run")
    process = holder(cell.folder)
    try:
        with pytest.raises(LockedError, match=rf"{cell.folder} is in use by process {process.pid}"):
            bench.run(plan, tmp_path / "run", executor=inline)
    finally:
        end(process)
    (state,) = bench.run(plan, tmp_path / "run", executor=inline)
    assert state.status == "ok"
    assert not list((tmp_path / "run").rglob(NAME))
