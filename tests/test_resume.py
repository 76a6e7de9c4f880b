"""Resuming: every model goes on bit for bit, and a checkpoint that is broken or of another training is seen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genzoo import training
from genzoo.building import Blueprint
from genzoo.config import Budget, Reference, TrainSettings
from genzoo.data import from_arrays
from genzoo.data.splits import DynamicBinarySplit
from genzoo.errors import BudgetError, CapabilityError, NumericsError, RunError
from genzoo.interface import Learner
from genzoo.registry import load_registry
from genzoo.spec import Dataset
from genzoo.state import load_state, save_state
from genzoo.training import Trainer

SMALL = {
    "flow": "layers=1,hidden=8,bins=4",
    "vae": "hidden=[8],latents=2",
    "ddpm": "steps=8,width=16,blocks=1",
    "ddim": "steps=8,width=16,blocks=1",
    "d3pm": "steps=8,width=16,blocks=1",
    "score_sde": "steps=8,width=16,blocks=1",
    "flow_matching": "width=16,blocks=1",
    "pyro_vae": "hidden=[8],latent=2",
    "pyro_mixture": "components=2",
    "hvae": "width=8,top=2,coarse=1",
    "gmm": "components=2",
    "bernoulli_mixture": "components=2",
    "categorical_mixture": "components=2",
    "nade": "hidden=8",
    "made": "hidden=[16],orders=2",
    "pixelcnn": "width=8,depth=1,kernel=3",
    "transformer": "width=8,depth=1,heads=2",
    "rbm": "hidden=20,distributions=10,chains=20,method=tempering,temperatures=3",
    "dbn": "hidden=[12,20],distributions=10,chains=20",
    "ebm": "width=8,blocks=1,grid=60,train_grid=16,distributions=10,chains=20",
    "gan": "width=8,latents=3,distributions=10",
    "wgan": "width=8,latents=3,distributions=10",
    "autoencoder": "hidden=[8],components=4",
}
"""Options that keep a model small; one that is not here is built with its defaults."""
ZOO = sorted(load_registry().models)
DECLINE = {
    "points": ("d3pm", "hvae", "pixelcnn", "rbm", "dbn", "bernoulli_mixture", "categorical_mixture"),
    "plane": ("d3pm", "hvae", "pixelcnn", "rbm", "dbn", "bernoulli_mixture", "categorical_mixture"),
    "dynamic": ("flow_matching",),
}
"""Which models take no such data; each takes one of the three."""


class Killed(Exception):
    """Not a GenzooError: whatever ends a training, it goes on."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def datasets() -> dict[str, Dataset]:
    """Real points, and images that are binarised anew for each batch, from the generator that the loop owns; points of
    the plane, for models that take no others."""
    codes = np.random.default_rng(3).integers(0, 2, (160, 1, 4, 4)).astype(np.uint8)
    fixed = from_arrays(codes)
    grey = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (128, 1, 4, 4)).astype(np.uint8))
    return {
        "points": from_arrays(np.random.default_rng(0).standard_normal((160, 4)).astype(np.float32)),
        "plane": from_arrays(np.random.default_rng(1).standard_normal((160, 2)).astype(np.float32)),
        "dynamic": replace(fixed, train=DynamicBinarySplit(grey)),
    }


def make(
    model: str, data: Dataset, folder: Path | None, budget: str = "12steps", steps: int | None = None, **settings: Any
) -> Trainer:
    """A trainer of a new model with the seed that all here have."""
    reference = Reference.parse(model)
    registry = load_registry((str(Path(__file__).parent / "fixtures" / "plugins" / "harness_models.py"),))
    built = Blueprint.of(registry, reference.name, reference.options, data.spec).build(1)
    wanted = {**built.default_training().model_dump(), "batch_size": 48, "seed": 1, **settings}
    learner = built.learner(TrainSettings.parse(wanted, "x"))
    return Trainer(learner, data, Budget.parse(budget), folder=folder, total_steps=steps)


def kill_at(learner: Learner, step: int) -> None:
    """Let the learner's `step`-th step from now fail, when it has already changed the model."""
    original, left = learner.step, [step]

    def dying(*args: Any) -> dict[str, Tensor]:
        result = original(*args)
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return result

    learner.step = dying  # type: ignore[method-assign]


def run(trainer: Trainer) -> dict[str, Tensor]:
    list(trainer.run())
    return {name: tensor.clone() for name, tensor in trainer.finish().state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def lasting(trainer: Trainer) -> list[tuple[int, int, float, float | None]]:
    return [(event.step, event.total, event.loss, event.nll) for event in trainer.curve]


# points of the plane for those that take no others
@pytest.mark.parametrize(
    ("model", "data"),
    [(model, data) for model in ZOO for data in ("points", "dynamic")] + [("ebm", "plane")],
)
def test_every_model_goes_on_bit_for_bit(model: str, data: str, datasets: dict[str, Dataset], tmp_path: Path) -> None:
    """Killed in the first step, between two checkpoints and in the last step; equal weights, curve and generators."""
    text = f"{model}[{SMALL[model]}]" if model in SMALL else model
    if model in DECLINE[data]:
        with pytest.raises(CapabilityError):
            make(text, datasets[data], None)
        return
    whole = make(text, datasets[data], None)
    expected = run(whole)
    kills = (1, 8, 3) if whole.step > 1 else (1,)
    for kill in kills:
        dying = make(text, datasets[data], tmp_path)
        kill_at(dying.learner, kill)
        with pytest.raises(Killed):
            run(dying)
        torch.manual_seed(kill)  # another process: another global generator
    resumed = make(text, datasets[data], tmp_path)
    assert equal(run(resumed), expected)
    assert lasting(resumed) == lasting(whole)
    assert [torch.equal(mine, its) for mine, its in zip(resumed._rng, whole._rng, strict=True)] == [True]
    assert torch.equal(resumed._noise.get_state(), whole._noise.get_state())


def test_a_checkpoint_between_two_events_goes_on_bit_for_bit(
    datasets: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that is due by the clock falls inside a mean of losses, and leaves no trace in the curve."""
    whole = make("brittle", datasets["points"], None, "1000steps")
    expected = run(whole)
    assert [event.step for event in whole.curve][:3] == [5, 10, 15]
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    dying = make("brittle", datasets["points"], tmp_path, "1000steps")
    kill_at(dying.learner, 9)
    with pytest.raises(Killed):
        run(dying)
    assert max(path.name for path in tmp_path.iterdir()) == "checkpoint-000000008.safetensors"
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 60.0)
    resumed = make("brittle", datasets["points"], tmp_path, "1000steps")
    assert equal(run(resumed), expected)
    assert lasting(resumed) == lasting(whole)


@pytest.mark.parametrize("budget", ["3epochs", "0.3s"])
def test_epochs_and_seconds_go_on_as_well(budget: str, datasets: dict[str, Dataset], tmp_path: Path) -> None:
    """Of a budget in seconds the number of steps is stored before the first step, and honoured."""
    dying = make("brittle", datasets["points"], tmp_path, budget)
    original = dying._plan

    def planned() -> int:
        total = original()
        kill_at(dying.learner, 1)
        return total

    dying._plan = planned  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run(dying)
    resumed = make("brittle", datasets["points"], tmp_path, budget)
    weights = run(resumed)
    assert resumed.total == dying.total == resumed.step
    replay = make("brittle", datasets["points"], None, budget, steps=dying.total)
    assert equal(run(replay), weights)
    assert lasting(replay) == lasting(resumed)


def test_a_checkpoint_holds_all_there_is(datasets: dict[str, Dataset], tmp_path: Path) -> None:
    list(make("flow[layers=1,hidden=8,bins=4]", datasets["points"], tmp_path).run())
    newest = max(tmp_path.iterdir())
    state = load_state(newest)
    assert state.keys() == {
        *("of", "learner", "total", "step", "seconds", "converged", "rng", "noise", "best", "curve", "loss"),
    }
    assert state["learner"].keys() == {"model", "average", "optimizer", "steps"}
    assert state["of"]["settings"]["seed"] == 1


@pytest.mark.parametrize("missing", ["rng", "noise", "optimizer", "average", "steps"])
def test_what_a_checkpoint_holds_is_needed(missing: str, datasets: dict[str, Dataset], tmp_path: Path) -> None:
    """The twin: with one of its parts as at the beginning, the resumed training is another."""
    model, data = "vae[hidden=[8],latents=2]", datasets["dynamic"]
    expected = run(make(model, data, None))
    dying = make(model, data, tmp_path)
    kill_at(dying.learner, 8)
    with pytest.raises(Killed):
        run(dying)
    path = max(tmp_path.iterdir())
    state, beginning = load_state(path), make(model, data, None)
    if missing == "rng":
        state["rng"] = beginning._rng
    elif missing == "noise":
        state["noise"] = beginning._noise.get_state()
    else:
        state["learner"][missing] = beginning.learner.state_dict()[missing]
    save_state(path, state)
    assert not equal(run(make(model, data, tmp_path)), expected)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "emptied": lambda path: path.write_bytes(b""),
    "flipped": flip,
    "foreign": lambda path: path.write_bytes(b"<html>"),
    "of other shapes": lambda path: save_state(path, _reshaped(load_state(path))),
    "without a part": lambda path: save_state(path, {k: v for k, v in load_state(path).items() if k != "noise"}),
}


def _reshaped(state: dict[str, Any]) -> dict[str, Any]:
    """The last tensor of the model has another shape, so that the first ones are loaded before that is seen."""
    model = state["learner"]["model"]
    model["log_scale"] = torch.zeros(3)
    return state


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_newest_falls_back_to_the_other(
    damage: str, datasets: dict[str, Dataset], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = run(make("brittle", datasets["points"], None))
    dying = make("brittle", datasets["points"], tmp_path)
    kill_at(dying.learner, 8)
    with pytest.raises(Killed):
        run(dying)
    older, newest = sorted(tmp_path.iterdir())
    DAMAGE[damage](newest)
    with caplog.at_level(logging.WARNING):
        resumed = make("brittle", datasets["points"], tmp_path)
        first = next(resumed.run())
    assert newest.name in caplog.text
    assert first.step == int(older.stem.split("-")[1]) + 1
    assert equal(run(make("brittle", datasets["points"], tmp_path)), expected)


def test_when_both_are_broken_the_training_begins_anew(datasets: dict[str, Dataset], tmp_path: Path) -> None:
    expected = run(make("brittle", datasets["points"], None))
    run(make("brittle", datasets["points"], tmp_path))
    for path, damage in zip(sorted(tmp_path.iterdir()), ("of other shapes", "flipped"), strict=True):
        DAMAGE[damage](path)
    assert equal(run(make("brittle", datasets["points"], tmp_path)), expected)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_broken_checkpoint_ahead_does_not_push_out_a_good_one(datasets: dict[str, Dataset], tmp_path: Path) -> None:
    run(make("brittle", datasets["points"], tmp_path))
    flip(max(tmp_path.iterdir()))  # of the last step, 12
    dying = make("brittle", datasets["points"], tmp_path)
    assert next(dying.run()).step == 11
    dying._save()
    assert sorted(load_state(path)["step"] for path in tmp_path.iterdir()) == [10, 11]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": "24steps"}, "with budget 12steps; this one has 24steps"),
        ({"learning_rate": 0.5}, "with settings .*; this one has .*'learning_rate': 0.5"),
        ({"seed": 2}, "with settings .*; this one has .*'seed': 2"),
        ({"steps": 13}, "with total 12; this one has 13"),
    ],
)
def test_the_checkpoints_of_another_training_are_refused(
    change: dict[str, Any], words: str, datasets: dict[str, Dataset], tmp_path: Path
) -> None:
    run(make("brittle", datasets["points"], tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunError, match=rf"checkpoint-000000012.* is a checkpoint of another training, {words}"):
        run(make("brittle", datasets["points"], tmp_path, **change))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_budget_below_one_step_says_why_and_leaves_the_model(datasets: dict[str, Dataset]) -> None:
    trainer = make("brittle", datasets["points"], None, "0.0000001s")
    before = {name: tensor.clone() for name, tensor in trainer.learner.model.state_dict().items()}  # type: ignore[attr-defined]
    with pytest.raises(BudgetError, match=r"a budget of 1e-07s holds no step: one takes .*s here"):
        run(trainer)
    assert equal(trainer.learner.model.state_dict(), before)  # type: ignore[attr-defined]
    assert trainer.step == 0


@pytest.mark.parametrize("model", ZOO)
def test_one_step_is_a_budget(model: str, datasets: dict[str, Dataset]) -> None:
    data = "plane" if model in DECLINE["dynamic"] else "dynamic"
    trainer = make(f"{model}[{SMALL[model]}]" if model in SMALL else model, datasets[data], None, "1step")
    run(trainer)
    assert (trainer.total, trainer.step, len(trainer.curve)) == (1, 1, 1)


def test_a_learner_of_any_kind_may_not_lose_its_numbers(datasets: dict[str, Dataset], tmp_path: Path) -> None:
    """The loop itself looks at the loss, whatever the learner does."""
    trainer = make("brittle", datasets["points"], tmp_path)
    original = trainer.learner.step

    def wrong(batch: Any, progress: float) -> dict[str, Tensor]:
        result = original(batch, progress)
        return {"loss": result["loss"] * (float("nan") if progress > 0.6 else 1.0)}

    trainer.learner.step = wrong  # type: ignore[method-assign]
    with pytest.raises(NumericsError, match="loss is nan in the steps up to 9"):
        run(trainer)
    assert load_state(max(tmp_path.iterdir()))["step"] == 7


def test_the_bound_of_a_validation_is_named_with_its_step(
    datasets: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make("vae[hidden=[8],latents=2]", datasets["points"], tmp_path)
    inner = type(trainer.learner.evaluated().inner)  # type: ignore[union-attr]
    original = inner._log_weights  # type: ignore[union-attr]

    def broken(self: Any, x: Tensor, num_samples: int, condition: Tensor | None) -> Any:
        parts = dict(original(self, x, num_samples, condition))
        if trainer.step >= 6:
            parts["reconstruction"] = parts["reconstruction"].index_fill(1, torch.tensor([2]), float("nan"))
        return parts

    monkeypatch.setattr(inner, "_log_weights", broken)
    words = r"16 points has 1 NaN and 0 \+inf, from reconstruction.*, in the validation at step 7"
    with pytest.raises(NumericsError, match=words):
        run(trainer)
    assert load_state(max(tmp_path.iterdir()))["step"] == 5


def test_a_gradient_is_named_with_its_parameters(datasets: dict[str, Dataset]) -> None:
    trainer = make("flow[layers=1,hidden=8,bins=4]", datasets["points"], None)
    name, parameter = next(iter(trainer.learner.model.named_parameters()))  # type: ignore[attr-defined]
    parameter.register_hook(lambda gradient: gradient * float("inf") if trainer.step == 4 else gradient)
    with pytest.raises(NumericsError, match=rf"gradient norm is (inf|nan) at step 4, from {name}$"):
        run(trainer)
