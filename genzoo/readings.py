"""Later looks at the test set: recompute or refine a stored number, and append it as a counted reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch

from genzoo.api import cell_dataset
from genzoo.cells import fill
from genzoo.evaluation import Evaluation, estimator_key, evaluate
from genzoo.interface import GenerativeModel
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
    append: bool = True,
    plugins: Sequence[str] = (),
) -> Evaluation:
    """Evaluate a trained cell again; what is None is as in the stored number, so that all None recomputes it.

    On the same device and threads the same settings give the same number, bit for bit.
    """
    record = cell.record
    stored = record.evaluation
    torch.set_num_threads(record.threads)
    same = estimator is None or estimator_key(estimator) == estimator_key(stored.get("estimator", ""))
    used_seed = stored.get("seed", 0) if seed is None else seed
    result = evaluate(
        model,
        cell_dataset(cell, plugins),
        estimator=estimator or stored.get("estimator"),
        num_samples=num_samples or (stored.get("num_samples", 1) if same else 1),
        until_se=until_se,
        points=points or stored.get("points"),
        seed=used_seed,
        split=record.split,
        max_seconds=max_seconds,
    )
    if append:
        fresh = replace(record, notes=[])
        fill(fresh, result, seed=used_seed)
        readings = cell.readings()
        values = asdict(fresh)
        reading = {key: values[key] for key in READING_KEYS} | {"reading": len(readings) + 2}
        write_json(cell.path / "readings.json", finite([*readings, reading]))
    return result
