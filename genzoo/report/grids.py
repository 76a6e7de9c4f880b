"""Tables for the page: each cell in every unit, so that a toggle only swaps text, and with a number to sort by."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from genzoo.report.numbers import NONE
from genzoo.report.table import Role, Table
from genzoo.report.units import UNITS, Unit

NUMBER = re.compile(r"(?<![\w.])-?(?:inf\b|\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)")


@dataclass(frozen=True)
class Text:
    """The same in nats, bits and bits/dim; `bits` and `dim` are empty where no unit changes it."""

    nats: str
    bits: str = ""
    dim: str = ""


@dataclass(frozen=True)
class Cell:
    """`sort`: the number that a column of numbers is sorted by, as JavaScript reads it; empty for text."""

    text: Text
    sort: str = ""


@dataclass(frozen=True)
class Heading:
    """The title of a column; `left`: whether it holds text, which stands to the left."""

    title: Text
    left: bool = False


@dataclass(frozen=True)
class Line:
    """A row. `role`: as in `table.Row`; `first`: whether it is that of the model ranked first."""

    role: Role
    cells: tuple[Cell, ...]
    first: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of the page; the cell of column `header` names its row."""

    headings: tuple[Heading, ...]
    lines: tuple[Line, ...]
    notes: tuple[Text, ...]
    header: int = 0


def grid(make: Callable[[Unit], Table | None]) -> Grid | None:
    """The table that `make` gives in nats, with its cells in the other units; None where it gives none.

    Only texts may differ between units: rows, columns and notes are the same.
    """
    tables = [table for unit in UNITS if (table := make(unit)) is not None]
    if not tables:
        return None
    nats = tables[0]
    columns = zip(*(table.columns for table in tables), strict=True)
    headings = (Heading(in_units([c.title for c in same]), same[0].text) for same in columns)
    lines = []
    for same in zip(*(table.rows for table in tables), strict=True):
        cells = zip(nats.columns, *(row.cells for row in same), strict=True)
        made = (Cell(in_units(texts), "" if column.text else sort_key(texts[0])) for column, *texts in cells)
        ranked = nats.columns[0].title == "rank" and same[0].cells[0] == "1"
        lines.append(Line(same[0].role, tuple(made), ranked))
    notes = (in_units(same) for same in zip(*(table.notes for table in tables), strict=True))
    return Grid(tuple(headings), tuple(lines), tuple(notes), nats.header)


def in_units(same: Sequence[str]) -> Text:
    """One text, said in each of `UNITS`."""
    return Text(*same) if len({*same}) > 1 else Text(same[0])


def sort_key(cell: str) -> str:
    """The number that a cell speaks of, empty where it has none: of a bracket its upper end, which ranks it.

    >>> [sort_key(cell) for cell in ("<= 2.66 +- 0.01", "12,345 *", "[1.75, 2.03] +- 0.02", "<= inf (7 at -inf)", "-")]
    ['2.66', '12345', '2.03', 'Infinity', '']
    """
    found = [] if cell == NONE else NUMBER.findall(cell)
    if not found:
        return ""
    number: str = found[1] if cell.startswith("[") and len(found) > 1 else found[0]
    return number.replace(",", "").replace("inf", "Infinity")
