"""Run folders in parts: nothing is lost, nothing damaged goes unseen, and a bench goes on from what was unpacked."""

from __future__ import annotations

import importlib.util
import io
import os
import tarfile
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genzoo import bench
from genzoo.errors import RunError
from genzoo.plan import EvaluationPlan, Plan

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "pack.py"
CARRIED = {
    "plan.toml",
    "cells/a/record.json",
    "cells/a/model.safetensors",
    "cells/b/progress.jsonl",
    "cells/b/checkpoint-000000020.safetensors",
}


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("pack", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished cell and one that was stopped, with what does not travel beside them."""
    left = {
        "report.html",
        ".lock",
        "cells/b/checkpoint-000000010.safetensors",
        "cells/b/.record.json.0123456789ab.tmp",
    }
    generator = np.random.default_rng(0)
    for name in sorted(CARRIED | left):
        path = tmp_path / "first" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(generator.bytes(900))
    return tmp_path / "first"


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_and_back(script: Any, run: Path, tmp_path: Path) -> None:
    parts = script.pack(run, tmp_path / "parts", size=1000)
    assert 4 < len(parts) <= 8
    assert all(path.stat().st_size <= 1000 for path in parts)
    assert [path.name.rpartition(".")[2] for path in parts] == [f"{i + 1}of{len(parts)}" for i in range(len(parts))]
    script.unpack(tmp_path / "parts", tmp_path / "second")
    assert content(tmp_path / "second") == {name: (run / name).read_bytes() for name in CARRIED}


def test_the_limits_are_those_that_are_promised(script: Any) -> None:
    assert script.MOST <= 8
    assert script.PART < 16 * 2**20


def test_the_same_folder_gives_the_same_parts_and_a_changed_one_replaces_them(
    script: Any, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "parts"
    first = script.pack(run, folder, size=1000)
    stamps = [path.stat().st_mtime_ns for path in first]
    os.utime(run / "plan.toml", (1, 1))
    first[1].write_bytes(b"cut short")  # a copy that was broken off
    assert script.pack(run, folder, size=1000) == first
    assert [path.stat().st_mtime_ns for path in first[2:]] == stamps[2:]
    script.unpack(folder, tmp_path / "second")
    (folder / "notes.txt").write_text("not ours")
    (run / "cells/a/record.json").write_bytes(b"{}")
    second = script.pack(run, folder, size=1000)
    assert set(folder.iterdir()) == {*second, folder / "notes.txt"}


def test_what_is_missing_or_damaged_is_named(script: Any, run: Path, tmp_path: Path) -> None:
    parts = script.pack(run, tmp_path / "parts", size=1000)
    whole = parts[2].read_bytes()
    parts[2].unlink()
    with pytest.raises(RunError, match=rf"lacks first\.[0-9a-f]{{16}}\.3of{len(parts)}: copy them again"):
        script.unpack(tmp_path / "parts", tmp_path / "second")
    parts[2].write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(RunError, match=r"parts of first in .* are damaged"):
        script.unpack(tmp_path / "parts", tmp_path / "second")
    assert not (tmp_path / "second").exists()
    parts[2].write_bytes(whole)
    assert len(script.unpack(tmp_path / "parts", tmp_path / "second")) == len(CARRIED)
    (tmp_path / "parts" / f"first.{'0' * 16}.1of1").write_bytes(b"")
    with pytest.raises(RunError, match=r"parts of one archive .* got those of 2"):
        script.unpack(tmp_path / "parts", tmp_path / "second")
    with pytest.raises(RunError, match="got those of 0"):
        script.unpack(tmp_path / "none", tmp_path / "second")


def test_too_much_is_refused_before_anything_is_written(script: Any, run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected at most 8 parts of 100"):
        script.pack(run, tmp_path / "parts", size=100)
    assert not (tmp_path / "parts").exists()
    (run / "plan.toml").unlink()
    with pytest.raises(RunError, match="has none"):
        script.pack(run, tmp_path / "parts")


@pytest.mark.parametrize("name", ["../outside", "/outside", "cells/../../outside"])
def test_no_file_lands_outside(script: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    packed = script.gzip.compress(out.getvalue())
    monkeypatch.setattr(script, "archived", lambda run: packed)
    script.pack(tmp_path / "run", tmp_path / "parts")
    with pytest.raises(RunError, match="no file of a run folder"):
        script.unpack(tmp_path / "parts", tmp_path / "second")
    assert not (tmp_path / "outside").exists()


def test_the_command_line(script: Any, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["pack", str(run), "-o", str(tmp_path / "parts")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(".1of1")
    assert script.main(["unpack", str(tmp_path / "parts"), "-o", str(tmp_path / "second")]) == 0
    assert script.main(["unpack", str(run), "-o", str(tmp_path / "second")]) == 2
    assert "expected the parts of one archive" in capsys.readouterr().err


def test_a_bench_goes_on_from_what_was_unpacked(script: Any, inline: Executor, tiny: Path, tmp_path: Path) -> None:
    plan = Plan(
        models=("gaussian",),
        datasets=(str(tiny / "points.npz"),),
        budget="1steps",
        evaluation=EvaluationPlan(points=16),
    )
    bench.run(plan, tmp_path / "here", executor=inline)
    script.pack(tmp_path / "here", tmp_path / "parts")
    script.unpack(tmp_path / "parts", tmp_path / "there")
    (state,) = bench.run(plan, tmp_path / "there", executor=inline)
    assert state.status == "kept"
