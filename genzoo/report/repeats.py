"""The same cell in several runs: a copy counts once, another result of it is told apart by its run.

One model on one data set from one seed, run twice, is not two seeds: put into one mean it would make the error of that
mean too small. So where two runs hold such a cell with different records, every cell of that model on that data set is
labelled with its run; where the records are equal, the second is a copy, and left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genzoo.report.collect import Entry


def run_of(cell: Path) -> Path:
    """The run folder that a cell folder lies in; itself where it lies in none."""
    return cell.parent.parent if cell.parent.name == "cells" else cell


def names_of(runs: Iterable[Path]) -> dict[Path, str]:
    """A short name of each run: the last part of its path, or the whole where that is no name of its own."""
    paths = list(dict.fromkeys(runs))
    last = [path.resolve().name for path in paths]
    return {path: name if last.count(name) == 1 else str(path) for path, name in zip(paths, last, strict=True)}


def told_apart(entries: Sequence[Entry]) -> list[Entry]:
    """The entries without copies, in their order, and with the run in the label where a cell has several results."""
    kept: list[Entry] = []
    found: dict[tuple[str, str, int], list[Entry]] = {}
    copies: set[Path] = set()
    for entry in entries:
        path, record = entry.folder.path, entry.folder.record
        if path in copies:
            continue
        same = found.setdefault((record.dataset, record.label, record.seed), [])
        if any(run_of(other.folder.path) != run_of(path) and other.folder.record == record for other in same):
            copies.add(path)
            continue
        same.append(entry)
        kept.append(entry)
    repeated = {key[:2] for key, same in found.items() if len({run_of(entry.folder.path) for entry in same}) > 1}
    names = names_of(run_of(entry.folder.path) for entry in kept)
    return [
        _labelled(entry, names[run_of(entry.folder.path)])
        if (entry.record.dataset, entry.record.label) in repeated
        else entry
        for entry in kept
    ]


def _labelled(entry: Entry, run: str) -> Entry:
    return dataclasses.replace(entry, record=dataclasses.replace(entry.record, label=f"{entry.record.label} ({run})"))
