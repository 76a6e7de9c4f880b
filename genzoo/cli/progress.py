"""What a bench shows while it runs: a live table on a terminal, lines elsewhere, JSON events, or nothing.

All but the events go to stderr: stdout is the result. Every word from a plan, a plugin or a file is made printable.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from genzoo.bench import CellState
from genzoo.cli import events
from genzoo.cli.options import warn
from genzoo.cli.outlook import RUNNING, Now, Outlook, ended, exit_code, summary, title, told
from genzoo.errors import GenzooError
from genzoo.text import plain

LINE_SECONDS = 60.0
"""Between lines about running cells, where there is no terminal."""
EVENT_SECONDS = 1.0
"""Between progress events of one cell, at least."""
SHOWN = 16
"""Running cells that are shown; of more, how many there are."""


class Display(ABC):
    """Shows the states that a bench hands to `show`; a context, since it may hold the terminal."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.finish()

    @abstractmethod
    def show(self, states: Sequence[CellState]) -> None:
        """Tell what is new."""

    def reported(self, path: Path, *, final: bool) -> None:  # noqa: B027
        """The page was written: with all cells, or with those that have ended so far."""

    def finish(self) -> None:  # noqa: B027
        """Let go of the terminal. Called once the bench is over, and again at the end of the context."""


class Silent(Display):
    """`--progress none`."""

    def show(self, states: Sequence[CellState]) -> None:
        """Nothing."""


class Lines(Display):
    """A line as a cell ends, and one a minute about those that run.

    Args:
        jobs: how many run at a time. folder: named with the first states, so that a bench which is refused says only
            why. clock: seconds that pass.
    """

    def __init__(self, jobs: int, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.outlook = Outlook(jobs, clock)
        self._jobs, self._folder, self._clock = jobs, folder, clock
        self._told: set[str] = set()
        self._last = clock()
        self._begun = self._reported = False

    def show(self, states: Sequence[CellState]) -> None:
        """Tell what is new."""
        self.outlook.see(states)
        if not self._begun:
            self._begun = True
            self.line(f"{len(states)} cells, {self._jobs} at a time, in {plain(self._folder)}")
        for state in ended(states):
            if state.cell.name not in self._told:
                self._told.add(state.cell.name)
                self.line(f"{len(self._told)}/{len(states)} {told(state)}")
        self.running(states)

    def running(self, states: Sequence[CellState]) -> None:
        """Tell of the cells that run."""
        now = [state for state in states if state.status == RUNNING]
        if not now or self._clock() - self._last < LINE_SECONDS:
            return
        self._last = self._clock()
        cells = [f"{title(state)}: {Now.of(state.progress)}" for state in now[:SHOWN]]
        cells += [f"{len(now) - SHOWN} more"] if len(now) > SHOWN else []
        self.line(f"{summary(states, self.outlook.seconds_left(states))}; running {'; '.join(cells)}")

    def reported(self, path: Path, *, final: bool) -> None:
        """Said once, of the first page that is not the last: the bench itself names that one."""
        if not self._reported and not final:
            self._reported = True
            self.line(f"report so far, written again as cells end: {plain(path)}")

    def line(self, text: str) -> None:
        """One printable line."""
        click.echo(text, err=True)


class LiveTable(Lines):
    """The same lines above a table of the cells that run, which is drawn anew twice a second."""

    def __init__(self, jobs: int, folder: Path, console: Console | None = None) -> None:
        super().__init__(jobs, folder)
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def running(self, states: Sequence[CellState]) -> None:
        """Draw the table."""
        self._live.update(self.table(states))

    def line(self, text: str) -> None:
        """Above the table."""
        self._console.print(Text(text), soft_wrap=True)

    def finish(self) -> None:
        """Take the table away."""
        self._live.stop()

    def table(self, states: Sequence[CellState]) -> Group:
        """How far the bench is, and a row for each cell that runs."""
        now = [state for state in states if state.status == RUNNING]
        table = Table.grid(padding=(0, 2))
        for _ in range(3):  # one line a cell, however narrow the terminal
            table.add_column(no_wrap=True, overflow="ellipsis")
        for state in now[:SHOWN]:
            stands = Now.of(state.progress)
            bar = "" if stands.steps is None else ProgressBar(stands.steps or 1, stands.step or 0, width=20)
            table.add_row(Text(title(state)), bar, Text(str(stands)))
        rest = [Text(f"{len(now) - SHOWN} more")] if len(now) > SHOWN else []
        return Group(Text(summary(states, self.outlook.seconds_left(states))), table, *rest)


class JsonEvents(Display):
    """`--progress json`: see `genzoo.cli.events`.

    Args:
        jobs: cells at a time. folder: of the run. budget: of each cell. clock: seconds that pass.
    """

    def __init__(
        self, jobs: int, folder: Path, budget: str, write: events.Writer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.outlook = Outlook(jobs, clock)
        self._jobs, self._folder, self._budget = jobs, folder, budget
        self._write, self._clock = write, clock
        self._began = clock()
        self._states: Sequence[CellState] = ()
        self._told: dict[str, str] = {}
        self._last: dict[str, tuple[float, Now]] = {}

    def show(self, states: Sequence[CellState]) -> None:
        """Tell what is new."""
        self.outlook.see(states)
        if not self._states:
            kept = _count(states, "kept")
            self._put(
                events.Start(
                    folder=str(self._folder), cells=len(states), kept=kept, jobs=self._jobs, budget=self._budget
                )
            )
        self._states = states
        for state in states:
            if state.status != "waiting" and self._told.get(state.cell.name) != state.status:
                self._told[state.cell.name] = state.status
                done = sum(status != RUNNING for status in self._told.values())
                self._put(events.Cell.of(state, done, len(states)))
            if state.status == RUNNING:
                self._progress(state, states)

    def _progress(self, state: CellState, states: Sequence[CellState]) -> None:
        now, name = Now.of(state.progress), state.cell.name
        at, before = self._last.get(name, (-EVENT_SECONDS, None))
        if now != before and self._clock() - at >= EVENT_SECONDS:
            self._last[name] = self._clock(), now
            self._put(events.Progress.of(state, now, self.outlook.seconds_left(states)))

    def reported(self, path: Path, *, final: bool) -> None:
        """An event."""
        self._put(events.Report(path=str(path), final=final))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        outcome, code = "finished", exit_code(self._states)
        if isinstance(error, KeyboardInterrupt):
            outcome, code = "interrupted", 130
        elif error is not None:
            outcome, code = "error", error.exit_code if isinstance(error, GenzooError) else 1
        counts = {status: _count(self._states, status) for status in ("ok", "kept", "failed", "skipped")}
        seconds = round(self._clock() - self._began, 3)
        words = None if error is None else str(error)
        self._put(
            events.End(outcome=outcome, cells=len(self._states), seconds=seconds, exit_code=code, error=words, **counts)
        )

    def _put(self, event: events.Event) -> None:
        before = self._write.gone
        self._write(event)
        if self._write.gone and not before:
            warn("nobody reads the events any more: the bench goes on without them")


def display(mode: str, jobs: int, folder: Path, budget: str) -> Display:
    """What `--progress` names: auto, json or none; auto is a live table on a terminal and lines elsewhere."""
    if mode == "json":
        return JsonEvents(jobs, folder, budget, events.Writer())
    if mode == "none":
        return Silent()
    return LiveTable(jobs, folder) if sys.stderr.isatty() else Lines(jobs, folder)


def _count(states: Sequence[CellState], status: str) -> int:
    return sum(state.status == status for state in states)
