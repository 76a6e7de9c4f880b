"""What importing costs, the public names, and that the import contracts would see what they forbid."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import genzoo

ROOT = Path(__file__).parent.parent
TORCH_FREE = (
    "genzoo",
    "genzoo.plan",
    "genzoo.records",
    "genzoo.executors",
    "genzoo.provenance",
    "genzoo.references",
    "genzoo.report",
)

# Imports one module after the other, and says after each whether torch has come with it.
WITNESS = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(name, "torch" in sys.modules)
"""


def test_records_and_reports_need_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITNESS, *TORCH_FREE, "genzoo.report.page", "genzoo.spec"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    *free, last = done.stdout.splitlines()
    assert free == [f"{name} False" for name in (*TORCH_FREE, "genzoo.report.page")]
    assert last == "genzoo.spec True"  # the witness sees it where it is


def test_public_names_are_there() -> None:
    assert sorted(genzoo.__all__) == genzoo.__all__
    assert dir(genzoo) == genzoo.__all__
    for name in genzoo.__all__:
        assert getattr(genzoo, name) is not None
    with pytest.raises(AttributeError, match="module 'genzoo' has no attribute 'buidl_model'"):
        genzoo.buidl_model  # noqa: B018


# Lines that break one contract each, by the words that name it.
BREAKS = {
    "one way": ("genzoo/spec.py", "from genzoo.training import Trainer"),
    "imports torch": ("genzoo/report/numbers.py", "import torch"),
    "imports no plugin": ("genzoo/adapters.py", "import genzoo_flow"),
    "do not know each other": ("genzoo_vae/vae.py", "import genzoo_flow"),
    "public modules": ("genzoo_vae/vae.py", "from genzoo.records import write_bytes"),
    "exhaustive": ("genzoo/newcomer.py", ""),
}


@pytest.mark.parametrize("planted", [None, *BREAKS], ids=str)
def test_the_import_contracts_see_what_they_forbid(planted: str | None, tmp_path: Path) -> None:
    """Each contract holds for the tree as it is, and fails on a copy with one wrong import."""
    ignore = shutil.ignore_patterns("__pycache__", "*.html")
    shutil.copytree(ROOT / "genzoo", tmp_path / "genzoo", ignore=ignore)
    for plugin in (ROOT / "plugins").glob("*/src/*"):
        shutil.copytree(plugin, tmp_path / plugin.name, ignore=ignore)
    shutil.copy(ROOT / ".importlinter", tmp_path)
    if planted is not None:
        file, line = BREAKS[planted]
        with (tmp_path / file).open("a") as source:
            source.write(f"\n{line}\n")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    if planted is None:
        assert (done.returncode, broken) == (0, []), done.stdout + done.stderr
    elif planted == "exhaustive":
        assert "newcomer" in done.stdout
        assert done.returncode == 1
    else:
        assert done.returncode == 1
        assert any(planted in line for line in broken), done.stdout
