"""`genzoo check RUN`: a sound run passes, and every way of tampering with what it stored is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from genzoo.bench import planned
from genzoo.cells import run_cell
from genzoo.cli.entry import main
from genzoo.errors import RunError
from genzoo.likelihood import LogLikelihood
from genzoo.plan import EvaluationPlan, Plan
from genzoo.records import read_arrays, read_json, write_arrays, write_bytes, write_json
from genzoo.testing import check_run, kit
from genzoo.testing.cell import AUDIT_SECONDS, CellSubject, cells
from genzoo.testing.subject import CheckFailed, Subject

COMMIT = "0" * 40
OFF = 0.01
"""Nats that a tampered number is off."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an exact, a weighted and a bounded model in the plane, and of one on images."""
    folder = tmp_path_factory.mktemp("bench")
    torch.set_num_threads(1)
    evaluation = EvaluationPlan(points=1500, num_samples=32, max_seconds=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genzoo.cells.commit", lambda: COMMIT)
        for data, models in (("moons", ("gaussian", "vae", "ddpm[steps=4,width=16]")), ("digits", ("gaussian",))):
            plan = Plan(models=models, datasets=(data,), budget="60steps", evaluation=evaluation, device="cpu")
            for cell in planned(plan, folder / data):
                assert run_cell(cell) == "ok"
    return folder


@pytest.fixture(autouse=True)
def same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkout may change while the tests run."""
    monkeypatch.setattr("genzoo.testing.cell.commit", lambda: COMMIT)


def copy(bench: Path, name: str, to: Path, data: str = "moons") -> Path:
    """One cell, to be tampered with."""
    source = next((bench / data / "cells").glob(f"{name}-*"))
    return Path(shutil.copytree(source, to / source.name))


def audit(folder: Path) -> dict[str, kit.Result]:
    """The audit of one cell, by check."""
    torch.set_num_threads(1)
    (subject,) = cells(folder)
    return {check.name: kit.run_check(subject, check, subject.problem, {}) for check in kit.AUDIT}


def test_sound_cells_pass_bit_for_bit(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["check", str(bench / "moons"), str(bench / "digits"), "--json"])
    output = capsys.readouterr()
    assert code == 0, output.err
    receipts = {receipt["model"].partition("-")[0]: receipt for receipt in json.loads(output.out)}
    assert len(json.loads(output.out)) == 4
    passed = {
        name: {result["check"] for result in receipt["results"] if result["outcome"] == "passed"}
        for name, receipt in receipts.items()
    }
    assert {"mass_is_one", "samples_match", "below_the_truth", "draws_tighten"} <= passed["vae"]
    assert {"bound_mass_is_below_one", "samples_match", "estimators_agree"} <= passed["ddpm"]
    for name, receipt in receipts.items():
        assert {"values_recompute", "numbers_follow", "points_are_the_first"} <= passed[name]
        assert all(result["message"] for result in receipt["results"] if result["outcome"] == "skipped")
        assert "recomputed bit for bit" in receipt["notes"][0]
        assert "no new reading" in receipt["notes"][0]
    assert not list(bench.rglob("readings.json"))


def test_from_python(bench: Path) -> None:
    (receipt,) = check_run(next((bench / "moons" / "cells").glob("gaussian-*")))
    assert receipt.ok
    assert receipt.count("passed") >= 12
    with pytest.raises(RunError, match="no cells"):
        check_run(bench)


def record(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        values = read_json(folder / "record.json")
        change(values)
        write_json(folder / "record.json", values)

    return tamper


def arrays(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        values = read_arrays(folder / "arrays.npz")
        change(values)
        write_arrays(folder / "arrays.npz", values)

    return tamper


def off(name: str) -> Callable[[Path], None]:
    return record(lambda values: values.update({name: values[name] - OFF}))


def better(folder: Path) -> None:
    """All values and all that follows from them, consistently: only the checkpoint tells."""
    arrays(lambda values: values.update(lower=values["lower"] + OFF))(folder)

    def change(values: dict[str, Any]) -> None:
        values["nll"] -= OFF
        values["kl"] -= OFF
        values["terms"] = {}

    record(change)(folder)


def heavier(folder: Path) -> None:
    """Weights a little larger than those that were evaluated."""
    path = folder / "model.safetensors"
    state = {name: 1.001 * value for name, value in safetensors.torch.load_file(path).items()}
    write_bytes(path, safetensors.torch.save(state))


def chosen(values: dict[str, Any]) -> None:
    """The points at which the model does best, all else in their order."""
    best = np.argsort(values["lower"])[::-1]
    for name in ("index", "lower", "variance", "log_p"):
        values[name] = values[name][best]


TAMPERED: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "nll": (off("nll"), {"values_recompute", "numbers_follow"}),
    "kl": (off("kl"), {"values_recompute", "numbers_follow"}),
    "stderr": (off("stderr"), {"numbers_follow"}),
    "kl_quadrature": (off("kl_quadrature"), {"quadrature_recomputes"}),
    "mass": (off("mass"), {"quadrature_recomputes"}),
    "values": (
        arrays(lambda values: values.update(lower=values["lower"] + OFF)),
        {"values_recompute", "numbers_follow"},
    ),
    "one value": (
        arrays(lambda values: values["lower"].__setitem__(700, values["lower"][700] + 1e-9)),
        {"values_recompute"},
    ),
    "values and numbers": (better, {"values_recompute"}),
    "truth": (
        arrays(lambda values: values.update(log_p=values["log_p"] + OFF)),
        {"values_recompute", "numbers_follow"},
    ),
    "order": (arrays(chosen), {"points_are_the_first", "values_recompute"}),
    "no values": (
        arrays(lambda values: values.pop("lower")),
        {"points_are_the_first", "values_recompute", "numbers_follow"},
    ),
    "weights": (heavier, {"values_recompute", "quadrature_recomputes"}),
    "kind": (record(lambda values: values.update(kind="weights")), {"values_recompute", "quadrature_recomputes"}),
    "below_floor": (record(lambda values: values.update(below_floor=True)), {"numbers_follow"}),
    "data": (
        record(lambda values: values["protocol"].update(data_hash="0" * 64)),
        {"checkpoint_loads"},
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampering_is_found(name: str, bench: Path, tmp_path: Path) -> None:
    tamper, expected = TAMPERED[name]
    folder = copy(bench, "gaussian", tmp_path)
    assert {check for check, result in audit(folder).items() if result.outcome == "failed"} == set()
    tamper(folder)
    failed = {check for check, result in audit(folder).items() if result.outcome == "failed"}
    assert failed == expected


@pytest.mark.parametrize("model", ["vae", "ddpm"])
def test_tampering_with_draws_is_found_and_exits_4(
    model: str, bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy(bench, model, tmp_path)
    off("nll")(folder)
    assert main(["check", str(folder), "--only", "values_recompute", "--only", "numbers_follow"]) == 4
    assert "nll is stored as" in capsys.readouterr().out


@pytest.mark.parametrize("nats", [0.0, 0.03])
def test_a_density_that_is_too_high_fails_the_checks_of_truth(
    nats: float, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (subject,) = cells(copy(bench, "gaussian", tmp_path))
    model = type(subject.load().model)
    answer = model._log_likelihood

    def higher(self: Any, x: Tensor, *others: Any) -> LogLikelihood:
        return answer(self, x, *others).shifted(torch.full((len(x),), nats), "fault")

    monkeypatch.setattr(model, "_log_likelihood", higher)
    failed = {result.check for result in kit.run_cell(subject).results if result.outcome == "failed"}
    stored = {"values_recompute", "quadrature_recomputes"}
    assert failed == ({"mass_is_one", *stored} if nats else set())


def test_an_evaluation_that_took_long_is_recomputed_in_whole_batches(bench: Path, tmp_path: Path) -> None:
    folder = copy(bench, "vae", tmp_path)
    record(lambda values: values.update(seconds_eval=3 * AUDIT_SECONDS))(folder)
    (quick,), (full,) = cells(folder), cells(folder, "full")
    assert (quick.audited, full.audited, full.stored_points) == (1000, 1500, 1500)
    assert audit(folder)["values_recompute"].outcome == "passed"
    quick.again()
    assert "the first 1,000 of 1,500 test points" in quick.notes()[0]
    arrays(lambda values: values["lower"].__setitem__(slice(500), values["lower"][:500] + OFF))(folder)
    assert audit(folder)["values_recompute"].outcome == "failed"


def test_another_place_is_granted_rounding_and_no_more(bench: Path, tmp_path: Path) -> None:
    folder = copy(bench, "vae", tmp_path)
    arrays(lambda values: values.update(lower=values["lower"] + 1e-7))(folder)
    assert audit(folder)["values_recompute"].outcome == "failed"
    record(lambda values: values["versions"].update(torch="2.9.0"))(folder)
    result = audit(folder)["values_recompute"]
    assert result.outcome == "passed", result.message
    off("nll")(folder)
    assert audit(folder)["values_recompute"].outcome == "failed"


def test_what_was_made_on_a_gpu_is_compared_within_its_draws(bench: Path, tmp_path: Path) -> None:
    folder = copy(bench, "vae", tmp_path)
    record(lambda values: values.update(device="cuda:0 (a GPU)"))(folder)
    generator = np.random.default_rng(0)

    def redraw(values: dict[str, Any]) -> None:
        values["lower"] += np.sqrt(2 * values["variance"]) * generator.standard_normal(len(values["lower"]))

    arrays(redraw)(folder)
    assert audit(folder)["values_recompute"].outcome == "passed"
    arrays(lambda values: values.update(lower=values["lower"] + 0.05))(folder)
    assert audit(folder)["values_recompute"].outcome == "failed"


def test_damaged_weights_are_a_failed_check(bench: Path, tmp_path: Path) -> None:
    folder = copy(bench, "gaussian", tmp_path)
    (folder / "model.safetensors").write_bytes(b"none")
    results = audit(folder)
    assert results["checkpoint_loads"].outcome == "failed"
    assert "model.safetensors" in results["checkpoint_loads"].message
    assert results["values_recompute"].outcome == "skipped"


def test_a_path_comes_before_a_name(
    bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = next((bench / "moons" / "cells").glob("gaussian-*"))
    shutil.copytree(source, tmp_path / "gaussian")
    monkeypatch.chdir(tmp_path)
    assert main(["check", "gaussian", "--only", "checkpoint_loads"]) == 0
    output = capsys.readouterr()
    assert "gaussian (quick): 1 checks" in output.out
    assert "gaussian[] names the model" in output.err
    assert main(["check", "gaussian[]", "--only", "config_round_trips"]) == 0
    assert "3 checks" in capsys.readouterr().out


def test_cells_without_a_result_are_left_out(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy(bench, "gaussian", tmp_path)
    record(lambda values: values.update(status="failed"))(folder)
    assert main(["check", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "failed, left out" in error
    assert "no trained cell" in error


def test_images_are_checked_without_a_sum_over_states(bench: Path) -> None:
    (subject,) = cells(bench / "digits")
    assert isinstance(subject, CellSubject)
    results = {result.check: result for result in kit.run_cell(subject).results}
    assert results["draws_tighten"].outcome == "passed"
    assert results["mass_is_one"].outcome == "skipped"
    assert "17^64 states" in results["mass_is_one"].message


def test_a_long_message_is_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception's text may be a page, or a tensor."""

    def broken(subject: Subject, problem: str) -> None:
        raise CheckFailed("words " * 1000)

    check = kit.Check(broken, ("plane",), "nothing")
    monkeypatch.setattr(kit, "CHECKS", (check,))
    assert main(["check", "gaussian"]) == 4
    line = capsys.readouterr().out.splitlines()[0]
    assert line.startswith("failed   broken[plane]  words words")
    assert line.endswith("...")
    assert len(line) < 450
