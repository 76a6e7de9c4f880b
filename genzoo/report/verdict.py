"""Who leads, by how much, and whether that is more than chance, in sentences: see `pairs` for the statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from genzoo import student
from genzoo.report.collect import Group, Standing
from genzoo.report.numbers import bits, bound, count, divergence, with_error
from genzoo.report.pairs import ALPHA, Pair, compare_all, family
from genzoo.report.units import NATS, Unit, in_unit


@dataclass(frozen=True)
class Verdict:
    """`headline`: who leads, or who cannot be told apart; `details`: by how much, and what that speaks of."""

    headline: str
    details: list[str]


def verdict(group: Group, unit: Unit = NATS) -> Verdict:
    """What a group shows, in sentences."""
    ranked = group.ranked
    bugs = [s.label for s in group.standings if s.state == "bug"]
    warning = [f"{', '.join(bugs)} beats the truth, which is a bug: not ranked."] if bugs else []
    if not ranked or ranked[0].state == "infinite":
        reason = "no model has a finite bound" if ranked else "no model has a number that can be ranked"
        return Verdict(f"{group.dataset}: {reason}.", warning)
    first, details = ranked[0], [*warning]
    figures = _figures(first, unit)
    if len(ranked) == 1:
        return Verdict(f"{group.dataset}: {first.label} is the only model ranked: {figures}.", details)
    second, pairs = ranked[1], compare_all(group)
    against = {id(pair.worse): pair for pair in pairs if pair.better is first}
    if second.state == "infinite":
        details.insert(0, f"{second.label} is next with an infinite NLL.")
    elif id(second) not in against:
        details.insert(0, f"{second.label} is next; no paired error: the two cells share no stored points.")
    else:
        details.insert(0, _distance(first, second, against[id(second)], unit))
        if second.summary.kind != "exact":
            details.append(f"{second.label}'s figure is a bound: its own NLL may be lower.")
        if len(pairs) > 1:
            details.append(family(pairs))
    return Verdict(f"{group.dataset}: {_standing(first, ranked[1:], against)}: {figures}.", details)


def _standing(first: Standing, others: Sequence[Standing], against: dict[int, Pair]) -> str:
    """It leads when it is clear of every other model; with some it may be tied, or never have been compared."""
    tied = [s.label for s in others if id(s) in against and not against[id(s)].clear]
    if tied:
        return f"{', '.join([first.label, *tied[:-1]])} and {tied[-1]} cannot be told apart; {first.label}"
    compared = all(id(s) in against or s.state == "infinite" for s in others)
    return f"{first.label} {'leads' if compared else 'is first, not compared with all'}"


def _figures(standing: Standing, unit: Unit) -> str:
    """The numbers of a model, and whether its KL is more than chance."""
    record, shown = standing.summary, in_unit(standing.summary, unit)
    beside = "" if record.bits_per_dim is None or unit.each else f" ({bits(record)} bits/dim)"
    said = f"NLL {bound(shown)} {unit}{beside}"
    if shown.kl is None:
        return said
    dof = len(standing.entries) - 1 or math.inf  # over seeds, or over test points
    within = bool(record.kl_stderr) and student.p_value(shown.kl / (shown.kl_stderr or 1.0), dof) > ALPHA
    return f"{said}; KL to the truth {divergence(shown)} {unit}{', not told from 0' if within else ''}"


def _distance(first: Standing, second: Standing, pair: Pair, unit: Unit) -> str:
    difference = pair.difference
    factor = unit.factor(first.summary.event_shape)
    amount = f"{with_error(factor * difference.nats, factor * difference.stderr)} {unit}"
    if difference.over_seeds:
        seeds, n = f"{len(first.entries)} and {len(second.entries)} seeds", count(difference.points)
        return f"{second.label} is {amount} behind (error over {seeds}: of the methods, on these {n} points)."
    basis = f"paired over {count(difference.points)} points in common; of these checkpoints, not of the methods"
    return f"{second.label} is {amount} behind ({basis})."
