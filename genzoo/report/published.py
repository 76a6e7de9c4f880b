"""Published values beside ours, on the data sets for which the package keeps any: a table and its rows.

Ours stand first, best first, as measured here; then what others published, best first, with the kind, the protocol and
where each was seen. Nothing is ranked across the two: their protocols differ, and the notes say how.
"""

from __future__ import annotations

from genzoo.references import TAGS, Published, Value, in_nats, published
from genzoo.report.collect import Group, Standing
from genzoo.report.numbers import NONE, bound, count, decimals, fixed
from genzoo.report.table import NAME_LIMIT, Column, Row, Table
from genzoo.report.units import NATS, UNITS, Unit, in_unit
from genzoo.text import plain

TITLE = "Published values"
OURS = "measured here"
SIGNS = {"exact": "=", "bound": "<=", "estimate": "~"}
NOT_OURS = "The rows under ours were published by others and not measured here; they are in no ranking of this report."


def of(group: Group) -> Published | None:
    """What is published on the data of a group, if its models speak of p(x)."""
    if group.protocol.get("target") != "p(x)":
        return None
    return published(str(group.protocol.get("dataset")))


def table(group: Group, unit: Unit | None = None, *, checked: bool = False) -> Table | None:
    """Ours, then the published values, or with `checked` those alone that somebody has seen; None where there are none.

    Published rows have the role "reading": muted, under the model's rows.

    Args:
        unit: None for that of the published values. In another, what was not published in nats stands beside it too.
    """
    found = of(group)
    if found is None:
        return None
    own = native(found)
    units = [own] if unit is None else [unit] if own is NATS else [unit, own]
    shown = [row for row in found.rows if row.checked or not checked]
    numbers = [Column(f"NLL, {units[0]}"), *(Column(f"as published, {each}") for each in units[1:])]
    texts = ("likelihood or estimator", "protocol", "tag", "source")
    columns = [Column("model", text=True), Column("family", text=True), *numbers]
    columns += [Column(name, text=True) for name in texts]
    made = [Row(_ours(standing, units, group)) for standing in group.standings]
    made += [Row(_theirs(row, found, units), "reading") for row in shown]
    return Table(tuple(columns), tuple(made), tuple(notes(group, found, shown)))


def rows(group: Group) -> list[dict[str, object]]:
    """The same as one mapping a value, for JSON and CSV."""
    found = of(group)
    if found is None:
        return []
    ours: list[dict[str, object]] = [
        {
            "dataset": group.dataset,
            "model": standing.label,
            "family": standing.summary.family,
            "nats": standing.summary.nll,
            "kind": standing.summary.kind,
            "measured": True,
            "tag": None,
            "source": None,
        }
        for standing in group.standings
    ]
    return ours + [
        {
            "dataset": group.dataset,
            "model": row.model,
            "family": row.family,
            "nats": in_nats(row.value, found.unit, found.dims),
            "kind": row.kind,
            "measured": False,
            "tag": row.provenance,
            "source": row.source or None,
        }
        for row in found.rows
    ]


def native(found: Published) -> Unit:
    """The unit that values were published in."""
    return next(unit for unit in UNITS if unit.name == found.unit)


def value_text(row: Value, factor: float = 1.0) -> str:
    """A published value times `factor` behind its sign, to the digits that it was published with: of the value itself,
    two decimals at least below 100."""
    places = max(2 if row.value < 100 else 1, len(f"{row.value!r}".partition(".")[2]))
    if factor != 1:
        places = max(0, decimals(factor * 10.0**-places) - 1)  # as many digits as tell the last one published
    error = "" if row.stderr is None else f" +- {fixed(factor * row.stderr, places)}"
    return f"{SIGNS[row.kind]} {fixed(factor * row.value, places)}{error}"


def notes(group: Group, found: Published, shown: list[Value]) -> list[str]:
    """How protocols differ, and what the tags mean."""
    sentences = [NOT_OURS, *found.differs]
    if group.split != "test":
        sentences.append(f"Ours are of the {group.split} split, the published values of the test set.")
    tags = {tag: None for row in shown for tag in (row.tag, row.origin) if tag is not None}
    sentences += [f"Tag {tag}: {meaning}." for tag, meaning in TAGS.items() if tag in tags]
    return sentences


def _ours(standing: Standing, units: list[Unit], group: Group) -> tuple[str, ...]:
    record = standing.summary
    said = record.evaluation
    name = str(said.get("estimator") or "").partition("[")[0]
    estimator = plain(record.kind or NONE if name in ("", "default") else name, NAME_LIMIT)
    draws = said.get("num_samples")
    how = estimator if record.kind == "exact" or draws in (None, 1) else f"{estimator}, K={draws}"
    points = said.get("points")
    part = f"{count(points)} {group.split} points" if points is not None else f"{group.split} split"
    budget = f", a budget of {plain(record.budget, 20)} on {plain(record.device, NAME_LIMIT)}" if record.budget else ""
    family = plain(record.family, NAME_LIMIT) or NONE
    numbers = [bound(in_unit(record, unit)) for unit in units]
    return plain(standing.label, NAME_LIMIT), family, *numbers, how, part + budget, OURS, NONE


def _theirs(row: Value, found: Published, units: list[Unit]) -> tuple[str, ...]:
    own = native(found)
    factors = [1.0 if unit is own else unit.factor([found.dims]) / own.factor([found.dims]) for unit in units]
    numbers = [value_text(row, factor) for factor in factors]
    said = (row.how or NONE, row.note or NONE, row.provenance, row.source or NONE)
    return row.model, row.family, *numbers, *said
