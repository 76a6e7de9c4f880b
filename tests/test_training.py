"""The training loop: budgets, resume and replay bit for bit, selection, and what ends a training early."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genzoo.building import Blueprint, load_reference
from genzoo.config import Budget, Reference, TrainSettings
from genzoo.errors import BudgetError, DataError, NumericsError, RunError
from genzoo.interface import GenerativeModel, ModelEstimator
from genzoo.registry import load_registry
from genzoo.spec import Dataset
from genzoo.state import load_state, save_state
from genzoo.training import Trainer, evaluation_index, points_of, validation_bound

MODELS = {
    "gaussian": "gaussian",
    "flow": "flow[layers=1,hidden=8,bins=4]",
    "vae": "vae[hidden=[8],latents=2]",
    "ddpm": "ddpm[steps=8,width=8,blocks=1]",
    "brittle": "brittle",
}
Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tiny: Path) -> Dataset:
    return load_reference(load_registry(), Reference(str(tiny / "points.npz")))


@pytest.fixture
def trainer(data: Dataset, brittle: tuple[str, ...]) -> Any:
    """`trainer(model, budget, folder=..., **training)` on the tiny points: 128 to train on, batches of 32."""

    def make(model: str, budget: str = "20steps", **options: Any) -> Trainer:
        keep = {key: options.pop(key) for key in ("folder", "total_steps") if key in options}
        use = options.pop("data", data)
        reference = Reference.parse(model)
        built = Blueprint.of(load_registry(brittle), reference.name, reference.options, use.spec).build(1)
        settings = TrainSettings.parse(
            {**built.default_training().model_dump(), "batch_size": 32, "seed": 1, **options}, "x"
        )
        return Trainer(built.learner(settings), use, Budget.parse(budget), **keep)

    return make


def trained(trainer: Trainer) -> Weights:
    list(trainer.run())
    return {name: tensor.clone() for name, tensor in trainer.finish().state_dict().items()}


def equal(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def marks(total: int, until: int = 10**9) -> list[int]:
    """The steps, of `total`, at which the loop validates and writes a checkpoint."""
    return [step for share in TrainSettings().validations if (step := max(1, round(share * total))) <= until]


def told(trainer: Trainer) -> list[tuple[int, int | None, float, float | None]]:
    """The curve but for its seconds."""
    return [(event.step, event.total, event.loss, event.nll) for event in trainer.curve]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_resumed_training_equals_an_uninterrupted_one(model: str, trainer: Any, tmp_path: Path) -> None:
    whole = trainer(model)
    expected = trained(whole)
    for stop in (6, 14):  # between checkpoints, which go with validations
        first = trainer(model, folder=tmp_path)
        for event in first.run():
            if event.step >= stop:
                break
    torch.manual_seed(12345)  # the global RNG of another process
    second = trainer(model, folder=tmp_path)
    assert equal(trained(second), expected)
    assert second.step == whole.step
    assert told(second) == told(whole)
    if model != "gaussian":
        assert second.curve[0].step == 1
        assert second.total == 20


def test_validations_come_where_the_settings_say_and_at_the_end(trainer: Any) -> None:
    def validated(**options: Any) -> list[int]:
        made = trainer(MODELS["flow"], **options)
        trained(made)
        return [event.step for event in made.curve if event.nll is not None]

    assert validated() == [1, 2, 3, 5, 8, 12, 16, 20]
    assert validated(validations=(0.3,)) == [6, 20]
    assert validated(validations=()) == [20]


def test_a_checkpoint_from_before_a_setting_goes_on_with_its_default(trainer: Any, tmp_path: Path) -> None:
    """`validations` came later than the first checkpoints; one that was written with others is another training."""
    stopped = trainer(MODELS["flow"], folder=tmp_path)
    expected = trained(trainer(MODELS["flow"]))
    for event in stopped.run():
        if event.step >= 6:
            break
    paths = sorted(tmp_path.glob("checkpoint-*"))
    for path in paths:
        state = load_state(path)
        del state["of"]["settings"]["validations"]
        save_state(path, state)
    assert equal(trained(trainer(MODELS["flow"], folder=tmp_path)), expected)
    with pytest.raises(RunError, match="checkpoint of another training, with settings"):
        trained(trainer(MODELS["flow"], folder=tmp_path, validations=(1.0,)))


@pytest.mark.parametrize("model", [MODELS["gaussian"], MODELS["flow"]], ids=["gaussian", "flow"])
def test_a_finished_training_is_not_trained_further(model: str, trainer: Any, tmp_path: Path) -> None:
    first = trainer(model, folder=tmp_path)
    expected = trained(first)
    again = trainer(model, folder=tmp_path)
    assert equal(trained(again), expected)
    assert (again.step, told(again)) == (first.step, told(first))


def test_a_resumed_training_that_lost_its_rng_would_be_seen(
    trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: a checkpoint without the state of the noise gives other weights."""
    expected = trained(trainer("brittle"))
    for event in trainer("brittle", folder=tmp_path).run():
        if event.step >= 11:
            break

    def forgetful(path: Path) -> Any:
        return {**load_state(path), "rng": [torch.Generator().manual_seed(9).get_state()]}

    monkeypatch.setattr("genzoo.training.load_state", forgetful)
    assert not equal(trained(trainer("brittle", folder=tmp_path)), expected)


def test_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(trainer: Any, tmp_path: Path) -> None:
    expected = trained(trainer("brittle"))
    for event in trainer("brittle", folder=tmp_path).run():
        if event.step >= 14:
            break
    older, newer = sorted(tmp_path.iterdir())
    assert [path.name for path in (older, newer)] == [
        f"checkpoint-{n:09d}.safetensors" for n in marks(20, until=14)[-2:]
    ]
    newer.write_bytes(newer.read_bytes()[:-5])
    resumed = trainer("brittle", folder=tmp_path)
    assert equal(trained(resumed), expected)
    resumed.discard_checkpoints()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", [MODELS[name] for name in ("flow", "vae", "ddpm")], ids=["flow", "vae", "ddpm"])
def test_a_budget_in_seconds_is_replayed_bit_for_bit(model: str, trainer: Any) -> None:
    """Timing steps on the way in leave no trace: the same number of steps gives the same weights."""
    list(trainer(model, "2steps").run())  # what is imported with the first step would eat the budget
    timed = trainer(model, "0.5s")
    weights = trained(timed)
    assert timed.total == timed.step
    assert timed.total > 1
    replay = trainer(model, "0.5s", total_steps=timed.total)
    assert equal(trained(replay), weights)
    assert told(replay) == told(timed)
    steps = trainer(model, f"{timed.total}steps")
    assert equal(trained(steps), weights)


def test_the_plan_of_a_budget_in_seconds_is_in_the_checkpoint(trainer: Any, tmp_path: Path) -> None:
    first = trainer("brittle", "0.5s", folder=tmp_path)
    for event in first.run():
        if event.nll is not None:
            break
    second = trainer("brittle", "0.5s", folder=tmp_path)
    list(second.run())
    assert second.total == first.total == second.step


def test_epochs_are_whole_batches(trainer: Any) -> None:
    whole = trainer("brittle", "2epochs")
    list(whole.run())
    assert (whole.total, whole.steps_per_epoch) == (8, 4)
    uneven = trainer("brittle", "1.5epochs", batch_size=50)
    list(uneven.run())
    assert (uneven.total, uneven.steps_per_epoch) == (3, 2)


def test_a_batch_larger_than_the_data_is_the_data(trainer: Any) -> None:
    for size in (1000, None):
        run = trainer("brittle", "3steps", batch_size=size)
        list(run.run())
        assert (run.batch_size, run.steps_per_epoch, run.step) == (128, 1, 3)


def test_an_epoch_shows_every_example_once(trainer: Any) -> None:
    run = trainer("brittle", "8steps")
    seen: list[Tensor] = []
    batch = run.data.train.batch
    step = run.learner.step

    def watch(given: Any, progress: float) -> Any:
        seen.append(given.x)
        return step(given, progress)

    run.learner.step = watch
    list(run.run())
    everything = batch(torch.arange(128), torch.Generator()).x
    first, second = torch.cat(seen[:4]), torch.cat(seen[4:])
    assert not torch.equal(first, second)
    for epoch in (first, second):
        torch.testing.assert_close(epoch.sort(0).values, everything.sort(0).values, atol=0, rtol=0)


def test_a_budget_that_holds_no_step(trainer: Any) -> None:
    with pytest.raises(BudgetError, match="a budget of 1e-06s holds no step: one takes"):
        list(trainer("brittle", "0.000001s").run())


def test_what_a_learner_does_at_its_start_counts_in_a_budget_in_seconds(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_time_a_step", lambda self: 0.01)

    def run(budget: str, start: float) -> Trainer:
        made = trainer("brittle", budget)
        first = made.learner.start

        def slow(train: Any) -> None:
            first(train)
            time.sleep(start)

        made.learner.start = slow
        list(made.run())
        return made  # type: ignore[no-any-return]

    half = run("1s", 0.5)
    assert half.curve[0].seconds > 0.5
    assert half.total is not None
    assert 1 < half.total <= 50
    assert run("1s", 0.0).total > half.total  # type: ignore[operator]
    assert run("0.2s", 0.5).total == 1
    assert run("3steps", 0.1).total == 3


def test_empty_splits(trainer: Any, data: Dataset) -> None:
    class Empty:
        fingerprint = ""

        def __len__(self) -> int:
            return 0

    empty = Dataset(**{**data.__dict__, "valid": Empty()})
    with pytest.raises(DataError, match="expected examples to train and validate on; got 128 and 0"):
        trainer("brittle", data=empty)


def test_nan_ends_the_training_and_keeps_the_last_good_checkpoint(trainer: Any, tmp_path: Path) -> None:
    run = trainer("brittle[nan_from=0.6]", folder=tmp_path)
    with pytest.raises(NumericsError, match="loss is nan at step 12"):
        list(run.run())
    last = load_state(max(tmp_path.iterdir()))
    assert last["step"] == marks(20, until=12)[-1]
    assert all(bool(value.isfinite().all()) for value in last["learner"]["model"].values())


def test_an_exploding_gradient_is_named(trainer: Any) -> None:
    with pytest.raises(NumericsError, match=r"(loss|gradient norm) is (inf|nan) at step \d"):
        list(trainer("brittle", learning_rate=1e30, schedule="constant", warmup=0.0).run())


def test_the_best_state_by_validation_is_kept(trainer: Any) -> None:
    run = trainer("brittle[worse_from=0.5]", learning_rate=0.3, schedule="constant")
    list(run.run())
    nll = [event.nll for event in run.curve if event.nll is not None]
    assert nll[-1] > min(nll) + 0.1  # it did get worse
    assert -validation_bound(run.finish(), run.data).mean == min(nll)


def test_a_dear_estimator_is_validated_on_few_points(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the first of those that any other is validated on, behind an adapter too."""
    model, data = trainer("gaussian").learner.evaluated(), trainer("gaussian").data
    every = validation_bound(model, data).values
    monkeypatch.setattr(ModelEstimator, "validated", 3)
    few = validation_bound(model, data).values
    assert (len(every), len(few)) == (16, 3)
    torch.testing.assert_close(few, every[:3])
    assert next(iter(model.estimators().values()))().validated == 3


def test_the_best_state_survives_a_resume(trainer: Any, tmp_path: Path) -> None:
    expected = trained(trainer("brittle[worse_from=0.5]"))
    for event in trainer("brittle[worse_from=0.5]", folder=tmp_path).run():
        if event.step == 17:
            break
    assert equal(trained(trainer("brittle[worse_from=0.5]", folder=tmp_path)), expected)


def test_an_estimate_never_selects(trainer: Any) -> None:
    run = trainer("brittle[worse_from=0.5,kind=estimate]", learning_rate=0.3, schedule="constant")
    weights = trained(run)
    nll = [event.nll for event in run.curve if event.nll is not None]
    assert nll[-1] > min(nll)
    assert equal(weights, run.learner.evaluated().state_dict())
    assert -validation_bound(run.finish(), run.data).mean == nll[-1]


def test_the_callers_rng_is_untouched(trainer: Any) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    for model, budget in (("brittle", "0.5s"), (MODELS["flow"], "5steps"), (MODELS["ddpm"], "5steps")):
        run = trainer(model, budget)
        for _ in run.run():
            assert torch.equal(torch.get_rng_state(), before)
        run.finish()
        assert torch.equal(torch.get_rng_state(), before)


def test_the_callers_rng_does_not_matter(trainer: Any) -> None:
    expected = trained(trainer(MODELS["vae"]))
    torch.manual_seed(99)
    run = trainer(MODELS["vae"])
    for _ in run.run():
        torch.randn(3)  # a caller that draws between steps
    assert equal(run.finish().state_dict(), expected)


def test_another_seed_is_another_training(trainer: Any) -> None:
    first, second = (trained(trainer("brittle", seed=seed)) for seed in (1, 2))
    assert not equal(first, second)


def test_validation_is_at_fixed_shares_and_the_curve_is_finite(trainer: Any) -> None:
    run = trainer(MODELS["vae"], "100steps")
    list(run.run())
    assert [event.step for event in run.curve if event.nll is not None] == marks(100)
    assert all(math.isfinite(event.loss) for event in run.curve)
    seconds = [event.seconds for event in run.curve]
    assert seconds == sorted(seconds)


def test_points_are_the_first_of_one_permutation(data: Dataset) -> None:
    every = evaluation_index(16, 100)
    assert sorted(every.tolist()) == list(range(16))
    for n in (1, 5, 16):
        assert torch.equal(evaluation_index(16, n), every[:n])
        x = points_of(data, "test", n).x
        assert torch.equal(x, data.test.batch(every[:n], torch.Generator()).x)


def test_models_are_built_from_their_seed_alone(data: Dataset) -> None:
    blueprint = Blueprint.of(load_registry(), "flow", {"layers": 1, "hidden": 8}, data.spec)
    torch.manual_seed(1)
    first: GenerativeModel = blueprint.build(3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert equal(blueprint.build(3).state_dict(), first.state_dict())
    assert torch.equal(torch.get_rng_state(), state)
    assert not equal(blueprint.build(4).state_dict(), first.state_dict())
