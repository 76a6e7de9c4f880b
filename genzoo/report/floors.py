"""Floor and ceiling of a test set of images beside the models: numbers that hardly need a model.

From `genzoo.references`, for a data set whose two hashes are known there, on its test split.
"""

from __future__ import annotations

from genzoo.references import Floors, floors
from genzoo.report.collect import Group
from genzoo.report.numbers import count, fixed, with_error
from genzoo.report.published import SIGNS
from genzoo.report.table import NAME_LIMIT, Column, Row, Table
from genzoo.report.units import NATS, Unit
from genzoo.text import plain

TITLE = "Floor and ceiling"
ERRORS = 4.0
PLACES = {False: 2, True: 4}
"""Decimals of a number without an error, of an example and of a dimension."""
EXPLAINED = (
    "Computed from the data by benchmarks/floors.py, not by this bench. A ceiling is what hardly a model or a file "
    "format reaches; below a floor no model goes, in expectation."
)


def of(group: Group) -> Floors | None:
    """Floors and ceilings of the test set that a group speaks of."""
    if group.split != "test" or group.protocol.get("target") != "p(x)":
        return None
    return floors(group.protocol.get("data_hash"), group.protocol.get("test_hash"))


def table(group: Group, unit: Unit = NATS) -> Table | None:
    """Floors, then ceilings from the lowest; None where none are known."""
    found = of(group)
    if found is None:
        return None
    factor = unit.factor([found.dims])
    made = []
    for floor in sorted(found.floors, key=lambda floor: (floor.side == "ceiling", floor.nats)):
        value = factor * floor.nats
        places = PLACES[unit.each]
        number = fixed(value, places) if floor.stderr is None else with_error(value, factor * floor.stderr)
        made.append(Row((floor.name, floor.side, f"{SIGNS[floor.kind]} {number}", floor.how)))
    columns = (Column("what", text=True), Column("side", text=True), Column(f"NLL, {unit}"), Column("how", text=True))
    notes = (EXPLAINED, f"Over all {count(found.points)} test images.", *faults(group, found))
    return Table(columns, tuple(made), notes)


def rows(group: Group) -> list[dict[str, object]]:
    """The same as one mapping a floor or ceiling, for JSON and CSV."""
    found = of(group)
    return [] if found is None else [{"dataset": group.dataset, **floor.model_dump()} for floor in found.floors]


def faults(group: Group, found: Floors) -> list[str]:
    """A sentence for each model whose NLL lies below a floor by more than four of its standard errors."""
    return [
        f"BUG {plain(standing.label, NAME_LIMIT)}: below the {floor.name}, {fixed(floor.nats, 2)} nats, by more than "
        f"{ERRORS:.0f} standard errors."
        for floor in found.floors
        for standing in group.standings
        if floor.side == "floor"
        and standing.summary.nll is not None
        and standing.summary.nll + ERRORS * (standing.summary.stderr or 0.0) < floor.nats
    ]
