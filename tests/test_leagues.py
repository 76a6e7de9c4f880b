"""Leagues of equal effort and the frontier, on records whose curves and costs are written down by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from genzoo import report
from genzoo.cli.report import command
from genzoo.errors import UsageError
from genzoo.records import RunRecord, write_arrays
from genzoo.report import frontier, leagues
from genzoo.report.collect import Group, collect

N = 50


def save(
    run: Path, model: str, nll: float, curve: Sequence[tuple[int, float, float]], seed: int = 0, **more: Any
) -> None:
    """A cell with that NLL and a validation curve of (step, seconds, NLL)."""
    lower = -nll + np.random.default_rng(0).standard_normal(N)
    steps, seconds, nlls = np.array(curve).T
    values: dict[str, Any] = {
        "label": model,
        "kind": "exact",
        "nll": -float(lower.mean()),
        "stderr": 0.1,
        "stderr_data": 0.1,
        "stderr_mc": 0.0,
        "evaluation": {"estimator": "exact", "points": N},
        "steps": int(steps[-1]),
        "training": {"total_steps": int(steps[-1])},
        "seconds_train": float(seconds[-1]),
        "event_shape": [3],
    }
    record = RunRecord(
        cell=f"{model}-{seed}", status="ok", model=model.partition("[")[0], dataset="d", seed=seed, **(values | more)
    )
    folder = run / "cells" / record.cell
    record.save(folder)
    arrays = {"index": np.arange(N), "lower": lower}
    write_arrays(folder / "arrays.npz", arrays | {"valid_step": steps, "valid_seconds": seconds, "valid_nll": nlls})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fast: many cheap steps. slow: few dear ones, better at once. fitted: converged after one step."""
    run = tmp_path_factory.mktemp("run")
    fast = [(100, 1.0, 9.0), (200, 2.0, 5.0), (300, 3.0, 6.0), (1000, 10.0, 2.0)]
    save(run, "fast", 2.0, fast, parameters=1000, samples=10, seconds_sample=1.0)
    slow = [(50, 5.0, 7.0), (150, 15.0, 4.0), (250, 25.0, 3.0)]
    save(run, "slow", 3.0, slow, parameters=1023, samples=10, seconds_sample=0.1)
    save(
        run,
        "fitted",
        8.0,
        [(1, 0.5, 8.0)],
        training={"total_steps": 1000},
        parameters=1024,
        samples=1000,
        seconds_sample=0.1,
    )
    save(run, "guess", 1.0, fast, kind="estimate", parameters=10)
    return run


@pytest.fixture(scope="module")
def group(run: Path) -> Group:
    return collect([run])[0]


def ranks(group: Group, match: leagues.Match) -> list[tuple[str, str, int | None, float | None, float | None]]:
    return [(each.league, each.standing.label, each.rank, each.nll, each.at) for each in leagues.members(group, match)]


def test_equal_steps(group: Group) -> None:
    """slow was run to 250 steps: fast is judged by its best at or before, 5.0 at step 200, not by 2.0 at step 1,000,
    which is beyond; fitted keeps its bound."""
    assert ranks(group, "steps") == [
        ("250 steps", "slow", 1, 3.0, 250.0),
        ("250 steps", "fast", 2, 5.0, 200.0),
        ("250 steps", "fitted", 3, 8.0, 1.0),
    ]


def test_equal_seconds(group: Group) -> None:
    """fast was run to 10 seconds, when slow was at 7.0: the other way about."""
    assert ranks(group, "seconds") == [
        ("10.0 seconds", "fast", 1, 2.0, 10.0),
        ("10.0 seconds", "slow", 2, 7.0, 5.0),
        ("10.0 seconds", "fitted", 3, 8.0, 0.5),
    ]


def test_equal_parameters(group: Group) -> None:
    assert [each[:3] for each in ranks(group, "parameters")] == [
        ("512 to 1,023", "fast", 1),
        ("512 to 1,023", "slow", 2),
        ("1,024 to 2,047", "fitted", 1),
    ]


def test_what_was_not_validated_by_then_has_no_rank(tmp_path: Path) -> None:
    save(tmp_path, "short", 1.0, [(10, 1.0, 4.0)])
    save(tmp_path, "late", 1.5, [(20, 0.5, 3.0), (40, 2.0, 2.0)])
    assert ranks(collect([tmp_path])[0], "steps") == [
        ("10 steps", "short", 1, 4.0, 10.0),
        ("10 steps", "late", None, None, None),
    ]
    text = report.render([tmp_path], "md", "steps")
    assert "| 10 steps | – | late | – | – |" in text


def test_seeds_are_averaged(tmp_path: Path) -> None:
    save(tmp_path, "a", 4.0, [(10, 1.0, 4.0), (20, 2.0, 5.0)], seed=0)
    save(tmp_path, "a", 6.0, [(10, 1.0, 7.0), (20, 2.0, 6.0)], seed=1)
    save(tmp_path, "b", 7.0, [(20, 1.0, 7.0)])
    first = leagues.members(collect([tmp_path])[0], "steps")[0]
    assert (first.nll, first.stderr) == (5.0, pytest.approx(1.0))  # s / sqrt(2) of 4 and 6
    assert first.at == 15.0  # reached at 10 and at 20


def test_one_model_makes_no_league(tmp_path: Path) -> None:
    save(tmp_path, "a", 1.0, [(10, 1.0, 1.0)])
    group = collect([tmp_path])[0]
    assert leagues.members(group, "seconds") == []
    assert frontier.members(group) == []
    assert frontier.drawings(group, {"a": 0}) == []


def test_the_frontier(group: Group) -> None:
    """By training: fitted is cheapest, fast is better and dearer, slow is dearer and worse than fast. By sampling:
    fitted 0.0001, slow 0.01, fast 0.1 s each, in order of the bound: all. By parameters fast is cheapest and best."""
    found = {
        each.standing.label: {name: on for name, (_, on) in each.costs.items()} for each in frontier.members(group)
    }
    assert found == {
        "fast": {"train s": True, "s a sample": True, "parameters": True},
        "slow": {"train s": False, "s a sample": True, "parameters": False},
        "fitted": {"train s": True, "s a sample": True, "parameters": False},
    }
    rows = {row.cells[0]: row.cells[2:] for row in (frontier.table(group) or pytest.fail("no table")).rows}
    assert rows["slow"] == ("25.0", "0.0100 *", "1,023")


def test_no_point_dominates_the_frontier() -> None:
    points = [*map(tuple, np.random.default_rng(0).integers(0, 9, (60, 2)).tolist())]
    on = frontier.undominated(points)
    for (x, y), kept in zip(points, on, strict=True):
        better = any(a <= x and b <= y and (a < x or b < y) for a, b in points)
        assert kept is not better


def test_the_drawing(group: Group) -> None:
    charts = frontier.drawings(group, {"fast": 0, "slow": 1, "fitted": 2, "guess": 3})
    assert [chart.x_label for chart in charts] == [*frontier.COSTS]
    spots = {spot.name: spot for spot in charts[0].spots}
    assert spots["fitted"].x < spots["fast"].x < spots["slow"].x
    assert spots["fast"].y > spots["slow"].y > spots["fitted"].y  # downwards is better
    assert [spots[name].on for name in ("fast", "slow", "fitted")] == [True, False, True]
    corners = [tuple(map(float, place.split(","))) for place in charts[0].stairs.split()]
    assert corners[1] == (spots["fitted"].x, spots["fitted"].y)
    assert corners[3] == (spots["fast"].x, spots["fast"].y)
    assert corners[2] == (spots["fast"].x, spots["fitted"].y)  # a stair, no slope: between two models there is none


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5, 2000, ["1", "10", "100", "1,000"]),
        (20, 900, ["30", "100", "300"]),
        (400, 700, ["400", "500", "600", "700"]),
        (0.0002, 0.5, ["0.001", "0.01", "0.1"]),
    ],
)
def test_log_ticks(low: float, high: float, expected: list[str]) -> None:
    assert [text for _, text in frontier.log_ticks(low, high)] == expected


def test_views(run: Path) -> None:
    rows = json.loads(report.render([run], "json", "steps"))
    assert [(row["model"], row["rank"]) for row in rows] == [("slow", 1), ("fast", 2), ("fitted", 3)]
    pairs = json.loads(report.render([run], "json", "pairs"))
    assert [(row["better"], row["worse"], row["family"]) for row in pairs] == [
        ("fast", "slow", 3),
        ("fast", "fitted", 3),
        ("slow", "fitted", 3),
    ]
    assert all(row["low"] <= row["nats"] <= row["high"] for row in pairs)
    assert report.render([run], "csv", "frontier").splitlines()[0] == "dataset,model,nll,cost,value,frontier"
    markdown = report.render([run], "md")
    assert "### Pairs of models" in markdown
    assert "### Bound and cost" in markdown
    assert "### Leagues" not in markdown
    assert r"\begin{tabular}" in report.render([run], "tex", "parameters")
    page = report.render([run], "html", "seconds")
    assert "<summary>Leagues of equal seconds</summary>" in page
    assert page.count('class="spot ') == 3 * 3
    assert "Leagues" not in report.render([run], "html")


def test_the_command(run: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(command, [str(run), "--format", "md", "--match", "steps"], standalone_mode=False)
    assert "| 250 steps | 1 | slow | = 3.0000 | 250 |" in made.output
    made = runner.invoke(command, [str(run), "--format", "csv", "--view", "pairs"], standalone_mode=False)
    assert made.output.startswith("dataset,better,better_rank,worse")
    for bad, words in (
        (["--view", "pairs", "--match", "steps"], "view of its own"),
        (["--match", "steps"], "pdf draws"),
    ):
        form = ["--format", "pdf"] if "--view" not in bad else []
        failed = runner.invoke(command, [str(run), *form, *bad], standalone_mode=False)
        assert isinstance(failed.exception, UsageError)
        assert words in str(failed.exception)


def test_no_league_says_why(tmp_path: Path) -> None:
    """A learner of few large steps, as EM is, beside one of many small ones: nothing to compare by steps, and why."""
    save(tmp_path, "em", 2.0, [(2, 6.0, 3.0), (20, 60.0, 2.0)], training={"total_steps": 20})
    save(tmp_path, "slow", 3.0, [(2000, 6.0, 4.0), (20000, 60.0, 3.0)], training={"total_steps": 20000})
    text = report.render([tmp_path], "md", "steps")
    assert "slow: no bound within 20 steps, the most that em was run to; its first is at 2,000." in text
    assert "em: no bound" not in text
    assert "no bound within" not in report.render([tmp_path], "md", "seconds")
    for path in tmp_path.glob("cells/em-0/*"):
        path.unlink()
    alone = "No leagues of equal steps: they take two ranked models or more; ranked here: 1."
    for form in ("md", "html"):
        assert alone in report.render([tmp_path], form, "steps")
    save(tmp_path, "other", 2.0, [(2, 6.0, 3.0)])
    for cell in ("other-0", "slow-0"):
        write_arrays(tmp_path / "cells" / cell / "arrays.npz", {"index": np.arange(N), "lower": np.zeros(N)})
    text = report.render([tmp_path], "md", "steps")
    assert "No leagues of equal steps: no ranked model has what is matched on record." in text
