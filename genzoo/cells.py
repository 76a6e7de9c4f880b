"""One cell of a bench: build, train, evaluate, sample, store. A cell's failure is a record, never an exception."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from genzoo import exhibits
from genzoo.building import Blueprint, load_reference
from genzoo.classification import classify
from genzoo.config import Budget, Reference, TrainSettings
from genzoo.errors import CapabilityError, GenzooError, NumericsError
from genzoo.evaluation import Evaluation, effort_of, evaluate, log_density_grid, log_truth
from genzoo.interface import GenerativeModel
from genzoo.liveness import Liveness
from genzoo.locking import locked
from genzoo.plan import Cell, Plan
from genzoo.provenance import commit, machine, versions
from genzoo.records import RunRecord, finite, remove_temporaries, write_arrays, write_bytes
from genzoo.registry import Registry, load_registry
from genzoo.safe_json import parse_json
from genzoo.seeding import derive_seed
from genzoo.spec import Dataset
from genzoo.training import Trainer, discard_checkpoints, points_of, validation_points

PLANE_SAMPLES, STORED_PLANE_SAMPLES, IMAGE_SAMPLES = 10_000, 2_000, 64
TELL_SECONDS = 0.5
LEAST_SAMPLES = 4
LEAST_CLASSIFIED = 100
"""Points that a conditional model classifies at least, where there are as many."""
GRID_SAMPLES = 64
"""Most draws a grid node of a density map."""
PATIENCE = 30.0
"""Seconds to wait for the worker of a bench that was killed to end."""
PROGRESS = "progress.jsonl"
DATA, TRAINING, EVALUATION, SAMPLING = STAGES = ("data", "training", "evaluation", "sampling")
"""Stages of a cell, as its progress tells them."""
LAST_BYTES = 2000
"""Of the progress file, which grows with the training, only this much is read: a line has some 150."""


def run_cell(cell: Cell) -> str:
    """Run one cell and write its record; returns the record's status."""
    with locked(cell.folder, PATIENCE):
        remove_temporaries(cell.folder)
        return _recorded(cell)


def tidy(cell: Cell) -> None:
    """Remove what a worker that was killed has left beside a finished record."""
    if any(path.name.startswith((".", "checkpoint-")) for path in cell.folder.iterdir()):
        with locked(cell.folder, PATIENCE):
            remove_temporaries(cell.folder)
            discard_checkpoints(cell.folder)


def _recorded(cell: Cell) -> str:
    torch.set_num_threads(cell.plan.threads)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    record = RunRecord(
        cell=cell.name,
        status="failed",
        model=Reference.parse(cell.model).name,
        label=str(Reference.parse(cell.model)),
        dataset=str(Reference.parse(cell.dataset, "data set")),
        seed=cell.seed,
        budget=cell.plan.budget,
        threads=cell.plan.threads,
        started=started,
        versions=versions(),
        commit=commit(),
        machine=machine(),
        notes=[*cell.notes],
    )
    try:
        _run(cell, record)
        record.status = "ok"
    except CapabilityError as error:
        record.status = "skipped"
        record.error = _describe(error)
    except Exception as error:
        record.error = _describe(error)
        if isinstance(error, NumericsError):
            record.nan = max(record.nan, 1)
    record.save(cell.folder)
    if record.status == "ok":
        discard_checkpoints(cell.folder)
    return record.status


def _run(cell: Cell, record: RunRecord) -> None:
    _log(cell.folder, {"stage": DATA})
    registry = load_registry(cell.plugins)
    reference = Reference.parse(cell.model)
    data = _dataset(cell.dataset, cell.plugins)
    seed = derive_seed(cell.seed, str(reference), data.name) % 2**31
    blueprint = Blueprint.of(registry, reference.name, reference.options, data.spec)
    card = blueprint.card
    record.family, record.summary, record.paper, record.kind = card.family, card.summary, card.paper, card.kind
    record.plugin = str(registry.origin(card))
    record.config = blueprint.stored_config()
    record.event_shape, record.levels, record.classes = [*data.spec.event_shape], data.spec.levels, data.spec.classes
    device = pick_device(cell.plan.device)
    record.device = str(device) if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})"
    model = blueprint.build(seed).to(device)
    record.protocol = protocol_of(blueprint, data)
    record.parameters = model.count_parameters()
    defaults = model.default_training().model_dump()
    settings = TrainSettings.parse({**defaults, "seed": seed, **cell.plan.training}, "[training]")

    learner = model.learner(settings)
    liveness = Liveness(cell.folder / PROGRESS)
    trainer = Trainer(
        learner,
        data,
        Budget.parse(cell.plan.budget),
        folder=cell.folder,
        total_steps=cell.total_steps,
        liveness=liveness,
    )
    _log(cell.folder, {"stage": TRAINING})
    told = 0.0
    valid: dict[str, float | None] = {"nll": None, "nll_step": None}  # the last validation's
    for event in trainer.run():
        if event.nll is not None:
            valid = {"nll": event.nll, "nll_step": event.step}
        if event.nll is not None or time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            _log(cell.folder, {"step": event.step, "total": event.total, "seconds": event.seconds, **valid})
    model = trainer.finish()
    record.steps, record.seconds_train = trainer.step, trainer.seconds
    record.training = {**settings.model_dump(mode="json"), "total_steps": trainer.total}
    record.training["loss_in_nats"] = learner.loss_in_nats
    write_bytes(cell.folder / "model.safetensors", weights_bytes(model))

    with liveness.listening():
        _log(cell.folder, {"stage": EVALUATION})
        wanted = cell.plan.evaluation
        result = evaluate(
            model,
            data,
            estimator=wanted.estimator,
            num_samples=wanted.num_samples
            or effort_of(model, wanted.estimator, card.num_samples.get(data.spec.kind, 1)),
            until_se=wanted.until_se,
            points=wanted.points,
            seed=wanted.seed,
            split="test" if cell.plan.test else "valid",
            max_seconds=wanted.max_seconds or None,
        )
        fill(record, result, seed=wanted.seed)
        arrays = _curves(trainer, data) | evaluation_arrays(result) | exhibits.extremes(data, result)
        if data.spec.classes is not None:
            # as many answers as the evaluation's, over all classes: it costs what that cost
            record.classifier = classify(
                model,
                data,
                estimator=wanted.estimator,
                num_samples=result.num_samples,
                points=max(LEAST_CLASSIFIED, result.points // data.spec.classes),
                seed=wanted.seed,
                split=result.split,
                max_seconds=wanted.max_seconds or None,
            ).as_record()

        _log(cell.folder, {"stage": SAMPLING})
        arrays |= _samples(model, data, record, registry, cell.plan, liveness)
        if data.truth is not None:
            grid = log_density_grid(model, data.truth, num_samples=min(result.num_samples, GRID_SAMPLES))
            arrays |= {name: value.numpy() for name, value in grid.items()}
    write_arrays(cell.folder / "arrays.npz", arrays)


def pick_device(name: str) -> torch.device:
    """auto: the first GPU where there is one; CapabilityError for a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise CapabilityError(f"device {name} is not there: torch {torch.__version__} sees no GPU; use cpu or auto")
    return torch.device(name)


def protocol_of(blueprint: Blueprint, data: Dataset) -> dict[str, Any]:
    """The data side of a number, with the target that this model answers about."""
    target = data.protocol.target
    if blueprint.adapters.class_mixture != "none":
        target = {"joint": "p(x, y)", "marginal": "p(x)"}[blueprint.adapters.class_mixture]
    protocol = replace(data.protocol, target=target)
    return {**protocol.__dict__, "key": protocol.key}


def fill(record: RunRecord, result: Evaluation, seed: int) -> None:
    """Write an evaluation into a record."""
    record.kind, record.certified, record.split = result.kind, result.certified, result.split
    record.nll, record.nll_lower, record.infinite = result.nll, result.nll_lower, result.infinite
    record.bits_per_dim = result.bits_per_dim
    record.stderr, record.stderr_data, record.stderr_mc = result.stderr, result.stderr_data, result.stderr_mc
    record.entropy, record.kl, record.kl_stderr = result.entropy, result.kl, result.kl_stderr
    record.kl_quadrature, record.mass, record.below_floor = result.kl_quadrature, result.mass, result.below_floor
    record.terms = result.terms
    record.seconds_eval = result.seconds
    record.evaluation = {
        "estimator": result.estimator,
        "kind": result.kind,
        "num_samples": result.num_samples,
        "points": result.points,
        "precision": "float32",
        "seed": seed,
        "calls": result.calls,
        "dof": result.dof,
        "dof_mc": result.dof_mc,
    }
    if result.refined is not None:
        first, second = result.refined.first, result.refined.second
        record.evaluation["refine"] = {
            "first": {
                "num_samples": first.num_samples,
                "points": len(first.values),
                "nll": -first.mean,
                "stderr_data": first.stderr_data,
                "stderr_mc": first.stderr_mc,
            },
            "second": {
                "num_samples": second.num_samples,
                "points": len(second.values),
                "gain": result.refined.gain,
                "stderr": result.refined.gain_stderr,
                "stderr_mc": second.stderr_mc,
            },
        }
        record.notes.append(f"in two phases: {result.refined}")
    if result.capped:
        record.notes.append(f"evaluation stopped at its time limit after {result.points} points")
    if result.batch_size < result.first_batch_size:
        record.evaluation["batch_size"] = result.batch_size
        record.notes.append(
            f"evaluated {result.batch_size} examples at a time: {result.first_batch_size} did not fit into memory"
        )


def evaluation_arrays(result: Evaluation) -> dict[str, np.ndarray[Any, Any]]:
    """What `arrays.npz` holds of an evaluation: the answer by example, and the anatomy as means over the examples."""
    arrays = {"index": result.index.numpy(), "lower": result.result.lower.cpu().numpy()}
    for name, value in (("upper", result.result.upper), ("variance", result.result.variance), ("log_p", result.log_p)):
        if value is not None:
            arrays[name] = value.cpu().numpy()
    for name, value in result.result.arrays.items():
        if name not in result.anatomy:
            arrays[f"each_{name}"] = value.cpu().to(torch.float32).numpy()
    return arrays | {f"anatomy_{name}": value.numpy() for name, value in result.anatomy.items()}


def weights_bytes(model: GenerativeModel) -> bytes:
    """The state of a model as safetensors."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    return bytes(safetensors.torch.save(state))


@functools.lru_cache(maxsize=2)
def _dataset(reference: str, plugins: tuple[str, ...]) -> Dataset:
    """Kept between the cells of one worker, which come data set by data set."""
    return load_reference(load_registry(plugins), Reference.parse(reference, "data set"))


def _curves(trainer: Trainer, data: Dataset) -> dict[str, np.ndarray[Any, Any]]:
    """The curves of training and validation; `valid_truth ()`, where the truth is known, its NLL on the same points."""
    truth = {}
    if data.truth is not None:
        x, y = validation_points(data)
        truth["valid_truth"] = -log_truth(trainer.learner.evaluated(), data, x.cpu(), y)[0].mean().numpy()
    valid = [event for event in trainer.curve if event.nll is not None]
    return truth | {
        "curve_step": np.array([event.step for event in trainer.curve], dtype=np.int64),
        "curve_seconds": np.array([event.seconds for event in trainer.curve]),
        "curve_loss": np.array([event.loss for event in trainer.curve]),
        "valid_step": np.array([event.step for event in valid], dtype=np.int64),
        "valid_seconds": np.array([event.seconds for event in valid]),
        "valid_nll": np.array([event.nll for event in valid], dtype=np.float64),
    }


def _samples(
    model: GenerativeModel, data: Dataset, record: RunRecord, registry: Registry, plan: Plan, liveness: Liveness
) -> dict[str, np.ndarray[Any, Any]]:
    """Draw, time, measure and store samples beside as many real ones."""
    plane = data.truth is not None
    n = plan.evaluation.samples or (PLANE_SAMPLES if plane else IMAGE_SAMPLES)
    reference = points_of(data, "test" if plan.test else "valid", 2 * n)
    condition = None
    if model.spec.classes is not None and reference.y is not None:
        condition = reference.y[torch.arange(n) % len(reference.y)].to(model.device)
    try:
        start = time.perf_counter()
        samples = model.sample(n, seed=record.seed, condition=condition).cpu()
        record.seconds_sample, record.samples = time.perf_counter() - start, n
    except (GenzooError, torch.OutOfMemoryError) as error:
        record.notes.append(f"no samples: {str(error).splitlines()[0]}")
        return {}
    first = reference.x[:n]
    record.metrics = _metrics(samples, reference.x, data, registry)
    kept = min(n, STORED_PLANE_SAMPLES)
    arrays: dict[str, np.ndarray[Any, Any]] = {"samples": samples[:kept].numpy(), "reference": first[:kept].numpy()}
    if len(data.spec.event_shape) == 3:
        arrays["nearest"] = exhibits.nearest(samples, data, liveness.beat).numpy()
    return arrays | exhibits.traces(model, first, record.seed)


def _metrics(samples: Tensor, real: Tensor, data: Dataset, registry: Registry) -> dict[str, dict[str, float | None]]:
    """Each metric of samples against real points, beside its value for as many other real points; both halves of
    `real` and the samples count alike, so that the two values can be compared."""
    m = min(len(samples), len(real) // 2)
    if m < LEAST_SAMPLES:
        return {}
    first, second = real[:m], real[m : 2 * m]
    return {
        name: {"value": metric(samples[:m], first, 0), "reference": metric(second, first, 0)}
        for name, card in registry.metrics.items()
        if data.spec.kind in card.data and (card.max_dims is None or data.spec.dims <= card.max_dims)
        for metric in [card.resolve()]
    }


def _describe(error: BaseException) -> dict[str, str]:
    text = "".join(traceback.format_exception(error))
    return {"type": type(error).__name__, "message": str(error) or repr(error), "traceback": text}


def _log(folder: Path, entry: dict[str, Any]) -> None:
    """One line of progress, for whoever watches; the result never depends on it."""
    with contextlib.suppress(OSError), open(folder / PROGRESS, "a", opener=_no_link) as file:
        file.write(json.dumps(finite({**entry, "time": time.time()})) + "\n")


def _no_link(path: str, flags: int) -> int:
    """A run folder of a stranger may hold a link where progress is appended to."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def last_progress(folder: Path) -> dict[str, Any]:
    """The last whole line of progress of a cell; empty where there is none."""
    try:
        with (folder / PROGRESS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            entry = parse_json(line)
            if isinstance(entry, dict):
                return entry
    return {}
