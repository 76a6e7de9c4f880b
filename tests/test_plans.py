"""The plans under `benchmarks/`: each can be read, and what it names is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from genzoo.building import Blueprint
from genzoo.config import Budget, Reference
from genzoo.errors import CapabilityError
from genzoo.plan import ALL, Plan
from genzoo.registry import load_registry
from genzoo.spec import DataSpec

FOLDER = Path(__file__).parent.parent / "benchmarks"
PLANS = sorted(path.stem for path in FOLDER.glob("*.toml"))
SPACES = {"mnist": DataSpec((1, 28, 28), 256), "digits": DataSpec((1, 8, 8), 17)}
BINARY = DataSpec((1, 28, 28), 2)


def space(dataset: str) -> DataSpec:
    return BINARY if dataset.startswith("mnist_binary") else SPACES.get(dataset, DataSpec((2,)))


def read(name: str) -> Plan:
    return Plan.read(FOLDER / f"{name}.toml")


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_names_what_is_there(name: str) -> None:
    """Models with their options, at least one data set that each takes, and data sets."""
    plan, registry = read(name), load_registry()
    datasets = [Reference.parse(text, "data set") for text in plan.datasets]
    for dataset in datasets:
        assert dataset.name in registry.datasets
    for text in plan.models:
        if text == ALL:
            continue
        model, taken = Reference.parse(text), 0
        for dataset in datasets:
            try:
                Blueprint.of(registry, model.name, model.options, space(dataset.name))
                taken += 1
            except CapabilityError:  # an unknown option would be another error
                pass
        assert taken, text
    text = (FOLDER / f"{name}.toml").read_text()
    assert f"genzoo bench benchmarks/{name}.toml" in text or f"make {name}" in text  # how it is run


def models(plan: Plan) -> list[str]:
    return [Reference.parse(model).name for model in plan.models]


def test_the_plans_of_mnist_are_one_bench_at_several_strengths() -> None:
    smoke, cpu, gpu = (read(f"mnist-{name}") for name in ("smoke", "cpu", "gpu"))
    binary = [read(f"mnist-{name}-binary") for name in ("cpu", "gpu")]
    assert models(smoke) == models(cpu) == models(gpu) == ["flow", "hvae", "ddpm"]
    assert cpu.datasets == gpu.datasets == ("mnist",)
    assert gpu.models == cpu.models
    for plan in binary:
        assert (models(plan), plan.datasets) == (["hvae"], ("mnist_binary",))
    assert smoke.datasets == ("mnist", "mnist_binary")
    strong = [cpu, gpu, *binary]
    assert {plan.evaluation.points for plan in strong} == {10_000}
    assert [(str(Budget.parse(plan.budget)), plan.device) for plan in strong] == [
        ("1800s", "cpu"),
        ("480s", "cuda"),
    ] * 2
    assert binary[1].evaluation.num_samples == 5000
    assert Budget.parse(smoke.budget).unit == "steps"  # seconds may hold no step on a busy machine
    assert 0 < smoke.evaluation.max_seconds <= 3
