"""A trained cell of a run as the kit's subject, for `genzoo check RUN`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from genzoo.api import cell_dataset, load_cell
from genzoo.errors import GenzooError
from genzoo.evaluation import Evaluation, make_estimator
from genzoo.provenance import commit, machine, versions
from genzoo.readings import read_again
from genzoo.records import CellFolder, find_cells
from genzoo.spec import Dataset
from genzoo.testing.subject import FULL, QUICK, CheckSkipped, Subject, Trained, around

WIDER = 1.25
"""The box that is integrated over, against the bounds of the truth, which hold all but 1e-6 of its mass: what a model
puts further out is known from its samples."""
AUDIT_SECONDS = 5.0
"""Of the stored evaluation's own time: the quick level recomputes as many whole batches of it, and at least one."""

CELL_LEVELS = {
    "quick": replace(QUICK, problems=(), steps=0, grid=216, rows=400_000, work=60_000),
    "full": replace(FULL, problems=(), steps=0, grid=432, rows=2_000_000, work=400_000),
}


class CellSubject(Subject):
    """One trained cell of a run, on its own data set.

    Args:
        cell: its folder. level: "quick" or "full". seed: of batches and draws. plugins: single-file plugins.
    """

    least = 6

    def __init__(self, cell: CellFolder, level: str = "quick", seed: int = 0, plugins: Sequence[str] = ()) -> None:
        super().__init__(CELL_LEVELS[level], seed)
        self.cell = cell
        self.plugins = tuple(plugins)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.cell.path.name

    @property
    def problem(self) -> str:
        """The data set."""
        return self.cell.record.dataset

    def problems(self) -> Iterator[str]:
        """Its data set alone."""
        yield self.problem

    def load(self) -> Trained:
        """The checkpoint and its data; GenzooError where it does not fit its record, or its data has changed."""
        return self._loaded

    def trained(self, problem: str) -> Trained:
        """The same; CheckSkipped where it does not load, which is a check of its own."""
        try:
            return self.load()
        except GenzooError as error:
            raise CheckSkipped(f"nothing to look at: {error}") from None

    @cached_property
    def _loaded(self) -> Trained:
        data = cell_dataset(self.cell, self.plugins)
        return Trained(data, load_cell(self.cell, self.plugins))

    def box(self, data: Dataset) -> tuple[float, float]:
        """A square around the bounds of the truth, or around the training data."""
        if data.truth is None:
            return around(data)
        ends = [end for side in data.truth.bounds for end in side]
        centre, reach = (min(ends) + max(ends)) / 2, WIDER * (max(ends) - min(ends)) / 2
        return centre - reach, centre + reach

    @property
    def stored_points(self) -> int:
        """How many points the stored number is a mean over."""
        return int(self.cell.record.evaluation["points"])

    @cached_property
    def audited(self) -> int:
        """How many of them the audit recomputes: the first, in whole batches of the stored evaluation."""
        total, seconds = self.stored_points, self.cell.record.seconds_eval or 0.0
        if self.level.name == "full" or seconds <= AUDIT_SECONDS:
            return total
        estimator = make_estimator(self.load().model, self.cell.record.evaluation["estimator"])
        batches = max(1, math.floor(total * AUDIT_SECONDS / seconds / estimator.batch_size))
        return min(total, batches * estimator.batch_size)

    def again(self) -> Evaluation:
        """The stored evaluation recomputed on the first `audited` points; the cell is left as it is."""
        return self._again

    @cached_property
    def _again(self) -> Evaluation:
        threads = torch.get_num_threads()
        try:
            return read_again(self.cell, self.load().model, points=self.audited, append=False, plugins=self.plugins)
        finally:
            torch.set_num_threads(threads)  # which the reading sets to those of the record

    @cached_property
    def elsewhere(self) -> str:
        """In what the place of the record differs from this one, in words; empty where it does not."""
        record = self.cell.record
        here = {"device": "cpu", "commit": commit(), **versions(), **machine()}
        there = {"device": record.device, "commit": record.commit, **record.versions, **record.machine}
        return "; ".join(f"{key} {there.get(key)}, here {here[key]}" for key in here if there.get(key) != here[key])

    def notes(self) -> tuple[str, ...]:
        """What was recomputed."""
        if "_again" not in vars(self):
            return ()
        total, split = self.stored_points, self.cell.record.split
        part = f"all {total:,}" if self.audited == total else f"the first {self.audited:,} of {total:,}"
        more = "" if self.audited == total else "; --level full recomputes all"
        how = f"within rounding (made with {self.elsewhere})" if self.elsewhere else "bit for bit"
        return (f"recomputed {how} on {part} {split} points of the stored number: no new reading is counted{more}",)


def cells(run: str | Path, level: str = "quick", seed: int = 0, plugins: Sequence[str] = ()) -> list[CellSubject]:
    """The trained cells of a bench folder, or one cell folder, as subjects; cells without a result are left out.

    Raises:
        RunError: no cells there, or a record that cannot be read.
    """
    return [CellSubject(cell, level, seed, plugins) for cell in find_cells(Path(run)) if cell.record.status == "ok"]
