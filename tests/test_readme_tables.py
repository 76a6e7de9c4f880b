"""The tables of README.md come from records, and a stale one is noticed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from genzoo.records import RunRecord

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "readme_tables.py"
README = "# zoo\n<!-- table:toys -->\nold\n<!-- /table:toys -->\nafter\n"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("readme_tables", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(folder: Path, model: str, dataset: str, kl: float | None, kind: str = "exact") -> None:
    RunRecord(
        cell=f"{model}-{dataset}",
        status="ok",
        model=model,
        label=model,
        dataset=dataset,
        seed=0,
        event_shape=[2],
        kind=kind,
        nll=1.0 + (kl or 0),
        stderr=0.01,
        entropy=None if kl is None else 1.0,
        kl=kl,
        kl_stderr=None if kl is None else 0.0012,
    ).save(folder / "cells" / f"{model}-{dataset}")


def test_a_matrix_of_divergences(script: Any, tmp_path: Path) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "results"
    readme.write_text(README)
    for dataset in ("moons", "rings"):
        record(results / "toys", "flow", dataset, 0.0123)
    record(results / "toys", "vae", "moons", 0.0456, kind="weights")
    args = ["--readme", str(readme), "--results", str(results)]
    assert script.main([*args, "--check"]) == 1
    assert readme.read_text() == README
    assert script.main(args) == 0
    assert readme.read_text().splitlines()[2:6] == [
        "| data | flow | vae |",
        "| :-- | --: | --: |",
        "| moons | 0.0123 ± 0.0012 | ≤ 0.0456 ± 0.0012 |",
        "| rings | 0.0123 ± 0.0012 | – |",
    ]
    assert script.main([*args, "--check"]) == 0
    record(results / "toys", "flow", "moons", 0.0125)
    assert script.main([*args, "--check"]) == 1


def test_without_a_truth_the_results_themselves(script: Any, tmp_path: Path) -> None:
    record(tmp_path / "toys", "flow", "own", None)
    assert "**own**\n\n| rank | model | seed | NLL, nats |" in script.regenerate(README, tmp_path)


def test_an_open_marker_or_missing_records_fail(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    args = ["--readme", str(readme), "--results", str(tmp_path)]
    readme.write_text(README)
    assert script.main(args) == 1
    assert "no cells in" in capsys.readouterr().err
    readme.write_text("<!-- table:toys -->\n")
    assert script.main(args) == 1
    assert "expected <!-- /table:toys -->" in capsys.readouterr().err
