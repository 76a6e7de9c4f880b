"""Plans: TOML there and back, stable hashes, and words for what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genzoo.errors import ConfigError, PlanError, UsageError
from genzoo.plan import EvaluationPlan, Plan

ROOT = Path(__file__).parent.parent

FULL = Plan(
    models=("flow[layers=8]", 'm[a="x, \\"y\\" \U0001f600"]'),
    datasets=("moons", "my data/ä.npz[levels=17]"),
    seeds=(0, 5),
    budget="1234567steps",
    threads=2,
    device="cpu",
    training={"clip": None, "betas": [0.9, 0.99], "learning_rate": 1e-4},
    evaluation=EvaluationPlan(estimator="iwae", num_samples=50, until_se=0.01, points=100, max_seconds=0),
    test=False,
)


@pytest.mark.parametrize("plan", [Plan(models=("flow",)), FULL], ids=["defaults", "everything"])
def test_a_plan_is_read_back_from_its_toml(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(plan.to_toml(), encoding="utf-8")
    assert Plan.read(path) == plan
    assert Plan.read(path).key == plan.key


def test_a_later_key_changes_hashes_once_it_is_set() -> None:
    plan = Plan(models=("flow",), datasets=("moons",))
    other = plan.model_copy(update={"evaluation": EvaluationPlan(samples=500)})
    assert plan.key != other.key
    assert next(plan.cells(Path("runs"))).name != next(other.cells(Path("runs"))).name


def test_hashes_are_stable() -> None:
    """Old runs are found by these names; a change here orphans them, so it must be meant."""
    plan = Plan(models=("flow[layers=8]",), datasets=("moons",), budget="20steps")
    assert plan.key == "130dccdc0f"
    (cell,) = plan.cells(Path("run"))
    assert cell.folder == Path("run/cells/flow-moons-0-8de3071793")
    (other,) = plan.cells(Path("run"), data_keys={"moons": "another protocol"})
    assert other.folder != cell.folder  # a data set that changed under its name makes new cells


@pytest.mark.parametrize(
    "change",
    [
        {"models": ("flow[layers=9]",)},
        {"datasets": ("rings",)},
        {"seeds": (1,)},
        {"budget": "21steps"},
        {"threads": 2},
        {"device": "cpu"},
        {"training": {"ema": 0.5}},
        {"evaluation": EvaluationPlan(points=50)},
        {"test": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_name_of_a_cell_covers_what_changes_its_number(change: dict[str, Any]) -> None:
    base: dict[str, Any] = {"models": ("flow[layers=8]",), "datasets": ("moons",), "budget": "20steps"}
    (before,), (after,) = Plan(**base).cells(Path("run")), Plan(**base | change).cells(Path("run"))
    assert before.name != after.name
    assert before.plan.key != after.plan.key


def test_spelling_does_not_change_a_cell() -> None:
    spelt = [Plan(models=(text,)) for text in ("flow[layers=8]", " flow[ layers = 8 ]")]
    assert len({next(plan.cells(Path("run"))).name for plan in spelt}) == 1


def test_a_number_of_seeds_counts_from_zero() -> None:
    assert Plan.parse({"models": ["flow"], "seeds": 3}, "x").seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("models = [", PlanError, r"plan .*plan.toml is not valid TOML"),
        ("model = ['flow']", PlanError, "unknown config key of plan .* 'model': did you mean models"),
        ("models = ['flow']\nseeds = 'x'", PlanError, r"plan.toml: seeds='x'"),
        ("models = []", PlanError, r"models=\[\]"),
        ("models = ['flow']\nseeds = true", PlanError, "seeds=True"),
        ("models = ['flow', 'flow']", PlanError, "flow stands twice"),
        ("models = ['flow']\nseeds = [1, 1]", PlanError, "1 stands twice"),
        ("models = ['flow']\nbudget = 'soon'", PlanError, "plan.toml: 'soon' is not a budget"),
        ("models = ['flow']\ndevice = 'gpu'", PlanError, "device='gpu'"),
        ("models = ['flow']\n[training]\nlr = 1", PlanError, r"plan.toml: unknown config key of \[training\] 'lr'"),
        ("models = ['flow']\n[training]\nclip = 'x'", PlanError, r"config of \[training\]: clip='x'"),
        (
            "models = ['flow']\n[evaluation]\nnum_sample = 1",
            PlanError,
            r"key of \[evaluation\] 'num_sample': did you mean num_samples",
        ),
        ("models = ['flow']\n[evaluation]\npoints = 1", PlanError, r"config of \[evaluation\]: points=1"),
        ("models = ['flow[x']", PlanError, "expected name or name"),
    ],
)
def test_what_is_no_plan(text: str, error: type[UsageError], words: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    with pytest.raises(error, match=words):
        Plan.read(path)


def test_a_missing_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"cannot read plan .*none.toml: No such file"):
        Plan.read(tmp_path / "none.toml")


def test_plans_from_python_are_held_to_the_same() -> None:
    with pytest.raises(ConfigError, match="models"):
        Plan.parse({"models": []}, "bench")


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.toml")), ids=lambda path: path.name)
def test_the_committed_plans_are_plans(path: Path) -> None:
    assert Plan.read(path).models
