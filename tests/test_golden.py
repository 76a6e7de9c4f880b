"""Old runs stay readable: every command on the runs of schema 1 in `tests/golden`, which no later version may break."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import genzoo
from genzoo.cli import main
from genzoo.data import files
from genzoo.plan import Plan
from genzoo.records import CellFolder, find_cells, read_arrays
from genzoo.report import FORMATS, render, rows
from genzoo.state import load_state

GOLDEN = Path(__file__).parent / "golden"
Streams = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy, since commands write into run folders."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden"))


def cell(run: Path, name: str, model: str) -> CellFolder:
    (found,) = (cell for cell in find_cells(run / name) if cell.record.model == model)
    return found


def test_they_are_small_and_of_schema_1() -> None:
    every = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in every) < 300_000
    records = [json.loads(path.read_text()) for path in every if path.name == "record.json"]
    assert [record["schema"] for record in records] == [1, 1, 1]
    assert {path.name for path in every} >= {"arrays.npz", "model.safetensors", "readings.json", "progress.jsonl"}


def test_every_record_and_reading_is_read() -> None:
    flow, failed = cell(GOLDEN, "moons", "flow"), cell(GOLDEN, "moons", "brittle")
    assert flow.record.status == "ok"
    assert flow.record.nll == pytest.approx(3.1692, abs=1e-4)
    assert flow.record.config["bins"] == 4
    assert flow.readings()[0]["nll"] == pytest.approx(3.1384, abs=1e-4)
    assert failed.record.status == "failed"
    assert failed.record.error is not None
    assert failed.record.error["message"] == "loss is nan at step 10"
    for name, budget in (("moons", "20steps"), ("digits", "20steps")):
        assert Plan.read(GOLDEN / name / "plan.toml").budget == budget


@pytest.mark.parametrize("form", FORMATS)
def test_report(form: str) -> None:
    text = render([GOLDEN / "moons", GOLDEN / "digits"], form)
    for word in ("flow", "brittle", "gaussian", "digits"):
        assert word in text
    if form != "tex":
        assert "loss is nan at step 10" in text


def test_rows() -> None:
    made = rows([GOLDEN / "moons", GOLDEN / "digits"])
    assert [(row["model"], row["status"], row["reading"]) for row in made] == [
        ("flow", "ok", 1),
        ("flow", "ok", 2),
        ("brittle", "failed", 1),
        ("gaussian", "ok", 1),
        ("gaussian", "ok", 2),
    ]


@pytest.mark.parametrize(("name", "model"), [("moons", "flow"), ("digits", "gaussian")])
def test_eval_gives_the_stored_number(name: str, model: str, run: Path, capsys: Streams) -> None:
    old = cell(run, name, model)
    assert main(["eval", str(old.path), "--dry"]) == 0
    printed = re.search(r"NLL (?:<)?= (-?[\d.]+)", capsys.readouterr().out)
    assert printed is not None
    assert old.record.nll is not None
    # digits are dequantized by draws, which another version of torch may make differently: four of their errors
    allowed = max(1e-3, 4 * (old.record.stderr_mc or 0))
    assert float(printed[1]) == pytest.approx(old.record.nll, abs=allowed)


@pytest.mark.parametrize(("name", "model", "shape"), [("moons", "flow", (2,)), ("digits", "gaussian", (1, 8, 8))])
def test_load_sample_and_score(name: str, model: str, shape: tuple[int, ...], run: Path, capsys: Streams) -> None:
    old = cell(run, name, model)
    loaded = genzoo.load(old.path)
    assert loaded.sample(3, seed=0).shape == (3, *shape)
    assert main(["sample", str(old.path), "-n", "5", "-o", str(run / "x.npy")]) == 0
    x = np.load(run / "x.npy", allow_pickle=False)
    assert x.shape == (5, *shape)
    # what is scored is what the model itself says
    capsys.readouterr()
    np.save(run / "points.npy", x)
    assert main(["score", str(old.path), str(run / "points.npy")]) == 0
    lines = [float(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 5
    assert all(map(math.isfinite, lines))
    if old.record.kind == "exact":  # else each has draws of its own
        points = files.load_points(run / "points.npy", loaded.spec).x
        assert lines == pytest.approx(loaded.log_likelihood(points, seed=0).lower.tolist(), abs=1e-4)


def test_the_arrays_are_those_of_the_record() -> None:
    old = cell(GOLDEN, "moons", "flow")
    arrays = read_arrays(old.path / "arrays.npz")
    assert old.record.nll is not None
    assert -arrays["lower"].mean() == pytest.approx(old.record.nll, rel=1e-12)
    assert arrays["samples"].shape == arrays["reference"].shape == (64, 2)
    assert arrays["grid_model"].shape == (len(arrays["grid_y"]), len(arrays["grid_x"]))


def test_checkpoints_and_state_files() -> None:
    tree = load_state(GOLDEN / "state.safetensors")
    assert torch.equal(tree["learner"]["weights"]["w"], torch.arange(6.0).view(2, 3))
    assert tree["learner"]["optimizer"]["state"][0]["step"] == 3
    assert tree["best"][0] == math.inf
    assert tree["curve"] == [(1, 20, 0.5, 2.25, None)]
    for step in (5, 10):
        (path,) = (GOLDEN / "moons" / "cells").glob(f"brittle-*/checkpoint-{step:09d}.safetensors")
        state = load_state(path)
        assert (state["step"], state["total"]) == (step, 20)
        assert state["curve"]
