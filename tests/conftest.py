"""Fixtures that several test files share."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genzoo.registry import reset_registry

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # started in the background of a shell without job control: the processes that tests interrupt would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

PLUGINS = Path(__file__).parent / "fixtures" / "plugins"
ROOT = Path(__file__).parent.parent


class Site:
    """A folder in which fixture distributions are installed, as pip would: the module and a `.dist-info` beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def install(self, *modules: str, version: str = "1.2") -> None:
        """Install `tests/fixtures/plugins/<module>.py` as the distribution `genzoo-<module>`."""
        for module in modules:
            shutil.copy(PLUGINS / f"{module}.py", self.path)
            self.dist_info(f"genzoo-{module.replace('_', '-')}", f"[genzoo]\n{module} = {module}\n", version)

    def dist_info(self, name: str, entry_points: str, version: str = "1.2", metadata: str | None = None) -> None:
        """Write a `.dist-info` folder; `metadata` replaces the usual METADATA."""
        folder = self.path / f"{name.replace('-', '_')}-1.2.dist-info"
        folder.mkdir()
        (folder / "entry_points.txt").write_text(entry_points)
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" if metadata is None else metadata
        (folder / "METADATA").write_text(text)

    def module(self, name: str, source: str) -> None:
        """Write a module that no distribution owns."""
        (self.path / f"{name}.py").write_text(source)

    def run(self, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`genzoo *args` in a process of its own that sees this folder."""
        return self.python("-m", "genzoo", *args, **environment)

    def python(self, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python *args` in a process of its own that sees this folder."""
        paths = {"PYTHONPATH": os.pathsep.join([str(self.path), str(ROOT)])}
        return subprocess.run(
            [sys.executable, *args],
            env=os.environ | paths | environment,
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty site folder; in this process, the only one whose distributions are seen."""
    folder = tmp_path / "site"
    folder.mkdir()
    every = importlib.metadata.distributions
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **kw: every(path=[str(folder)], **kw))
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    reset_registry()
    yield Site(folder)
    reset_registry()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
    importlib.invalidate_caches()


PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "genzoo-{dashed}"
version = "1.2"
dependencies = ["genzoo"]

[project.entry-points.genzoo]
{module} = "{module}"

[tool.hatch.build.targets.wheel]
only-include = ["{module}.py"]
"""


def project(module: str, parent: Path) -> Path:
    """`tests/fixtures/plugins/<module>.py` as the source tree of a distribution `genzoo-<module>` 1.2."""
    (source,) = PLUGINS.glob(f"{module}.py*")  # what is no Python is kept as .py.txt
    folder = parent / f"genzoo-{module}"
    folder.mkdir()
    shutil.copy(source, folder / f"{module}.py")
    (folder / "pyproject.toml").write_text(PROJECT.format(module=module, dashed=module.replace("_", "-")))
    return folder


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Site]:
    """`installed(*modules, projects=())`: a folder into which pip has installed fixture modules and source trees."""

    def install(*modules: str, projects: Iterable[Path] = ()) -> Site:
        sources, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("target")
        trees = [*projects, *(project(module, sources) for module in modules)]
        # with the build backend that is here, and no index
        options = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--target", str(target)]
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *options, *map(str, trees)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return Site(target)

    return install


class InlineExecutor(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> InlineExecutor:
    """An executor for `bench.run`, which `genzoo bench` uses too while the test runs."""
    import torch  # here: most test files do without

    torch.set_num_threads(1)
    executor = InlineExecutor()
    monkeypatch.setattr("genzoo.bench.LocalExecutor", lambda jobs, threads: executor)
    return executor


@pytest.fixture(scope="session")
def brittle() -> tuple[str, ...]:
    """Plugin files that bring `brittle`, a Gaussian that fails, dies or gets worse when it is told to."""
    return (str(PLUGINS / "harness_models.py"),)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of own data, 160 examples each, of which 16 are for testing: points, labelled points, images."""
    folder = tmp_path_factory.mktemp("tiny")
    generator = np.random.default_rng(0)
    points = generator.standard_normal((160, 2)).astype(np.float32) * (2, 0.5) + (1, -1)
    np.savez(folder / "points.npz", x=points.astype(np.float32))
    np.savez(folder / "labelled.npz", x=points.astype(np.float32), y=np.arange(160) % 3)
    np.savetxt(folder / "table.csv", points, delimiter=",")
    np.savez(folder / "images.npz", x=generator.integers(0, 256, (160, 3, 8, 8)).astype(np.uint8))
    return folder
