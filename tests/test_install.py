"""Host and plugins are distributions of their own: built as wheels, installed into a fresh environment, found there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
Fresh = Callable[..., subprocess.CompletedProcess[str]]


def wheels_of(folder: Path) -> list[Path]:
    """Build the host and every plugin into `folder`, with the hatchling that is here: nothing is downloaded."""
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*build, "-w", str(folder), str(ROOT), *map(str, PLUGINS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return wheels_of(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def fresh(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """`fresh(*args)` runs python there, in an empty folder.

    The environment has the wheels, and borrows what they depend on from this one by a path file. Editable installs of
    this one do not come along, since path files found on such a path are not read.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    done = subprocess.run([*install, "--no-compile", *map(str, wheels)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    empty = tmp_path_factory.mktemp("empty")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(python), *args], cwd=empty, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_every_file_of_the_packages_is_in_the_wheels(wheels: list[Path]) -> None:
    assert len(wheels) == 1 + len(PLUGINS)
    packed = {name for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()}
    sources = [(ROOT, "genzoo"), *((plugin / "src", "") for plugin in PLUGINS)]
    tracked = [
        path.relative_to(base).as_posix()
        for base, package in sources
        for path in (base / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert set(tracked) <= packed
    assert {"genzoo/py.typed", "genzoo_vae/py.typed", "genzoo_flow/py.typed", "genzoo_ddpm/py.typed"} <= packed
    assert any(name.startswith("genzoo/report/") and name.endswith(".html") for name in packed)
    assert not [name for name in packed if "test" in name.split("/")[0]]


def test_the_wheels_are_what_runs_there(fresh: Fresh) -> None:
    done = fresh("-c", "import sys, genzoo, genzoo_flow; print(sys.prefix, genzoo.__file__, genzoo_flow.__file__)")
    prefix, *files = done.stdout.split()
    assert files
    assert all(Path(file).is_relative_to(prefix) for file in files)


def test_plugins_are_found_by_their_entry_points(fresh: Fresh) -> None:
    done = fresh("-m", "genzoo", "list", "models", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    names = {model["name"] for model in json.loads(done.stdout)}
    assert {"gaussian", "vae", "flow", "ddpm", "ddim", "pyro_vae", "pyro_mixture"} <= names
    report = json.loads(fresh("-m", "genzoo", "doctor", "--json").stdout)
    assert report["failures"] == []
    assert report["missing"] == {}
    assert {plugin["distribution"] for plugin in report["plugins"]} == {"genzoo", *(path.name for path in PLUGINS)}


def test_a_model_is_built_there(fresh: Fresh) -> None:
    code = """
import torch
from genzoo import DataSpec, build_model
model = build_model("vae[hidden=[8]]", DataSpec((2,)))
print(tuple(model.sample(3, seed=0).shape))
"""
    done = fresh("-c", code)
    assert done.stdout.strip() == "(3, 2)", done.stderr


def test_what_a_published_version_would_need() -> None:
    """`genzoo[all]` names every plugin that is here, and a known plugin is answered with the line that installs it."""
    import tomllib

    from genzoo.builtin import KNOWN_PLUGINS

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    here = {path.name for path in PLUGINS}
    assert set(project["optional-dependencies"]["all"]) == here
    assert set(KNOWN_PLUGINS.values()) == here
    for path in PLUGINS:
        plugin = tomllib.loads((path / "pyproject.toml").read_text())["project"]
        assert plugin["name"] == path.name
        assert list(plugin["entry-points"]) == ["genzoo"]
        assert plugin["license"] == project["license"] == "MIT"
        assert plugin["requires-python"] == project["requires-python"]
