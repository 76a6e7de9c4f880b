"""Reports from records alone: the page, the terminal table, markdown, LaTeX, CSV, JSON. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genzoo.records import finite, row, write_bytes
from genzoo.report import formats
from genzoo.report.collect import Group, collect
from genzoo.report.numbers import typeset
from genzoo.report.table import Table, entries_in_order, protocol_line, results
from genzoo.report.verdict import verdict
from genzoo.text import plain

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["FORMATS", "render", "rows", "terminal", "write"]

FORMATS = ("html", "md", "csv", "tex", "json")


def rows(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """One row a reading, with the keys of `genzoo.records.ROW_KEYS`, group by group and best first; free of NaN.

    Raises:
        RunError: a folder without cells, or a record that cannot be read. The same for all functions here.
    """
    records = (entry.record for group in collect(runs) for entry in entries_in_order(group))
    return [finite(row(record)) for record in records]


def write(runs: Sequence[Path], path: Path) -> Path:
    """Write the self-contained page to `path`, atomically, and return it."""
    write_bytes(path, render(runs, "html").encode())
    return path


def render(runs: Sequence[Path], format: str) -> str:
    """The report of `runs` as text, in one of `FORMATS`."""
    if format == "html":
        from genzoo.report.page import page  # here: only the page needs jinja2

        return page(runs)
    if format in ("csv", "json"):
        return (formats.csv_text if format == "csv" else formats.json_text)(rows(runs))
    return _sections(collect(runs), formats.markdown if format == "md" else formats.tex, format == "md")


def terminal(runs: Sequence[Path], console: Console) -> None:
    """Print, for each protocol, the verdict and the table: fitted on a terminal, plain and whole elsewhere."""
    from rich.text import Text  # here: the other formats do without

    fancy = console.is_terminal and console.encoding.lower().startswith("utf")
    for number, group in enumerate(collect(runs)):
        if number:
            console.print()
        said = verdict(group)
        for style, sentence in [("bold", said.headline), *(("", detail) for detail in said.details)]:
            line = plain(sentence)
            console.print(Text(typeset(line) if fancy else line, style=style), soft_wrap=True)
        console.print(Text(protocol_line(group), style="dim"), soft_wrap=True)
        console.print()
        formats.print_table(results(group), console)


def _sections(groups: Sequence[Group], form: Callable[[Table], str], headings: bool) -> str:
    blocks = []
    for group in groups:
        said = verdict(group)
        if headings:
            blocks.append(f"## {formats.escape_markdown(plain(group.dataset))}")
            blocks.append(formats.escape_markdown(plain(" ".join([said.headline, *said.details]))))
            blocks.append(formats.escape_markdown(protocol_line(group)))
        else:
            blocks.append(f"% {plain(said.headline)}\n% {protocol_line(group)}")
        blocks.append(form(results(group)))
    return "\n\n".join(blocks)
