"""What changed between two runs, for the cells of the same model, data set and seed.

For a cell with bounds a_i before and b_i after, at the points i that both were evaluated at,

    change of NLL = -mean (b_i - a_i),    stderr as of any paired difference (`pairs`)

Without points in common it is the difference of the two means, and its error the root of the sum of both squares. Over
S seeds that both runs have, a model's change is the mean of those of its seeds, and its error s/sqrt(S), with t(S-1).
Holm's procedure corrects over all models and data sets. Cells of another protocol are named, never subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from genzoo.errors import UsageError
from genzoo.records import RunRecord, find_cells
from genzoo.report.collect import Entry, Standing, protocol_key, seed_error
from genzoo.report.pairs import ALPHA, Difference, compare, holm
from genzoo.report.repeats import names_of

Outcome = Literal["compared", "copy", "other_protocol", "no_number", "only_before", "only_after"]
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Change:
    """One cell in two runs.

    Attributes:
        before, after: None where the run has no such cell.
        difference: by how many nats the NLL after is below that before; None unless both have a finite one.
        paired: whether it is paired over points in common.
    """

    dataset: str
    label: str
    seed: int
    outcome: Outcome
    before: Entry | None = None
    after: Entry | None = None
    difference: Difference | None = None
    paired: bool = True

    @property
    def same(self) -> bool:
        """Whether both bounds are the same at every point."""
        found = self.difference
        return found is not None and self.paired and found.nats == 0 and found.stderr == 0


@dataclass(frozen=True)
class Model:
    """One model on one data set in two runs.

    Attributes:
        changes: by seed, those with a difference. difference: over seeds where there are several, else the only one.
        factor: by which Holm's procedure multiplies its p-value.
    """

    changes: tuple[Change, ...]
    difference: Difference
    factor: float = 1.0

    @property
    def adjusted(self) -> float:
        """The p-value of no change, corrected."""
        return min(1.0, self.factor * self.difference.p_value)

    @property
    def word(self) -> str:
        """What it shows at 95 %: lower (a better bound), higher, the same to the bit, or nothing that is clear."""
        if all(change.same for change in self.changes):
            return "same"
        if self.adjusted >= ALPHA:
            return ""
        return "lower" if self.difference.nats > 0 else "higher"


@dataclass(frozen=True)
class Comparison:
    """A run against an earlier one. `before`, `after`: their names; changes: every cell of either."""

    before: str
    after: str
    changes: tuple[Change, ...]
    models: tuple[Model, ...] = field(default=())

    def count(self, outcome: Outcome) -> int:
        """How many cells came out so."""
        return sum(change.outcome == outcome for change in self.changes)

    @property
    def shared(self) -> int:
        """How many cells both runs have."""
        return sum(change.before is not None and change.after is not None for change in self.changes)


def comparisons(runs: Sequence[Path]) -> list[Comparison]:
    """Every later run against the first, those left out that share no cell with it.

    Raises:
        RunError: as `genzoo.report.collect.collect`.
    """
    distinct: dict[Path, Path] = {}
    for run in runs:
        distinct.setdefault(run.resolve(), run)
    paths = list(distinct.values())
    if len(paths) < 2:
        return []
    names = names_of(paths)
    cells = [_cells(path) for path in paths]
    made = (
        _compare(names[paths[0]], names[path], cells[0], held) for path, held in zip(paths[1:], cells[1:], strict=True)
    )
    return [comparison for comparison in made if comparison.shared]


def demanded(runs: Sequence[Path]) -> list[Comparison]:
    """The same where it was asked for. Raises UsageError where there is nothing to compare."""
    if len({path.resolve() for path in runs}) < 2:
        raise UsageError("what changed is between two runs: give a second folder, such as genzoo report BEFORE AFTER")
    found = comparisons(runs)
    if not found:
        raise UsageError(
            f"nothing to compare: {' and '.join(map(str, runs))} share no cell of the same model, data set and seed"
        )
    return found


def _cells(run: Path) -> dict[Key, list[Entry]]:
    """First readings by what they are of; of one protocol the last that was started comes last."""
    held: dict[Key, list[Entry]] = {}
    for folder in sorted(find_cells(run), key=lambda folder: folder.record.started):
        record = folder.record
        held.setdefault((record.dataset, record.label, record.seed), []).append(Entry(folder, record))
    return held


def _compare(before: str, after: str, first: dict[Key, list[Entry]], second: dict[Key, list[Entry]]) -> Comparison:
    changes = tuple(_change(key, first.get(key, []), second.get(key, [])) for key in sorted({*first, *second}))
    groups: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        if change.difference is not None and change.outcome == "compared":
            groups.setdefault((change.dataset, change.label), []).append(change)
    models = [Model(tuple(group), _over_seeds(group)) for group in groups.values()]
    factors = holm([model.difference.p_value for model in models])
    corrected = (Model(m.changes, m.difference, factor) for m, factor in zip(models, factors, strict=True))
    return Comparison(before, after, changes, tuple(corrected))


def _change(key: Key, first: Sequence[Entry], second: Sequence[Entry]) -> Change:
    if not first or not second:
        before, after = (held[-1] if held else None for held in (first, second))
        return Change(*key, "only_after" if second else "only_before", before, after)
    pairs = [(a, b) for a in first for b in second if protocol_key(a.record) == protocol_key(b.record)]
    a, b = pairs[-1] if pairs else (first[-1], second[-1])
    if a.record == b.record:
        return Change(*key, "copy", a, b)
    if a.record.status != "ok" or b.record.status != "ok":
        return Change(*key, "no_number", a, b)
    if not pairs:
        return Change(*key, "other_protocol", a, b)
    difference, paired = _difference(a, b)
    return Change(*key, "compared" if difference else "no_number", a, b, difference, paired)


def _difference(before: Entry, after: Entry) -> tuple[Difference | None, bool]:
    """By how many nats the NLL after is lower, and whether that is paired; None where one is infinite."""
    if (paired := compare(Standing([after]), Standing([before]))) is not None:
        return paired, True
    a, b = before.record, after.record
    if a.nll is None or b.nll is None or a.stderr is None or b.stderr is None:
        return None, False
    return Difference(a.nll - b.nll, math.hypot(a.stderr, b.stderr), 0), False


def _over_seeds(changes: Sequence[Change]) -> Difference:
    found = [change.difference for change in changes if change.difference is not None]
    error = seed_error([difference.nats for difference in found])
    if error is None:
        return found[0]
    mean = math.fsum(difference.nats for difference in found) / len(found)
    points = min(difference.points for difference in found)
    return Difference(mean, error, points, len(found) - 1.0, over_seeds=True)


def differing(change: Change) -> Iterator[tuple[str, str, str]]:
    """(setting, before, after) for each in which two cells with a number differ: how they were made, not what came out.
    What failed has too few of them on record."""
    if change.before is None or change.after is None:
        return
    if any(entry.record.status != "ok" for entry in (change.before, change.after)):
        return
    first, second = (dict(_facts(entry.record)) for entry in (change.before, change.after))
    for key in [*first, *(key for key in second if key not in first)]:
        if first.get(key, "") != second.get(key, ""):
            yield key, first.get(key, ""), second.get(key, "")


def _facts(record: RunRecord) -> Iterator[tuple[str, str]]:
    alone = ("kind", "certified", "budget", "threads", "device", "plugin", "commit", "parameters")
    for name in alone:
        yield name, _text(getattr(record, name))
    evaluation = {key: value for key, value in record.evaluation.items() if key not in ("calls", "dof", "dof_mc")}
    tables = {"config": record.config, "training": record.training, "evaluation": evaluation}
    tables |= {"versions": record.versions, "machine": record.machine, "protocol": record.protocol}
    for name, table in tables.items():
        yield from _flat(name, table)


def _flat(name: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}", item)
    else:
        yield name, _text(value)


def _text(value: object) -> str:
    return "" if value is None else str(value)
