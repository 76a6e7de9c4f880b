"""Leagues of equal steps, seconds or parameters.

A league of steps or seconds reads the validation curves that training stored. The effort is the largest that every
ranked model of the group was run to; each is judged by its best validation bound at or before it, never beyond what was
run. A model that converged before its budget would not change by more steps, and keeps its last bound. Parameters make
leagues by factors of two, in which the test bound ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genzoo.records import RunRecord
from genzoo.report.collect import Entry, Group, Standing, seed_error
from genzoo.report.numbers import NONE, SIGNS, bound, brief, count, with_error
from genzoo.report.table import Column, Row, Table
from genzoo.report.units import NATS, Unit, in_unit
from genzoo.text import plain

Match = Literal["steps", "seconds", "parameters"]
MATCHES: tuple[Match, ...] = ("steps", "seconds", "parameters")
Curves = dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]
CURVES = {"steps": "valid_step", "seconds": "valid_seconds"}


@dataclass(frozen=True)
class Placed:
    """One model in a league.

    Attributes:
        league: which one, in words. rank: from 1, None without a number.
        nll: nats; stderr: over seeds, None for one. at: the effort that nll was reached at, the mean over seeds.
    """

    standing: Standing
    league: str
    rank: int | None
    nll: float | None
    stderr: float | None
    at: float | None


def members(group: Group, match: Match) -> list[Placed]:
    """The ranked models of a group at equal effort, best first; empty where there is nothing to match."""
    return _by_parameters(group) if match == "parameters" else _by_effort(group, match)


def table(group: Group, match: Match, unit: Unit = NATS) -> Table:
    """The same as a table, with its rule below; why it is empty, where it is."""
    placed = members(group, match)
    effort = {"steps": "steps", "seconds": "seconds of training", "parameters": "parameters"}[match]
    curves = match in CURVES
    made = []
    for each in placed:
        record, rank = in_unit(each.standing.summary, unit), NONE if each.rank is None else str(each.rank)
        if curves:
            factor = unit.factor(record.event_shape)
            nll, stderr = (None if v is None else factor * v for v in (each.nll, each.stderr))
            shown = NONE if nll is None else f"{SIGNS.get(record.kind or '', '~')} {with_error(nll, stderr)}"
            made.append((each.league, rank, each.standing.label, shown, _effort(each.at, match)))
        else:
            made.append((each.league, rank, each.standing.label, bound(record), count(record.parameters)))
    titles = (f"validation NLL, {unit}", f"reached at, {effort}") if curves else (f"NLL, {unit}", "parameters")
    columns = (Column("league", text=True), Column("rank"), Column("model", text=True), *map(Column, titles))
    if not placed:
        return Table(columns, (), (f"No leagues of equal {match}: {_nothing(group)}.",), header=2)
    if curves:
        notes: tuple[str, ...] = (
            f"Matched by {effort}: the most that every ranked model was run to; each by its best validation bound "
            "stored at or before, never beyond what was run. Few are stored a run: the last column says where it was.",
            "Validation bounds are those of training, from few draws: they order the models, without an error but over "
            "seeds.",
        )
        if any(_converged(entry.record) for each in placed for entry in each.standing.entries):
            notes += ("A model that converged before its budget keeps its last bound.",)
        notes += tuple(_missing(group, match))
    else:
        notes = ("Leagues by factors of two in the number of parameters; ranks within each by the test bound.",)
    return Table(columns, tuple(Row(tuple(plain(cell, 80) for cell in row)) for row in made), notes, header=2)


def rows(group: Group, match: Match) -> list[dict[str, object]]:
    """The same as one mapping a model, for JSON and CSV."""
    return [
        {
            "dataset": group.dataset,
            "match": match,
            "league": each.league,
            "rank": each.rank,
            "model": each.standing.label,
            "seeds": len(each.standing.entries),
            "kind": each.standing.summary.kind,
            "nll": each.nll,
            "stderr": each.stderr,
            "at": each.at,
        }
        for each in members(group, match)
    ]


def _by_effort(group: Group, match: Match) -> list[Placed]:
    curves = _curves(group, match)
    limit = _limit(group, curves)
    if len(group.ranked) < 2 or limit is None:
        return []
    effort, _ = limit
    name = f"{_effort(effort, match)} {match}"
    found = []
    for standing in group.ranked:
        best = [_best(*curves[id(entry)], effort) for entry in standing.entries]
        known = [each for each in best if each is not None]
        if len(known) < len(best):
            found.append(Placed(standing, name, None, None, None, None))
            continue
        nlls = [nll for _, nll in known]
        mean = math.fsum(nlls) / len(nlls)
        found.append(
            Placed(standing, name, None, mean, seed_error(nlls), math.fsum(at for at, _ in known) / len(known))
        )
    return _ranked(found)


def _curves(group: Group, match: Match) -> Curves:
    """Of every entry of a ranked model, by its id."""
    return {id(e): _curve(e, CURVES[match]) for s in group.ranked for e in s.entries}


def _limit(group: Group, curves: Curves) -> tuple[float, str] | None:
    """The largest effort that every ranked model was run to, and the model that sets it; None without a curve."""
    runs = [(e, float(curves[id(e)][0][-1])) for s in group.ranked for e in s.entries if len(curves[id(e)][0])]
    ends = [(end, e.record.label) for e, end in runs if not _converged(e.record)]
    if ends:
        return min(ends)
    return max(((end, e.record.label) for e, end in runs), default=None)


def _nothing(group: Group) -> str:
    """Why no model could be placed."""
    if len(group.ranked) < 2:
        return f"they take two ranked models or more; ranked here: {len(group.ranked)}"
    return "no ranked model has what is matched on record"


def _missing(group: Group, match: Match) -> Iterator[str]:
    """A sentence for each ranked model that has no bound within the effort of the league."""
    curves = _curves(group, match)
    effort, shortest = _limit(group, curves) or (math.inf, "")
    for standing in group.ranked:
        starts = [curves[id(entry)][0] for entry in standing.entries]
        name = plain(standing.label, 80)
        if not all(map(len, starts)):
            yield f"{name}: no validation curve on record."
        elif (first := max(float(start[0]) for start in starts)) > effort:
            rest = " A step of one learner (a round of EM) may be worth many of another's: match by seconds."
            yield (
                f"{name}: no bound within {_effort(effort, match)} {match}, the most that {plain(shortest, 80)} was "
                f"run to; its first is at {_effort(first, match)}.{rest if match == 'steps' else ''}"
            )


def _by_parameters(group: Group) -> list[Placed]:
    leagues: dict[int, list[Placed]] = {}
    for standing in group.ranked:
        record = standing.summary
        if record.parameters is not None:
            power = record.parameters.bit_length() - 1
            low, high = (2**power, 2 ** (power + 1) - 1) if power >= 0 else (0, 0)
            name = f"{count(low)} to {count(high)}"
            score = standing.score if math.isfinite(standing.score) else None
            placed = Placed(standing, name, None, score, record.stderr, record.parameters)
            leagues.setdefault(power, []).append(placed)
    return [placed for _, members in sorted(leagues.items()) for placed in _ranked(members)]


def _ranked(placed: Sequence[Placed]) -> list[Placed]:
    known = [each.nll for each in placed if each.nll is not None]
    ranks = [None if each.nll is None else 1 + sum(nll < each.nll for nll in known) for each in placed]
    made = [
        Placed(each.standing, each.league, rank, each.nll, each.stderr, each.at)
        for each, rank in zip(placed, ranks, strict=True)
    ]
    return sorted(made, key=lambda each: (each.rank is None, each.rank))


def _curve(entry: Entry, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(effort, validation NLL) of a cell, `(v,)` each, finite and in order of effort; empty where not stored."""
    x, y = entry.arrays.get(name), entry.arrays.get("valid_nll")
    if x is None or y is None or x.ndim != 1 or x.shape != y.shape:
        return np.empty(0), np.empty(0)
    x, y = x.astype(np.float64), y.astype(np.float64)
    kept = np.isfinite(x) & np.isfinite(y)
    order = np.argsort(x[kept], kind="stable")
    return x[kept][order], y[kept][order]


def _best(x: NDArray[np.float64], y: NDArray[np.float64], effort: float) -> tuple[float, float] | None:
    """(effort, NLL) of the lowest NLL at or before `effort`; None before the first validation."""
    within = int(np.searchsorted(x, effort, side="right"))
    if not within:
        return None
    at = int(np.argmin(y[:within]))
    return float(x[at]), float(y[at])


def _converged(record: RunRecord) -> bool:
    """Whether training ended before its budget because another step would have changed nothing."""
    total = record.training.get("total_steps")
    return record.steps is not None and isinstance(total, int) and record.steps < total


def _effort(value: float | None, match: Match) -> str:
    return count(value) if match == "steps" else brief(value)
