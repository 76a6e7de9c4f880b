"""`genzoo bench --progress json`: one JSON object a line on stdout, and nothing else there.

Every event has `event`, its name, and `time`, seconds since 1970 (UTC); the other fields are those of the classes here,
in their order. Lines are ASCII, strict JSON without NaN: what is not known, or infinite, is null. Times are seconds,
likelihoods nats, NLLs minus the bound, so that lower is better. `start` comes first, unless the bench is refused, and
`end` last, whatever happens. Errors and warnings go to stderr as ever.

Within a schema number fields are added, never changed or removed: readers pass over what they do not know.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, TextIO

from genzoo.bench import CellState
from genzoo.cli.outlook import Now, reason
from genzoo.records import finite

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line. `event`: its name."""

    event: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class Start(Event):
    """The bench begins.

    Attributes:
        schema: of these events, 1. folder: where it runs. cells: how many there are. kept: of them, how many an earlier
            run finished. jobs: cells at a time. budget: of training, of each cell, such as "60s".
    """

    event: ClassVar[str] = "start"
    schema: int = SCHEMA
    folder: str
    cells: int
    kept: int
    jobs: int
    budget: str


@dataclass(frozen=True, kw_only=True)
class Cell(Event):
    """A cell begins (`running`), ends (`ok`, `failed`, `skipped`), or is `kept` from an earlier run.

    Attributes:
        cell: folder name. model, dataset: names with options. seed: of the training. status: as above.
        done: cells that have ended so far, of `cells`.
        kind: of the bound. nll: nats; infinite: how many points have an infinite one; stderr: of nll.
        bits_per_dim: of discrete data. kl: to the truth, nats, where it is known.
        seconds_train, seconds_eval, seconds_sample: wall time of each.
        error: why there is no number; null where there is one.
    """

    event: ClassVar[str] = "cell"
    cell: str
    model: str
    dataset: str
    seed: int
    status: str
    done: int
    cells: int
    kind: str | None = None
    nll: float | None = None
    infinite: int | None = None
    stderr: float | None = None
    bits_per_dim: float | None = None
    kl: float | None = None
    seconds_train: float | None = None
    seconds_eval: float | None = None
    seconds_sample: float | None = None
    error: str | None = None

    @classmethod
    def of(cls, state: CellState, done: int, cells: int) -> Cell:
        """From a state, and how many of all cells have ended."""
        cell, record = state.cell, state.record
        begun = cls(
            cell=cell.name,
            model=cell.model,
            dataset=cell.dataset,
            seed=cell.seed,
            status=state.status,
            done=done,
            cells=cells,
        )
        if record is None:
            return begun
        return replace(
            begun,
            kind=record.kind,
            nll=record.nll,
            infinite=record.infinite,
            stderr=record.stderr,
            bits_per_dim=record.bits_per_dim,
            kl=record.kl,
            seconds_train=record.seconds_train,
            seconds_eval=record.seconds_eval,
            seconds_sample=record.seconds_sample,
            error=None if record.status == "ok" else reason(record),
        )


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """A running cell has come further; about once a second a cell at most.

    Attributes:
        cell: folder name. stage: starting, data, training, evaluation or sampling.
        step, steps: of training, done and planned. seconds: of training so far; seconds_left: of training.
        valid_nll: the last validation bound as an NLL, nats; valid_step: the step it was taken at.
        bench_seconds_left: of the whole bench; null before the first cell has ended.
    """

    event: ClassVar[str] = "progress"
    cell: str
    stage: str
    step: int | None
    steps: int | None
    seconds: float | None
    seconds_left: float | None
    valid_nll: float | None
    valid_step: int | None
    bench_seconds_left: float | None

    @classmethod
    def of(cls, state: CellState, now: Now, left: float | None) -> Progress:
        """From a running cell, and the seconds that the bench may still take."""
        return cls(cell=state.cell.name, **asdict(now), bench_seconds_left=left)


@dataclass(frozen=True, kw_only=True)
class Report(Event):
    """The page was written.

    Attributes:
        path: where. final: whether it holds every cell; before, it is written again as cells end.
    """

    event: ClassVar[str] = "report"
    path: str
    final: bool


@dataclass(frozen=True, kw_only=True)
class End(Event):
    """The last line.

    Attributes:
        outcome: finished, interrupted or error. cells: how many there are; of them ok, kept, failed and skipped.
        seconds: since the start. exit_code: of the command. error: why it ended early, else null.
    """

    event: ClassVar[str] = "end"
    outcome: str
    cells: int
    ok: int
    kept: int
    failed: int
    skipped: int
    seconds: float
    exit_code: int
    error: str | None = None


EVENTS: tuple[type[Event], ...] = (Start, Cell, Progress, Report, End)


class Writer:
    """Writes events to a stream, each at once. A reader that goes away does not end the bench.

    Attributes:
        gone: whether the reader has gone away.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self.gone = False

    def __call__(self, event: Event) -> None:
        """Write one line."""
        if self.gone:
            return
        try:
            self._stream.write(line(event) + "\n")
            self._stream.flush()
        except BrokenPipeError:
            self.gone = True
            # what is left in the buffer would raise again when the interpreter ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def line(event: Event) -> str:
    """An event as it is written, without the line break."""
    fields = {"event": event.event, "time": round(time.time(), 3), **finite(asdict(event))}
    return json.dumps(fields, allow_nan=False)
