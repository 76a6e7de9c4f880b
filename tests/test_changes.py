"""Several runs in one report: merged, copies counted once, and what changed between them against numpy's own sums."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from genzoo import report
from genzoo.cli.report import command
from genzoo.errors import RunError, UsageError
from genzoo.records import RunRecord, find_cells, write_arrays
from genzoo.report import change_tables
from genzoo.report.changes import Comparison, comparisons, differing
from genzoo.report.collect import collect
from genzoo.report.repeats import names_of

N = 400
PROTOCOL = {"dataset": "d", "data_hash": "ab", "test_hash": "cd", "target": "p(x)"}
EVIL = "<script>alert(1)</script>\x1b[31m"


def save(run: Path, model: str, shift: float = 0.0, noise: int | None = None, seed: int = 0, **more: Any) -> np.ndarray:
    """A cell whose bound at point i is -x_i + shift, with noise of that seed; gives the bounds."""
    lower = -(np.random.default_rng(7).standard_normal(N) ** 2) + shift
    if noise is not None:
        lower = lower + 0.1 * np.random.default_rng(noise).standard_normal(N)
    index = more.pop("index", np.arange(N))
    values: dict[str, Any] = {
        "status": "ok",
        "dataset": "d",
        "label": model,
        "kind": "exact",
        "nll": -float(lower.mean()),
        "stderr": float(lower.std(ddof=1)) / math.sqrt(N),
        "evaluation": {"estimator": "exact", "points": N},
        "protocol": PROTOCOL,
        "event_shape": [2],
        "budget": "60s",
        "config": {"layers": 4},
        "versions": {"torch": "2.12"},
        "commit": "aaaa",
        "started": "2026-01-01T00:00:00+00:00",
        "seconds_train": 10.0,
        "parameters": 100,
    }
    record = RunRecord(
        cell=f"{model.partition('[')[0]}-{seed}", model=model.partition("[")[0], seed=seed, **values | more
    )
    folder = run / "cells" / record.cell
    record.save(folder)
    if record.status == "ok":
        write_arrays(folder / "arrays.npz", {"index": index, "lower": lower})
    return lower


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "before", tmp_path / "after"


def compare(runs: tuple[Path, Path]) -> Comparison:
    (found,) = comparisons(runs)
    return found


def test_the_change_is_paired_over_the_points_in_common(runs: tuple[Path, Path]) -> None:
    a = save(runs[0], "flow")
    b = save(runs[1], "flow", 0.02, noise=1)
    (model,) = compare(runs).models
    d = b - a
    assert model.difference.nats == pytest.approx(d.mean())
    assert model.difference.stderr == pytest.approx(d.std(ddof=1) / math.sqrt(N))
    assert (model.difference.points, model.word) == (N, "lower")
    assert model.difference.stderr < 0.01 < a.std() / math.sqrt(N)  # what pairing is for
    (row,) = report.view_rows(runs, "changes")
    assert (row["change"], row["paired"], row["nll_is"]) == (pytest.approx(-d.mean()), True, "lower")
    # and some of the points, in another order, pair as those points do
    some = np.random.default_rng(3).permutation(N)[:100]
    folder = find_cells(runs[1])[0].path
    write_arrays(folder / "arrays.npz", {"index": some, "lower": b[some]})
    (model,) = compare(runs).models
    assert model.difference.nats == pytest.approx(d[some].mean())
    assert model.difference.points == 100


def test_without_points_in_common_both_errors_add_up(runs: tuple[Path, Path]) -> None:
    a = save(runs[0], "flow")
    b = save(runs[1], "flow", 0.5, noise=1, index=np.arange(N) + N)
    found = compare(runs)
    (model,) = found.models
    assert not model.changes[0].paired
    assert model.difference.nats == pytest.approx(b.mean() - a.mean())
    assert model.difference.stderr == pytest.approx(math.hypot(a.std(ddof=1), b.std(ddof=1)) / math.sqrt(N))
    assert "(unpaired)" in report.render(runs, "md", "changes")
    assert any(said.startswith("Unpaired: ") for said in change_tables.sentences(found))


def test_over_seeds_the_error_is_that_of_the_seeds(runs: tuple[Path, Path]) -> None:
    gains = []
    for seed, gain in enumerate((0.3, 0.1, 0.2)):
        a = save(runs[0], "flow", noise=10 + seed, seed=seed)
        b = save(runs[1], "flow", gain, noise=20 + seed, seed=seed)
        gains.append(float((b - a).mean()))
    (model,) = compare(runs).models
    assert model.difference.nats == pytest.approx(np.mean(gains))
    assert model.difference.stderr == pytest.approx(np.std(gains, ddof=1) / math.sqrt(3))
    assert (model.difference.dof, model.difference.over_seeds) == (2.0, True)
    table = change_tables.table(compare(runs))
    assert table is not None
    assert [row.cells[2] for row in table.rows] == ["mean of 3", "0", "1", "2"]
    assert [row.role for row in table.rows] == ["model", "seed", "seed", "seed"]


def test_a_second_model_takes_its_share_of_chance(runs: tuple[Path, Path]) -> None:
    """A change of 2.2 standard errors is clear alone, and not of the better of two: Holm doubles its p-value."""
    a, b = save(runs[0], "edge", noise=1), save(runs[1], "edge", noise=2)
    save(runs[1], "edge", 2.2 * (b - a).std(ddof=1) / math.sqrt(N) - (b - a).mean(), noise=2)
    (alone,) = compare(runs).models
    assert alone.adjusted == alone.difference.p_value == pytest.approx(0.0284, abs=1e-4)  # t(399) beyond 2.2
    assert alone.word == "lower"
    save(runs[0], "noisy", noise=3)
    save(runs[1], "noisy", noise=4)
    edge, noisy = compare(runs).models
    assert noisy.difference.p_value > edge.difference.p_value
    assert edge.adjusted == pytest.approx(2 * alone.adjusted)
    assert edge.word == ""


def test_equal_bounds_and_chance(runs: tuple[Path, Path]) -> None:
    """Two models get new noise, one of them is also better, one has the same numbers at another commit."""
    for name, shift in (("better", 0.1), ("noisy", 0.0)):
        save(runs[0], name, noise=1)
        save(runs[1], name, shift, noise=2)
    save(runs[0], "kept")
    save(runs[1], "kept", commit="bbbb")
    words = {model.changes[0].label: model.word for model in compare(runs).models}
    assert words == {"better": "lower", "kept": "same", "noisy": ""}
    first, second, *_ = change_tables.sentences(compare(runs))
    assert first == (
        "3 models and data sets compared: 1 with a lower NLL, 1 with no change that is clear, 1 with the same NLL "
        "(95 %, Holm over all 3)."
    )
    assert second.startswith("Same: ")


def test_what_differs(runs: tuple[Path, Path]) -> None:
    save(runs[0], "flow", config={"layers": 4, "spline": {"bins": 8}})
    more = {"config": {"layers": 8, "spline": {"bins": 8}}, "budget": "30s", "versions": {"torch": "2.13", "pyro": "1"}}
    save(runs[1], "flow", noise=1, parameters=200, **more)
    save(runs[0], "vae")
    save(runs[1], "vae", noise=1, versions={"torch": "2.13"})
    found = {change.label: [*differing(change)] for change in compare(runs).changes}
    assert found["flow"] == [
        ("budget", "60s", "30s"),
        ("parameters", "100", "200"),
        ("config.layers", "4", "8"),
        ("versions.torch", "2.12", "2.13"),
        ("versions.pyro", "", "1"),
    ]
    assert found["vae"] == [("versions.torch", "2.12", "2.13")]
    table = change_tables.settings(compare(runs))
    assert table is not None
    cells = {row.cells[0]: row.cells[1:] for row in table.rows}
    assert cells["versions.torch"] == ("2.12", "2.13", "2 of 2")
    assert cells["versions.pyro"] == ("-", "1", "1 of 2")
    rows = {row["model"]: row for row in report.view_rows(runs, "changes")}
    assert rows["flow"]["differs"]["config.layers"] == ["4", "8"]
    assert (rows["flow"]["parameters_before"], rows["flow"]["parameters_after"]) == (100, 200)
    shown = change_tables.table(compare(runs))
    assert shown is not None
    assert "100 -> 200" in shown.rows[0].cells


def test_a_copy_is_not_another_seed(runs: tuple[Path, Path]) -> None:
    save(runs[0], "flow")
    shutil.copytree(runs[0], runs[1])
    save(runs[1], "flow", 0.1, seed=1)
    (group,) = collect(runs)
    (standing,) = group.standings
    assert [entry.record.seed for entry in standing.entries] == [0, 1]
    assert standing.label == "flow"
    assert len(report.rows(runs)) == 2
    found = compare(runs)
    assert {change.seed: change.outcome for change in found.changes} == {0: "copy", 1: "only_after"}
    said = change_tables.sentences(found)
    assert said == ["1 cell is the same record in both runs, a copy: counted once.", "1 cell is only in after."]
    assert found.models == ()


def test_another_result_of_a_cell_is_not_another_seed(runs: tuple[Path, Path]) -> None:
    """And every seed of that model is told apart by its run, so that no mean is over both."""
    for seed in (0, 1):
        save(runs[0], "flow", noise=seed, seed=seed)
    for seed in (1, 2):
        save(runs[1], "flow", 0.1, noise=10 + seed, seed=seed)
    save(runs[1], "vae", seed=0)
    (group,) = collect(runs)
    seeds = {standing.label: [entry.record.seed for entry in standing.entries] for standing in group.standings}
    assert seeds == {"flow (before)": [0, 1], "flow (after)": [1, 2], "vae": [0]}
    text = report.render(runs, "html")
    assert "flow (before)" in text
    assert "(before)" not in text[text.index("To run it again") : text.index("<dl>")]
    commands = [line for line in report.render(runs, "md").splitlines() if "genzoo bench -m" in line]
    assert len(commands) == 2
    assert not any("before" in command for command in commands)


def test_runs_that_share_no_seed_are_merged(runs: tuple[Path, Path]) -> None:
    save(runs[0], "flow", noise=0)
    save(runs[1], "flow", noise=1, seed=1)
    (group,) = collect(runs)
    assert [standing.label for standing in group.standings] == ["flow"]
    assert len(group.standings[0].entries) == 2
    assert comparisons(runs) == []
    assert "What changed" not in report.render(runs, "html") + report.render(runs, "md")


def test_another_protocol_stands_apart(runs: tuple[Path, Path]) -> None:
    save(runs[0], "flow")
    save(runs[1], "flow", 0.5, protocol=PROTOCOL | {"test_hash": "ef"})
    save(runs[0], "vae", noise=1)
    save(runs[1], "vae", noise=2)
    groups = collect(runs)
    assert len(groups) == 2
    found = compare(runs)
    assert {change.label: change.outcome for change in found.changes} == {"flow": "other_protocol", "vae": "compared"}
    assert "flow on d, seed 0: not compared, another protocol (test_hash differs)." in change_tables.sentences(found)
    row = next(row for row in report.view_rows(runs, "changes") if row["model"] == "flow")
    assert (row["outcome"], row["change"], row["nll_is"]) == ("other_protocol", None, None)
    # a run on the validation split is another protocol too
    save(runs[1], "flow", 0.5, split="valid")
    assert any("(another split differs)" in said for said in change_tables.sentences(compare(runs)))


def test_cells_without_a_number_are_named(runs: tuple[Path, Path]) -> None:
    save(runs[0], "flow", status="failed", protocol={}, nll=None, error={"type": "E", "message": "m", "traceback": ""})
    save(runs[1], "flow")
    save(runs[0], "vae")
    lower = save(runs[1], "vae", nll=None, infinite=1)
    lower[3] = -np.inf
    write_arrays(runs[1] / "cells" / "vae-0" / "arrays.npz", {"index": np.arange(N), "lower": lower})
    said = change_tables.sentences(compare(runs))
    assert said == [
        "flow on d, seed 0: not compared: failed before, ok after.",
        "vae on d, seed 0: not compared: ok before, an infinite NLL after.",
    ]
    assert change_tables.settings(compare(runs)) is None  # what failed has few on record


def test_every_later_run_is_held_against_the_first(tmp_path: Path) -> None:
    paths = [tmp_path / name / "run" for name in "abc"]
    for number, path in enumerate(paths):
        save(path, "flow", noise=number)
    save(tmp_path / "d", "other")
    found = comparisons([*paths, tmp_path / "d", paths[0]])
    assert [(each.before, each.after) for each in found] == [(str(paths[0]), str(path)) for path in paths[1:]]
    assert names_of([tmp_path / "d", paths[0]]) == {tmp_path / "d": "d", paths[0]: "run"}


@pytest.mark.parametrize("form", report.FORMATS)
def test_every_format_tells_and_no_name_injects(form: str, tmp_path: Path) -> None:
    runs = tmp_path / "be\x1b[31mfore", tmp_path / "after<b>"
    lower = []
    for number, path in enumerate(runs):
        record = {"label": f"flow[{EVIL}]", "dataset": f"d{EVIL}", "config": {EVIL: f"{number}{EVIL}"}, "commit": EVIL}
        lower.append(save(path, "flow", 0.1 * number, noise=number, **record))
    text = report.render(runs, form, "changes")
    assert "\x1b" not in text
    assert f"{(lower[1] - lower[0]).mean():.3f}" in text
    if form == "html":
        assert "<script>alert" not in text
        assert "after<b>" not in text
        assert '<section id="changes-1"' in text
        assert "Settings that differ" in text
    elif form == "json":
        (row,) = json.loads(text)
        assert (row["nll_is"], row["outcome"]) == ("lower", "compared")
    elif form != "csv":
        assert "<script>" not in text
        assert "What changed from" in text


def test_what_cannot_be_compared_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    save(runs[0], "flow")
    save(runs[1], "vae")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for given, error, words in (
        ([runs[0]], UsageError, "give a second folder"),
        ([runs[0], runs[0] / ".." / "before"], UsageError, "give a second folder"),
        (runs, UsageError, "nothing to compare: .*before and .*after share no cell"),
        ([runs[0], tmp_path / "empty"], RunError, "no cells in .*empty"),
        ([runs[0], tmp_path / "file"], RunError, "no cells in .*file"),
        ([runs[0], tmp_path / "nowhere"], RunError, "no cells in .*nowhere"),
    ):
        for form in ("json", "md", "html"):
            with pytest.raises(error, match=words):
                report.render(given, form, "changes")
    with pytest.raises(RunError, match="no cells in"):
        report.render([runs[0], tmp_path / "nowhere"], "html")
    result = CliRunner().invoke(command, [str(runs[0]), str(tmp_path / "empty")])
    assert isinstance(result.exception, RunError)
    assert not (runs[0] / "report.html").exists()


def test_a_report_of_two_runs_has_the_section(runs: tuple[Path, Path]) -> None:
    save(runs[0], "flow")
    save(runs[1], "flow", 0.1, noise=1)
    result = CliRunner().invoke(command, [*map(str, runs), "--format", "md"], catch_exceptions=False)
    assert result.output.startswith("## What changed from before to after\n")
    assert "## d" in result.output
    result = CliRunner().invoke(command, [*map(str, runs)], catch_exceptions=False)
    assert "What changed from before to after" in Path(result.output.strip()).read_text()
    alone = CliRunner().invoke(command, [str(runs[0]), "--format", "md"], catch_exceptions=False)
    assert "What changed" not in alone.output


def test_cell_folders_are_runs_too(runs: tuple[Path, Path]) -> None:
    save(runs[0], "flow")
    save(runs[1], "flow", 0.1, noise=1)
    cells = [find_cells(run)[0].path for run in runs]
    (found,) = comparisons(cells)
    assert len(found.models) == 1
    (group,) = collect(cells)
    assert {standing.label for standing in group.standings} == {"flow (before)", "flow (after)"}
