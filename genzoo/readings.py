"""Later looks at the test set: recompute or refine a stored number, and append it as a counted reading.

`all_bounds` reads every estimator that the model has, and those with importance weights over the number of draws, so
that one table shows how tight each bound is. A reading is paired with the first one, point by point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from genzoo.api import cell_dataset
from genzoo.cells import PATIENCE, fill
from genzoo.errors import CapabilityError
from genzoo.evaluation import Evaluation, estimator_key, evaluate, make_estimator
from genzoo.interface import GenerativeModel
from genzoo.locking import locked
from genzoo.means import errors
from genzoo.records import CellFolder, finite, write_json

READING_KEYS = (
    "nll",
    "nll_lower",
    "infinite",
    "nan",
    "bits_per_dim",
    "kind",
    "certified",
    "stderr",
    "stderr_data",
    "stderr_mc",
    "kl",
    "kl_stderr",
    "kl_quadrature",
    "mass",
    "below_floor",
    "terms",
    "evaluation",
    "seconds_eval",
    "split",
    "notes",
)


def read_again(
    cell: CellFolder,
    model: GenerativeModel,
    *,
    estimator: str | None = None,
    num_samples: int | None = None,
    until_se: float | None = None,
    points: int | None = None,
    seed: int | None = None,
    max_seconds: float | None = None,
    refine: tuple[int, int] | None = None,
    append: bool = True,
    plugins: Sequence[str] = (),
) -> Evaluation:
    """Evaluate a trained cell again; what is None is as in the stored number, so that all None recomputes it.

    On the same device and threads the same settings give the same number, bit for bit.
    """
    record = cell.record
    stored = record.evaluation
    torch.set_num_threads(record.threads)
    name = estimator or stored.get("estimator")
    same = name is None or estimator_key(name) == estimator_key(stored.get("estimator", ""))
    made = make_estimator(model, name)
    if points is None:
        known = [n for n in (stored.get("points"), None if same else made.suggested_points) if n is not None]
        points = min(known, default=None)
    used_seed = stored.get("seed", 0) if seed is None else seed
    result = evaluate(
        model,
        cell_dataset(cell, plugins),
        estimator=name,
        num_samples=num_samples or (stored.get("num_samples", 1) if same else made.suggested_samples),
        until_se=until_se,
        points=points,
        seed=used_seed,
        split=record.split,
        batch_size=stored.get("batch_size"),
        max_seconds=max_seconds,
        refine=refine,
    )
    if append:
        fresh = replace(record, notes=[])
        fill(fresh, result, seed=used_seed)
        values = asdict(fresh)
        reading = {key: values[key] for key in READING_KEYS} | {"paired": paired(cell, result)}
        with locked(cell.path, PATIENCE):  # two readings at once: the second must count the first
            readings = cell.readings()
            reading["reading"] = len(readings) + 2
            write_json(cell.path / "readings.json", finite([*readings, reading]))
    return result


def all_bounds(
    cell: CellFolder, model: GenerativeModel, *, num_samples: int | None = None, **options: Any
) -> Iterator[tuple[str, Evaluation | CapabilityError]]:
    """A reading by each estimator of the model; by those with importance weights that are meant for all the points also
    at 1, 10, 100, ... draws.

    What the stored number already says is not read again. An estimator that declines gives its reason.

    Args:
        num_samples: draws of every reading, in place of each estimator's own and of the ladder.
        options: as for `read_again`.
    """
    record = cell.record
    stored = record.evaluation
    as_stored = num_samples is None and all(options.get(key) is None for key in ("points", "seed", "until_se"))
    for name in model.estimators():
        kind, most = record.kind, stored.get("num_samples", 1)
        if not (as_stored and name == estimator_key(stored.get("estimator", ""))):
            try:
                result = read_again(cell, model, estimator=name, num_samples=num_samples, **options)
            except CapabilityError as reason:
                yield name, reason
                continue
            kind, most = result.kind, result.num_samples
            yield name, result
        if num_samples is None and kind == "weights" and model.estimators()[name]().suggested_points is None:
            for k in (10**i for i in range(len(str(most)))):
                if k < most:
                    yield name, read_again(cell, model, estimator=name, num_samples=k, **options)


def paired(cell: CellFolder, result: Evaluation) -> dict[str, float | int] | None:
    """By how much the bound lies above the first reading's, on the points in common: nats, its standard error, and how
    many; None where these are fewer than two or one value is infinite."""
    arrays = cell.arrays()
    if not {"index", "lower"} <= arrays.keys():
        return None
    _, mine, theirs = np.intersect1d(result.index.numpy(), arrays["index"], assume_unique=True, return_indices=True)
    stored = torch.from_numpy(arrays["lower"][theirs])
    if result.refined is not None:  # of a bound whose values are known at some points alone
        if len(mine) < len(result.index):
            return None
        aligned = torch.empty_like(stored)
        aligned[torch.from_numpy(mine)] = stored
        nats, joined = result.refined.minus(aligned.to(result.result.lower.device))
        return {"nats": nats, "stderr": joined.stderr, "points": len(mine)} if math.isfinite(nats) else None
    difference = result.result.lower.cpu()[torch.from_numpy(mine)] - stored
    if len(difference) < 2 or not bool(difference.isfinite().all()):
        return None
    found = errors(difference, None, result.result.shared_variance.cpu())
    return {"nats": float(difference.mean()), "stderr": found.stderr, "points": len(difference)}
