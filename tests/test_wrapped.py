"""Other people's models as plugins of under sixty lines: they pass the kit and stand in one bench with ours."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import Executor
from pathlib import Path

import pytest

from genzoo import bench, report
from genzoo.plan import EvaluationPlan, Plan
from genzoo.registry import load_registry
from genzoo.testing import kit

FOLDER = Path(__file__).parent / "wrapped"
MODELS = {"zuko_flow": "exact", "sklearn_mixture": "exact", "vdm": "lower_bound"}


@pytest.mark.parametrize("name", MODELS)
def test_it_is_short_and_passes_the_kit(name: str) -> None:
    path = FOLDER / f"{name}.py"
    formatted = [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "100", str(path)]
    assert subprocess.run(formatted, capture_output=True).returncode == 0
    assert len(path.read_text().splitlines()) < 60
    receipt = kit.run(kit.subject_of(load_registry((str(path),)), name))
    assert receipt.ok, [result.message for result in receipt.results if result.outcome == "failed"]


def test_they_enter_one_bench_with_ours(tmp_path: Path, inline: Executor) -> None:
    plugins = tuple(str(FOLDER / f"{name}.py") for name in MODELS)
    ours = ("vae[hidden=[16]]", "flow[layers=2,hidden=8]", "ddpm[steps=8,width=16]")
    evaluation = EvaluationPlan(points=100, num_samples=4)
    plan = Plan(models=(*MODELS, *ours), datasets=("moons[points=2000]",), budget="20steps", evaluation=evaluation)
    states = bench.run(plan, tmp_path / "run", plugins=plugins, executor=inline)
    assert {state.status for state in states} == {"ok"}
    rows = json.loads(report.render([tmp_path / "run"], "json"))
    assert {row["model"]: row["kind"] for row in rows if row["model"] in MODELS} == MODELS
    assert len(rows) == 6
