"""Verdicts over all pairs: Holm by hand, and simulated ties, which are to be called ties in at least 95 % of groups.

A simulated group has k models that are equal: per-point values share the difficulty of the points, so that they are
paired as real ones are. Declared leaders are counted; by the family-wise error at most 5 % of groups have one. Allowed
is 5 % and three binomial deviations of the number of groups, which by chance alone is exceeded once in 700.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from genzoo import student
from genzoo.records import CellFolder, RunRecord
from genzoo.report import pairs
from genzoo.report.collect import Entry, Group, Standing
from genzoo.report.verdict import verdict

N = 60


class Held(CellFolder):
    """A cell whose arrays are in memory."""

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        return {"index": np.arange(len(HELD[self.path])), "lower": HELD[self.path]}


HELD: dict[Path, NDArray[np.float64]] = {}


def standing_of(name: str, values: NDArray[np.float64]) -> Standing:
    """A model from its values `(S, n)`, a seed a row."""
    entries = []
    for seed, lower in enumerate(values):
        path = Path(f"{name}-{seed}")
        HELD[path] = lower
        record = RunRecord(cell=path.name, status="ok", model=name, label=name, dataset="d", seed=seed, kind="exact")
        record.nll = -float(lower.mean())
        entries.append(Entry(Held(path, record), record))
    return Standing(entries)


def group_of(values: NDArray[np.float64]) -> Group:
    """Ranked standings from values `(k, S, n)`: k models, S seeds, n points."""
    standings = [standing_of(f"m{model}", seeds) for model, seeds in enumerate(values)]
    standings.sort(key=lambda standing: standing.summary.nll or 0.0)
    for rank, standing in enumerate(standings, start=1):
        standing.rank = rank
    return Group("d", {}, "test", standings)


def declared(groups: int, k: int, seeds: int, ahead: float = 0.0) -> float:
    """Share of groups of k models in which one is said to lead; the first is `ahead` nats better than its equals."""
    generator = np.random.default_rng([groups, k, seeds])
    leads = 0
    for _ in range(groups):
        points = 3 * generator.standard_normal((1, 1, N))
        own = generator.standard_normal((k, 1 if seeds == 1 else seeds, N))
        trained = 0.0 if seeds == 1 else 0.5 * generator.standard_normal((k, seeds, 1))
        values = points + own + trained
        values[0] += ahead
        leads += " leads:" in verdict(group_of(values)).headline
    return leads / groups


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
