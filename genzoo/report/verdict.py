"""Who is first, by how much, and whether that is more than chance: paired differences on the points in common.

For two models with per-point values a_i, b_i (means over their seeds), d_i = a_i - b_i:

    difference = mean d_i,    stderr^2 = s_d^2 / n + shared_a + shared_b

With two seeds or more on both sides the error is that over seeds instead, s_a^2/S_a + s_b^2/S_b with the degrees of
freedom of Welch and Satterthwaite: it speaks of the methods, the former of these checkpoints only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from genzoo.records import RunRecord
from genzoo.report.collect import Group, Standing, common_points, seed_error, values_at
from genzoo.report.numbers import bits, bound, count, divergence, with_error

# Two-sided 5 % quantiles of Student's t for 1 to 10 degrees of freedom; beyond, its expansion in 1/dof.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Difference:
    """By how many nats one model's NLL is below another's.

    Attributes:
        nats: mean difference, positive when the first is better; stderr: its standard error.
        points: how many test points it is paired over. dof: degrees of freedom of the error, infinite for points.
    """

    nats: float
    stderr: float
    points: int
    dof: float = math.inf

    @property
    def clear(self) -> bool:
        """Whether zero lies outside the two-sided 95 % interval."""
        return abs(self.nats) > student(self.dof) * self.stderr

    @property
    def over_seeds(self) -> bool:
        """Whether the error is that over seeds."""
        return math.isfinite(self.dof)


@dataclass(frozen=True)
class Verdict:
    """`headline`: who is first; `details`: by how much, and what that speaks of."""

    headline: str
    details: list[str]


def student(dof: float) -> float:
    """Two-sided 5 % quantile of Student's t, for whole degrees of freedom rounded down."""
    whole = max(1, math.floor(dof)) if math.isfinite(dof) else 0
    if not whole:
        return 1.96
    return STUDENT[whole - 1] if whole <= len(STUDENT) else 1.96 + 2.37 / whole + 2.8 / whole**2


def compare(better: Standing, worse: Standing) -> Difference | None:
    """The paired difference of two standings; None where they share no points or one is infinite there."""
    index = common_points([*better.entries, *worse.entries])
    if index is None or len(index) < 2:
        return None
    sides = [np.stack([values_at(entry, index) for entry in standing.entries]) for standing in (better, worse)]
    if not all(np.isfinite(side).all() for side in sides):
        return None
    paired = sides[0].mean(axis=0) - sides[1].mean(axis=0)
    errors = [seed_error([float(mean) for mean in side.mean(axis=1)]) for side in sides]
    if errors[0] is not None and errors[1] is not None:
        variances = [error**2 for error in errors if error is not None]
        total = sum(variances)
        parts = sum(v**2 / (len(side) - 1) for v, side in zip(variances, sides, strict=True))
        return Difference(float(paired.mean()), math.sqrt(total), len(index), total**2 / parts if parts else 1.0)
    shared = sum(
        entry.shared_variance / len(standing.entries) ** 2 for standing in (better, worse) for entry in standing.entries
    )
    variance = float(paired.var(ddof=1)) / len(index) + shared
    return Difference(float(paired.mean()), math.sqrt(variance), len(index))


def verdict(group: Group) -> Verdict:
    """What a group shows, in sentences."""
    ranked = group.ranked
    bugs = [s.label for s in group.standings if s.state == "bug"]
    warning = [f"{', '.join(bugs)} beats the truth, which is a bug: not ranked."] if bugs else []
    if not ranked or ranked[0].state == "infinite":
        reason = "no model has a finite bound" if ranked else "no model has a number that can be ranked"
        return Verdict(f"{group.dataset}: {reason}.", warning)
    first, details = ranked[0], [*warning]
    figures = [_number(first.summary)]
    if first.summary.kl is not None:
        figures.append(f"KL to the truth {divergence(first.summary)} nats")
    if len(ranked) == 1:
        return Verdict(f"{group.dataset}: {first.label} is the only model ranked: {'; '.join(figures)}.", details)
    second = ranked[1]
    headline = f"{group.dataset}: {first.label} is first"
    difference = None if group.incomparable else compare(first, second)
    if second.state == "infinite":
        details.insert(0, f"{second.label} is next with an infinite NLL.")
    elif difference is None:
        details.insert(0, f"{second.label} is next; no paired error: the two cells share no stored points.")
    else:
        if not difference.clear:
            headline = f"{group.dataset}: {first.label} and {second.label} cannot be told apart"
        details.insert(0, _distance(first, second, difference))
        if second.summary.kind != "exact":
            details.append(f"{second.label}'s figure is a bound: its own NLL may be lower.")
    return Verdict(f"{headline}: {'; '.join(figures)}.", details)


def _number(record: RunRecord) -> str:
    beside = "" if record.bits_per_dim is None else f" ({bits(record)} bits/dim)"
    return f"NLL {bound(record)} nats{beside}"


def _distance(first: Standing, second: Standing, difference: Difference) -> str:
    amount = f"{with_error(difference.nats, difference.stderr)} nats"
    if difference.over_seeds:
        seeds = f"{len(first.entries)} and {len(second.entries)} seeds"
        return f"{second.label} is {amount} behind (error over {seeds}, on these {count(difference.points)} points)."
    basis = f"paired over {count(difference.points)} points in common; of these checkpoints, not of the methods"
    return f"{second.label} is {amount} behind ({basis})."
