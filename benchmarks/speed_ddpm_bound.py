"""Network calls and seconds that a diffusion bound's mean over 10,000 points needs for a standard error of 0.01 nats.

    python benchmarks/speed_ddpm_bound.py [--seconds 20] [--schedule log_snr] [--steps 1000 256]

Trains ddpm on 8gaussians for some seconds of one thread, for each T, then takes the mean of its bound in two ways:

full        the sum over all T: an independent noise for each point and step. Its Monte Carlo error is that of two
            noises on the first 1,000 points, scaled to one noise on all of them.
stratified  draws spread over points, steps and noise, importance and control variate from a pilot on validation data.
            60 repeats, each with a pilot of its own, each stopping by itself at `until_se`. Its error is the spread of
            the 60 means: what the repeats say of themselves is printed beside it.

The repeats run between the tenths of the full sum, and seconds are processor time. Calls and seconds are scaled by
(error / target)^2, so that stopping at whole draws favours neither. "margin" leaves out the pilot that learns the
allocation and the one that chooses the draws; "in all" counts them, once.

For the smallest T it shows the model below its own truth: its bound, and importance-weighted whole paths, 1 to 64 of
them, whose limit is log p(x), on the same 250 points; each step up with its paired error.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from genzoo_ddpm.ddpm import DDPM
from genzoo_ddpm.diffusion import Diffusion
from genzoo_ddpm.options import DiffusionConfig

from genzoo.data.splits import TensorSplit
from genzoo.data.toy import DENSITIES
from genzoo.means import MeanResult
from genzoo.spec import Batch, DataSpec

TARGET = 0.01
POINTS, BLOCKS, REPEATS = 10_000, 10, 60
PATH_POINTS, PATHS = 250, (1, 4, 16, 64)
RESULT = Path(__file__).parent / "results" / "speed_ddpm_bound.json"


class Counted:
    """The network's rows and the processor seconds spent inside a `with`."""

    def __init__(self, model: Diffusion) -> None:
        self.rows, self.calls, self.seconds = 0, 0, 0.0
        model.network.register_forward_pre_hook(self._count)

    def _count(self, _: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        self.rows += len(args[0])

    def __enter__(self) -> Counted:
        self.rows, self._begin = 0, time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.calls = time.process_time() - self._begin, self.rows


def train(seconds: float, schedule: str, steps: int) -> tuple[Diffusion, torch.Tensor, TensorSplit, int]:
    """(model, standardised test points, validation split, training steps) on 8gaussians."""
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
    begin, count, progress = time.process_time(), 0, 0.0
    while progress < 1:
        index = torch.randint(0, len(split), (settings.batch_size or len(split),), generator=generator)
        learner.step(Batch(split.batch(index, generator).x, None), progress)
        count, progress = count + 1, (time.process_time() - begin) / seconds
    learner.finish(split, split)
    trained = learner.evaluated()
    assert isinstance(trained, Diffusion)
    valid = TensorSplit((density.sample(10_000, 1) - loc) / scale)
    return trained, (density.sample(POINTS, 2) - loc) / scale, valid, count


def compare(model: Diffusion, x: torch.Tensor, valid: TensorSplit) -> dict[str, Any]:
    """Both ways, interleaved."""
    counted = Counted(model)
    full = model.estimators()["full"]()
    two = full.mean(x[:1000], 2, seed=1)
    error = _mc(two) * math.sqrt(2 * 1000 / POINTS)
    sums, calls, seconds = [], 0, 0.0
    runs: list[MeanResult] = []
    pilot_calls = pilot_seconds = main_calls = main_seconds = 0.0
    for block in range(BLOCKS):
        with counted:
            sums.append(full.mean(x[block * 1000 : (block + 1) * 1000], 1, seed=100 + block).mean)
        calls, seconds = calls + counted.calls, seconds + counted.seconds
        for repeat in range(block * REPEATS // BLOCKS, (block + 1) * REPEATS // BLOCKS):
            estimator = model.estimators()["stratified"]()
            with counted:
                estimator.start(valid, repeat)
            pilot_calls, pilot_seconds = pilot_calls + counted.calls, pilot_seconds + counted.seconds
            with counted:
                result = estimator.mean(x, 1, seed=1000 + 2 * repeat, until_se=TARGET)
            spent = result.calls or 0  # its own calls leave the choosing of draws out
            share = spent / counted.calls
            pilot_calls, pilot_seconds = (
                pilot_calls + counted.calls - spent,
                pilot_seconds + counted.seconds * (1 - share),
            )
            main_calls, main_seconds = main_calls + spent, main_seconds + counted.seconds * share
            runs.append(result)
    means = torch.tensor([result.mean for result in runs], dtype=torch.float64)
    spread = float(means.std())
    scale, own = (error / TARGET) ** 2, (spread / TARGET) ** 2
    mean = sum(sums) / len(sums)
    stratified = {
        "mean": float(means.mean()),
        "error": spread,
        "error_stated": math.sqrt(sum(_mc(result) ** 2 for result in runs) / REPEATS),
        "calls_made": main_calls / REPEATS,
        "calls": own * main_calls / REPEATS,
        "seconds": own * main_seconds / REPEATS,
        "pilot_calls": pilot_calls / REPEATS,
        "pilot_seconds": pilot_seconds / REPEATS,
    }
    row = {"mean": mean, "error": error, "calls_made": calls, "calls": scale * calls, "seconds": scale * seconds}
    return {
        "full": row,
        "stratified": stratified,
        "calls_margin": row["calls"] / stratified["calls"],
        "calls_in_all": row["calls"] / (stratified["calls"] + stratified["pilot_calls"]),
        "seconds_margin": row["seconds"] / stratified["seconds"],
        "seconds_in_all": row["seconds"] / (stratified["seconds"] + stratified["pilot_seconds"]),
        "bias": stratified["mean"] - mean,
        "bias_in_joint_errors": (stratified["mean"] - mean) / math.hypot(error, spread / math.sqrt(REPEATS)),
    }


def paths(model: Diffusion, x: torch.Tensor) -> dict[str, dict[str, float]]:
    """The bound and the importance-weighted paths on the same points, with the paired error of each step up."""
    estimators = model.estimators()
    rows = {"vlb": estimators["vlb"]().mean(x, 128, seed=0)}
    rows |= {f"weights_{k}": estimators["weights"]().mean(x, k, seed=k) for k in PATHS}
    above: MeanResult | None = None
    table = {}
    for name, result in rows.items():
        table[name] = {"mean": result.mean}
        if above is not None:
            gain = result.values - above.values
            table[name] |= {"gain": float(gain.mean()), "gain_stderr": float(gain.std()) / math.sqrt(len(x))}
        above = result
    return table


def _mc(result: MeanResult) -> float:
    assert result.stderr_mc is not None
    return result.stderr_mc


def show(steps: int, record: dict[str, Any]) -> None:
    """One table."""
    print(f"ddpm on 8gaussians, T = {steps}, {record['train_steps']} training steps; mean bound of {POINTS} points;")
    print(f"calls and processor seconds for a standard error of exactly {TARGET} nats")
    print(f"{'estimate':11}{'mean':>10}{'error':>9}{'calls':>11}{'seconds':>9}{'pilot calls':>13}{'pilot s':>9}")
    for name in ("full", "stratified"):
        row = record[name]
        pilot = f"{row['pilot_calls']:13.3g}{row['pilot_seconds']:9.3f}" if "pilot_calls" in row else ""
        print(f"{name:11}{row['mean']:10.4f}{row['error']:9.4f}{row['calls']:11.3g}{row['seconds']:9.3f}{pilot}")
    print(f"1/{record['calls_margin']:.0f} of the calls at the margin, 1/{record['calls_in_all']:.0f} in all; ", end="")
    print(f"1/{record['seconds_margin']:.0f} of the seconds, 1/{record['seconds_in_all']:.0f} in all")
    own = record["stratified"]
    print(
        f"{REPEATS} repeats that stop by themselves at {TARGET}: spread {own['error']:.4f}, stated "
        f"{own['error_stated']:.4f}; bias {record['bias']:+.4f}, {record['bias_in_joint_errors']:+.2f} joint errors"
    )
    for name, row in record.get("paths", {}).items():
        gain = f", {row['gain']:+.4f} +- {row['gain_stderr']:.4f} over the line above" if "gain" in row else ""
        print(f"  {name:11}{row['mean']:10.4f}{gain}")
    print(flush=True)


def main() -> None:
    """Train, measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--schedule", default="log_snr", choices=["log_snr", "linear", "cosine"])
    parser.add_argument("--steps", type=int, nargs="+", default=[1000, 256])
    args = parser.parse_args()
    torch.set_num_threads(1)
    records = {}
    for steps in args.steps:
        model, x, valid, count = train(args.seconds, args.schedule, steps)
        record = compare(model, x, valid) | {"train_steps": count}
        if steps == min(args.steps):
            record["paths"] = paths(model, x[:PATH_POINTS])
        records[str(steps)] = record
        show(steps, record)
    whole = {
        "target": TARGET,
        "points": POINTS,
        "repeats": REPEATS,
        "path_points": PATH_POINTS,
        "schedule": args.schedule,
        "train_seconds": args.seconds,
        "torch": torch.__version__,
        "threads": 1,
        "steps": records,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    if any(abs(record["bias_in_joint_errors"]) > 3 for record in records.values()):
        raise SystemExit("the two estimates disagree by more than three joint standard errors")


if __name__ == "__main__":
    main()
