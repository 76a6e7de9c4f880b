"""Tables as data: columns and cells of text, made once for the terminal, the page, markdown and LaTeX.

Cells are ASCII: `<=`, `+-`, `~`; what shows them may typeset the signs. Columns that no row fills are left out.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from genzoo.records import RunRecord
from genzoo.report.collect import Entry, Group, Standing
from genzoo.report.numbers import NONE, bits, bound, brief, count, decimals, divergence, fixed
from genzoo.report.units import NATS, Unit, in_unit
from genzoo.text import plain

ENDS = ("failed", "skipped")
"""Roles of cells without a number."""
Role = Literal["model", "seed", "reading", "failed", "skipped"]
READINGS = "Every bound of each model"
NAME_LIMIT, REASON_LIMIT = 80, 300
# A window may miss mass of a wide model, so less than one is no fault; the excess is that of the grid's quadrature.
MASS_TOLERANCE = 0.01


@dataclass(frozen=True)
class Column:
    """`priority`: 0 always stays; on a narrow terminal the highest goes first."""

    title: str
    text: bool = False
    priority: int = 0


@dataclass(frozen=True)
class Row:
    """Cells in the order of the columns. `role`: a model, its seed, a later reading, or a cell without a number."""

    cells: tuple[str, ...]
    role: Role = "model"


@dataclass(frozen=True)
class Table:
    """Columns, rows, and the sentences that belong under them. The cell of column `header` names its row."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    header: int = 0
    caption: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class _Source:
    """What a row of the results is made from; `shown`: the record in the unit of the table."""

    record: RunRecord
    role: Role
    rank: str = NONE
    name: str = ""
    seed: str = ""
    unit: Unit = NATS

    @functools.cached_property
    def shown(self) -> RunRecord:
        return in_unit(self.record, self.unit)


def results(group: Group, unit: Unit = NATS) -> Table:
    """The table of a group: rank, model, bound, errors, effort and cost, then failed cells and the notes."""
    sources = [source for standing in group.standings for source in _sources(standing)]
    sources += [_Source(e.record, _end(e.record), name=e.record.label, seed=str(e.record.seed)) for e in group.failed]
    varied = len({source.record.budget for source in sources if source.role not in ENDS}) > 1
    columns = {c: make for c, make in RESULTS.items() if varied or c.title != "budget"}
    made = _table(columns, [dataclasses.replace(each, unit=unit) for each in sources], _notes(group, unit), header=1)
    titles = (dataclasses.replace(c, title=c.title.replace("nats", unit.name)) for c in made.columns)
    return dataclasses.replace(made, columns=tuple(titles))


def metrics(group: Group) -> Table | None:
    """Sample metrics of the first readings, each beside its value for a second real sample; None without any."""
    records = [entry.record for standing in group.standings for entry in standing.entries if entry.record.metrics]
    names = list(dict.fromkeys(name for record in records for name in record.metrics))
    if not names:
        return None
    rows = []
    for record in records:
        values = [record.metrics.get(name, {}) for name in names]
        cells = (
            f"{brief(value.get('value'))} ({brief(value.get('reference'))})" if value else NONE for value in values
        )
        rows.append(Row((_name(record.label), str(record.seed), *cells)))
    columns = (Column("model", text=True), Column("seed"), *(Column(_name(name)) for name in names))
    return Table(columns, tuple(rows), ("In parentheses: the same metric of a second real sample.",))


def terms(group: Group, unit: Unit = NATS) -> Table | None:
    """Named parts of the bound of the first readings; None where no model has any."""
    first = (entry.record for standing in group.standings for entry in standing.entries if entry.record.terms)
    records = [in_unit(record, unit) for record in first]
    if not records:
        return None
    rows = tuple(
        Row((_name(record.label), str(record.seed), _name(name, None), fixed(value, decimals(record.stderr))))
        for record in records
        for name, value in record.terms.items()
    )
    return Table((Column("model", text=True), Column("seed"), Column("term", text=True), Column(unit.name)), rows)


def kl_matrix(groups: Sequence[Group]) -> Table:
    """Data sets by models, the KL to the truth in each cell; groups without a known truth are left out."""
    planes = [group for group in groups if any(s.summary.kl is not None for s in group.standings)]
    labels = list(dict.fromkeys(sorted(s.label for group in planes for s in group.standings)))
    labels = [*labels, *sorted({e.record.label for group in planes for e in group.failed} - {*labels})]
    rows = []
    for group in planes:
        cells: dict[str, str] = {entry.record.label: entry.record.status for entry in group.failed}
        for standing in reversed(group.standings):
            bug = " (bug)" if standing.state == "bug" else ""
            infinite = standing.state == "infinite"
            cells[standing.label] = "inf" if infinite else divergence(standing.summary) + bug
        rows.append(Row((_name(group.dataset), *(cells.get(label, NONE) for label in labels))))
    return Table((Column("data", text=True), *(Column(_name(label)) for label in labels)), tuple(rows))


def _end(record: RunRecord) -> Role:
    return "skipped" if record.status == "skipped" else "failed"


def failures(group: Group) -> list[str]:
    """One sentence for each failed cell of a group; why one was skipped stands under `genzoo.report.matrix`."""
    sentences = []
    for entry in (entry for entry in group.failed if entry.record.status != "skipped"):
        error = entry.record.error or {}
        kind = f"{error['type']}: " if error.get("type") else ""
        reason = plain(f"{kind}{error.get('message', 'no reason recorded')}", REASON_LIMIT)
        sentences.append(f"{_name(entry.record.label)}, seed {entry.record.seed}, {entry.record.status}: {reason}")
    return sentences


def _sources(standing: Standing) -> list[_Source]:
    rank = {"bug": "bug"}.get(standing.state, NONE) if standing.rank is None else str(standing.rank)
    seeds = [entry.record for entry in standing.entries]
    name = standing.label
    if len(seeds) == 1:
        sources = [_Source(seeds[0], "model", rank, name, str(seeds[0].seed))]
    else:
        sources = [_Source(standing.summary, "model", rank, name, f"mean of {len(seeds)}")]
        sources += [_Source(record, "seed", "", name, str(record.seed)) for record in seeds]
    return sources


def _estimator(source: _Source) -> str:
    record, evaluation = source.record, source.record.evaluation
    parts = [_estimator_name(record)[0]]
    if evaluation.get("num_samples") is not None and record.kind != "exact":
        parts.append(f"K={evaluation['num_samples']}")
    if evaluation.get("points") is not None:
        parts.append(f"{count(evaluation['points'])} points")
    if record.kind == "bracket":
        parts.append("certified" if record.certified else "indicative")
    return ", ".join(filter(None, parts))


def _estimator_name(record: RunRecord) -> tuple[str, str]:
    """The estimator's name, for a model's only one what kind it is; and its settings, which are told in a note."""
    name, bracket, settings = str(record.evaluation.get("estimator") or "").partition("[")
    return record.kind or "" if name in ("", "default") else name, settings.removesuffix("]").replace(
        ",", ", "
    ) if bracket else ""


def _errors(source: _Source) -> str:
    record = source.shown
    if record.stderr_data is None and record.stderr_mc is None:
        return NONE
    return " / ".join(_short(value) for value in (record.stderr_data, record.stderr_mc))


def _rate(source: _Source) -> str:
    record = source.record
    return brief(record.samples / record.seconds_sample) if record.samples and record.seconds_sample else NONE


def _bound(source: _Source) -> str:
    return bound(source.shown) if source.role not in ENDS else source.record.status


RESULTS: dict[Column, Callable[[_Source], str]] = {
    Column("rank"): lambda s: s.rank,
    Column("model", text=True): lambda s: s.name,
    Column("seed"): lambda s: s.seed,
    Column("NLL, nats"): _bound,
    Column("bits/dim", priority=1): lambda s: bits(s.record),
    Column("KL to truth, nats"): lambda s: divergence(s.shown),
    Column("KL by quadrature", priority=6): lambda s: fixed(s.shown.kl_quadrature, 4),
    Column("stderr data / MC", priority=7): _errors,
    Column("estimator", text=True, priority=3): _estimator,
    Column("train s", priority=4): lambda s: brief(s.record.seconds_train),
    Column("eval s", priority=5): lambda s: brief(s.record.seconds_eval),
    Column("samples/s", priority=9): _rate,
    Column("budget", text=True, priority=2): lambda s: s.record.budget,
    Column("steps", priority=10): lambda s: count(s.record.steps),
    Column("parameters", priority=8): lambda s: count(s.record.parameters),
}


def _table(
    columns: dict[Column, Callable[[_Source], str]], sources: Sequence[_Source], notes: Sequence[str], header: int
) -> Table:
    cells = [[_name(make(source)) for make in columns.values()] for source in sources]
    filled = [i for i in range(len(columns)) if i <= header or any(row[i] not in ("", NONE) for row in cells)]
    names = [*columns]
    rows = (Row(tuple(row[i] for i in filled), source.role) for row, source in zip(cells, sources, strict=True))
    return Table(tuple(names[i] for i in filled), tuple(rows), tuple(notes), header)


def _notes(group: Group, unit: Unit) -> list[str]:
    notes = []
    listed = [entry for standing in group.standings for entry in standing.entries]  # the rows: first readings alone
    kinds = {entry.record.kind for entry in listed}
    if group.common is not None:
        notes.append(f"Ranks use the {count(group.common)} test points that all ranked cells were evaluated on.")
    if group.incomparable:
        notes.append("Cells were evaluated on different test points, and share none on record: ranks are indicative.")
    if kinds & {"weights", "lower_bound", "bracket"}:
        notes.append("<= an upper bound of the NLL: the model's own may be lower.")
    if "estimate" in kinds:
        notes.append("~ an estimate, above or below the NLL: never ranked.")
    if any(len(standing.entries) > 1 for standing in group.standings):
        notes.append("+- of a mean over S seeds is s/sqrt(S), of these test points; of one cell, over test points.")
        for standing in group.standings:
            here, beyond = standing.interval(), standing.interval(population=True)
            if here is not None:
                more = "" if beyond is None else f", {_interval(standing, beyond, unit)} for the population of them"
                notes.append(
                    f"{_name(standing.label)}, at 95 % over {len(standing.entries)} seeds: "
                    f"{_interval(standing, here, unit)} on these test points{more}."
                )
    if any(standing.later for standing in group.standings):
        notes.append(f"Only the first reading of a test set is ranked and listed; all are under '{READINGS}'.")
    for entry in listed:
        estimator, settings = _estimator_name(entry.record)
        if settings:
            notes.append(f"{_name(entry.record.label)}: {plain(f'{estimator} with {settings}', REASON_LIMIT)}")
    for entry in group.entries:
        record, name = entry.record, f"{_name(entry.record.label)}, seed {entry.record.seed}"
        if record.below_floor:
            notes.append(f"BUG {name}: below the entropy of the truth by more than 4 paired standard errors.")
        if record.kind == "exact" and record.mass is not None and record.mass > 1 + MASS_TOLERANCE:
            notes.append(f"BUG {name}: its density integrates to {record.mass:.3f} over the grid, more than one.")
        if entry.problem:
            notes.append(f"{name}: {plain(entry.problem, REASON_LIMIT)}")
        notes.extend(f"{name}: {plain(note, REASON_LIMIT)}" for note in record.notes)
    return [*dict.fromkeys(notes), *failures(group)]


PROTOCOL = {"split": "", "target": "", "key": "protocol", "data_hash": "data", "test_hash": "test data"}


def protocol_line(group: Group) -> str:
    """The protocol of a group in a line: split, then what the data side of the number is."""
    facts = [f"{group.split} split"]
    hidden = {"dataset", *(name for name in group.protocol if name.endswith("_hash") and "key" in group.protocol)}
    for name, value in group.protocol.items():
        if name not in hidden and value not in (None, "", "none"):
            text = value if isinstance(value, str) else json.dumps(value)
            facts.append(f"{PROTOCOL.get(name, name)} {text[:12] if name.endswith('_hash') else text}".strip())
    return plain("; ".join(facts), REASON_LIMIT)


def _name(text: str, limit: int | None = NAME_LIMIT) -> str:
    return plain(text, limit)


def _interval(standing: Standing, ends: tuple[float, float], unit: Unit) -> str:
    """Both ends, to the digits of the error, with the unit."""
    factor = unit.factor(standing.summary.event_shape)
    low, high = (fixed(factor * end, decimals(in_unit(standing.summary, unit).stderr)) for end in ends)
    return f"[{low}, {high}] {unit}"


def _short(value: float | None) -> str:
    """Two significant digits; a plain 0 where there is no error at all."""
    return "0" if value == 0 else fixed(value, decimals(value))


def entries_in_order(group: Group) -> list[Entry]:
    """Every entry of a group: ranked, unranked, then failed."""
    return [*group.entries, *group.failed]
