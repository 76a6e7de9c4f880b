"""Where the cells of a running bench stand, and how long they may still take.

What a worker tells is a line of JSON in a run folder, which anybody may have written: a number that is none counts as
not told, and a stage that is not one of ours is not shown.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from genzoo.bench import CellState
from genzoo.cells import STAGES, TRAINING
from genzoo.records import RunRecord
from genzoo.text import plain

WAITING, RUNNING, KEPT = "waiting", "running", "kept"
STARTING = "starting"
NOT_TOLD = "?"
SOME_FAILED = 3
"""Exit code."""
LARGEST = 1e15
"""Beyond any step, second or nat of a bench: a number that large is nonsense, and too long for a line."""


@dataclass(frozen=True)
class Now:
    """Where a running cell stands.

    Attributes:
        stage: "starting", or one of `genzoo.cells.STAGES`.
        step, steps: of training, done and planned. seconds: of training so far.
        seconds_left: of training, at the pace so far.
        valid_nll: the last validation bound as an NLL, nats; valid_step: the step it was taken at.
    """

    stage: str
    step: int | None = None
    steps: int | None = None
    seconds: float | None = None
    seconds_left: float | None = None
    valid_nll: float | None = None
    valid_step: int | None = None

    @classmethod
    def of(cls, progress: Mapping[str, object]) -> Now:
        """From the last line that the cell's worker wrote; empty before it wrote any."""
        stage = progress.get("stage", TRAINING if "step" in progress else STARTING)
        if stage != TRAINING or "step" not in progress:
            return cls(stage if isinstance(stage, str) and stage in STAGES else STARTING)
        step, steps, valid_step = (_whole(progress.get(key)) for key in ("step", "total", "nll_step"))
        seconds = _number(progress.get("seconds"))
        left = None
        if step and steps is not None and seconds is not None:
            left = seconds / step * max(0, steps - step)
        return cls(TRAINING, step, steps, seconds, left, _number(progress.get("nll")), valid_step)

    def __str__(self) -> str:
        if self.step is None:
            return self.stage
        parts = [f"step {self.step:,} of {NOT_TOLD if self.steps is None else format(self.steps, ',')}"]
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        if self.valid_nll is not None:
            parts.append(f"validation NLL {self.valid_nll:.4f}")
        return ", ".join(parts)


class Outlook:
    """How long a bench may still take, from how long its cells took that ended.

    A cell is taken to last as those of its model on its data set did, or else those of its model, or else all.

    Args:
        jobs: cells at a time. clock: seconds that pass.
    """

    def __init__(self, jobs: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.jobs = jobs
        self._clock = clock
        self._started: dict[str, float] = {}
        self._took: dict[str, float] = {}

    def see(self, states: Sequence[CellState]) -> None:
        """Note what has begun and ended; only what was seen to run counts."""
        for state in states:
            name = state.cell.name
            if state.status == RUNNING:
                self._started.setdefault(name, self._clock())
            elif state.status == "ok" and name in self._started:
                self._took.setdefault(name, self._clock() - self._started[name])

    def seconds_left(self, states: Sequence[CellState]) -> float | None:
        """Of the whole bench; None before the first cell has ended. Never less than the longest cell may take."""
        if not self._took:
            return None
        known = [(state.cell, self._took[state.cell.name]) for state in states if state.cell.name in self._took]
        left = []
        for state in states:
            if state.status not in (WAITING, RUNNING):
                continue
            mine = state.cell
            near = [s for cell, s in known if (cell.model, cell.dataset) == (mine.model, mine.dataset)]
            near = near or [s for cell, s in known if cell.model == mine.model] or [s for _, s in known]
            mean = math.fsum(near) / len(near)
            if state.status == RUNNING:
                mean -= self._clock() - self._started.get(mine.name, self._clock())
            left.append(max(mean, Now.of(state.progress).seconds_left or 0.0, 0.0))
        return max(math.fsum(left) / self.jobs, max(left, default=0.0))


def ended(states: Sequence[CellState]) -> list[CellState]:
    """The cells that have a record, kept ones among them."""
    return [state for state in states if state.status not in (WAITING, RUNNING)]


def exit_code(states: Sequence[CellState]) -> int:
    """Of a bench that went through: 3 where a cell failed."""
    return SOME_FAILED if any(state.status == "failed" for state in states) else 0


def title(state: CellState) -> str:
    """What a cell is, in one printable line."""
    return plain(f"{state.cell.model} on {state.cell.dataset}, seed {state.cell.seed}", 100)


def told(state: CellState) -> str:
    """What came of a cell that ended, in one printable line."""
    record = state.record
    if record is None or record.status != "ok":
        return f"{title(state)}: {state.status} {plain(reason(record), 200)}".rstrip()
    value = "inf" if record.nll is None else f"{record.nll:.4f} nats"
    bits = "" if record.bits_per_dim is None else f", {record.bits_per_dim:.4f} bits/dim"
    kl = "" if record.kl is None else f", KL {record.kl:.4f}"
    return f"{title(state)}: NLL {value}{bits}{kl}" + (" (kept)" if state.status == KEPT else "")


def reason(record: RunRecord | None) -> str:
    """Why a cell has no number; empty where that is not on record."""
    return "" if record is None or not record.error else record.error.get("message", "")


def summary(states: Sequence[CellState], seconds_left: float | None) -> str:
    """How far a bench is: `3 of 9 cells done, 1 failed, about 4 min left`."""
    done = ended(states)
    failed = sum(state.status == "failed" for state in done)
    parts = [f"{len(done)} of {len(states)} cells done"]
    parts += [f"{failed} failed"] if failed else []
    parts += [] if seconds_left is None else [f"about {duration(seconds_left)} left"]
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`: two digits of what is only known about."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _number(value: object) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST
    return float(value) if known else None  # type: ignore[arg-type]


def _whole(value: object) -> int | None:
    number = _number(value)
    return None if number is None or number < 0 else int(number)
