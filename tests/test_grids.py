"""What the page shows in several units: records, tables and the numbers they are sorted by."""

from __future__ import annotations

import dataclasses
import math

import pytest

from genzoo.records import RunRecord
from genzoo.report import frontier, grids, table, units


def test_records_in_other_units() -> None:
    record = RunRecord(cell="a", status="ok", model="a", label="a", dataset="d", seed=0, event_shape=[1, 8, 8])
    record = dataclasses.replace(record, nll=64.0, stderr=0.5, kl=None, terms={"kl": -2.0, "rest": None})
    bits, each = (units.in_unit(record, unit) for unit in (units.BITS, units.BITS_PER_DIM))
    assert bits.nll == pytest.approx(64 / math.log(2))
    assert each.nll == pytest.approx(1 / math.log(2))  # what `bits_per_dim` of a record is
    assert each.stderr == pytest.approx(0.5 / 64 / math.log(2))
    assert bits.terms == {"kl": pytest.approx(-2 / math.log(2)), "rest": None}
    assert bits.kl is None
    assert units.in_unit(record, units.NATS) is record


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        ("<= 2.6671 +- 0.0068", "2.6671"),
        ("-0.50 +- 0.01", "-0.50"),
        ("12,345 *", "12345"),
        ("[1.750, 2.03] +- 0.02", "2.03"),
        ("<= inf (7 at -inf)", "Infinity"),
        ("1e-05", "1e-05"),
        ("0.03 [0.01, 0.05], p < 0.0001", "0.03"),
        ("mean of 3", "3"),
        ("bug", ""),
        ("-", ""),
    ],
)
def test_cells_sort_by_their_number(cell: str, key: str) -> None:
    assert grids.sort_key(cell) == key


def test_a_grid_holds_every_unit() -> None:
    def make(unit: units.Unit) -> table.Table:
        columns = (table.Column("rank"), table.Column(f"NLL, {unit}"))
        return table.Table(columns, (table.Row(("1", f"= {unit.factor([2]):.2f}")),), ("a note",))

    made = grids.grid(make)
    assert made is not None
    assert made.headings[1].title == grids.Text("NLL, nats", "NLL, bits", "NLL, bits/dim")
    assert made.headings[0].title == grids.Text("rank")
    assert made.lines[0].cells[1] == grids.Cell(grids.Text("= 1.00", "= 1.44", "= 0.72"), "1.00")
    assert made.lines[0].first
    assert grids.grid(lambda _: None) is None


def test_labels_that_would_touch_are_dropped() -> None:
    assert frontier.spaced([(0, "100"), (20, "200"), (40, "300")]) == ((0, "100"), (20, ""), (40, "300"))
