"""Paired differences of all ranked models of a group, on the points in common, and which of them are more than chance.

For two models with per-point values a_i, b_i (means over their seeds), d_i = a_i - b_i:

    difference = mean d_i,    stderr^2 = s_d^2 / n + shared_a + shared_b

s_d holds the Monte Carlo noise of each value as if independent; draws stratified over the points make that of the mean
smaller, and what they spare is taken off, down to the Monte Carlo error itself.

With two seeds or more on both sides the error is that over seeds instead, s_a^2/S_a + s_b^2/S_b with the degrees of
freedom of Welch and Satterthwaite: it speaks of the methods, the former of these checkpoints only.

The family is every pair of ranked models of the group, k (k - 1) / 2: the best of k is chosen by the same numbers, so
to compare it with the others alone would call equal models different too often. Holm (1979): p_(j) of m, in order,
becomes max over i <= j of (m - i + 1) p_(i); a pair's interval has the level that its adjusted p-value implies, and
excludes 0 just when that is below 0.05.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from genzoo import student
from genzoo.report.collect import Entry, Group, Standing, common_points, seed_error, values_at
from genzoo.report.numbers import NONE, count, decimals, fixed
from genzoo.report.table import Column, Row, Table
from genzoo.report.units import NATS, Unit
from genzoo.text import plain

STRATIFIED_DOF = 7.0
"""Fewest degrees of freedom of the error of stratified draws, which eight randomisations give (means.py)."""
ALPHA = 0.05
"""Chance that, of models that are all equal, any two are told apart."""
_COMPARED: WeakKeyDictionary[Group, list[Pair]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Difference:
    """By how many nats one model's NLL is below another's.

    Attributes:
        nats: mean difference, positive when the first is better; stderr: its standard error.
        points: how many test points it is paired over. dof: degrees of freedom of the error.
        over_seeds: whether the error is that over seeds, and speaks of the methods.
    """

    nats: float
    stderr: float
    points: int
    dof: float = math.inf
    over_seeds: bool = False

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference, before any correction."""
        if self.stderr == 0:
            return float(self.nats == 0)
        return student.p_value(self.nats / self.stderr, self.dof)


@dataclass(frozen=True)
class Pair:
    """Two ranked models of a group, the better first, and their difference.

    Attributes:
        factor: by which Holm's procedure multiplies the p-value; family: of how many pairs.
    """

    better: Standing
    worse: Standing
    difference: Difference
    factor: float
    family: int

    @property
    def adjusted(self) -> float:
        """The p-value of no difference, corrected."""
        return min(1.0, self.factor * self.difference.p_value)

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """The difference in nats at 95 %, corrected."""
        reach = student.quantile(1 - ALPHA / self.factor, self.difference.dof) * self.difference.stderr
        return self.difference.nats - reach, self.difference.nats + reach

    @property
    def clear(self) -> bool:
        """Whether the corrected interval excludes 0."""
        return self.adjusted < ALPHA


def compare(better: Standing, worse: Standing) -> Difference | None:
    """The paired difference of two standings; None where they share no points or one is infinite there."""
    index = common_points([*better.entries, *worse.entries])
    if index is None or len(index) < 2:
        return None
    sides = [np.stack([values_at(entry, index) for entry in standing.entries]) for standing in (better, worse)]
    if not all(np.isfinite(side).all() for side in sides):
        return None
    n, paired = len(index), sides[0].mean(axis=0) - sides[1].mean(axis=0)
    errors = [seed_error([float(mean) for mean in side.mean(axis=1)]) for side in sides]
    over_seeds = all(error is not None for error in errors)
    if over_seeds:
        parts = [(error**2, len(side) - 1.0) for error, side in zip(errors, sides, strict=True) if error is not None]
    else:
        parts = [(float(paired.var(ddof=1)) / n, n - 1.0)]
        each = [(e, len(s.entries) ** 2) for s in (better, worse) for e in s.entries]
        spared = [(e, squared) for e, squared in each if e.spared_variance and e.points and len(e.points[0]) == n]
        if spared:
            noise = [((e.record.stderr_mc or 0.0) ** 2 / squared, _dof_mc(e)) for e, squared in spared]
            square, drawn = parts[0][0], math.fsum(variance for variance, _ in noise)
            left = max(0.0, square - math.fsum(e.spared_variance / squared for e, squared in spared) - drawn)
            own = (n - 1) * (left / square) ** 2 if square else 0.0  # and no fewer than the noise's: as in means.py
            parts = [(left, max(own, student.degrees(noise))), *noise]
        parts += [(e.shared_variance / squared, math.inf) for e, squared in each]
    stderr = math.sqrt(math.fsum(variance for variance, _ in parts))
    return Difference(float(paired.mean()), stderr, n, student.degrees(parts), over_seeds)


def _dof_mc(entry: Entry) -> float:
    stored = entry.record.evaluation.get("dof_mc")
    return float(stored) if isinstance(stored, (int, float)) else STRATIFIED_DOF


def holm(p_values: Sequence[float]) -> list[float]:
    """Factors, at least 1, by which Holm's procedure multiplies each p-value; the product may exceed 1.

    >>> holm([0.01, 0.04, 0.03])
    [3.0, 1.5, 2.0]
    """
    m, factors, top = len(p_values), [1.0] * len(p_values), 0.0
    for step, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        p = p_values[index]
        top = max(top, (m - step) * p)
        factors[index] = top / p if p > 0 else float(m - step)
    return factors


def compare_all(group: Group) -> list[Pair]:
    """Every pair of ranked models that share points, best first; empty where ranks are on different points.

    Worked out once a group, which does not change after it is ranked.
    """
    if group not in _COMPARED:
        _COMPARED[group] = [] if group.incomparable else _compare_all(group)
    return _COMPARED[group]


def _compare_all(group: Group) -> list[Pair]:
    compared = [(a, b, compare(a, b)) for a, b in itertools.combinations(group.ranked, 2)]
    found = [(a, b, difference) for a, b, difference in compared if difference is not None]
    factors = holm([difference.p_value for _, _, difference in found])
    return [Pair(*each, factor, len(found)) for each, factor in zip(found, factors, strict=True)]


def family(pairs: Sequence[Pair]) -> str:
    """What the correction is over, and what the differences speak of, in a sentence."""
    size = "one pair" if len(pairs) == 1 else f"all {count(len(pairs))} pairs of ranked models (Holm)"
    seeds = sum(pair.difference.over_seeds for pair in pairs)
    if seeds == len(pairs):
        basis = "errors over seeds: of the methods, on these points"
    elif seeds:
        basis = "errors over seeds where both sides have two or more: of the methods; else of these checkpoints"
    else:
        basis = "errors over test points: of these checkpoints, not of the methods"
    return f"Told apart or not at 95 % over {size}; {basis}."


def pair_table(group: Group, unit: Unit = NATS) -> Table | None:
    """A matrix: by how much the model of a row is ahead of that of a column, and whether that is more than chance."""
    pairs = compare_all(group)
    if not pairs:
        return None
    ranked = group.ranked
    factor = unit.factor(group.first_record.event_shape)
    cells = {(id(pair.better), id(pair.worse)): _cell(pair, factor) for pair in pairs}
    rows = [
        Row((_name(row), *(cells.get((id(row), id(column)), NONE) for column in ranked[1:]))) for row in ranked[:-1]
    ]
    notes = (
        f"{unit.name.capitalize()} by which the model of the row is ahead of that of the column [95 % interval, "
        "corrected]; adjusted p.",
        family(pairs),
    )
    return Table((Column("ahead", text=True), *(Column(_name(column)) for column in ranked[1:])), tuple(rows), notes)


def pair_rows(group: Group) -> list[dict[str, object]]:
    """The same as one mapping a pair, for JSON and CSV."""
    return [
        {
            "dataset": group.dataset,
            "better": pair.better.label,
            "better_rank": pair.better.rank,
            "worse": pair.worse.label,
            "worse_rank": pair.worse.rank,
            "nats": pair.difference.nats,
            "stderr": pair.difference.stderr,
            "dof": pair.difference.dof,
            "low": pair.interval[0],
            "high": pair.interval[1],
            "p_value": pair.difference.p_value,
            "p_adjusted": pair.adjusted,
            "points": pair.difference.points,
            "over_seeds": pair.difference.over_seeds,
            "family": pair.family,
        }
        for pair in compare_all(group)
    ]


def _cell(pair: Pair, factor: float) -> str:
    places = decimals(factor * pair.difference.stderr)
    low, high = (fixed(factor * end, places) for end in pair.interval)
    chance = "p < 0.0001" if pair.adjusted < 1e-4 else f"p = {pair.adjusted:.2g}"
    return f"{fixed(factor * pair.difference.nats, places)} [{low}, {high}], {chance}"


def _name(standing: Standing) -> str:
    return plain(f"{standing.rank}. {standing.label}", 40)
