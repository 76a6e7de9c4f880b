"""Coverage of the stated 95 % intervals on simulations whose truth is a closed form, and whether ties are called ties.

    python benchmarks/coverage.py [--repeats 1000]

Every interval is the one that genzoo states (`MeanResult.interval`, `TwoPhase`, a row's over seeds, a verdict's
difference). `points`: covers the expectation of the bound at these test points; `population`: that over their
distribution. The receipt is `results/coverage.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from genzoo import student
from genzoo.likelihood import LogLikelihood
from genzoo.means import Errors, MeanResult, errors
from genzoo.records import CellFolder, RunRecord
from genzoo.report.collect import Entry, Group, Standing
from genzoo.report.pairs import compare
from genzoo.report.verdict import verdict
from genzoo.two_phase import TwoPhase

RESULT = Path(__file__).parent / "results" / "coverage.json"
N, R, K = 200, 8, 8
LEVEL = 0.95
Generator = np.random.Generator
Values = NDArray[np.float64]
Covers = dict[str, bool]
"""Whether an interval covers, by what it speaks of."""


def inside(interval: tuple[float, float] | None, truth: float) -> bool:
    assert interval is not None
    return interval[0] <= truth <= interval[1]


def of(result: MeanResult, points: float, population: float) -> Covers:
    return {
        "points": inside(result.interval(LEVEL, these_points=True), points),
        "population": inside(result.interval(LEVEL), population),
    }


def independent(rng: Generator, *, noise: float = 2.0, shared: float = 0.0) -> Covers:
    """Example i has t_i + noise, K draws each, its variance estimated from the draws; and an offset common to all."""
    t = 1.5 * rng.standard_normal(N)
    draws = torch.from_numpy(t + noise * rng.standard_normal((K, N)) + shared * rng.standard_normal())
    offset = torch.tensor(shared**2, dtype=torch.float64)
    said = LogLikelihood.lower_bound(draws.mean(0), num_samples=K, variance=draws.var(0) / K, shared_variance=offset)
    return of(MeanResult.of(said), t.mean(), 0.0)


def stratified(rng: Generator, *, spread: float = 1.5, shared: float = 0.0) -> Covers:
    """One draw an example in each of R randomisations, u_i in its own stratum of (0, 1); integrand exp(2u), whose scale
    differs between examples, so that strata remove most of the noise and not all."""
    t = spread * rng.standard_normal(N)
    return of(randomised(rng, t, shared), t.mean(), 0.0)


def randomised(rng: Generator, t: Values, shared: float = 0.0) -> MeanResult:
    """R randomisations of stratified draws around `t (N,)`."""
    scale = 1 + 0.5 * np.tanh(rng.standard_normal(N))
    strata = np.stack([rng.permutation(N) for _ in range(R)])
    u = (strata + rng.random((R, N))) / N
    values = t + scale * (np.exp(2 * u) - math.expm1(2) / 2) + shared * rng.standard_normal()
    offset = torch.tensor(shared**2, dtype=torch.float64)
    return MeanResult.of_replicates(torch.from_numpy(values), kind="lower_bound", num_samples=R, shared_variance=offset)


def gamma_gap(shape: float, k: int) -> float:
    """E log of the mean of k weights Gamma(shape, rate shape): digamma(k shape) - log(k shape)."""
    return float(torch.special.digamma(torch.tensor(k * shape, dtype=torch.float64))) - math.log(k * shape)


def gamma_weights(rng: Generator, t: Values, shape: float, k: int) -> LogLikelihood:
    log_w = np.log(rng.gamma(shape, 1 / shape, (k, len(t))))
    return LogLikelihood.weights(torch.from_numpy(log_w + t))


def importance(rng: Generator, *, shape: float, k: int) -> Covers:
    """Gamma weights, heavy to the left in log: against the expectation of their own log-mean-exp."""
    t = rng.standard_normal(N)
    gap = gamma_gap(shape, k)
    return of(MeanResult.of(gamma_weights(rng, t, shape, k)), t.mean() + gap, gap)


def rare(rng: Generator, *, large: float = 30.0, p: float = 0.05, k: int = 20) -> Covers:
    """Weights that are 1, or rarely `large`: heavy to the right; the expectation is a sum over the binomial."""
    t = rng.standard_normal(N)
    log_w = np.where(rng.random((k, N)) < p, math.log(large), 0.0) + t
    chances = [math.comb(k, j) * p**j * (1 - p) ** (k - j) for j in range(k + 1)]
    gap = math.fsum(chance * math.log((k - j + large * j) / k) for j, chance in enumerate(chances))
    return of(MeanResult.of(LogLikelihood.weights(torch.from_numpy(log_w))), t.mean() + gap, gap)


def two_phase(rng: Generator, *, m: int = 60, few: int = 5, many: int = 100) -> Covers:
    """The bound with `many` draws from `few` on all points and `many` on m of them; the gain depends on the point."""
    t = rng.standard_normal(N)
    subset = np.sort(rng.permutation(N)[:m])
    dear = t + 0.3 * np.abs(t)
    first = MeanResult.of(gamma_weights(rng, t, 0.5, few))
    second = MeanResult.of(gamma_weights(rng, dear[subset], 0.5, many))
    found, gap = TwoPhase.of(first, second, torch.from_numpy(subset)), gamma_gap(0.5, many)
    assert found.stderr_mc is not None
    points = abs(found.mean - dear.mean() - gap) < student.quantile(LEVEL, found.dof_mc) * found.stderr_mc
    whole = abs(found.mean - 0.3 * math.sqrt(2 / math.pi) - gap) < student.quantile(LEVEL, found.dof) * found.stderr
    return {"points": points, "population": whole}


class Held(CellFolder):
    """A cell whose arrays are in memory."""

    def arrays(self) -> dict[str, Values]:
        return HELD[self.path]


HELD: dict[Path, dict[str, Values]] = {}


def standing_of(name: str, values: Values) -> Standing:
    """A model from its values `(S, n)`, a seed a row."""
    entries = []
    for seed, lower in enumerate(values):
        path = Path(f"{name}-{seed}")
        HELD[path] = {"index": np.arange(len(lower)), "lower": lower}
        record = RunRecord(cell=path.name, status="ok", model=name, label=name, dataset="d", seed=seed, kind="exact")
        found: Errors = errors(torch.from_numpy(lower), torch.zeros(len(lower)), torch.zeros(()))
        record.nll, record.stderr, record.stderr_data = -float(lower.mean()), found.stderr, found.stderr_data
        entries.append(Entry(Held(path, record), record))
    return Standing(entries)


def trained(rng: Generator, t: Values, seeds: int, spread: float) -> Values:
    """Values `(S, n)` of a method trained from S seeds: each has its own level, and its own way at each point."""
    return t + spread * rng.standard_normal((seeds, 1)) + 0.3 * rng.standard_normal((seeds, len(t)))


def over_seeds(rng: Generator, *, seeds: int = 3, spread: float = 0.2) -> Covers:
    """The row of a method over S seeds; the truth is the mean over all seeds that there could be."""
    t = 1.5 * rng.standard_normal(N)
    row = standing_of("a", trained(rng, t, seeds, spread))
    return {
        "points": inside(row.interval(LEVEL), -float(t.mean())),
        "population": inside(row.interval(LEVEL, population=True), 0.0),
    }


def stratified_difference(rng: Generator, *, spread: float = 0.3) -> Covers:
    """The paired difference of two checkpoints whose draws are stratified over the points: the noise of each value is
    far larger than that of the mean."""
    t = 3 * rng.standard_normal(N)
    sides = []
    for name, level in (("a", 0.7), ("b", 0.0)):
        made = randomised(rng, t + level + spread * rng.standard_normal(N))
        side = standing_of(name, made.values.numpy()[None])
        entry = side.entries[0]
        assert made.result.variance is not None
        HELD[entry.folder.path]["variance"] = made.result.variance.numpy()
        entry.record.stderr_mc = made.stderr_mc
        sides.append(side)
    found = compare(*sides)
    assert found is not None
    return {"population": abs(found.nats - 0.7) < student.quantile(LEVEL, found.dof) * found.stderr}


def difference(rng: Generator, *, seeds: tuple[int, int], spreads: tuple[float, float] = (0.2, 0.2)) -> Covers:
    """The paired difference of two models, 0.7 nats apart: of checkpoints with one seed, of methods with more."""
    t = 3 * rng.standard_normal(N)
    if min(seeds) == 1:
        a, b = (t + level + rng.standard_normal((1, N)) for level in (0.7, 0.0))
        about = "population"
    else:
        a, b = (trained(rng, t + level, s, w) for level, s, w in zip((0.7, 0.0), seeds, spreads, strict=True))
        about = "points"
    found = compare(standing_of("a", a), standing_of("b", b))
    assert found is not None
    return {about: abs(found.nats - 0.7) < student.quantile(LEVEL, found.dof) * found.stderr}


CASES: dict[str, Callable[[Generator], Covers]] = {
    "independent draws": independent,
    "independent draws, noise dominates": lambda rng: independent(rng, noise=10.0),
    "shared offset": lambda rng: independent(rng, shared=0.2),
    "stratified draws, R = 8": stratified,
    "stratified draws, R = 8, noise as large": lambda rng: stratified(rng, spread=0.3),
    "stratified draws, R = 8, noise dominates": lambda rng: stratified(rng, spread=0.1),
    "stratified draws, R = 8, shared offset": lambda rng: stratified(rng, shared=0.05),
    "importance weights, Gamma(1), K = 5": lambda rng: importance(rng, shape=1.0, k=5),
    "importance weights, Gamma(0.3), K = 20": lambda rng: importance(rng, shape=0.3, k=20),
    "importance weights, Gamma(0.3), K = 500": lambda rng: importance(rng, shape=0.3, k=500),
    "importance weights, rare large, K = 20": rare,
    "two phases, K = 5 on 200 and 100 on 60": two_phase,
    "three seeds": over_seeds,
    "five seeds, seeds dominate": lambda rng: over_seeds(rng, seeds=5, spread=2.0),
    "difference of two checkpoints": lambda rng: difference(rng, seeds=(1, 1)),
    "difference of two checkpoints, stratified draws": stratified_difference,
    "difference of two methods, 3 and 3 seeds": lambda rng: difference(rng, seeds=(3, 3)),
    "difference of two methods, 3 and 5 seeds, unequal": lambda rng: difference(rng, seeds=(3, 5), spreads=(0.1, 0.5)),
}

HARD: dict[str, Callable[[Generator], Covers]] = {
    "importance weights, Gamma(0.3), K = 5": lambda rng: importance(rng, shape=0.3, k=5),
    "importance weights, rare large, K = 5": lambda rng: rare(rng, k=5),
    "difference of two methods, 2 and 2 seeds": lambda rng: difference(rng, seeds=(2, 2)),
}
"""Where few draws or seeds cannot tell: beyond what is promised, and shown."""


def coverage(case: Callable[[Generator], Covers], repeats: int, seed: int = 0) -> dict[str, float]:
    """Share of the repeats in which the interval covers, by what it speaks of."""
    found = [case(np.random.default_rng([seed, repeat])) for repeat in range(repeats)]
    return {about: float(np.mean([each[about] for each in found])) for about in found[0]}


def group_of(values: Values) -> Group:
    """Ranked standings from values `(k, S, n)`: k models, S seeds, n points."""
    standings = [standing_of(f"m{model}", seeds) for model, seeds in enumerate(values)]
    standings.sort(key=lambda standing: standing.summary.nll or 0.0)
    for rank, standing in enumerate(standings, start=1):
        standing.rank = rank
    return Group("d", {}, "test", standings)


def declared(groups: int, k: int, seeds: int, ahead: float = 0.0, n: int = 60) -> float:
    """Share of groups of k equal models in which one is said to lead; the first is `ahead` nats better than the others.

    Per-point values share the difficulty of the points, so that they are paired as real ones are.
    """
    rng = np.random.default_rng([groups, k, seeds])
    leads = 0
    for _ in range(groups):
        t = 3 * rng.standard_normal((1, 1, n))
        own = rng.standard_normal((k, seeds, n))
        levels = 0.0 if seeds == 1 else 0.5 * rng.standard_normal((k, seeds, 1))
        values = t + own + levels
        values[0] += ahead
        leads += " leads:" in verdict(group_of(values)).headline
    return leads / groups


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    start, rows = time.process_time(), []
    for promised, cases in ((True, CASES), (False, HARD)):
        for name, case in cases.items():
            for about, share in coverage(case, repeats).items():
                error = math.sqrt(share * (1 - share) / repeats)
                rows.append(
                    {"case": name, "about": about, "coverage": share, "binomial_error": error, "promised": promised}
                )
                sign = "" if promised else " *"
                print(f"{name:50} {about:10} {100 * share:5.1f} % +- {100 * error:.1f}{sign}", flush=True)
    print("* beyond what is promised: too few draws or seeds to tell\n")
    ties = []
    for k, seeds in ((2, 1), (5, 1), (2, 3), (5, 3)):
        share = declared(repeats, k, seeds)
        ties.append({"models": k, "seeds": seeds, "leader_declared": share})
        print(f"{k} equal models, {seeds} seed(s) each: a leader declared in {100 * share:.1f} % of groups")
    document = {"level": LEVEL, "points": N, "repeats": repeats, "cases": rows, "ties": ties}
    document["seconds"] = round(time.process_time() - start, 1)
    RESULT.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    outside = [row for row in rows if row["promised"] and not 0.93 <= row["coverage"] <= 0.97]
    return (
        1 if outside or any(tie["leader_declared"] > 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats) for tie in ties) else 0
    )


if __name__ == "__main__":
    raise SystemExit(main())
