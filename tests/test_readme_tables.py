"""The tables of README.md come from records, and a stale one is noticed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from genzoo import references
from genzoo.errors import RunError
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


def test_the_whole_field_in_one_table(script: Any, tmp_path: Path) -> None:
    """Divergences where the truth is known, else NLLs; the smallest data first; a hyphen where there is no result."""
    record(tmp_path / "zoo", "flow", "moons", 0.0123)
    record(tmp_path / "zoo", "vae", "moons", 0.0456, kind="weights")
    record(tmp_path / "other", "vae", "digits", None, kind="weights")
    marked = "<!-- field:zoo,other -->\n<!-- /field:zoo,other -->\n"
    assert script.regenerate(marked, tmp_path).splitlines()[1:5] == [
        "| model | digits, NLL | moons, KL |",
        "| :-- | --: | --: |",
        "| flow | – | 0.0123 ± 0.0012 |",
        "| vae | ≤ 1.000 ± 0.010 | ≤ 0.0456 ± 0.0012 |",
    ]
    for kind, other in (("real", "moons"), ("binary", "moons")):
        record(tmp_path / "twice" / kind, "flow", other, 0.01)
    path = tmp_path / "twice" / "binary" / "cells" / "flow-moons" / "record.json"
    path.write_text(path.read_text().replace('"protocol": {}', '"protocol": {"target": "p(x, y)"}'))
    with pytest.raises(RunError, match="one protocol a data set"):
        script.field([tmp_path / "twice" / "real", tmp_path / "twice" / "binary"])


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


NAMES = "beside:mnist-10min,mnist-gpu,mnist-gpu-binary"
BESIDE = f"<!-- {NAMES} -->\nold\n<!-- /{NAMES} -->\n"


def image_record(folder: Path, model: str, dataset: str, nll: float) -> None:
    """With the protocol of the data set, whose hashes the floors know."""
    (known,) = (each for each in references._floors().values() if each.dataset == dataset)
    RunRecord(
        cell=f"{model}-{dataset}",
        status="ok",
        model=model,
        label=model,
        dataset=dataset,
        seed=0,
        event_shape=[1, 28, 28],
        levels=256 if dataset == "mnist" else 2,
        protocol={
            "dataset": dataset,
            "data_hash": known.data_hash,
            "test_hash": known.test_hash,
            "target": "p(x)",
        },
        kind="weights",
        nll=nll,
        stderr=1.5,
        budget="600s",
        evaluation={"estimator": "iwae", "num_samples": 64, "points": 10_000},
    ).save(folder / "cells" / f"{model}-{dataset}")


def test_ours_beside_published_values(script: Any, tmp_path: Path) -> None:
    """Ours by their rank, the plan that was not run, floors, then what others published and somebody has checked."""
    image_record(tmp_path / "mnist-10min", "vae", "mnist", 650.0)
    image_record(tmp_path / "mnist-10min", "flow", "mnist", 600.0)
    made = script.regenerate(BESIDE, tmp_path)
    grey, binary = made.split("**mnist\\_binary**")
    assert "**mnist**" in grey
    names = [line.split(" | ")[0].removeprefix("| ") for line in grey.splitlines() if line.startswith("| ")]
    assert names[:9] == [
        "model",
        ":--",
        "flow",
        "vae",
        "mnist-gpu: not run",
        "xz (ceiling)",
        "bz2 (ceiling)",
        "independent pixels (ceiling)",
        "gaussian (ceiling)",
    ]
    assert names[10] == "softmax transformer"
    own = "| flow | – | ≤ 1.1041 ± 0.0028 | iwae, K=64 | 10,000 test points, a budget of 600s on cpu | measured here |"
    assert own in grey
    assert "| xz (ceiling) | – | ≤ 1.3922 | all test images in one stream, a byte a pixel, level 9 | – | comp" in grey
    families = [line.split(" | ")[1] for line in grey.splitlines() if line.startswith("| ")][10:]
    assert max(map(families.count, families)) == 3
    assert "| R |" not in made
    assert "| R? |" not in made
    # the plan that was not run has binary digits too, and they are in a table of their own
    assert "| mnist-gpu-binary: not run | – | – | – | – | not run | – |" in binary
    assert "| NVAE | variational autoencoder | ≤ 78.01 |" in binary
    assert "softmax transformer" not in binary
    assert "| measured here |" not in binary
    image_record(tmp_path / "mnist-gpu", "flow", "mnist", 550.0)
    image_record(tmp_path / "mnist-gpu-binary", "hvae", "mnist_binary", 80.0)
    assert script.NOT_RUN not in script.regenerate(BESIDE, tmp_path)


def test_plans_without_any_results(script: Any, tmp_path: Path) -> None:
    made = script.regenerate(BESIDE, tmp_path)
    grey, binary = made.split("**mnist\\_binary**")
    assert "| mnist-10min: not run |" in grey
    assert "| mnist-gpu: not run |" in grey
    assert [line for line in binary.splitlines() if "not run" in line] == [
        "| mnist-gpu-binary: not run | – | – | – | – | not run | – |"
    ]
    assert made.startswith(f"<!-- {NAMES} -->\n**mnist**")
    assert script.regenerate(made, tmp_path) == made


def test_a_plan_that_is_not_there_fails(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- beside:mnist-none -->\n<!-- /beside:mnist-none -->\n")
    assert script.main(["--readme", str(readme), "--results", str(tmp_path)]) == 1
    assert "cannot read plan" in capsys.readouterr().err
    readme.write_text("<!-- beside:mnist-gpu -->\n")
    assert script.main(["--readme", str(readme), "--results", str(tmp_path)]) == 1
    assert "expected <!-- /beside:mnist-gpu -->" in capsys.readouterr().err


def test_the_committed_results_make_a_table(script: Any) -> None:
    made = script.beside(["mnist-10min", "mnist-binary-2min", "mnist-gpu"], SCRIPT.parent / "results")
    assert made.count("| measured here |") == 4
