"""Benches: what a cell leaves, what a failed one does not harm, and that order, jobs and kills do not matter."""

from __future__ import annotations

import json
from concurrent.futures import Executor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genzoo import bench
from genzoo.cells import run_cell
from genzoo.errors import DataError, PlanError, RunError
from genzoo.plan import EvaluationPlan, Plan
from genzoo.records import RunRecord, find_cells

FLOW, VAE, DDPM = "flow[layers=1,hidden=8,bins=4]", "vae[hidden=[8],latents=2]", "ddpm[steps=8,width=8,blocks=1]"
# What may differ between two runs of one plan.
OF_THE_MOMENT = {"seconds_train", "seconds_eval", "seconds_sample", "started", "commit", "cell"}


def plan_of(models: tuple[str, ...], *datasets: Path | str, **options: Any) -> Plan:
    evaluation = EvaluationPlan(**{"points": 16, "num_samples": 2, **options.pop("evaluation", {})})
    training = {"batch_size": 32, **options.pop("training", {})}
    return Plan(
        models=models,
        datasets=tuple(map(str, datasets)),
        evaluation=evaluation,
        training=training,
        **{"budget": "20steps", **options},
    )


def lasting(record: RunRecord) -> dict[str, Any]:
    return {key: value for key, value in asdict(record).items() if key not in OF_THE_MOMENT}


def results(run: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any], bytes]]:
    """Of each cell: its record but for seconds and time stamps, its arrays but for seconds, its weights."""
    found = {}
    for cell in find_cells(run):
        arrays = {name: value for name, value in cell.arrays().items() if not name.endswith("_seconds")}
        weights = (cell.path / "model.safetensors").read_bytes()
        found[f"{cell.record.label} on {cell.record.dataset}, {cell.record.seed}"] = (
            lasting(cell.record),
            arrays,
            weights,
        )
    return found


def assert_same(first: Path, second: Path) -> None:
    ours, theirs = results(first), results(second)
    assert ours.keys() == theirs.keys()
    for name, (record, arrays, weights) in ours.items():
        assert record == theirs[name][0], name
        assert arrays.keys() == theirs[name][1].keys(), name
        for key, value in arrays.items():
            np.testing.assert_array_equal(value, theirs[name][1][key], err_msg=f"{name}: {key}")
        assert weights == theirs[name][2], name


def test_what_a_cell_leaves(tiny: Path, tmp_path: Path, inline: Executor) -> None:
    plan = plan_of((VAE,), tiny / "points.npz")
    (state,) = bench.run(plan, tmp_path, executor=inline, notes=["a note"])
    assert state.status == "ok"
    (cell,) = find_cells(tmp_path)
    assert sorted(path.name for path in cell.path.iterdir()) == [
        "arrays.npz",
        "model.safetensors",
        "progress.jsonl",
        "record.json",
    ]
    assert Plan.read(tmp_path / "plan.toml") == plan
    record = cell.record
    assert (record.cell, record.model, record.label, record.seed) == (cell.path.name, "vae", VAE, 0)
    assert (record.status, record.kind, record.steps, record.training["total_steps"]) == ("ok", "weights", 20, 20)
    degrees = {key: record.evaluation.pop(key) for key in ("dof", "dof_mc")}
    assert degrees["dof"] == 15
    assert degrees["dof_mc"] > 0
    assert record.evaluation | {"calls": 0} == {
        "estimator": "iwae",
        "kind": "weights",
        "num_samples": 2,
        "points": 16,
        "precision": "float32",
        "seed": 0,
        "calls": 0,
    }
    assert record.config["latents"] == 2
    assert record.config["adapters"]["standardize"] is True
    assert record.protocol["split"] == "80/10/10 by seed 0"
    assert record.notes == ["a note"]
    assert record.versions["torch"]
    assert (record.threads, record.device, record.reading, record.split) == (1, "cpu", 1, "test")
    assert sum(record.terms.values()) == pytest.approx(-(record.nll or 0), rel=1e-6)
    arrays = cell.arrays()
    assert {"lower", "variance", "index", "samples", "reference", "curve_loss", "valid_nll"} <= arrays.keys()
    assert arrays["lower"].dtype == np.float64
    assert record.nll == pytest.approx(-arrays["lower"].mean(), rel=1e-12)
    assert sorted(arrays["index"]) == list(range(16))


def test_order_of_cells_and_a_rerun_do_not_matter(tiny: Path, tmp_path: Path, inline: Executor) -> None:
    models, data = (FLOW, VAE, DDPM, "gaussian"), (tiny / "points.npz", tiny / "labelled.npz")
    plan = plan_of(models, *data)
    bench.run(plan, tmp_path / "first", executor=inline)
    bench.run(plan_of(models[::-1], *data[::-1]), tmp_path / "second", executor=inline)
    assert_same(tmp_path / "first", tmp_path / "second")
    seeds = {record["training"]["seed"] for record, _, _ in results(tmp_path / "first").values()}
    assert len(seeds) == 8  # no two cells share a stream
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "first").rglob("record.json")}
    again = bench.run(plan, tmp_path / "first", executor=inline)
    assert {state.status for state in again} == {"kept"}
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_two_processes_and_a_kill_do_not_matter(
    tiny: Path, tmp_path: Path, inline: Executor, brittle: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker killed in training is one failed record; the same command ends it where one untouched run does."""
    dies = f'brittle[die_from=0.6,marker="{tmp_path / "died"}"]'
    plan = plan_of((dies, VAE, "gaussian"), tiny / "points.npz")
    monkeypatch.undo()  # real processes here
    seen: set[str] = set()
    states = bench.run(
        plan,
        tmp_path / "run",
        jobs=2,
        plugins=brittle,
        watch=lambda states: seen.update(state.status for state in states),
    )
    assert [state.status for state in states] == ["failed", "ok", "ok"]
    assert {"failed", "ok"} <= seen
    killed = states[0].record
    assert killed is not None
    assert killed.error is not None
    assert (killed.error["type"], killed.model, killed.nll) == ("WorkerDied", "brittle", None)
    assert "the same command runs the cell again" in killed.error["message"]
    again = bench.run(plan, tmp_path / "run", executor=inline, plugins=brittle)
    assert [state.status for state in again] == ["ok", "kept", "kept"]
    progress = (again[0].cell.folder / "progress.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in progress if "step" in line]
    assert steps.count(2) == 1  # it went on from a checkpoint, not from the start
    bench.run(plan, tmp_path / "untouched", executor=inline, plugins=brittle)
    assert_same(tmp_path / "run", tmp_path / "untouched")


def test_a_failing_cell_harms_no_other(tiny: Path, tmp_path: Path, inline: Executor, brittle: tuple[str, ...]) -> None:
    plan = plan_of(("brittle[nan_from=0.6]", "gaussian"), tiny / "points.npz")
    failed, fine = bench.run(plan, tmp_path, executor=inline, plugins=brittle)
    assert (failed.status, fine.status) == ("failed", "ok")
    assert failed.record is not None
    assert failed.record.error is not None
    assert failed.record.error["type"] == "NumericsError"
    assert failed.record.error["message"] == "loss is nan at step 12"
    assert "Traceback" in failed.record.error["traceback"]
    assert (failed.record.nan, failed.record.nll) == (1, None)
    assert list(failed.cell.folder.glob("checkpoint-*"))
    assert not (failed.cell.folder / "model.safetensors").exists()
    (again, kept) = bench.run(plan, tmp_path, executor=inline, plugins=brittle)  # failed cells are run again
    assert (again.status, kept.status) == ("failed", "kept")
    assert again.record is not None
    assert again.record.error is not None
    assert again.record.error["message"] == "loss is nan at step 12"


def test_a_model_that_cannot_take_the_data_is_skipped(
    tiny: Path, tmp_path: Path, inline: Executor, brittle: tuple[str, ...]
) -> None:
    plan = plan_of(("brittle",), tiny / "points.npz", tiny / "images.npz")
    bench.check(plan, brittle)  # fine: it takes one of them
    fine, skipped = bench.run(plan, tmp_path, executor=inline, plugins=brittle)
    assert (fine.status, skipped.status) == ("ok", "skipped")
    assert skipped.record is not None
    assert skipped.record.error is not None
    assert "brittle takes real data; this data set is discrete" in skipped.record.error["message"]
    assert [state.status for state in bench.run(plan, tmp_path, executor=inline, plugins=brittle)] == ["kept", "kept"]


def test_a_bound_below_the_truth_is_reported_as_a_bug(
    tmp_path: Path, inline: Executor, brittle: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genzoo.cells.PLANE_SAMPLES", 100)  # 10,000 samples take the metrics seconds
    plan = plan_of(("brittle", "brittle[flattery=9]"), "rings[points=300]", training={"learning_rate": 0.1})
    sound, bug = (state.record for state in bench.run(plan, tmp_path, executor=inline, plugins=brittle))
    assert sound is not None
    assert bug is not None
    assert (sound.below_floor, bug.below_floor) == (False, True)
    assert sound.mass is not None
    assert bug.mass is not None
    assert bug.mass > 1000 * sound.mass
    assert {"sliced_wasserstein", "mmd", "c2st"} == sound.metrics.keys()
    assert {"grid_x", "grid_y", "grid_truth", "grid_model", "log_p"} <= find_cells(tmp_path)[0].arrays().keys()


def test_a_budget_in_seconds_is_fixed_and_replayed(tiny: Path, tmp_path: Path, inline: Executor) -> None:
    plan = plan_of((FLOW, DDPM), tiny / "points.npz", budget="0.5s")
    bench.run(plan, tmp_path / "first", executor=inline)
    bench.run(plan, tmp_path / "second", executor=inline, replay=tmp_path / "first")
    for (record, arrays, weights), (its, also, same) in zip(
        results(tmp_path / "first").values(), results(tmp_path / "second").values(), strict=True
    ):
        assert record["steps"] == record["training"]["total_steps"] == its["steps"] > 1
        assert record == its
        assert weights == same
        np.testing.assert_array_equal(arrays["lower"], also["lower"])
    with pytest.raises(RunError, match=r"has no steps for gaussian on .*, seed 0: nothing to replay"):
        bench.run(
            plan_of(("gaussian",), tiny / "points.npz", budget="1s"),
            tmp_path / "third",
            executor=inline,
            replay=tmp_path / "first",
        )
    assert not (tmp_path / "third").exists()


def test_one_folder_holds_one_plan(tiny: Path, tmp_path: Path, inline: Executor) -> None:
    bench.run(plan_of(("gaussian",), tiny / "points.npz"), tmp_path / "run", executor=inline)
    with pytest.raises(PlanError, match="holds another plan: give another folder with -o"):
        bench.run(plan_of((FLOW,), tiny / "points.npz"), tmp_path / "run", executor=inline)
    (tmp_path / "file").touch()
    with pytest.raises(PlanError, match="expected a folder; it is a file"):
        bench.run(plan_of((FLOW,), tiny / "points.npz"), tmp_path / "file", executor=inline)


def test_without_test_the_test_split_is_not_read(tiny: Path, tmp_path: Path, inline: Executor) -> None:
    plan = plan_of(("gaussian",), tiny / "points.npz", test=False)
    (state,) = bench.run(plan, tmp_path, executor=inline)
    assert state.record is not None
    assert state.record.split == "valid"


def test_own_seeds_and_plan_settings_reach_the_cell(tiny: Path, tmp_path: Path, inline: Executor) -> None:
    plan = plan_of((VAE,), tiny / "points.npz", seeds=(0, 7), training={"learning_rate": 0.5, "clip": None})
    first, second = bench.run(plan, tmp_path, executor=inline)
    for state in (first, second):
        assert state.record is not None
        assert (state.record.training["learning_rate"], state.record.training["clip"]) == (0.5, None)
    assert first.record is not None
    assert second.record is not None
    assert first.record.nll != second.record.nll


NORMAL = np.random.default_rng(1).standard_normal((160, 2))
ODD = {
    "huge": {"x": 1e7 + 1e6 * NORMAL},
    "minute": {"x": 1e-6 * NORMAL},
    "all the same": {"x": np.full((160, 2), 2.5)},
    "one example each": dict.fromkeys(("train", "valid", "test"), NORMAL[:1]),
    "one class": {"x": NORMAL, "y": np.zeros(160, np.int64)},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_data_goes_through_every_model(name: str, tmp_path: Path, inline: Executor) -> None:
    arrays = {key: value.astype(np.float32) if key != "y" else value for key, value in ODD[name].items()}
    np.savez(tmp_path / "odd.npz", **arrays)  # type: ignore[arg-type]
    reference = f"{tmp_path / 'odd.npz'}{'[labels=true]' if 'y' in arrays else ''}"
    for state in bench.run(plan_of(("gaussian", FLOW, VAE, DDPM), reference), tmp_path / "run", executor=inline):
        assert state.record is not None
        assert (state.status, state.record.error) == ("ok", None)
        assert state.record.nll is not None


def test_a_cell_never_raises(tmp_path: Path) -> None:
    (cell,) = plan_of(("gaussian",), tmp_path / "missing.npz").cells(tmp_path)
    assert run_cell(cell) == "failed"
    record = RunRecord.load(cell.folder)
    assert record.error is not None
    assert record.error["type"] == DataError.__name__


def test_the_expected_time_counts_rounds() -> None:
    plan = plan_of(("gaussian",), "moons", budget="30s", evaluation={"max_seconds": 10})
    assert bench.expected_seconds(plan, 9, 2) == 5 * 40
    assert bench.expected_seconds(plan_of(("gaussian",), "moons", evaluation={"max_seconds": 0}), 9, 2) is None
    for budget in ("30steps", "2epochs"):
        assert bench.expected_seconds(plan_of(("gaussian",), "moons", budget=budget), 9, 2) is None
