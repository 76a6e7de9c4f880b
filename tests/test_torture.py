"""The torture script: its receipt, its hooks, and that it would see a difference. CI runs six kills of it."""

from __future__ import annotations

import json
import os
import runpy
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from genzoo import bench
from genzoo.plan import EvaluationPlan, Plan
from genzoo.records import RunRecord, find_cells, write_arrays, write_bytes

torture = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "torture.py")))


def test_the_receipt_says_that_nothing_was_lost() -> None:
    receipt = json.loads(torture.RECEIPT.read_text())
    assert torture.sound(receipt)
    assert len(receipt["kills"]) == 50
    assert receipt["by_site"].keys() == {*torture.SITES}
    assert min(receipt["by_site"].values()) >= 5
    assert receipt["by_victim"].keys() == {"process", "group", "bench", "worker"}
    assert {kill["phase"] for kill in receipt["kills"]} == {*torture.PHASES, ""}
    assert receipt["cells"] >= 12
    assert receipt["processor_seconds"] < 600
    planned = [{key: kill[key] for key in ("site", "nth", "phase", "victim")} for kill in receipt["kills"]]
    assert planned == [vars(kill) for kill in torture.schedule(50)]


SOUND: dict[str, Any] = {
    "kills": [{"struck": True, "kept": True, "exit": -9, "victim": "process"}],
    "differences": [],
    "left_over": [],
    "exits": {"killed": 0, "untouched": 0},
    "cells": 1,
}


@pytest.mark.parametrize(
    "change",
    [
        {"kills": [{**SOUND["kills"][0], "struck": False}]},
        {"kills": [{**SOUND["kills"][0], "kept": False}]},
        {"kills": [{**SOUND["kills"][0], "exit": 0}]},
        {"kills": [{**SOUND["kills"][0], "victim": "worker"}]},
        {"differences": ["a: record nll differs"]},
        {"left_over": [".lock"]},
        {"exits": {"killed": 3, "untouched": 0}},
        {"cells": 0},
    ],
)
def test_a_receipt_of_anything_else_is_not_sound(change: dict[str, Any]) -> None:
    assert torture.sound(SOUND)
    assert not torture.sound(SOUND | change)


@pytest.mark.parametrize("kills", [6, 50])
def test_every_place_is_struck(kills: int) -> None:
    plan = torture.schedule(kills)
    assert len(plan) == kills
    sites = Counter(kill.site for kill in plan)
    assert sites.keys() == {*torture.SITES}
    assert min(sites.values()) >= kills // 6


class Struck(BaseException):
    """In place of SIGKILL: like it, nothing that is meant to tidy up sees it coming."""


@pytest.mark.parametrize(
    ("phase", "final", "synced"),
    [("half", b"old", False), ("unsynced", b"old", False), ("unrenamed", b"old", True), ("renamed", b"new", True)],
)
def test_hooks_strike_where_they_say(
    phase: str, final: bytes, synced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, syncs, sizes = tmp_path / "record.json", [], []
    write_bytes(path, b"old")
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (syncs.append(handle), fsync(handle))[1])
    for name in ("fdopen", "replace"):
        monkeypatch.setattr(os, name, getattr(os, name))  # so that the hooks are taken off again
    passed = [0]

    def second() -> bool:
        passed[0] += 1
        return passed[0] == 2

    def strike() -> None:
        sizes.extend(file.stat().st_size for file in tmp_path.glob(".record.json.*"))
        raise Struck

    torture._hook_writes("record.json", phase, second, strike)
    write_bytes(tmp_path / "arrays.npz", b"another file")
    write_bytes(path, b"old")  # the first time
    syncs.clear()
    with pytest.raises(Struck):
        write_bytes(path, b"new")
    assert path.read_bytes() == final
    assert bool(syncs) == synced
    assert sizes == {"half": [1], "unsynced": [3], "unrenamed": [3], "renamed": []}[phase]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("original") / "run"


@pytest.fixture
def run(original: Path, tiny: Path, inline: Executor) -> Path:
    """A finished run of two cells."""
    if not original.exists():
        bench.run(plan_of(("gaussian",), tiny), original, executor=inline)
    return original


def plan_of(models: tuple[str, ...], tiny: Path, **options: Any) -> Plan:
    evaluation = EvaluationPlan(points=16, num_samples=2, samples=16)
    datasets = options.pop("datasets", (str(tiny / "points.npz"), str(tiny / "images.npz")))
    training = {"batch_size": 32}
    return Plan(
        models=models, datasets=datasets, budget="8steps", evaluation=evaluation, training=training, device="cpu"
    )


def _record(cell: Path, **changes: Any) -> None:
    replace(RunRecord.load(cell), **changes).save(cell)


def _arrays(cell: Path) -> None:
    arrays = dict(np.load(cell / "arrays.npz"))
    arrays["lower"] = np.nextafter(arrays["lower"], 0)
    write_arrays(cell / "arrays.npz", arrays)


def _weights(cell: Path) -> None:
    content = bytearray((cell / "model.safetensors").read_bytes())
    content[-1] ^= 1
    write_bytes(cell / "model.safetensors", bytes(content))


DIFFERENT: dict[str, tuple[Callable[[Path], None], str]] = {
    "another number": (lambda cell: _record(cell, nll=1.0), "record nll differs"),
    "a note": (lambda cell: _record(cell, notes=["x"]), "record notes differs"),
    "another status": (lambda cell: _record(cell, status="failed"), "record status differs"),
    "one bit of an array": (_arrays, "array lower differs"),
    "one bit of the weights": (_weights, "weights differs"),
    "no cell": (shutil.rmtree, "is only in"),
    "no weights": (lambda cell: (cell / "model.safetensors").unlink(), "weights differs"),
}


@pytest.mark.parametrize("change", DIFFERENT)
def test_a_difference_is_seen(change: str, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    assert list(torture.differences(tmp_path / "other", run)) == []
    for cell in find_cells(tmp_path / "other"):
        _record(cell.path, seconds_train=9.0, started="another day")
    assert list(torture.differences(tmp_path / "other", run)) == []
    act, words = DIFFERENT[change]
    act(find_cells(tmp_path / "other")[0].path)
    (difference,) = torture.differences(tmp_path / "other", run)
    assert words in difference


@pytest.mark.parametrize("name", ["record.json", "arrays.npz", "plan.toml"])
def test_a_truncated_file_is_seen(name: str, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    torture.check_whole(tmp_path / "other")
    path = sorted((tmp_path / "other").rglob(name))[0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Exception, match=name):
        torture.check_whole(tmp_path / "other")


def test_records_do_not_depend_on_jobs_and_order(tiny: Path, tmp_path: Path) -> None:
    """Three models on two data sets: one process and two, and the other way round."""
    models = ("flow[layers=1,hidden=8,bins=4]", "vae[hidden=[8],latents=2]", "gaussian")
    plan = plan_of(models, tiny)
    states = bench.run(plan, tmp_path / "one", jobs=1)
    assert [state.status for state in states] == ["ok"] * 6
    turned = plan_of(models[::-1], tiny, datasets=plan.datasets[::-1])
    bench.run(turned, tmp_path / "two", jobs=2)
    assert list(torture.differences(tmp_path / "two", tmp_path / "one")) == []
    assert len({cell.record.training["seed"] for cell in find_cells(tmp_path / "one")}) == 6
