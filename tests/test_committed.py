"""Committed results: from which commit each was made, that the kit had passed its model before, and that the smallest
checkpoint gives its number again.

*Older than a green full kit*, precisely: no commit up to the one that a record was made from, itself included, holds a
receipt (`benchmarks/results/check_full.json`) in which the full kit passed the record's model.
"""

from __future__ import annotations

import functools
import json
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from genzoo.records import CellFolder, RunRecord, find_cells
from genzoo.testing import kit
from genzoo.testing.cell import CellSubject

ROOT = Path(__file__).parent.parent
RESULTS = Path("benchmarks/results")
RECEIPT = "benchmarks/results/check_full.json"
LARGEST = 4_000_000
"""Bytes of a committed checkpoint, and of the arrays beside it."""

OLDER = {"mnist-10min", "mnist-binary-2min"}
"""Plans whose results were made before the kit had a full level with receipts. They leave this list when they are made
again: a plan here of which no record is older fails too."""

AUDIT = [check.name for check in kit.AUDIT]


def git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def committed(pattern: str) -> list[Path]:
    return [Path(name) for name in git("ls-files", "--", f"{RESULTS}/*/cells/*/{pattern}").splitlines()]


@functools.cache
def ancestors(commit: str) -> frozenset[str]:
    """A commit and what it was made on; empty for one that is not in the history."""
    return frozenset(git("rev-list", commit).splitlines())


@functools.cache
def receipts() -> dict[str, dict[str, bool]]:
    """Of each commit that changed the receipt: whether the kit passed, by model."""
    found = {}
    for commit in git("log", "--format=%H", "--", RECEIPT).splitlines():
        document = json.loads(git("show", f"{commit}:{RECEIPT}") or "{}")
        found[commit] = {name: receipt["ok"] and receipt["level"] == "full" for name, receipt in document.items()}
    return found


def older(record: RunRecord, made: dict[str, dict[str, bool]]) -> bool:
    """Whether a record is older than every green receipt of its model."""
    green = {commit for commit, passed in made.items() if passed.get(record.model)}
    return not green & ancestors(record.commit or "")


history = pytest.mark.skipif(
    not git("rev-parse", "HEAD") or git("rev-parse", "--is-shallow-repository") == "true",
    reason="needs the git history of the checkout",
)


@pytest.fixture(scope="module")
def records() -> dict[Path, RunRecord]:
    """Every committed record, as committed or as it stands now, by its path."""
    return {path: RunRecord.load(ROOT / path.parent) for path in committed("record.json") if (ROOT / path).exists()}


@history
def test_every_number_has_a_commit_of_this_history(records: dict[Path, RunRecord]) -> None:
    """What was skipped or failed holds no number, and needs none."""
    assert len(records) >= 30
    known = ancestors("HEAD")
    wrong = [
        f"{path}: {record.commit}"
        for path, record in records.items()
        if record.status == "ok" and not (re.fullmatch("[0-9a-f]{40}", record.commit or "") and record.commit in known)
    ]
    assert wrong == []
    assert all(record.nll is None for record in records.values() if record.status != "ok")


@history
def test_no_number_is_older_than_a_green_full_kit_of_its_model(records: dict[Path, RunRecord]) -> None:
    found = {
        path.relative_to(RESULTS).parts[0]
        for path, record in records.items()
        if record.status == "ok" and older(record, receipts())
    }
    assert found == OLDER


@history
def test_what_is_older_is_seen() -> None:
    """A receipt that is red, of another model or later than the record does not count; an equal or earlier one does."""
    first, second = git("log", "--format=%H", "-2", "--reverse").splitlines()
    record = RunRecord(cell="a", status="ok", model="flow", label="flow", dataset="d", seed=0, commit=first)
    assert not older(record, {first: {"flow": True}})
    assert older(record, {second: {"flow": True}})
    assert older(record, {first: {"flow": False}})
    assert older(record, {first: {"vae": True}})
    record.commit = second
    assert not older(record, {first: {"flow": True}, second: {"flow": False}})
    record.commit = "0" * 40
    assert older(record, {first: {"flow": True}})


def checkpoints() -> list[CellFolder]:
    """Committed checkpoints, the smallest first."""
    paths = sorted((ROOT / path for path in committed("model.safetensors")), key=lambda path: path.stat().st_size)
    return [cell for path in paths for cell in find_cells(path.parent)]


@history
def test_committed_checkpoints_are_small_and_have_what_they_are_checked_by() -> None:
    found = checkpoints()
    assert found
    for cell in found:
        for name in ("model.safetensors", "arrays.npz"):
            assert (cell.path / name).stat().st_size < LARGEST, cell.path / name
    assert {cell.path / "arrays.npz" for cell in found} == {ROOT / path for path in committed("arrays.npz")}


def audited(cell: CellFolder) -> CellSubject:
    """The stored evaluation recomputed, as `genzoo check` does: as many points as that takes a few seconds for."""
    subject = CellSubject(cell, "quick")
    receipt = kit.run_cell(subject, only=AUDIT)
    assert [f"{result.name}: {result.message}" for result in receipt.results if result.outcome == "failed"] == []
    assert receipt.count("passed") >= len(AUDIT) - 1  # quadrature is of exact models in the plane alone
    return subject


@history
def test_the_smallest_checkpoint_gives_its_number_again() -> None:
    """Bit for bit where only the commit differs from where the record was made; within rounding elsewhere."""
    cell = checkpoints()[0]
    subject = audited(cell)
    again, stored = subject.again(), cell.arrays()
    assert again.points == cell.record.evaluation["points"]
    assert again.nll == pytest.approx(cell.record.nll, rel=1e-6)
    differs = {fact.partition(" ")[0] for fact in subject.elsewhere.split("; ") if fact}
    if differs <= {"commit"}:
        assert np.array_equal(again.result.lower.numpy(), stored["lower"])
        assert again.nll == cell.record.nll


@history
def test_a_changed_checkpoint_or_number_would_be_seen(tmp_path: Path) -> None:
    cell = checkpoints()[0]
    for name in ("record.json", "arrays.npz", "model.safetensors"):
        (tmp_path / name).write_bytes((cell.path / name).read_bytes())
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    (last,) = struct.unpack("<f", weights[-4:])  # one of 64 weights of a layer
    weights[-4:] = struct.pack("<f", last + 1)
    (tmp_path / "model.safetensors").write_bytes(weights)
    (changed,) = find_cells(tmp_path)
    receipt = kit.run_cell(CellSubject(changed, "quick"), only=["values_recompute"])
    assert [result.outcome for result in receipt.results] == ["failed"]


@pytest.mark.long
@history
def test_every_committed_checkpoint_gives_its_values_again() -> None:
    for cell in checkpoints()[1:]:
        audited(cell)
