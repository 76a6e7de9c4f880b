"""Results where a notebook shows them: tables as HTML, in which everything from a name or a file is escaped text."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from genzoo.report import terminal
from genzoo.report.collect import collect
from genzoo.report.numbers import typeset
from genzoo.report.table import Column, Row, Table, protocol_line, results
from genzoo.report.verdict import verdict
from genzoo.text import plain


def runs_html(runs: Sequence[Path]) -> str:
    """For each protocol of run or cell folders the verdict and the table. Raises RunError as `genzoo.report` does."""
    blocks = []
    for group in collect(runs):
        said = verdict(group)
        lines = [f"<strong>{_escaped(said.headline)}</strong>", *map(_escaped, said.details)]
        blocks.append(f"<p>{'<br>'.join([*lines, _escaped(protocol_line(group))])}</p>{table_html(results(group))}")
    return "".join(blocks)


def runs_text(runs: Sequence[Path]) -> str:
    """The same as plain text."""
    from rich.console import Console  # here: a page needs none

    stream = io.StringIO()
    terminal(runs, Console(file=stream, force_terminal=False))
    return stream.getvalue().rstrip()


def facts_html(facts: Iterable[tuple[str, str]], title: str) -> str:
    """Names and values, a row each, under a title."""
    columns = (Column(title, text=True), Column("", text=True))
    return table_html(Table(columns, tuple(Row(fact) for fact in facts)))


def table_html(table: Table) -> str:
    """A `table` element and the notes under it."""
    sides = ["left" if column.text else "right" for column in table.columns]
    head = "".join(
        f'<th scope="col" style="text-align:{side}">{_escaped(column.title)}</th>'
        for column, side in zip(table.columns, sides, strict=True)
    )
    rows = []
    for row in table.rows:
        cells = (
            f'<th scope="row" style="text-align:{side}">{_escaped(cell)}</th>'
            if at == table.header
            else f'<td style="text-align:{side}">{_escaped(cell)}</td>'
            for at, (cell, side) in enumerate(zip(row.cells, sides, strict=True))
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    notes = "".join(f"<li>{_escaped(note)}</li>" for note in table.notes)
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return body + (f"<ul>{notes}</ul>" if notes else "")


def _escaped(text: str) -> str:
    return html.escape(typeset(plain(text)))
