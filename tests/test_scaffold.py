"""`genzoo new`: what it writes is a plugin that passes the kit and enters a bench."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from genzoo import scaffold
from genzoo.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from conftest import Site

FAMILIES = [*scaffold.FAMILIES]


def genzoo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line in `cwd`."""
    return subprocess.run([sys.executable, "-m", "genzoo", *arguments], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_it_writes_is_sound(family: str, tmp_path: Path) -> None:
    done = genzoo("new", "my_model", "--family", family, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "genzoo-my-model"
    sources = [*folder.rglob("*.py")]
    assert len(sources) == 3
    assert not any("$" in path.read_text() for path in folder.rglob("*") if path.is_file())
    ruff = [sys.executable, "-m", "ruff", "check", "--line-length", "120", "--select", "E,F,UP,B", str(folder)]
    assert subprocess.run(ruff, capture_output=True).returncode == 0
    # a second time it touches nothing
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = genzoo("new", "my_model", "--family", family, cwd=tmp_path)
    assert again.returncode == 2
    assert "exists" in again.stderr
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("family", ["density", "latent"])
def test_a_new_model_passes_the_kit_and_enters_a_bench(
    family: str, installed: Callable[..., Site], tmp_path: Path
) -> None:
    assert genzoo("new", "fresh", "--family", family, cwd=tmp_path).returncode == 0
    site = installed(projects=[tmp_path / "genzoo-fresh"])
    listed = json.loads(site.run("list", "models", "--json").stdout)
    assert "fresh" in {row["name"] for row in listed}
    checked = site.run("check", "fresh")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    options = ["--budget", "30steps", "--points", "50", "--jobs", "1", "-o", str(tmp_path / "run")]
    ran = site.run("bench", "-m", "fresh", "-d", "moons[points=2000]", *options)
    assert ran.returncode == 0, ran.stderr
    assert "fresh" in ran.stdout


def test_a_new_data_set_enters_a_bench(installed: Callable[..., Site], tmp_path: Path) -> None:
    assert genzoo("new", "bars", "--family", "dataset", cwd=tmp_path).returncode == 0
    options = ["--budget", "1steps", "--jobs", "1", "-o", str(tmp_path / "run")]
    ran = installed(projects=[tmp_path / "genzoo-bars"]).run("bench", "-m", "gaussian", "-d", "bars", *options)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", ["9lives", "Upper", "a-b", "", "x" * 40, "../up"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a plugin name"):
        scaffold.files(name, "density")


def test_a_taken_name_and_an_unknown_family(tmp_path: Path) -> None:
    done = genzoo("new", "gaussian", cwd=tmp_path)
    assert done.returncode == 2
    assert "taken by genzoo" in done.stderr
    with pytest.raises(UnknownNameError, match="density"):
        scaffold.files("mine", "densty")
