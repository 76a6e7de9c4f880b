"""False alarms of the kit's statistical checks: `make calibrate`. Each correct twin of the mutants is trained once, and
the checks that rest on random draws are repeated over 200 seeds of draws. The receipt is `results/calibrate.json`.

A check is made for less than one false alarm in 1e7; what 200 seeds can show is that none is frequent: with no alarm in
n runs of one check, its rate is below 3 / n with 95 % confidence.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from genzoo.registry import Registry, load_registry
from genzoo.testing import kit
from genzoo.testing.subject import ModelSubject

ROOT = Path(__file__).parent.parent
RECEIPT = ROOT / "benchmarks" / "results" / "calibrate.json"
SEEDS = range(1, 201)
STATISTICAL = (
    "mass_is_one",
    "bound_mass_is_below_one",
    "below_the_truth",
    "estimators_agree",
    "draws_tighten",
    "loss_is_a_bound",
    "samples_match",
)
"""Checks whose draws follow the subject's seed."""


@dataclass
class Calibration:
    """How often each check ran on one twin, and every alarm as `seed check[problem]: message`."""

    model: str
    runs: dict[str, int] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    seconds: float = 0.0


def alarms(registry: Registry, name: str, seeds: Iterable[int]) -> Calibration:
    """Train a twin once, then repeat its statistical checks with fresh draws."""
    start = time.perf_counter()
    found = Calibration(name)
    first = kit.subject_of(registry, name)
    for problem in first.problems():
        first.trained(problem)
    for seed in seeds:
        subject = ModelSubject(registry, name, first.options, first.level, seed)
        subject._trained = {
            problem: replace(trained, answers={}, drawn={}) for problem, trained in first._trained.items()
        }
        for check, problem in kit.planned(subject):
            if check.name not in STATISTICAL:
                continue
            result = kit.run_check(subject, check, problem, {})
            if result.outcome == "skipped":
                continue
            found.runs[result.name] = found.runs.get(result.name, 0) + 1
            if result.outcome == "failed":
                found.alarms.append(f"{seed} {result.name}: {result.message}")
    found.seconds = round(time.perf_counter() - start, 1)
    return found


def _one(name: str) -> Calibration:
    torch.set_num_threads(1)
    return alarms(_registry(), name, SEEDS)


def _registry() -> Registry:
    return load_registry(map(str, sorted((ROOT / "tests" / "mutants").glob("mutant_*.py"))))


def main() -> int:
    twins = [name for name in _registry().models if name.startswith("twin_")]
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(_one, twins))
    runs, count = sum(sum(each.runs.values()) for each in found), sum(len(each.alarms) for each in found)
    document: dict[str, Any] = {"seeds": len(SEEDS), "runs": runs, "alarms": count}
    document["twins"] = [asdict(each) for each in found]
    RECEIPT.parent.mkdir(exist_ok=True)
    RECEIPT.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    for each in found:
        print(f"{each.model:18} {sum(each.runs.values()):5} runs, {len(each.alarms)} alarms, {each.seconds:.0f}s")
        print("".join(f"    {alarm}\n" for alarm in each.alarms), end="")
    print(f"{count} alarms in {runs} runs")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
