"""Run folders to groups of comparable results: one group a protocol, its models ranked by their bound.

An *entry* is one reading of one cell. A *standing* is one model in a group: the same config, budget and estimator, with
one entry a seed. The first reading of a cell is its result; later ones are listed and never ranked.

Ranked by NLL in nats, lower first, on the points in common where cells were evaluated on different ones. An infinite
NLL ranks last. An `estimate` has no direction and is never ranked, nor is a number below the entropy of the truth: a
bug.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genzoo import student
from genzoo.errors import RunError
from genzoo.records import TRACE, CellFolder, RunRecord, find_cells
from genzoo.report.repeats import told_apart

State = Literal["ranked", "infinite", "estimate", "bug", "no number"]
Arrays = Mapping[str, NDArray[Any]]

UNUSED = ("each_", TRACE)  # large, and drawn once at most: not kept


@dataclass(frozen=True)
class Entry:
    """One reading of one cell. `first`: the reading that counts in its protocol; `arrays` belong to that one alone."""

    folder: CellFolder
    record: RunRecord
    first: bool = True

    @functools.cached_property
    def _loaded(self) -> tuple[Arrays, str]:
        if self.record.reading != self.folder.record.reading:
            return {}, ""
        try:
            arrays = self.folder.arrays()
            return {name: held for name, held in arrays.items() if not name.startswith(UNUSED)}, ""
        except RunError as error:
            return {}, str(error)

    @property
    def arrays(self) -> Arrays:
        """What `arrays.npz` holds, but for `UNUSED`; empty when it is missing or broken (`problem` says so)."""
        return self._loaded[0]

    def traces(self) -> Arrays:
        """What the model traced, by the names it gave; read anew."""
        held = self.folder.arrays() if self.arrays else {}
        return {name.removeprefix(TRACE): array for name, array in held.items() if name.startswith(TRACE)}

    @property
    def problem(self) -> str:
        """Why the arrays could not be read; empty when they could."""
        return self._loaded[1]

    @functools.cached_property
    def points(self) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """Sorted indices `(n,)` of the test points, and the bound at each `(n,)` in nats; None where not stored."""
        index, lower = self.arrays.get("index"), self.arrays.get("lower")
        if index is None or lower is None or index.ndim != 1 or index.shape != lower.shape or not len(index):
            return None
        order = np.argsort(index, kind="stable")
        return index[order].astype(np.int64), lower[order].astype(np.float64)

    @property
    def shared_variance(self) -> float:
        """Variance of an error common to all points, such as that of log Z: stderr_mc^2 - sum v_i / n^2."""
        return max(0.0, self._excess)

    @property
    def spared_variance(self) -> float:
        """By how much draws stratified over the points make stderr_mc^2 smaller than sum v_i / n^2; 0 for others."""
        return max(0.0, -self._excess)

    @property
    def _excess(self) -> float:
        variance, mc = self.arrays.get("variance"), self.record.stderr_mc
        if variance is None or mc is None or not len(variance):
            return 0.0
        alone = float(variance.sum()) / len(variance) ** 2
        return 0.0 if math.isclose(mc**2, alone, rel_tol=1e-9) else mc**2 - alone

    @property
    def state(self) -> State:
        """Whether this number can be ranked, and if not, why."""
        if self.record.kind == "estimate":
            return "estimate"
        if self.record.below_floor:
            return "bug"
        if self.record.nll is not None:
            return "ranked"
        return "infinite" if self.record.infinite > 0 else "no number"


@dataclass
class Standing:
    """One model in a group.

    Attributes:
        entries: its first readings, by seed; later: the others.
        rank: from 1, or None. score: the NLL in nats that ranks it, over the points that the ranks use.
    """

    entries: list[Entry]
    later: list[Entry] = field(default_factory=list)
    rank: int | None = None
    score: float = math.inf

    @property
    def label(self) -> str:
        """Name with inline options, as asked for."""
        return self.entries[0].record.label

    @property
    def state(self) -> State:
        """The worst state of its entries."""
        order: list[State] = ["no number", "estimate", "bug", "infinite", "ranked"]
        return min((entry.state for entry in self.entries), key=order.index)

    @functools.cached_property
    def summary(self) -> RunRecord:
        """The only record, or the mean over seeds.

        The error of that is s/sqrt(S) and speaks of these test points. `stderr_data`, the root of the mean square over
        seeds, is what other test points would add.
        """
        records = [entry.record for entry in self.entries]
        if len(records) == 1:
            return records[0]

        def mean(name: str) -> float | None:
            values = [getattr(record, name) for record in records]
            return None if any(v is None for v in values) else math.fsum(values) / len(values)

        def whole(name: str) -> int | None:
            value = mean(name)
            return None if value is None else round(value)

        means = ("nll", "nll_lower", "bits_per_dim", "kl", "kl_quadrature")
        costs = ("seconds_train", "seconds_eval", "seconds_sample")
        changes: dict[str, Any] = {name: mean(name) for name in (*means, *costs)}
        changes |= {name: whole(name) for name in ("samples", "steps")}
        changes["stderr"] = seed_error([record.nll for record in records])
        changes["kl_stderr"] = seed_error([record.kl for record in records])
        changes["infinite"] = sum(record.infinite for record in records)
        data = [record.stderr_data for record in records if record.stderr_data is not None]
        changes["stderr_data"] = math.hypot(*data) / math.sqrt(len(data)) if len(data) == len(records) else None
        return dataclasses.replace(records[0], **changes, stderr_mc=None)

    def interval(self, level: float = 0.95, *, population: bool = False) -> tuple[float, float] | None:
        """The interval of the NLL over two seeds or more, by Student's t: of these test points, or of their population.

        The population adds the data part, with the degrees of Welch and Satterthwaite. None where an error is missing.
        """
        summary = self.summary
        if len(self.entries) < 2 or summary.nll is None or summary.stderr is None:
            return None
        parts = [(summary.stderr**2, len(self.entries) - 1.0)]
        if population:
            if summary.stderr_data is None:
                return None
            parts.append((summary.stderr_data**2, math.inf))
        reach = student.quantile(level, student.degrees(parts)) * math.sqrt(
            math.fsum(variance for variance, _ in parts)
        )
        return summary.nll - reach, summary.nll + reach


@dataclass(eq=False)
class Group:
    """Results of one protocol, best first. `common`: how many points the ranks use, where they differ between cells."""

    dataset: str
    protocol: dict[str, Any]
    split: str
    standings: list[Standing] = field(default_factory=list)
    failed: list[Entry] = field(default_factory=list)
    common: int | None = None
    incomparable: bool = False

    @property
    def entries(self) -> list[Entry]:
        """Every reading with a number, in the order of the table."""
        return [entry for standing in self.standings for entry in [*standing.entries, *standing.later]]

    @property
    def ranked(self) -> list[Standing]:
        """The standings with a rank, best first."""
        return [standing for standing in self.standings if standing.rank is not None]

    @property
    def first_record(self) -> RunRecord:
        """A record of the group, for what all share: event shape, levels, entropy."""
        return (self.entries or self.failed)[0].record


def collect(runs: Sequence[Path]) -> list[Group]:
    """Read run or cell folders into groups, planes first, then by the size of the data and its name.

    Raises:
        RunError: a folder without cells, or a record that cannot be read.
    """
    groups: dict[str, Group] = {}
    homeless: list[Entry] = []
    for entry in _entries(runs):
        record = entry.record
        if record.status == "ok":
            group = groups.setdefault(protocol_key(record), Group(record.dataset, record.protocol, record.split))
            _place(group, entry)
        else:
            homeless.append(entry)
    for entry in homeless:
        _house(groups, entry)
    for group in groups.values():
        _rank(group)
    return sorted(groups.values(), key=_order)


def seed_error(values: Sequence[float | None]) -> float | None:
    """s/sqrt(S) over seeds; None below two of them, or where one has no number."""
    known = [value for value in values if value is not None]
    if len(known) < 2 or len(known) < len(values):
        return None
    return float(np.std(known, ddof=1) / math.sqrt(len(known)))


def common_points(entries: Iterable[Entry]) -> NDArray[np.int64] | None:
    """Indices of the test points at which every entry was evaluated; None when one stored none, or there is none."""
    indices = [entry.points[0] if entry.points else None for entry in entries]
    known = [index for index in indices if index is not None]
    if not known or len(known) < len(indices):
        return None
    if all(np.array_equal(index, known[0]) for index in known[1:]):
        return known[0]
    common = functools.reduce(lambda a, b: np.intersect1d(a, b, assume_unique=True), known)
    return common if len(common) else None


def values_at(entry: Entry, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """The bound at test points `index` `(n,)`, sorted and known to be there, in nats."""
    assert entry.points is not None
    known, lower = entry.points
    return lower[np.searchsorted(known, index)]


def _entries(runs: Sequence[Path]) -> list[Entry]:
    entries: list[Entry] = []
    seen: set[Path] = set()
    names = {field.name for field in dataclasses.fields(RunRecord)}
    for run in runs:
        for folder in find_cells(run):
            if folder.path.resolve() in seen:
                continue
            seen.add(folder.path.resolve())
            entries.append(Entry(folder, folder.record))
            read = {protocol_key(folder.record)}
            for number, reading in enumerate(folder.readings(), start=folder.record.reading + 1):
                known = {key: value for key, value in reading.items() if key in names}
                record = dataclasses.replace(folder.record, **{"reading": number, **known})
                entries.append(Entry(folder, record, first=protocol_key(record) not in read))
                read.add(protocol_key(record))
    return told_apart(entries)


def protocol_key(record: RunRecord) -> str:
    """What results must share to be comparable: the data side of the number."""
    return json.dumps([record.dataset, record.protocol, record.split], sort_keys=True)


def _place(group: Group, entry: Entry) -> None:
    """Into the standing of its model: same config, budget and estimator, another seed."""
    if not entry.first:
        for standing in group.standings:
            if any(first.folder.path == entry.folder.path for first in standing.entries):
                standing.later.append(entry)
                return
    for standing in group.standings:
        seeds = {first.record.seed for first in standing.entries}
        if _model(standing.entries[0].record) == _model(entry.record) and entry.record.seed not in seeds:
            standing.entries.append(entry)
            standing.entries.sort(key=lambda first: first.record.seed)
            return
    group.standings.append(Standing([entry]))


def _model(record: RunRecord) -> str:
    effort = [record.evaluation.get(key) for key in ("estimator", "num_samples", "precision")]
    setting = [record.budget, record.threads, record.device, record.kind, *effort]
    return json.dumps([record.model, record.label, record.config, *setting], sort_keys=True)


def _house(groups: dict[str, Group], entry: Entry) -> None:
    """A failed cell goes to its protocol; one that failed before it had any, to a group of its data set."""
    record = entry.record
    key = protocol_key(record)
    if key not in groups and not record.protocol:
        key = next((k for k, group in groups.items() if group.dataset == record.dataset), key)
    groups.setdefault(key, Group(record.dataset, record.protocol, record.split)).failed.append(entry)


def _rank(group: Group) -> None:
    contest = [standing for standing in group.standings if standing.state in ("ranked", "infinite")]
    entries = [entry for standing in contest for entry in standing.entries]
    index = None
    if len({entry.record.evaluation.get("points") for entry in entries}) > 1:
        index = common_points(entries)
        group.common = None if index is None else len(index)
        group.incomparable = index is None

    def score(standing: Standing) -> float:
        if index is not None:
            return -math.fsum(float(values_at(entry, index).mean()) for entry in standing.entries) / len(
                standing.entries
            )
        return math.inf if standing.summary.nll is None else standing.summary.nll

    for standing in contest:
        standing.score = score(standing)
    for standing in contest:
        standing.rank = 1 + sum(other.score < standing.score for other in contest)
    group.standings.sort(
        key=lambda s: (s.rank is None, s.rank or 0, math.inf if s.summary.nll is None else s.summary.nll, s.label)
    )


def _order(group: Group) -> tuple[int, str, str, str]:
    dims = math.prod(group.first_record.event_shape)
    return dims, group.dataset, group.split, json.dumps(group.protocol, sort_keys=True)
