"""A share of `benchmarks/coverage.py`: each case's interval covers its closed-form truth in 93 to 97 % of repeats.

Over 250 repeats the count is accepted between the binomial's 0.05 % quantile at 93 % and its 99.95 % quantile at 97 %:
with other seeds, a case whose coverage is what is asked raises a false alarm less than once in 1,000. The receipt has
1,000 repeats of each case, and must itself lie within 93 to 97 %.

Then verdicts over all pairs: Holm by hand, and simulated ties, which are to be called ties in at least 95 % of groups.
Allowed is 5 % and three binomial deviations of the number of groups, which by chance alone is exceeded once in 700.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.stats

from genzoo import student
from genzoo.report import pairs
from genzoo.report.collect import Entry

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "coverage.py"
REPEATS = 250
LEAST, MOST = scipy.stats.binom.ppf(5e-4, REPEATS, 0.93), scipy.stats.binom.isf(5e-4, REPEATS, 0.97)


def load() -> ModuleType:
    """The script as a module, under a name that is not that of the coverage tool."""
    name = "coverage_benchmark"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


BENCHMARK = load()
declared, group_of, standing_of = BENCHMARK.declared, BENCHMARK.group_of, BENCHMARK.standing_of
N = 60
honest = student.quantile


@pytest.mark.parametrize("name", BENCHMARK.CASES)
def test_the_interval_covers(name: str) -> None:
    for about, share in BENCHMARK.coverage(BENCHMARK.CASES[name], REPEATS, seed=1).items():
        assert LEAST <= share * REPEATS <= MOST, about


@pytest.mark.parametrize(
    ("name", "scale"), [*((name, 0.5) for name in [*BENCHMARK.CASES][::4]), ("independent draws", 2.5)]
)
def test_an_interval_of_another_width_would_be_seen(name: str, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: half the width covers in 67 to 84 %, 2.5 times in all."""
    monkeypatch.setattr(student, "quantile", lambda level, dof: scale * honest(level, dof))
    for share in BENCHMARK.coverage(BENCHMARK.CASES[name], REPEATS, seed=1).values():
        assert not LEAST <= share * REPEATS <= MOST


def test_what_stratified_draws_spare_is_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: with their values' noise as if independent, the interval of a difference covers always."""
    monkeypatch.setattr(Entry, "spared_variance", 0.0)
    case = BENCHMARK.CASES["difference of two checkpoints, stratified draws"]
    assert BENCHMARK.coverage(case, REPEATS, seed=1)["population"] * REPEATS > MOST


def test_the_receipt_is_whole_and_within() -> None:
    receipt = json.loads((SCRIPT.parent / "results" / "coverage.json").read_text())
    cases = {row["case"]: row for row in receipt["cases"]}
    assert set(cases) == {*BENCHMARK.CASES, *BENCHMARK.HARD}
    assert receipt["repeats"] >= 1000
    for row in receipt["cases"]:
        assert not row["promised"] or 0.93 <= row["coverage"] <= 0.97, row
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / receipt["repeats"])
    assert all(tie["leader_declared"] <= allowed for tie in receipt["ties"])


@pytest.mark.parametrize(("k", "seeds"), [(2, 1), (5, 1), (2, 3), (5, 3)])
def test_ties_are_called_ties(k: int, seeds: int) -> None:
    groups = 1000
    assert declared(groups, k, seeds) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / groups)


def test_without_the_family_ties_would_be_victories(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: uncorrected, the best of five equal models is said to lead far more often than in 5 % of groups."""
    monkeypatch.setattr(pairs, "holm", lambda p_values: [1.0] * len(p_values))
    generator = np.random.default_rng(0)
    told = 0
    for _ in range(200):
        values = 3 * generator.standard_normal((1, 1, N)) + generator.standard_normal((5, 1, N))
        told += any(pair.clear for pair in pairs.compare_all(group_of(values)))
    assert told / 200 > 0.15


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_clear_leader_is_said_to_lead(seeds: int) -> None:
    assert declared(30, 3, seeds, ahead=8.0) == 1.0


def test_holm_by_hand() -> None:
    """0.01, 0.03, 0.04 of three: 3 * 0.01, 2 * 0.03, and 1 * 0.04, which may not be below the one before."""
    p_values = [0.04, 0.01, 0.03]
    adjusted = [factor * p for factor, p in zip(pairs.holm(p_values), p_values, strict=True)]
    assert adjusted == pytest.approx([0.06, 0.03, 0.06])
    assert pairs.holm([0.0, 0.5]) == [2.0, 1.0]
    assert pairs.holm([]) == []


def test_the_interval_excludes_zero_just_when_the_pair_is_clear() -> None:
    generator = np.random.default_rng(1)
    seen = set()
    for _ in range(20):
        values = 3 * generator.standard_normal((1, 1, N)) + generator.standard_normal((4, 1, N))
        values += 0.3 * np.arange(4)[:, None, None]
        for pair in pairs.compare_all(group_of(values)):
            low, high = pair.interval
            assert (low > 0 or high < 0) == pair.clear
            assert pair.family == 6
            seen.add(pair.clear)
    assert seen == {True, False}


def test_over_seeds_it_is_welch() -> None:
    """Against Welch's t-test of the means of the seeds, S_a = 3 and S_b = 4, from its formulas."""
    generator = np.random.default_rng(2)
    values = [generator.standard_normal((s, N)) + s * generator.standard_normal((s, 1)) for s in (3, 4)]
    found = pairs.compare(*(standing_of(name, seeds) for name, seeds in zip("ab", values, strict=True)))
    assert found is not None
    means = [seeds.mean(1) for seeds in values]
    parts = [mean.var(ddof=1) / len(mean) for mean in means]
    dof = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 3)
    assert found.nats == pytest.approx(means[0].mean() - means[1].mean())
    assert found.stderr == pytest.approx(math.sqrt(sum(parts)))
    assert found.dof == pytest.approx(dof)
    assert found.p_value == pytest.approx(student.p_value(found.nats / found.stderr, dof))
    assert found.over_seeds
