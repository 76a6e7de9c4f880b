"""Progress of a bench on stderr: a live table on a terminal, a line as cells end and once a minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from genzoo.bench import CellState
from genzoo.text import plain

LINE_SECONDS = 60.0
WAITS = ("waiting", "running")


class Progress:
    """Shows the states that a bench hands to `show`.

    Args:
        cells: how many there are. jobs: how many run at a time. folder: named with the first states, so that a bench
            which is refused says only why.
    """

    def __init__(self, cells: int, jobs: int, folder: Path) -> None:
        self._told: dict[str, str] = {}
        self._last = time.monotonic()
        self._live: Live | None = None
        if sys.stderr.isatty():
            self._live = Live(console=Console(stderr=True), refresh_per_second=2, transient=True)
        self._head: str | None = f"{cells} cells, {jobs} at a time, in {plain(folder)}"

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, states: Sequence[CellState]) -> None:
        """Tell what is new."""
        if self._head is not None:
            self._print(self._head)
            self._head = None
        for state in states:
            ended = state.status not in WAITS
            if ended and self._told.get(state.cell.name) != state.status:
                self._told[state.cell.name] = state.status
                self._print(f"{len(self._told)}/{len(states)} {_result(state)}")
        running = [state for state in states if state.status == "running"]
        if self._live is not None:
            self._live.update(_table(running, len(self._told), len(states)))
        elif time.monotonic() - self._last > LINE_SECONDS:
            self._last = time.monotonic()
            for state in running:
                self._print(f"running {_title(state)}: {_now(state.progress)}")

    def _print(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(Text(line))
        else:
            click.echo(line, err=True)


def _title(state: CellState) -> str:
    return plain(f"{state.cell.model} on {state.cell.dataset}, seed {state.cell.seed}")


def _result(state: CellState) -> str:
    record = state.record
    if record is None or record.status != "ok":
        reason = record.error["message"] if record is not None and record.error else ""
        return f"{_title(state)}: {state.status} {plain(reason, 200)}".rstrip()
    value = "-inf" if record.nll is None else f"{record.nll:.4f} nats"
    bits = "" if record.bits_per_dim is None else f", {record.bits_per_dim:.4f} bits/dim"
    kl = "" if record.kl is None else f", KL {record.kl:.4f}"
    return f"{_title(state)}: NLL {value}{bits}{kl}" + (" (kept)" if state.status == "kept" else "")


def _now(progress: dict[str, Any]) -> str:
    if "stage" in progress:
        return str(progress["stage"])
    if "step" not in progress:
        return "starting"
    bound = progress.get("nll")
    done = f"step {progress['step']} of {progress['total']}, {progress['seconds']:.0f}s"
    return done if bound is None else f"{done}, validation NLL {bound:.4f}"


def _table(running: Sequence[CellState], done: int, total: int) -> Group:
    table = Table.grid(padding=(0, 2))
    for state in running:
        table.add_row(Text(_title(state)), Text(_now(state.progress)))
    return Group(Text(f"{done} of {total} cells done"), table)
