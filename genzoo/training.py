"""The training loop: one loop for every learner, yielding small records.

A budget in seconds counts the learner's start and its steps, not validation. Before the first step the loop times some
on a copy of the state, which it then throws away, fixes the number of steps, and writes it down: from there on training
is a function of the seed.

The loop owns the seeds, the order of the examples, validation, selection and checkpoints:
    - batches are consecutive parts of seeded permutations; the last, smaller part of an epoch is left out;
    - the state that is kept is the one with the best validation bound (common points, common draws); an `estimate` and
      the upper end of a bracket never select;
    - the global RNG of the caller is untouched;
    - a checkpoint holds all that the rest of the training depends on, so that a resumed training equals one that was
      never stopped, bit for bit on the same device and threads; two are kept.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genzoo.config import Budget, TrainSettings
from genzoo.errors import BudgetError, DataError, NumericsError, RunError
from genzoo.interface import GenerativeModel, Learner
from genzoo.liveness import Liveness
from genzoo.means import MeanResult
from genzoo.memory import halving
from genzoo.seeding import derive_seed, seeded
from genzoo.spec import Batch, Dataset
from genzoo.state import copied, load_state, save_state

log = logging.getLogger(__name__)
TIMING_SHARE = 0.03
"""Part of a budget in seconds spent on timing steps."""
WARM_UP_STEPS = 5
VALIDATION_EFFORT = 4
"""Monte Carlo draws a validation point."""
CHECKPOINT_SECONDS = 60.0
CHECKPOINTS = "checkpoint-*.safetensors"
LOSS_POINTS = 200
"""How many points the curve of the training loss has, at most."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A step worth telling of.

    Attributes:
        step, total: steps done and planned.
        seconds: training time so far, the learner's start counted, without validation and checkpoints.
        loss: mean training loss since the last event.
        nll: minus the validation bound, nats, where this event validated (inf where the bound is -inf).
    """

    step: int
    total: int
    seconds: float
    loss: float
    nll: float | None = None


class Trainer:
    """Trains one learner on one data set. Iterate `run()`; then `finish()` gives the model that was selected.

    Args:
        learner: made from a model on its device.
        data: moved to the model's device by the caller where that pays.
        budget: steps, epochs or seconds.
        folder: where checkpoints go; None for none. An existing checkpoint there is continued.
        total_steps: replay a budget in seconds with the number of steps fixed by an earlier run.
        liveness: where steps and network calls are told of.
    """

    def __init__(
        self,
        learner: Learner,
        data: Dataset,
        budget: Budget,
        *,
        folder: Path | None = None,
        total_steps: int | None = None,
        liveness: Liveness | None = None,
    ) -> None:
        if min(len(data.train), len(data.valid)) == 0:
            raise DataError(f"expected examples to train and validate on; got {len(data.train)} and {len(data.valid)}")
        self.learner = learner
        self.data = data
        self.budget = budget
        self.folder = folder
        self.total = total_steps
        self.liveness = liveness
        self.seed = learner.settings.seed
        self.step = 0
        self.seconds = 0.0
        self.curve: list[Event] = []
        self.batch_size = min(learner.settings.batch_size or len(data.train), len(data.train))
        self.steps_per_epoch = len(data.train) // self.batch_size
        self._best: tuple[float, Any] | None = None
        self.device = learner.evaluated().device
        self._rng = _seeded_states(self.seed, self.device)
        self._noise = torch.Generator().manual_seed(derive_seed("noise", self.seed))
        self._order: tuple[int, Tensor] | None = None
        self._loss = torch.zeros((), dtype=torch.float64, device=self.device)  # sum since the last event
        self._losses = 0  # how many

    def run(self) -> Iterator[Event]:
        """Train to the end of the budget, from the last checkpoint where there is one.

        Raises:
            NumericsError: NaN or infinity in the loss, the gradient or the validation bound; says where.
            RunError: the checkpoints in the folder are of another training.
        """
        if not self._resume():
            start = time.perf_counter()
            with _forked(self), self._listening():
                self.learner.start(self.data.train)
            self.seconds = time.perf_counter() - start
        if self.total is None:
            self.total = self._plan()
            if self.folder is not None and self.budget.unit == "s":
                self._save()  # from here on the number of steps is fixed, whatever happens
        marks = {max(1, round(share * self.total)) for share in self.learner.settings.validations}
        every = max(1, self.total // LOSS_POINTS)
        saved = time.monotonic()
        while self.step < self.total and not self.learner.converged:
            start = time.perf_counter()
            with _forked(self):
                while True:
                    self._loss += self._train_step()
                    self._losses += 1
                    last = self.step >= self.total or self.learner.converged
                    tell = last or self.step in marks or self.step % every == 0
                    due = time.monotonic() - saved > CHECKPOINT_SECONDS
                    if tell or due:
                        break
            loss = float(self._loss) / self._losses  # waits for the device, so that its time is counted
            self.seconds += time.perf_counter() - start
            if not math.isfinite(loss):
                raise NumericsError(f"loss is {loss} in the steps up to {self.step}")
            nll = None
            if tell:
                self._loss.zero_()
                self._losses = 0
                nll = self._validate() if last or self.step in marks else None
                self.curve.append(Event(step=self.step, total=self.total, seconds=self.seconds, loss=loss, nll=nll))
            if self.folder is not None and (nll is not None or due):
                self._save()
                saved = time.monotonic()
            if tell:
                yield self.curve[-1]

    def finish(self) -> GenerativeModel:
        """The selected model: its best state by validation, or its last where validation cannot select."""
        model = self.learner.evaluated()
        if self._best is not None:
            model.load_state_dict(self._best[1])
        return model

    def _train_step(self) -> Tensor:
        epoch, at = divmod(self.step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed("order", self.seed, epoch))
            self._order = (epoch, torch.randperm(len(self.data.train), generator=generator))
        indices = self._order[1][at * self.batch_size : (at + 1) * self.batch_size]
        if self.liveness is not None:
            self.liveness.beat()
        batch = self.data.train.batch(indices, self._noise)
        metrics = self.learner.step(_moved(batch, self.device), self.step / (self.total or 1))
        self.step += 1
        return metrics["loss"].detach().to(torch.float64)

    def _plan(self) -> int:
        """The number of steps that the budget means; for seconds, by timing a copy that is thrown away. A start that
        took them all, such as an EM's from several k-means, is followed by one step."""
        if self.budget.unit == "steps":
            return int(self.budget.amount)
        if self.budget.unit == "epochs":
            return max(1, round(self.budget.amount * self.steps_per_epoch))
        kept = copied(self.learner.state_dict()), self._rng, self._noise.get_state()
        self.total = 1_000_000_000  # progress stays near zero while timing
        start = time.perf_counter()
        try:
            with _forked(self):
                each = self._time_a_step()
        finally:
            self.learner.load_state_dict(kept[0])
            self.learner.converged = False
            self._rng = kept[1]
            self._noise.set_state(kept[2])
            self.step = 0
        timing = time.perf_counter() - start
        if self.budget.amount - timing < each:
            raise BudgetError(f"a budget of {self.budget} holds no step: one takes {each:.3g}s here")
        self.seconds += timing
        return max(1, math.floor((self.budget.amount - self.seconds) / each))

    def _time_a_step(self) -> float:
        """Seconds a step, after the warm-up where the budget lasts that long."""
        start = time.perf_counter()
        for done in range(1, WARM_UP_STEPS + 1):
            float(self._train_step())
            spent = time.perf_counter() - start
            if spent > self.budget.amount:
                return spent / done
        warm, steps = time.perf_counter(), 0
        while steps == 0 or time.perf_counter() - warm < TIMING_SHARE * self.budget.amount:
            float(self._train_step())
            steps += 1
        return (time.perf_counter() - warm) / steps

    def _validate(self) -> float:
        with self._listening():
            try:
                with seeded(derive_seed("finish", self.seed), self.device):
                    self.learner.finish(self.data.train, self.data.valid)
                model = self.learner.evaluated()
                result = validation_bound(model, self.data)
            except NumericsError as error:
                raise NumericsError(f"{error}, in the validation at step {self.step}") from error
        if result.kind != "estimate" and (self._best is None or -result.mean <= self._best[0]):
            self._best = (-result.mean, copied(model.state_dict()))
        return -result.mean

    def _listening(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.liveness is None else self.liveness.listening()

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be gone on from."""
        settings = self.learner.settings.model_dump(mode="json")
        return {"budget": str(self.budget), "data": self.data.protocol.key, "settings": settings}

    def _save(self) -> None:
        assert self.folder is not None
        state = {
            "of": self._identity(),
            "learner": self.learner.state_dict(),
            "total": self.total,
            "step": self.step,
            "seconds": self.seconds,
            "converged": self.learner.converged,
            "rng": self._rng,
            "noise": self._noise.get_state(),
            "best": None if self._best is None else list(self._best),
            "curve": [[e.step, e.total, e.seconds, e.loss, e.nll] for e in self.curve],
            "loss": [self._loss, self._losses],
        }
        path = self.folder / f"checkpoint-{self.step:09d}.safetensors"
        save_state(path, state)
        every = sorted(self.folder.glob(CHECKPOINTS))
        # one that is newer than this step is damaged: else the training would have gone on from there
        kept = [other for other in every if other <= path][-2:]
        for other in set(every) - set(kept):
            other.unlink()

    def _resume(self) -> bool:
        """Go on from the newest checkpoint that can be read."""
        paths = [] if self.folder is None else sorted(self.folder.glob(CHECKPOINTS), reverse=True)
        first = copied(self.learner.state_dict()) if paths else {}
        for path in paths:
            try:
                state = load_state(path)
            except RunError as error:
                log.warning("%s; going on without it", error)
                continue
            if not isinstance(state, dict) or not isinstance(state.get("of", {}), dict):
                log.warning("%s holds no training; going on without it", path)
                continue
            self._check_same(path, state)
            try:
                self._restore(state)
            except Exception as error:  # of another version of the model, say: whatever it is, an older one may do
                log.warning("%s does not fit this training (%r); going on without it", path, error)
                self.learner.load_state_dict(first)
                continue
            return True
        return False

    def _check_same(self, path: Path, state: Mapping[str, Any]) -> None:
        here = self._identity() | {"total": self.total}
        there = state.get("of", here) | {"total": state.get("total")}
        if isinstance(there.get("settings"), dict):  # a key that came later had its default
            there["settings"] = TrainSettings().model_dump(mode="json") | there["settings"]
        if self.total is None:  # nothing fixes it from outside
            here["total"] = there["total"]
        for key in here:
            if there.get(key) != here[key]:
                other = f"{path} is a checkpoint of another training, with {key} {there.get(key)}"
                raise RunError(f"{other}; this one has {here[key]}: delete it, or give another folder")

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take over a checkpoint; where this fails, only the learner may have changed."""
        curve = [Event(step=s, total=t, seconds=sec, loss=loss, nll=nll) for s, t, sec, loss, nll in state["curve"]]
        best = None if state["best"] is None else (state["best"][0], state["best"][1])
        loss, losses = state.get("loss", (self._loss, 0))
        noise = torch.Generator()
        noise.set_state(state["noise"])
        values = int(state["total"]), int(state["step"]), float(state["seconds"]), bool(state["converged"])
        # a checkpoint from a machine without the GPU has no state of its generator
        rng = [*state["rng"], *self._rng[len(state["rng"]) :]][: len(self._rng)]
        self.learner.load_state_dict(state["learner"])
        self.total, self.step, self.seconds, self.learner.converged = values
        self.curve, self._best, self._rng, self._noise = curve, best, rng, noise
        self._loss, self._losses = loss.to(self.device), losses

    def discard_checkpoints(self) -> None:
        """Delete the checkpoints, once the result is stored."""
        if self.folder is not None:
            discard_checkpoints(self.folder)


def discard_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a cell whose result is stored."""
    for path in folder.glob(CHECKPOINTS):
        path.unlink(missing_ok=True)


def validation_bound(model: GenerativeModel, data: Dataset) -> MeanResult:
    """The bound on the first points of one permutation of the validation split, with draws common to all calls; on
    fewer where the estimator, whose answers are dear, says so."""
    x, y = validation_points(data)
    y = y if model.spec.classes is not None and y is not None else None
    estimator = next(iter(model.estimators().values()))()
    x, y = x[: estimator.validated], None if y is None else y[: estimator.validated]
    x, y = _moved(Batch(x, y), model.device)
    result, _ = halving(
        lambda size: estimator.mean(x, VALIDATION_EFFORT, 0, y, batch_size=size), min(estimator.batch_size, len(x))
    )
    return result


def validation_points(data: Dataset) -> Batch:
    """What a model in training is validated on."""
    return points_of(data, "valid", 2000 if data.spec.dims <= 16 else 256)


def points_of(data: Dataset, split: str, points: int) -> Batch:
    """The first `points` of one seeded permutation of a split."""
    source = {"train": data.train, "valid": data.valid, "test": data.test}[split]
    indices = evaluation_index(len(source), points)
    return source.batch(indices, torch.Generator().manual_seed(derive_seed("points", split)))


def evaluation_index(n: int, points: int) -> Tensor:
    """The first `points` of the one seeded permutation of 0..n-1 that all evaluations share, `(points,)` int64."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:points]


def _moved(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.x.to(device), None if batch.y is None else batch.y.to(device))


def _seeded_states(seed: int, device: torch.device) -> list[Tensor]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        return _rng_states(device)


def _rng_states(device: torch.device) -> list[Tensor]:
    """Of the global generators that a model on `device` draws from: the CPU's and, there, the GPU's."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_rng_states(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)


@contextlib.contextmanager
def _forked(trainer: Trainer) -> Iterator[None]:
    """Run with the trainer's own global RNG states, and keep them for the next time."""
    outer = _rng_states(trainer.device)
    _set_rng_states(trainer._rng, trainer.device)
    try:
        yield
    finally:
        trainer._rng = _rng_states(trainer.device)
        _set_rng_states(outer, trainer.device)
