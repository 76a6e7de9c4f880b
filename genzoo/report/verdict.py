"""Who leads, by how much, and whether that is more than chance, in sentences: see `pairs` for the statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genzoo.records import RunRecord
from genzoo.report.collect import Group, Standing
from genzoo.report.numbers import bits, bound, count, divergence, with_error
from genzoo.report.pairs import Pair, compare_all, family


@dataclass(frozen=True)
class Verdict:
    """`headline`: who leads, or who cannot be told apart; `details`: by how much, and what that speaks of."""

    headline: str
    details: list[str]


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
    second, pairs = ranked[1], compare_all(group)
    against = {id(pair.worse): pair for pair in pairs if pair.better is first}
    if second.state == "infinite":
        details.insert(0, f"{second.label} is next with an infinite NLL.")
    elif id(second) not in against:
        details.insert(0, f"{second.label} is next; no paired error: the two cells share no stored points.")
    else:
        details.insert(0, _distance(first, second, against[id(second)]))
        if second.summary.kind != "exact":
            details.append(f"{second.label}'s figure is a bound: its own NLL may be lower.")
        if len(pairs) > 1:
            details.append(family(pairs))
    return Verdict(f"{group.dataset}: {_standing(first, ranked[1:], against)}: {'; '.join(figures)}.", details)


def _standing(first: Standing, others: Sequence[Standing], against: dict[int, Pair]) -> str:
    """It leads when it is clear of every other model; with some it may be tied, or never have been compared."""
    tied = [s.label for s in others if id(s) in against and not against[id(s)].clear]
    if tied:
        return f"{', '.join([first.label, *tied[:-1]])} and {tied[-1]} cannot be told apart"
    compared = all(id(s) in against or s.state == "infinite" for s in others)
    return f"{first.label} {'leads' if compared else 'is first, not compared with all'}"


def _number(record: RunRecord) -> str:
    beside = "" if record.bits_per_dim is None else f" ({bits(record)} bits/dim)"
    return f"NLL {bound(record)} nats{beside}"


def _distance(first: Standing, second: Standing, pair: Pair) -> str:
    difference = pair.difference
    amount = f"{with_error(difference.nats, difference.stderr)} nats"
    if difference.over_seeds:
        seeds, n = f"{len(first.entries)} and {len(second.entries)} seeds", count(difference.points)
        return f"{second.label} is {amount} behind (error over {seeds}: of the methods, on these {n} points)."
    basis = f"paired over {count(difference.points)} points in common; of these checkpoints, not of the methods"
    return f"{second.label} is {amount} behind ({basis})."
