"""How far AIS is from a VAE's own log p(x), by BDMC on simulated data, and what AIS adds to IWAE on test images.

    python benchmarks/bdmc_vae.py [--images 32] [--chains 16] [--distributions 1000] [--points 100]

Takes the `vae` of benchmarks/results/mnist-binary-2min where its weights are there, and otherwise trains one for as
long. The gap is certified on simulated data alone (Grosse et al. 2015, arXiv:1511.02543): its forward chains start at
the encoder's posterior, its reverse chains at the z that each image came from. Asked: 20 latents or more, IWAE-500
under 110 nats, a gap below 0.5 nats. One thread.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from genzoo_vae.vae import VAE
from torch import Tensor

import genzoo
from genzoo.api import load_dataset
from genzoo.latent import AnnealedImportance, RefinedELBO
from genzoo.training import points_of

TRAINED = Path(__file__).parent / "results" / "mnist-binary-2min" / "cells"
RESULT = Path(__file__).parent / "results" / "bdmc_vae.json"
MOST_GAP, MOST_IWAE, LEAST_LATENTS = 0.5, 110.0, 20


def model_and_source(data: genzoo.Dataset, seconds: int) -> tuple[VAE, str]:
    """The trained model, and where it is from."""
    for cell in sorted(TRAINED.glob("vae-mnist_binary-0-*/model.safetensors")):
        model = genzoo.load(cell.parent)
        assert isinstance(model, VAE)
        return model, f"{cell.parent.parent.parent.name}/{cell.parent.name}"
    model = genzoo.build_model("vae", data.spec, seed=0)
    genzoo.fit(model, data, budget=f"{seconds}s", seed=0)
    assert isinstance(model, VAE)
    return model, f"trained for {seconds} s"


def summary(values: Tensor) -> dict[str, float]:
    """Mean over the images and its standard error, nats."""
    return {"mean": float(values.mean()), "stderr": float(values.std()) / math.sqrt(len(values))}


def simulated(model: VAE, valid: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The gap on the same simulated images, with a quarter of the distributions and with all."""
    rows = []
    for distributions in (args.distributions // 4, args.distributions):
        begin = time.process_time()
        ais = AnnealedImportance(model, distributions, args.leapfrog)
        ais.start(valid, 0)
        _, answer = ais.bracket(args.images, args.chains, seed=1)
        assert answer.upper is not None
        assert answer.certified
        rows.append(
            {
                "estimator": ais.name,
                "gap": summary(answer.upper - answer.lower),
                "lower": summary(answer.lower),
                "upper": summary(answer.upper),
                "largest_gap": float((answer.upper - answer.lower).max()),
                "effective_sample_size": float(answer.arrays["effective_sample_size"].mean()),
                "step_sizes": [ais.steps.sizes[0], ais.steps.sizes[-1]],
                "cpu_seconds": time.process_time() - begin,
            }
        )
    return rows


def on_test(model: VAE, x: Tensor, valid: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Each bound on the same test images, and by how much it is above IWAE-5000 there."""
    made = model.estimators()
    ais = AnnealedImportance(model, args.distributions, args.leapfrog)
    runs = [(made["iwae"](), 5000), (made["elbo"](), 64), (RefinedELBO(model), 64), (made["iwae"](), 500)]
    rows, reference = [], torch.empty(0)
    for estimator, draws in [*runs, (ais, args.chains)]:
        begin = time.process_time()
        estimator.start(valid, 0)
        result = estimator.mean(x, draws, seed=2)
        reference = result.values if not rows else reference
        rows.append(
            {
                "estimator": estimator.name,
                "draws": draws,
                "kind": result.kind,
                "nll": -result.mean,
                "stderr": result.stderr,
                "stderr_mc": result.stderr_mc,
                "above_iwae_5000": summary(result.values - reference),
                "cpu_seconds": time.process_time() - begin,
            }
        )
    return rows


def main() -> None:
    """Measure, print, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="simulated images")
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--distributions", type=int, default=1000)
    parser.add_argument("--leapfrog", type=int, default=2)
    parser.add_argument("--points", type=int, default=100, help="test images on which the bounds are compared")
    parser.add_argument("--iwae-points", type=int, default=2000, help="test images for IWAE-500")
    parser.add_argument("--seconds", type=int, default=120, help="of training, where no trained model is there")
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset("mnist_binary")
    model, source = model_and_source(data, args.seconds)
    x, _ = points_of(data, "test", args.iwae_points)
    iwae = model.estimators()["iwae"]().mean(x, 500, seed=0)
    print(f"vae with {model.latents} latents on mnist_binary ({source})")
    print(f"IWAE-500 on {len(x):,} test images: {-iwae.mean:.2f} +- {iwae.stderr:.2f} nats")

    brackets = simulated(model, data.valid, args)
    print(f"\nBDMC on {args.images} simulated images, nats; errors over the images")
    print(f"{'estimator':48}{'lower':>10}{'upper':>10}{'gap':>9}{'stderr':>9}{'largest':>9}{'CPU s':>8}")
    for row in brackets:
        low, high, gap = row["lower"]["mean"], row["upper"]["mean"], row["gap"]
        print(f"{row['estimator']:48}{low:10.3f}{high:10.3f}{gap['mean']:9.3f}{gap['stderr']:9.3f}", end="")
        print(f"{row['largest_gap']:9.3f}{row['cpu_seconds']:8.0f}")

    bounds = on_test(model, x[: args.points], data.valid, args)
    print(f"\n{args.points} test images, NLL in nats; how far each bound is above IWAE-5000, paired")
    print(f"{'estimator':48}{'draws':>7}{'NLL <=':>9}{'MC':>8}{'above':>9}{'stderr':>9}{'CPU s':>8}")
    for row in bounds:
        above = row["above_iwae_5000"]
        print(f"{row['estimator']:48}{row['draws']:7d}{row['nll']:9.3f}{row['stderr_mc']:8.3f}", end="")
        print(f"{above['mean']:+9.3f}{above['stderr']:9.3f}{row['cpu_seconds']:8.0f}")

    gap = brackets[-1]["gap"]
    record = {
        "model": {"source": source, "latents": model.latents},
        "iwae_500": {"nll": -iwae.mean, "stderr": iwae.stderr, "points": len(x)},
        "images": args.images,
        "bdmc": brackets,
        "points": args.points,
        "bounds": bounds,
        "asked": {"gap": MOST_GAP, "iwae_500": MOST_IWAE, "latents": LEAST_LATENTS},
        "torch": torch.__version__,
        "threads": 1,
    }
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    if not (gap["mean"] + 2 * gap["stderr"] < MOST_GAP and -iwae.mean < MOST_IWAE and model.latents >= LEAST_LATENTS):
        raise SystemExit(f"asked: a gap below {MOST_GAP}, IWAE-500 below {MOST_IWAE}, {LEAST_LATENTS} latents or more")


if __name__ == "__main__":
    main()
