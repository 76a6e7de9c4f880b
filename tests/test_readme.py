"""The README's code is run as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")


def genzoo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in `cwd`."""
    return subprocess.run([sys.executable, "-m", "genzoo", *arguments], cwd=cwd, capture_output=True, text=True)


def block(marker: str) -> str:
    """The code between a marker and its end."""
    found = re.search(
        rf"<!-- {re.escape(marker)} -->\n```[a-z]+\n(.*?)```\n<!-- /{re.escape(marker)} -->", TEXT, re.DOTALL
    )
    assert found, f"README has no block {marker}"
    return found[1]


def test_the_python_session_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"## From Python\n\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert code
    scope: dict[str, object] = {}
    exec(compile(code[1], str(README), "exec"), scope)
    result = scope["result"]
    assert result.kind == "exact"  # type: ignore[attr-defined]
    # 200 steps of a small flow: far better than the Gaussian (0.90 nats), and no better than the truth
    assert -0.02 < result.kl < 0.5  # type: ignore[attr-defined]
    assert "NLL = " in capsys.readouterr().out


def test_the_plugin_of_the_readme_is_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "laplace.py").write_text(block("plugin:laplace.py"), encoding="utf-8")
    command = re.search(r"`genzoo (bench --plugin laplace.py[^`]*)`", TEXT.replace("\n", " "))
    assert command
    arguments = command[1].replace("5s", "200steps").split()
    done = genzoo(*arguments, "-o", "run", "--jobs", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(genzoo("report", "run", "--format", "json", cwd=tmp_path).stdout)
    assert [row["status"] for row in rows] == ["ok"]
    assert rows[0]["kind"] == "exact"
    # independent Laplace distributions cannot fit two moons, nor beat them
    assert 0.5 < rows[0]["kl"] < 2.0


def test_the_plan_of_the_readme_is_a_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(block("plan:plan.toml"), encoding="utf-8")
    done = genzoo("bench", "plan.toml", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3 * 3 * 3
    assert "27 cells" in done.stderr


def test_every_model_in_the_tables_is_installed(tmp_path: Path) -> None:
    named = set(re.findall(r"^\| `([a-z0-9_]+)`(?:, `([a-z0-9_]+)`)? \|", TEXT, re.MULTILINE))
    installed = {row["name"] for row in json.loads(genzoo("list", "models", "--json", cwd=tmp_path).stdout)}
    assert {name for pair in named for name in pair if name} == installed


def test_the_tables_are_what_the_records_say() -> None:
    script = README.parent / "benchmarks" / "readme_tables.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def receipt(name: str) -> Any:
    return json.loads((README.parent / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def zoo(model: str, *datasets: str) -> list[Any]:
    """The zoo's records of a model."""
    cells = README.parent / "benchmarks" / "results" / "zoo" / "cells"
    return [json.loads(path.read_text()) for data in datasets for path in cells.glob(f"{model}-{data}-0-*/record.json")]


def test_the_figures_in_the_text_are_those_of_the_receipts() -> None:
    """What the prose says beside the tables is rounded from committed receipts, and nothing else."""
    text = " ".join(TEXT.split())
    cost = {steps: receipt("speed_ddpm_bound")["steps"][steps] for steps in ("1000", "256")}
    first, second = ((c["calls_margin"], c["seconds_in_all"]) for c in cost.values())
    assert f"from 1/{first[0]:.0f} of the network calls" in text
    assert f"1/{first[1]:.0f} of its seconds, pilots counted; 1/{second[0]:.0f} and 1/{second[1]:.0f} at" in text
    annealed = receipt("bdmc_vae")
    nll = {bound["estimator"].partition("[")[0]: f"{bound['nll']:.2f}" for bound in annealed["bounds"]}
    several = {bound["draws"]: f"{bound['nll']:.2f}" for bound in annealed["bounds"] if bound["estimator"] == "iwae"}
    assert f"an ELBO of {nll['elbo']} nats, {nll['refined']} with its posterior refined" in text
    assert f"{several[5000]} by IWAE-5000 and {nll['ais']} by annealing" in text
    gap = annealed["bdmc"][-1]["gap"]
    assert f"annealing's gap is {gap['mean']:.3f} \u00b1 {gap['stderr']:.3f} nats" in text
    promised = [case["coverage"] for case in receipt("coverage")["cases"] if case["promised"]]
    assert min(promised) >= 0.93
    assert max(promised) <= 0.97
    assert f"{len(receipt('mutant_matrix')['mutants'])} wrong models" in text
    assert f"in {receipt('calibrate')['runs']:,} runs" in text
    assert receipt("calibrate")["alarms"] == 0
    (path,) = (README.parent / "benchmarks/results/static/cells").glob("rbm-*/readings.json")
    (bracket,) = json.loads(path.read_text())
    assert f"indicative, is {bracket['nll_lower']:.1f} to {bracket['nll']:.1f} nats there" in text
    ddim = [cell["metrics"]["c2st"]["value"] for cell in zoo("ddim", "moons", "8gaussians")]
    assert {f"in {100 * share:.0f} % of cases on both" for share in ddim} == {"in 49 % of cases on both"}
    assert "in 49 % of cases on both" in text
    (gmm,) = zoo("gmm", "8gaussians")
    assert f"KL on 8gaussians is {gmm['kl_quadrature']:.5f}, about what {gmm['parameters']} fitted parameters" in text
    assert gmm["kl_quadrature"] == pytest.approx(gmm["parameters"] / 200_000, rel=0.05)
    recalled = tomllib.loads((README.parent / "genzoo/references/mnist_binary_static.toml").read_text())["rows"]
    values = {row["model"]: row["value"] for row in recalled if row["tag"] == "R"}
    said = [values[f"MADE, {name}"] for name in ("one layer", "two layers, 32 masks")]
    said += [values["RBM"], values["mixture of 500 Bernoullis"]]
    assert (
        "MADE {:.2f} with one order and {:.2f} with 32, an RBM ~{:.2f}, a mixture of 500 Bernoullis {:.2f}".format(
            *said
        )
        in text
    )
    full = receipt("check_full")
    assert all(found["ok"] for found in full.values())
    quick, slowest = (
        sum(found["seconds"] < 60 for found in full.values()),
        max(full, key=lambda n: full[n]["seconds"]),
    )
    assert f"which all {len(full)} models pass" in text
    assert (
        f"up to a minute for {quick} of them, and for `{slowest}` {full[slowest]['seconds']:.0f} s, the longest" in text
    )
