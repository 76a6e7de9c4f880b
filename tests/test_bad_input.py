"""Bad input at the command line: exit 2, one clear line on stderr, nothing on stdout, nothing written."""

from __future__ import annotations

import json
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest
import torch

import genzoo
from genzoo.cli import main

Streams = pytest.CaptureFixture[str]
GOOD_MODEL, GOOD_DATA = ("-m", "gaussian"), ("-d", "{tiny}/points.npz")

# name: arguments of `genzoo bench`, and the words of the answer
BENCH = {
    "model": (("-m", "flw", *GOOD_DATA), "unknown model 'flw': did you mean flow?"),
    "model beside a good one": (("-m", "gaussian,gausian", *GOOD_DATA), "unknown model 'gausian': did you mean gauss"),
    "data set": ((*GOOD_MODEL, "-d", "mons"), "unknown data set 'mons': did you mean moons or"),
    "config key": (("-m", "flow[layer=3]", *GOOD_DATA), "unknown config key of flow 'layer': did you mean layers?"),
    "adapter key": (("-m", "flow[standardise=true]", *GOOD_DATA), "did you mean standardize?"),
    "data set option": (
        (*GOOD_MODEL, "-d", "moons[point=9]"),
        "unknown option of data set moons 'point': did you mean p",
    ),
    "file option": ((*GOOD_MODEL, "-d", "{tiny}/points.npz[label=true]"), "did you mean labels"),
    "type of a value": (
        ("-m", "flow[layers=many]", *GOOD_DATA),
        "config of flow: layers='many': input should be a val",
    ),
    "value out of range": (
        ("-m", "flow[layers=0]", *GOOD_DATA),
        "layers=0: input should be greater than or equal to 1",
    ),
    "type of an option": ((*GOOD_MODEL, "-d", "moons[points=few]"), "option points of data set moons: expected int"),
    "syntax": (("-m", "flow[layers", *GOOD_DATA), "unbalanced bracket in 'flow[layers'"),
    "no models": (GOOD_DATA, "no models: give --models"),
    "empty models": (("-m", "", *GOOD_DATA), "models=[]"),
    "model twice": (("-m", "gaussian,gaussian", *GOOD_DATA), "gaussian stands twice"),
    "missing file": ((*GOOD_MODEL, "-d", "none.npz"), "no file or folder 'none.npz'; give an existing .npz"),
    "missing plan": (("{tmp}/none.toml",), "cannot read plan {tmp}/none.toml: No such file"),
    "broken plan": (("{tmp}/broken.toml",), "plan {tmp}/broken.toml is not valid TOML"),
    "key of a plan": (("{tmp}/key.toml",), "unknown config key of plan {tmp}/key.toml 'buget': did you mean budget?"),
    "training key of a plan": (("{tmp}/training.toml",), "unknown config key of [training] 'learning_rat'"),
    "labels for images": ((*GOOD_MODEL, "-d", "{tmp}/labels.npy"), "labels, it seems, not examples"),
    "NaN": ((*GOOD_MODEL, "-d", "{tmp}/nan.npz"), "{tmp}/nan.npz: x has 3 NaN and 1 inf in 2 of 20 rows"),
    "objects": ((*GOOD_MODEL, "-d", "{tmp}/objects.npz"), "objects.npz"),
    "not a file of data": ((*GOOD_MODEL, "-d", "{tmp}/key.toml"), "key.toml"),
    "labels that are not there": ((*GOOD_MODEL, "-d", "{tiny}/points.npz[labels=true]"), "labels were asked for"),
    "too few rows": ((*GOOD_MODEL, "-d", "{tmp}/few.npz"), "x has 3 rows, too few to split; expected 10"),
    "data the models cannot take": (("-m", "brittle", "-d", "{tiny}/images.npz"), "brittle takes real data"),
    "budget": ((*GOOD_MODEL, *GOOD_DATA, "--budget", "soon"), "'soon' is not a budget: expected a positive 2000steps"),
    "budget of nothing": ((*GOOD_MODEL, *GOOD_DATA, "--budget", "0s"), "'0s' is not a budget"),
    "part of a step": ((*GOOD_MODEL, *GOOD_DATA, "--budget", "1.5steps"), "steps are whole"),
    "seeds": ((*GOOD_MODEL, *GOOD_DATA, "--seeds", "x"), "--seeds 'x': expected how many (3) or a list (0,5,7)"),
    "no seeds": ((*GOOD_MODEL, *GOOD_DATA, "--seeds", "0"), "seeds=[]"),
    "jobs": ((*GOOD_MODEL, *GOOD_DATA, "--jobs", "0"), "Invalid value for '--jobs'"),
    "flag": ((*GOOD_MODEL, *GOOD_DATA, "--bugdet", "3s"), "--bugdet"),
    "device": ((*GOOD_MODEL, *GOOD_DATA, "--device", "gpu"), "device='gpu'"),
    "standard error": ((*GOOD_MODEL, *GOOD_DATA, "--until-se", "-1"), "until_se=-1.0"),
    "replay": ((*GOOD_MODEL, *GOOD_DATA, "--replay", "{tmp}/none"), "no cells in {tmp}/none"),
    "output is a file": ((*GOOD_MODEL, *GOOD_DATA, "-o", "{tmp}/few.npz"), "expected a folder; it is a file"),
    "plugin file": ((*GOOD_MODEL, *GOOD_DATA, "--plugin", "{tmp}/none.py"), "none.py"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder beside files that are wrong in one way each."""
    points = np.zeros((20, 2), np.float32)
    points[3] = np.nan
    points[7] = (np.nan, np.inf)
    np.savez(tmp_path / "nan.npz", x=points)
    np.savez(tmp_path / "few.npz", x=np.zeros((3, 2), np.float32))
    np.savez(tmp_path / "objects.npz", x=np.array([{}] * 20, dtype=object))
    np.save(tmp_path / "labels.npy", np.arange(20, dtype=np.uint8) % 10)
    (tmp_path / "broken.toml").write_text("models = [")
    (tmp_path / "key.toml").write_text('models = ["gaussian"]\nbuget = "3s"\n')
    (tmp_path / "training.toml").write_text('models = ["gaussian"]\n[training]\nlearning_rat = 1\n')
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def refused(capsys: Streams, words: str, *args: object) -> None:
    """The command is refused in one line that has these words."""
    capsys.readouterr()
    assert main([str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[-1].startswith("genzoo: error: ")
    assert words in lines[-1]
    assert all("warning" in line for line in lines[:-1])


@pytest.mark.parametrize(("args", "words"), BENCH.values(), ids=BENCH)
def test_bench(
    args: tuple[str, ...],
    words: str,
    folder: Path,
    tiny: Path,
    inline: Executor,
    brittle: tuple[str, ...],
    capsys: Streams,
) -> None:
    places = {"tiny": str(tiny), "tmp": str(folder)}

    def filled(text: str) -> str:
        for name, place in places.items():
            text = text.replace(f"{{{name}}}", place)
        return text

    before = sorted(folder.rglob("*"))
    refused(capsys, filled(words), "bench", *map(filled, args), "--plugin", *brittle)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, so asking for one is no error")
def test_a_gpu_that_is_not_there(folder: Path, tiny: Path, inline: Executor, capsys: Streams) -> None:
    args = ("-m", "gaussian", "-d", tiny / "points.npz", "--device", "cuda")
    refused(capsys, "device cuda is not there: torch", "bench", *args)
    assert not list((folder / "work").iterdir())


def test_another_plan_in_the_folder(folder: Path, tiny: Path, inline: Executor, capsys: Streams) -> None:
    args = ("bench", "-m", "gaussian", "-d", tiny / "points.npz", "-o", folder / "run", "--points", 16, "--budget")
    assert main([*map(str, args), "1steps"]) == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    refused(capsys, "holds another plan: give another folder with -o", *args, "2steps")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


@pytest.fixture
def run(folder: Path, tiny: Path, inline: Executor) -> Path:
    args = ("bench", "-m", "gaussian", "-d", tiny / "points.npz", "-o", folder / "run", "--points", 16)
    assert main([*map(str, args), "--budget", "1steps", "--seeds", "2"]) == 0
    return folder / "run"


def test_eval_score_sample_and_report(run: Path, folder: Path, tiny: Path, capsys: Streams) -> None:
    cell = min((run / "cells").iterdir())
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    refused(capsys, "no cells in", "eval", folder / "work")
    refused(capsys, "no cells in", "report", folder / "none")
    refused(capsys, "holds 2 cells: name one of them", "sample", run, "-o", "x.npy")
    refused(capsys, "unknown estimator of gaussian 'iwae': there is all, default", "eval", cell, "--estimator", "iwae")
    refused(capsys, "expected a name ending in .npy or .png", "sample", cell, "-o", "x.jpg")
    refused(capsys, "--label is for conditional models", "sample", cell, "-o", "x.npy", "--label", 1)
    refused(capsys, "there is no such file or folder", "score", cell, "none.csv")
    refused(capsys, "expected rows of 2 numbers, for (B, 2) float32; got 192", "score", cell, tiny / "images.npz")
    refused(capsys, "labels, it seems, not examples", "score", cell, folder / "labels.npy")
    refused(capsys, "x has 3 NaN and 1 inf in 2 of 20 rows", "score", cell, folder / "nan.npz")
    assert not list((folder / "work").iterdir())
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_damaged_runs(run: Path, capsys: Streams) -> None:
    cell = min((run / "cells").iterdir())
    model, record = cell / "model.safetensors", cell / "record.json"
    whole = model.read_bytes()
    model.write_bytes(whole[:-3])
    refused(capsys, "model.safetensors: its header promises", "eval", cell)
    model.unlink()
    refused(capsys, "holds no model (status ok)", "sample", cell, "-o", "x.npy")
    text = record.read_text()
    record.write_text(json.dumps(json.loads(text) | {"schema": 99}))
    refused(capsys, "has schema 99; this genzoo reads up to 1: install a newer one", "eval", cell)
    record.write_text(text[:100])
    refused(capsys, "is not valid JSON", "report", run)


POINTS = np.random.default_rng(0).standard_normal((60, 2))
IMAGES = np.random.default_rng(1).integers(0, 256, (60, 1, 8, 8)).astype(np.uint8)
STRIPES = np.where(np.arange(8) < 4, 0, IMAGES).astype(np.uint8)

# data that no model was made for; none of it may end in anything but a finite number
EDGES: dict[str, dict[str, np.ndarray]] = {
    "one class": {"x": POINTS, "y": np.zeros(60, int)},
    "a constant column": {"x": POINTS * (1, 0) + (0, 3)},
    "one point, sixty times": {"x": np.full((60, 2), 3.0)},
    "constant pixels": {"x": STRIPES},
    "images of zeros": {"x": np.zeros((60, 1, 8, 8), np.uint8)},
    "three points, twenty times": {"x": np.repeat(POINTS[:3], 20, axis=0)},
    "one example a split": {"train": POINTS[:1], "valid": POINTS[1:2], "test": POINTS[2:3]},
    "huge": {"x": POINTS * 1e30},
    "near the end of float32": {"x": POINTS * 1e37},
    "tiny": {"x": POINTS * 1e-30},
    "below the normal numbers": {"x": POINTS * 1e-42},
    "huge and tiny": {"x": POINTS * (1e15, 1e-15)},
}


@pytest.mark.parametrize("model", ["gaussian", "vae", "flow", pytest.param("ddpm", marks=pytest.mark.long)])
@pytest.mark.parametrize("arrays", EDGES.values(), ids=EDGES)
def test_odd_data_has_a_finite_number(arrays: dict[str, np.ndarray], model: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", **arrays)
    data = genzoo.load_dataset(str(tmp_path / "odd.npz"), labels="y" in arrays)
    made = genzoo.build_model(model, data.spec, seed=0)
    curve = genzoo.fit(made, data, budget="5steps", seed=0)
    result = genzoo.evaluate(made, data, num_samples=2, points=8)
    assert curve[-1].step <= 5
    assert result.nll is not None
    assert np.isfinite(result.nll)
    condition = torch.zeros(4, dtype=torch.int64) if data.spec.classes else None
    sample = made.sample(4, seed=0, condition=condition)
    assert sample.shape == (4, *data.spec.event_shape)
    assert torch.isfinite(sample.to(torch.float32)).all()


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_an_empty_split_says_so(part: str, folder: Path, inline: Executor, capsys: Streams) -> None:
    parts = {"train": POINTS[:40], "valid": POINTS[40:50], "test": POINTS[50:]}
    np.savez(folder / "empty.npz", **parts | {part: POINTS[:0]})
    words = f"empty.npz: {part} is empty, shape (0, 2); expected at least one example"
    refused(capsys, words, "bench", "-m", "gaussian", "-d", folder / "empty.npz")
    assert not list((folder / "work").iterdir())
