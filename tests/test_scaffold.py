"""`genzoo new`: what it writes is a plugin that passes the kit and enters a bench."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from genzoo import scaffold
from genzoo.errors import UnknownNameError, UsageError

FAMILIES = [*scaffold.FAMILIES]


def genzoo(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, with the distribution at `path` found as an installed one is."""
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), str(path / "src")])
    command = [sys.executable, "-m", "genzoo", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def pretend_installed(folder: Path) -> None:
    """The metadata that pip would write, made of the distribution's own pyproject."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = project["entry-points"]["genzoo"]
    (info / "entry_points.txt").write_text("[genzoo]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()))


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
def test_a_new_model_passes_the_kit_and_enters_a_bench(family: str, tmp_path: Path) -> None:
    assert genzoo("new", "fresh", "--family", family, cwd=tmp_path).returncode == 0
    folder = tmp_path / "genzoo-fresh"
    pretend_installed(folder)
    listed = json.loads(genzoo("list", "models", "--json", cwd=tmp_path, path=folder).stdout)
    assert "fresh" in {row["name"] for row in listed}
    checked = genzoo("check", "fresh", cwd=tmp_path, path=folder)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    options = ["--budget", "30steps", "--points", "50", "--jobs", "1", "-o", "run"]
    ran = genzoo("bench", "-m", "fresh", "-d", "moons[points=2000]", *options, cwd=tmp_path, path=folder)
    assert ran.returncode == 0, ran.stderr
    assert "fresh" in ran.stdout


def test_a_new_data_set_enters_a_bench(tmp_path: Path) -> None:
    assert genzoo("new", "bars", "--family", "dataset", cwd=tmp_path).returncode == 0
    folder = tmp_path / "genzoo-bars"
    pretend_installed(folder)
    options = ["--budget", "1steps", "--jobs", "1", "-o", "run"]
    ran = genzoo("bench", "-m", "gaussian", "-d", "bars", *options, cwd=tmp_path, path=folder)
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
