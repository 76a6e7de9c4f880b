"""Network calls and seconds that a diffusion bound's mean over 10,000 points needs for a standard error of 0.01 nats.

    python benchmarks/speed_ddpm_bound.py [--seconds 20] [--schedule log_snr]

Trains ddpm on 8gaussians for some seconds of one thread, then evaluates the bound twice: as the sum over all T, and
from importance-drawn, stratified steps with mirrored noise and a control variate. Both must agree within three joint
standard errors. The pilot that learns the allocation and the one that chooses the number of draws are counted apart.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from genzoo_ddpm.ddpm import DDPM
from genzoo_ddpm.diffusion import Diffusion
from genzoo_ddpm.options import DiffusionConfig

from genzoo.data.splits import TensorSplit
from genzoo.data.toy import DENSITIES
from genzoo.means import MeanResult
from genzoo.spec import Batch, DataSpec

TARGET = 0.01
POINTS = 10_000
RESULT = Path(__file__).parent / "results" / "speed_ddpm_bound.json"


def train(seconds: float, schedule: str, steps: int) -> tuple[Diffusion, torch.Tensor, int, float]:
    """(model, standardised test points, training steps, seconds of calibration) on 8gaussians."""
    density = DENSITIES["8gaussians"]
    x = density.sample(100_000, 0)
    loc, scale = x.mean(0), x.std(0)
    split = TensorSplit((x - loc) / scale)
    torch.manual_seed(0)
    model = DDPM(DataSpec((2,)), DiffusionConfig.parse({"schedule": schedule, "steps": steps}, "ddpm"))
    settings = model.default_training()
    learner = model.learner(settings)
    learner.start(split)
    generator = torch.Generator().manual_seed(0)
    begin, count, progress = time.perf_counter(), 0, 0.0
    while progress < 1:
        index = torch.randint(0, len(split), (settings.batch_size or len(split),), generator=generator)
        learner.step(Batch(split.batch(index, generator).x, None), progress)
        count, progress = count + 1, (time.perf_counter() - begin) / seconds
    begin = time.perf_counter()
    learner.finish(split, split)
    calibration = time.perf_counter() - begin
    trained = learner.evaluated()
    assert isinstance(trained, Diffusion)
    return trained, (density.sample(POINTS, 2) - loc) / scale, count, calibration


def measure(model: Diffusion, name: str, x: torch.Tensor) -> dict[str, float]:
    """Reach the target with the fewest draws an example (two at least, which tell the error) that a pilot asks for.

    `calls` and `seconds` are scaled by (stderr_mc / target)^2, so that whole draws favour neither estimate.
    """
    estimator = model.estimators()[name]()
    begin = time.perf_counter()
    pilot = estimator.mean(x[:1000], 2, seed=1)
    pilot_seconds = time.perf_counter() - begin
    draws = max(2, math.ceil(2 * (_mc(pilot) * math.sqrt(1000 / POINTS) / TARGET) ** 2))
    begin = time.perf_counter()
    result = estimator.mean(x, draws, seed=2)
    seconds = time.perf_counter() - begin
    scale = (_mc(result) / TARGET) ** 2
    return {
        "mean": result.mean,
        "stderr_mc": _mc(result),
        "draws": draws,
        "calls_made": result.calls or 0,
        "calls": (result.calls or 0) * scale,
        "seconds": seconds * scale,
        "pilot_calls": pilot.calls or 0,
        "pilot_seconds": pilot_seconds,
    }


def _mc(result: MeanResult) -> float:
    assert result.stderr_mc is not None
    return result.stderr_mc


def main() -> None:
    """Train, measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--schedule", default="log_snr", choices=["log_snr", "linear", "cosine"])
    parser.add_argument("--steps", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, x, count, calibration = train(args.seconds, args.schedule, args.steps)
    rows = {name: measure(model, name, x) for name in ("full", "vlb")}
    full, drawn = rows["full"], rows["vlb"]
    gap = abs(full["mean"] - drawn["mean"]) / math.hypot(full["stderr_mc"], drawn["stderr_mc"])
    print(f"ddpm on 8gaussians, {count} steps in {args.seconds:g} s, {args.schedule} schedule, T = {args.steps}")
    print(f"mean bound of {POINTS} points, calls and seconds for a standard error of exactly {TARGET} nats;")
    print(f"fitting variances and allocation took {calibration:.2f} s")
    print(f"{'estimate':10}{'mean':>10}{'stderr':>9}{'draws':>7}{'calls':>12}{'seconds':>9}{'pilot calls':>13}")
    for name, row in rows.items():
        print(
            f"{name:10}{row['mean']:10.4f}{row['stderr_mc']:9.4f}{row['draws']:7d}{row['calls']:12.3g}"
            f"{row['seconds']:9.2f}{row['pilot_calls']:13.3g}"
        )
    ratio = full["calls"] / drawn["calls"]
    print(f"1/{ratio:.1f} of the calls, 1/{full['seconds'] / drawn['seconds']:.1f} of the seconds; ", end="")
    print(f"the means differ by {gap:.2f} joint standard errors")
    record = {
        "target": TARGET,
        "points": POINTS,
        "schedule": args.schedule,
        "steps": args.steps,
        "train_steps": count,
        "train_seconds": args.seconds,
        "calibration_seconds": calibration,
        "torch": torch.__version__,
        "threads": 1,
        "ratio_calls": ratio,
        "gap_in_joint_stderr": gap,
        "estimates": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    if gap > 3:
        raise SystemExit("the two estimates disagree by more than three joint standard errors")


if __name__ == "__main__":
    main()
