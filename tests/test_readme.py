"""The README's code is run as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")


def genzoo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in `cwd`."""
    return subprocess.run([sys.executable, "-m", "genzoo", *arguments], cwd=cwd, capture_output=True, text=True)


def block(marker: str) -> str:
    """The code between a marker and its end."""
    found = re.search(
        rf"<!-- {re.escape(marker)} -->\n```python\n(.*?)```\n<!-- /{re.escape(marker)} -->", TEXT, re.DOTALL
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


def test_every_model_in_the_tables_is_installed(tmp_path: Path) -> None:
    named = set(re.findall(r"^\| `([a-z_]+)`(?:, `([a-z_]+)`)? \|", TEXT, re.MULTILINE))
    installed = {row["name"] for row in json.loads(genzoo("list", "models", "--json", cwd=tmp_path).stdout)}
    assert {name for pair in named for name in pair if name} == installed


def test_the_tables_are_what_the_records_say() -> None:
    script = README.parent / "benchmarks" / "readme_tables.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
