"""Where results come from: what counts as a clean checkout, and that a bench for committed results refuses another."""

from __future__ import annotations

import subprocess
from concurrent.futures import Executor
from pathlib import Path

import pytest

from genzoo import bench, provenance
from genzoo.cli import main
from genzoo.errors import ProvenanceError
from genzoo.plan import EvaluationPlan, Plan
from genzoo.records import RunRecord

MAKEFILE = Path(__file__).parent.parent / "Makefile"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The module of a package that a new repository holds, with code, a plugin, a note and a result."""
    for name in ("genzoo/provenance.py", "plugins/a/src/a.py", "NOTES.md", "benchmarks/results/toys/record.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("first\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path / "genzoo" / "provenance.py"


def test_a_clean_checkout(checkout: Path) -> None:
    assert provenance.changed(checkout) == ()
    provenance.require_clean(checkout)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("genzoo/provenance.py", True),
        ("NOTES.md", True),
        ("genzoo/new.py", True),
        ("plugins/a/src/new.py", True),
        ("new.md", False),
        ("runs/cells/record.json", False),
        ("benchmarks/results/toys/record.json", False),
        ("benchmarks/results/other/record.json", False),
    ],
)
def test_what_makes_a_checkout_dirty(name: str, counts: bool, checkout: Path) -> None:
    """Changed files, and new code; not results, which are changed by making them, nor new files beside the code."""
    path = checkout.parent.parent / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("second\n")
    assert provenance.changed(checkout) == ((name,) if counts else ())
    if counts:
        with pytest.raises(ProvenanceError, match=f"without local changes; {name} is not as committed: commit first"):
            provenance.require_clean(checkout)
    else:
        provenance.require_clean(checkout)


def test_a_removed_result_may_be_made_again(checkout: Path) -> None:
    (checkout.parent.parent / "benchmarks/results/toys/record.json").unlink()
    provenance.require_clean(checkout)
    (checkout.parent.parent / "NOTES.md").unlink()
    assert provenance.changed(checkout) == ("NOTES.md",)


def test_many_changes_are_counted(checkout: Path) -> None:
    for number in range(8):
        (checkout.parent / f"m{number}.py").write_text("")
    with pytest.raises(ProvenanceError, match=r"genzoo/m0\.py, .*genzoo/m4\.py and 3 more are not as committed"):
        provenance.require_clean(checkout)


def test_what_no_checkout_tracks(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An installed package beside no repository, and one inside a repository that does not know it."""
    installed = checkout.parent.parent / "venv" / "genzoo" / "provenance.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    elsewhere = tmp_path_factory.mktemp("site") / "provenance.py"
    elsewhere.write_text("")
    for file in (installed, elsewhere):
        assert provenance.changed(file) is None
        with pytest.raises(ProvenanceError, match="no commit can be named; run from a clone"):
            provenance.require_clean(file)


def test_the_commit_of_this_checkout() -> None:
    said = provenance.commit()
    if provenance.changed() is None:
        assert said is None
    else:
        assert said is not None
        assert said.removesuffix("-dirty") == git(MAKEFILE.parent, "rev-parse", "HEAD")
        assert said.endswith("-dirty") == bool(provenance.changed())


def test_the_machine_is_told_without_its_name() -> None:
    assert provenance.machine().keys() == {"cores", "architecture", "processor", "system"}


def test_a_bench_refuses_a_dirty_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: Executor, tiny: Path
) -> None:
    provenance.commit()  # kept from here on, so that no later test sees what is planted now
    plan = Plan(
        models=("gaussian",),
        datasets=(str(tiny / "points.npz"),),
        budget="1steps",
        evaluation=EvaluationPlan(points=16),
    )
    monkeypatch.setattr(provenance, "changed", lambda file=None: ("genzoo/heads.py",))
    with pytest.raises(ProvenanceError, match=r"genzoo/heads\.py is not as committed"):
        bench.run(plan, tmp_path / "run", executor=inline, clean=True)
    assert not (tmp_path / "run").exists()
    (state,) = bench.run(plan, tmp_path / "run", executor=inline)
    assert state.status == "ok"


def test_a_bench_refuses_results_of_a_dirty_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: Executor, tiny: Path
) -> None:
    """Kept from an earlier run without --clean; removed, the cell is trained again."""
    provenance.commit()
    plan = Plan(
        models=("gaussian",),
        datasets=(str(tiny / "points.npz"),),
        budget="1steps",
        evaluation=EvaluationPlan(points=16),
    )
    monkeypatch.setattr(provenance, "changed", lambda file=None: ())
    (state,) = bench.run(plan, tmp_path / "run", executor=inline)
    folder = state.cell.folder
    for said in ("0123-dirty", None):
        record = RunRecord.load(folder)
        record.commit = said
        record.save(folder)
        with pytest.raises(ProvenanceError, match=f"its record says {said or 'none'}: remove the folder"):
            bench.run(plan, tmp_path / "run", executor=inline, clean=True)
    record.commit = "0123"
    record.save(folder)
    (state,) = bench.run(plan, tmp_path / "run", executor=inline, clean=True)
    assert state.status == "kept"


def test_the_command_refuses_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: Executor, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provenance.commit()
    monkeypatch.setattr(provenance, "changed", lambda file=None: ("genzoo/heads.py",))
    data, run = str(tiny / "points.npz"), tmp_path / "run"
    command = ["bench", "-m", "gaussian", "-d", data, "--budget", "1steps", "--points", "16", "-o", str(run)]
    assert main([*command, "--clean"]) == 2
    assert "genzoo/heads.py is not as committed: commit first, or run without --clean" in capsys.readouterr().err
    assert not run.exists()


def test_make_asks_for_a_clean_checkout_wherever_it_writes_results() -> None:
    lines = [
        line for line in MAKEFILE.read_text().splitlines() if "genzoo bench" in line and "benchmarks/results" in line
    ]
    assert len(lines) >= 3
    assert [line for line in lines if "--clean" not in line] == []
