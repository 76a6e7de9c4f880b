"""From the command line: bench, report, eval, score and sample on your own data, through vae, flow and ddpm."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest
import torch

from genzoo import api, readings
from genzoo.cli import main
from genzoo.records import ROW_KEYS, CellFolder, find_cells

Streams = pytest.CaptureFixture[str]
VECTORS = "flow[layers=1,hidden=8,bins=4],vae[hidden=[8],latents=2],ddpm[steps=8,width=8,blocks=1]"
IMAGES = "flow[layers=1,hidden=4,bins=4],vae[hidden=[8],latents=2],ddpm[steps=8,width=16]"
FAST = ("--budget", "20steps", "--points", 16, "--num-samples", 2)


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one bench, for tests that only read it: gaussian, flow, vae and ddpm on own points."""
    return tmp_path_factory.mktemp("bench") / "run"


@pytest.fixture
def cells(finished: Path, tiny: Path, inline: Executor) -> dict[str, CellFolder]:
    """The cells of `finished` by model."""
    if not finished.exists():
        assert run("bench", "-m", f"gaussian,{VECTORS}", "-d", tiny / "points.npz", *FAST, "-o", finished) == 0
    return {cell.record.model: cell for cell in find_cells(finished)}


def test_bench_ends_with_the_table_and_the_path_of_the_report(
    tiny: Path, tmp_path: Path, inline: Executor, capsys: Streams
) -> None:
    args = ("bench", "-m", "gaussian,vae[hidden=[8]]", "-d", tiny / "points.npz", *FAST, "-o", tmp_path / "run")
    assert run(*args) == 0
    out, err = capsys.readouterr()
    assert "gaussian" in out
    assert "vae" in out
    assert out.splitlines()[-1] == f"report: {tmp_path / 'run' / 'report.html'}"
    assert (tmp_path / "run" / "report.html").stat().st_size > 5000
    assert "2 cells" in err
    records = {path: path.read_bytes() for path in tmp_path.rglob("record.json")}
    assert len(records) == 2
    assert run(*args) == 0  # the same command: everything is kept
    assert {path: path.read_bytes() for path in tmp_path.rglob("record.json")} == records


@pytest.mark.parametrize(
    ("models", "data"),
    [(IMAGES, "images.npz"), (VECTORS, "table.csv"), (VECTORS, "labelled.npz[labels=true]")],
    ids=["images", "csv", "labelled"],
)
def test_own_data_goes_through_all_three_models(
    models: str, data: str, tiny: Path, tmp_path: Path, inline: Executor, capsys: Streams
) -> None:
    assert run("bench", "-m", models, "-d", tiny / data, *FAST, "-o", tmp_path) == 0
    capsys.readouterr()
    assert run("report", tmp_path, "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in rows} == {"flow", "vae", "ddpm"}
    for row in rows:
        assert list(row) == list(ROW_KEYS)
        assert row["status"] == "ok"
        assert isinstance(row["nll"], float)
        assert (row["bits_per_dim"] is not None) == (data == "images.npz")
        assert row["protocol"]["target"] == ("p(x given y)" if "labels" in data else "p(x)")
        assert row["estimator"]["points"] == 16
        assert row["kl"] is None
    for cell in find_cells(tmp_path):
        samples = cell.arrays()["samples"]
        assert samples.shape[1:] == ((3, 8, 8) if data == "images.npz" else (2,))
        assert samples.dtype == (np.uint8 if data == "images.npz" else np.float32)
        if data == "images.npz":
            assert run("sample", cell.path, "-n", 3, "-o", tmp_path / "x.png") == 0
            assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("model", ["gaussian", "flow", "vae", "ddpm"])
def test_eval_gives_the_stored_number_again_and_counts_the_reading(
    model: str, cells: dict[str, CellFolder], tmp_path: Path, capsys: Streams
) -> None:
    cell = tmp_path / "cell"
    shutil.copytree(cells[model].path, cell)
    before = (cell / "record.json").read_bytes()
    for reading in (2, 3):
        assert run("eval", cell) == 0
        (found,) = find_cells(cell)
        assert (cell / "record.json").read_bytes() == before  # the first reading stays the row
        latest = found.readings()[-1]
        assert (len(found.readings()), latest["reading"]) == (reading - 1, reading)
        assert latest["nll"] == found.record.nll
        assert latest["stderr"] == found.record.stderr
        assert latest["evaluation"] == found.record.evaluation
    assert "NLL" in capsys.readouterr().out
    assert run("eval", cell, "--dry", "--points", 8) == 0
    assert len(find_cells(cell)[0].readings()) == 2
    result = readings.read_again(found, api.load_cell(found), append=False)
    np.testing.assert_array_equal(result.result.lower.numpy(), found.arrays()["lower"])


def test_more_draws_are_another_reading_and_another_row(
    cells: dict[str, CellFolder], tmp_path: Path, capsys: Streams
) -> None:
    cell = tmp_path / "cell"
    shutil.copytree(cells["vae"].path, cell)
    assert run("eval", cell, "--num-samples", 50, "--seed", 3) == 0
    (reading,) = find_cells(cell)[0].readings()
    assert (reading["evaluation"]["num_samples"], reading["evaluation"]["seed"]) == (50, 3)
    assert reading["nll"] != cells["vae"].record.nll
    capsys.readouterr()
    assert run("report", cell, "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert sorted(row["reading"] for row in rows) == [1, 2]


def test_two_phases_are_a_reading_with_both_errors(
    cells: dict[str, CellFolder], tmp_path: Path, capsys: Streams
) -> None:
    cell = tmp_path / "cell"
    shutil.copytree(cells["vae"].path, cell)
    assert run("eval", cell, "--num-samples", 2, "--refine", 40, "--refine-points", 6) == 0
    (reading,) = find_cells(cell)[0].readings()
    refine = reading["evaluation"]["refine"]
    assert (refine["first"]["num_samples"], refine["first"]["points"]) == (2, 16)
    assert (refine["second"]["num_samples"], refine["second"]["points"]) == (40, 6)
    assert reading["nll"] == pytest.approx(refine["first"]["nll"] - refine["second"]["gain"])
    assert min(refine["second"]["stderr"], refine["first"]["stderr_mc"], reading["stderr_mc"]) > 0
    assert reading["kind"] == "lower_bound"
    assert reading["paired"]["points"] == 16
    assert reading["paired"]["nats"] == pytest.approx((cells["vae"].record.nll or 0) - reading["nll"])
    assert "with 2 draws on 16 points, less" in capsys.readouterr().out
    assert run("report", cell, "--format", "md") == 0
    assert "in two phases: " in capsys.readouterr().out
    assert run("eval", cell, "--estimator", "all", "--refine", 40) == 2


def test_every_bound_is_read_and_paired(cells: dict[str, CellFolder], tmp_path: Path, capsys: Streams) -> None:
    """`all` reads each estimator once, weights also at fewer draws, never what is stored; pairs follow the arrays."""
    cell = tmp_path / "cell"
    shutil.copytree(cells["flow"].path, cell)
    assert run("eval", cell, "--estimator", "all") == 0
    assert not (cell / "readings.json").exists()  # exact, and already read
    shutil.rmtree(cell)
    shutil.copytree(cells["vae"].path, cell)
    assert run("eval", cell, "--estimator", "all", "--points", 8) == 0
    (found,) = find_cells(cell)
    read = [(r["evaluation"]["estimator"].partition("[")[0], r["evaluation"]["num_samples"]) for r in found.readings()]
    assert read[:3] == [("iwae", 2), ("iwae", 1), ("elbo", 1)]
    assert {name for name, _ in read} == set(api.load_cell(found).estimators())
    again = readings.read_again(found, api.load_cell(found), estimator="elbo", points=8, append=False)
    stored = found.arrays()
    lower = {int(i): float(v) for i, v in zip(stored["index"], stored["lower"], strict=True)}
    gains = [float(v) - lower[int(i)] for i, v in zip(again.index, again.result.lower, strict=True)]
    pair = found.readings()[2]["paired"]
    assert pair["points"] == 8
    assert pair["nats"] == pytest.approx(np.mean(gains), rel=1e-12)
    assert pair["stderr"] == pytest.approx(np.std(gains, ddof=1) / 8**0.5, rel=1e-9)
    capsys.readouterr()
    assert run("report", cell, "--format", "html", "-o", tmp_path / "page") == 0


def test_a_cell_without_the_estimator_stops_no_other(
    cells: dict[str, CellFolder], finished: Path, tmp_path: Path, capsys: Streams
) -> None:
    """gaussian, the first by name, has one estimator only; elbo is the vae's."""
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    assert run("eval", copy, "--estimator", "elbo", "--points", 8) == 0
    out, err = capsys.readouterr()
    assert [line.partition("-")[0] for line in out.splitlines()] == ["vae"]
    lacking = [line for line in err.splitlines() if "has no estimator elbo, left out" in line]
    assert [line.partition("-")[0] for line in lacking] == ["ddpm", "flow", "gaussian"]
    assert err.splitlines()[-1] == "3 of 4 cells left out"
    read = {cell.record.model: len(cell.readings()) for cell in find_cells(copy)}
    assert read == {"ddpm": 0, "flow": 0, "gaussian": 0, "vae": 1}
    assert run("eval", copy, "--estimator", "elob") == 2
    assert "unknown estimator 'elob': did you mean elbo" in capsys.readouterr().err
    shutil.rmtree(copy / "cells" / cells["vae"].path.name)
    assert run("eval", copy, "--refine", 4) == 2
    assert "was evaluated: all 3 cells were left out" in capsys.readouterr().err


def test_eval_refuses_data_that_has_changed(tiny: Path, tmp_path: Path, inline: Executor, capsys: Streams) -> None:
    data = tmp_path / "points.npz"
    shutil.copy(tiny / "points.npz", data)
    assert run("bench", "-m", "gaussian", "-d", data, *FAST, "-o", tmp_path / "run") == 0
    np.savez(data, x=np.zeros((20, 2), np.float32))
    capsys.readouterr()
    assert run("eval", tmp_path / "run") == 2
    assert "has changed since" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mine.csv", "mine.npy"])
def test_score_equals_the_models_own_log_likelihood(
    name: str, cells: dict[str, CellFolder], tmp_path: Path, capsys: Streams
) -> None:
    points = np.random.default_rng(5).standard_normal((7, 2)).astype(np.float32)
    if name.endswith("csv"):
        np.savetxt(tmp_path / name, points, delimiter=",", fmt="%.9g")
    else:
        np.save(tmp_path / name, points)
    model = api.load(cells["flow"].path)
    expected = model.log_likelihood(torch.from_numpy(points)).lower
    capsys.readouterr()
    assert run("score", cells["flow"].path, tmp_path / name) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"{value:.6f}" for value in expected.tolist()]
    assert "over 7 rows (exact)" in err
    assert run("score", cells["flow"].path, tmp_path / name, "-o", tmp_path / "out.npz") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["lower"], expected.numpy())


def test_score_takes_draws_and_a_seed(cells: dict[str, CellFolder], tiny: Path, capsys: Streams) -> None:
    outputs = []
    for extra in ((), (), ("--seed", 1), ("--num-samples", 9)):
        assert run("score", cells["vae"].path, tiny / "points.npz", *extra) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert len(set(outputs)) == 3
    assert outputs[0].count("\n") == 160


@pytest.mark.parametrize("model", ["flow", "vae", "ddpm"])
def test_samples_are_the_models_own(model: str, cells: dict[str, CellFolder], tmp_path: Path, capsys: Streams) -> None:
    assert run("sample", cells[model].path, "-n", 5, "--seed", 3, "-o", tmp_path / "x.npy") == 0
    assert capsys.readouterr().out.strip().endswith("x.npy")
    expected = api.load(cells[model].path).sample(5, seed=3)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected.numpy())
    assert run("sample", cells[model].path, "-o", tmp_path / "x.png") == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_loaded_model_is_the_one_that_was_evaluated(cells: dict[str, CellFolder]) -> None:
    cell = cells["flow"]
    data = api.cell_dataset(cell)
    x, _ = data.test.batch(torch.from_numpy(cell.arrays()["index"]), torch.Generator())
    np.testing.assert_array_equal(api.load(cell.path).log_likelihood(x).lower.numpy(), cell.arrays()["lower"])


@pytest.mark.parametrize("form", ["json", "csv", "md", "tex"])
def test_report_formats_go_to_stdout(
    form: str, cells: dict[str, CellFolder], finished: Path, tmp_path: Path, capsys: Streams
) -> None:
    capsys.readouterr()
    assert run("report", finished, "--format", form) == 0
    out = capsys.readouterr().out
    assert all(model in out for model in cells)
    assert run("report", finished, "--format", form, "-o", tmp_path / "x") == 0
    assert (tmp_path / "x").read_text().strip() == out.strip()


def test_dry_run_says_the_cells_and_writes_nothing(
    tiny: Path, tmp_path: Path, inline: Executor, capsys: Streams
) -> None:
    args = ("bench", "-m", "gaussian", "-d", tiny / "points.npz", "--seeds", 3, "-o", tmp_path / "run", "--dry-run")
    assert run(*args, "--budget", "30s", "--jobs", 2) == 0
    out, err = capsys.readouterr()
    assert [line.rsplit("-", 1)[0] for line in out.splitlines()] == [f"gaussian-points.npz-{n}" for n in range(3)]
    assert "3 cells, 2 at a time, at most about 2.3 minutes" in err
    assert run(*args, "--budget", "5steps", "--jobs", 2) == 0
    assert "3 cells, 2 at a time, how long is not known (no limit in seconds), in" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_flags_win_over_the_plan(tiny: Path, tmp_path: Path, inline: Executor, capsys: Streams) -> None:
    plan = tmp_path / "plan.toml"
    data = json.dumps(str(tiny / "points.npz"))
    plan.write_text(f'models = ["gaussian"]\ndatasets = [{data}]\nbudget = "1h"\nseeds = 2\n'.replace("1h", "9s"))
    assert run("bench", plan, "--budget", "3steps", "--seeds", "4,5", "--no-test", "-o", tmp_path / "run") == 0
    records = [cell.record for cell in find_cells(tmp_path / "run")]
    assert [(record.seed, record.budget, record.split) for record in records] == [
        (4, "3steps", "valid"),
        (5, "3steps", "valid"),
    ]


def test_failed_cells_are_exit_3_and_stand_in_the_table(
    tiny: Path, tmp_path: Path, inline: Executor, brittle: tuple[str, ...], capsys: Streams
) -> None:
    models = "gaussian,brittle[nan_from=0.5]"
    args = ("bench", "-m", models, "-d", tiny / "points.npz", *FAST, "--plugin", *brittle, "-o", tmp_path)
    assert run(*args) == 3
    out, _ = capsys.readouterr()
    assert "brittle" in out
    assert "NumericsError" in out or "loss is nan" in out or "failed" in out
    assert run("report", tmp_path, "--format", "json") == 0
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["brittle"]["status"], rows["brittle"]["nll"]) == ("failed", None)
    assert rows["brittle"]["error"]["message"].startswith("loss is nan at step")
