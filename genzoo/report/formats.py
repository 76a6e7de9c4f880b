"""Tables and rows as text: terminal, plain text, markdown, LaTeX, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genzoo.records import ROW_KEYS
from genzoo.report.numbers import typeset
from genzoo.report.table import Row, Table
from genzoo.text import plain

if TYPE_CHECKING:
    from rich.console import Console

GAP = 2
FORMULA = frozenset("=+-@")
"""What a spreadsheet would run a cell of CSV for."""
STYLES = {"model": "", "seed": "dim", "reading": "dim", "failed": "red", "skipped": "dim"}
MARKDOWN = re.compile(r"[\\`*_\[\]<>|~&$]")
TEX = {
    "<=": r"$\le$",
    "+-": r"$\pm$",
    "~": r"$\sim$",
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
TEX_TOKENS = re.compile("|".join(map(re.escape, TEX)))


def text(table: Table) -> str:
    """Aligned columns of ASCII, two spaces apart; text to the left, numbers to the right; the notes below."""
    lines = [tuple(column.title for column in table.columns), *(row.cells for row in table.rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    aligned = [
        (" " * GAP)
        .join(
            cell.ljust(width) if column.text else cell.rjust(width)
            for cell, width, column in zip(line, widths, table.columns, strict=True)
        )
        .rstrip()
        for line in lines
    ]
    return "\n".join([*aligned, *(f"  {note}" for note in table.notes)])


def print_table(table: Table, console: Console) -> None:
    """Print to a terminal, without the least important columns if it is narrow; elsewhere, plain text in full."""
    if not console.is_terminal:
        console.out(text(table), highlight=False)
        return
    from rich.table import Table as RichTable  # here: only a terminal needs it
    from rich.text import Text

    fancy = console.encoding.lower().startswith("utf")

    def show(cell: str, style: str = "") -> Text:
        return Text(typeset(cell) if fancy else cell, style=style)

    fitted = fit(table, console.width)
    view = RichTable(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column in fitted.columns:
        view.add_column(show(column.title), justify="left" if column.text else "right", overflow="fold")
    for row in fitted.rows:
        view.add_row(*(show(cell) for cell in row.cells), style=STYLES[row.role])
    console.print(view)
    for note in table.notes:
        console.print(show(f"  {note}", "dim"))


def fit(table: Table, width: int) -> Table:
    """The table without its least important columns, as many as it takes to be at most `width` characters wide."""
    kept = list(range(len(table.columns)))

    def wide() -> int:
        lengths = (max(len(table.columns[i].title), *(len(r.cells[i]) for r in table.rows), 0) for i in kept)
        return sum(lengths) + GAP * (len(kept) - 1)

    while wide() > width and any(table.columns[i].priority for i in kept):
        kept.remove(max(kept, key=lambda i: table.columns[i].priority))
    rows = tuple(Row(tuple(row.cells[i] for i in kept), row.role) for row in table.rows)
    return Table(tuple(table.columns[i] for i in kept), rows, table.notes, table.header)


def markdown(table: Table, notes: bool = True) -> str:
    """A GitHub table, the notes as a list under it."""
    rules = (":--" if column.text else "--:" for column in table.columns)
    lines = [(escape_markdown(column.title) for column in table.columns), rules]
    body = [(escape_markdown(cell) for cell in row.cells) for row in table.rows]
    rendered = [f"| {' | '.join(line)} |" for line in [*lines, *body]]
    listed = ["", *(f"- {escape_markdown(note)}" for note in table.notes)] if notes and table.notes else []
    return "\n".join([*rendered, *listed])


def escape_markdown(cell: str) -> str:
    """Typeset, and with everything that markdown or HTML would read as its own escaped."""
    return quote_markdown(typeset(cell))


def quote_markdown(text: str) -> str:
    """With everything that markdown or HTML would read as its own escaped, and nothing else changed."""
    entities = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
    return MARKDOWN.sub(lambda m: entities.get(m[0], f"\\{m[0]}"), text)


def tex(table: Table) -> str:
    """A booktabs tabular, the notes as comments above it."""
    columns = "".join("l" if column.text else "r" for column in table.columns)
    lines = [f"% {note}" for note in table.notes]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(escape_tex(column.title) for column in table.columns) + r" \\", r"\midrule"]
    lines += [" & ".join(escape_tex(cell) for cell in row.cells) + r" \\" for row in table.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def escape_tex(cell: str) -> str:
    """With TeX's own characters escaped, and the signs as maths."""
    return TEX_TOKENS.sub(lambda m: TEX[m[0]], cell)


def csv_text(rows: Sequence[Mapping[str, Any]], keys: Sequence[str] = ROW_KEYS) -> str:
    """Rows with the given keys; nested values as JSON, absent ones empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(keys)
    writer.writerows([_csv_cell(row[key]) for key in keys] for row in rows)
    return out.getvalue().rstrip("\n")


def json_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Strict JSON, ASCII, so that no control character reaches a terminal."""
    return json.dumps(rows, indent=2, allow_nan=False)


def _csv_cell(value: object) -> object:
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, str):
        text = plain(value)
        return f"'{text}" if text[:1] in FORMULA else text
    return value
