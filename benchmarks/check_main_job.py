"""Is every cell of the main job better than the baselines? Prints a table, writes a receipt, exits 1 when one is not.

    make bench && .venv/bin/python benchmarks/check_main_job.py runs/bench -o benchmarks/results/main_job.json

Baselines, on the very points of each cell: the Gaussian with full covariance (logit dequantization for codes) and, for
images, independent categorical pixels with the training images' frequencies (one count added to each code).
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch

import genzoo
from genzoo.records import find_cells, write_json
from genzoo.spec import Dataset
from genzoo.training import points_of


def gaussian_nats(data: Dataset, points: int) -> float:
    """NLL (bound) of the Gaussian baseline on the first `points` test points, nats."""
    model = genzoo.build_model("gaussian", data.spec)
    genzoo.fit(model, data, budget="1steps")
    return genzoo.evaluate(model, data, num_samples=10, points=points).nll


def categorical_nats(data: Dataset, points: int) -> float:
    """NLL of independent categorical pixels on the same points, nats."""
    assert data.spec.levels is not None
    generator = torch.Generator().manual_seed(0)
    train = data.train.batch(torch.arange(len(data.train)), generator).x.flatten(1).long()
    cell = train + data.spec.levels * torch.arange(data.spec.dims)
    counts = torch.bincount(cell.flatten(), minlength=data.spec.levels * data.spec.dims).double() + 1
    log_p = (counts.view(data.spec.dims, -1) / counts.view(data.spec.dims, -1).sum(1, keepdim=True)).log()
    x = points_of(data, "test", points).x.flatten(1).long()
    return -float(log_p.gather(1, x.T).sum(0).mean())


def main() -> int:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    rows, baselines = [], {}
    for cell in find_cells(arguments.run):
        record = cell.record
        row = {"model": record.model, "dataset": record.dataset, "status": record.status, "nll": record.nll}
        rows.append(row)
        if record.status != "ok" or record.nll is None:
            row["ok"] = False
            continue
        key = (record.dataset, record.evaluation["points"])
        if key not in baselines:
            data = genzoo.load_dataset(record.dataset)
            found = {"gaussian": gaussian_nats(data, key[1])}
            if data.spec.levels is not None:
                found["independent categorical"] = categorical_nats(data, key[1])
            baselines[key] = found
        # a diffusion is asked to beat the Gaussian, the others the tighter floor where there is one
        wanted = [name for name in baselines[key] if record.family != "denoising diffusion" or name == "gaussian"]
        row |= {"baselines": baselines[key], "bits_per_dim": record.bits_per_dim, "must_beat": wanted}
        row["ok"] = all(record.nll < baselines[key][name] for name in wanted)
        unit = "" if record.bits_per_dim is None else f" ({record.bits_per_dim:.3f} bits/dim)"
        scale = 1.0 if record.bits_per_dim is None else math.log(2) * math.prod(record.event_shape)
        shown = ", ".join(f"{name} {value / scale:.3f}" for name, value in baselines[key].items())
        print(
            f"{'ok  ' if row['ok'] else 'FAIL'} {record.model:6} {record.dataset:14} {record.nll:9.3f}{unit}; {shown}"
        )
    if arguments.output:
        write_json(arguments.output, {"run": arguments.run.name, "cells": rows})
    print(f"{sum(bool(row['ok']) for row in rows)} of {len(rows)} cells better than their baselines")
    return 0 if rows and all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
