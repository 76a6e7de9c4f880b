"""The guide for plugin authors, run as it stands: its files written, its commands run, their output compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from genzoo.testing import CHECKS

GUIDE = Path(__file__).parent.parent / "GUIDE.md"
TEXT = GUIDE.read_text(encoding="utf-8")
WIDTH = 100

# Sections whose commands take longest; the others are the way from a file to a row, and to a distribution.
LONG = {"4. Beside other models", "7. A latent-variable model"}

PIP = "--disable-pip-version-check install -q --no-deps --no-build-isolation --no-index"
# Commands as the guide names them: in an environment of the guide's own, and without an index to ask.
COMMANDS = {
    "genzoo": '"{python}" -m genzoo "$@"',
    "pytest": '"{python}" -m pytest -p no:cacheprovider "$@"',
    "pip": 'test "$1" = install && shift && "{host}" -m pip --python "{python}" ' + PIP + ' "$@"',
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is about, and its text."""

    language: str
    file: str
    text: str


def sections() -> dict[str, list[Block]]:
    """The blocks under each heading."""
    parts = re.split(r"^## (.+)\n", TEXT, flags=re.MULTILINE)
    fence = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
    return {
        title: [Block(*found) for found in fence.findall(body)]
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }


SECTIONS = sections()


def write(block: Block, folder: Path) -> None:
    """Write a file, or change one as a diff without line numbers says."""
    path = folder / block.file
    if block.language != "diff":
        path.write_text(block.text, encoding="utf-8")
        return
    lines = block.text.splitlines()
    before, after = ("\n".join(line[1:] for line in lines if line[:1] != sign) for sign in "+-")
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"the diff fits {text.count(before)} places of {block.file}:\n{before}"
    path.write_text(text.replace(before, after), encoding="utf-8")


def sessions(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block with the lines of output that the guide shows."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        yield command, shown


NUMBER = re.compile(r"-?(?<![\w.])\d[\d,]*(?:\.\d+)*(?:e-?\d+)?")


def pattern(line: str) -> str:
    """A regular expression for a line of output: numbers but 0 vary, the width of gaps too, and `...` is anything."""
    if line.startswith("exit code"):
        return re.escape(line) + r"\Z"
    words = []
    for word in line.replace("...", " ... ").split():
        ends, numbers = NUMBER.split(word), NUMBER.findall(word)
        values = ["0" if number == "0" else r"-?\d[\d.,e-]*" for number in numbers]
        exact = "".join(value + re.escape(end) for value, end in zip(["", *values], ends, strict=True))
        words.append(".*" if word == "..." else exact)
    return r"\s*".join(words) + r"\s*\Z"


def missing(shown: list[str], printed: str) -> str | None:
    """The first shown line that does not come, in its order, among the printed ones."""
    lines = iter(printed.splitlines())
    for line in shown:
        if line.strip() not in ("", "...") and not any(re.match(pattern(line), came.strip()) for came in lines):
            return line
    return None


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which `genzoo`, `pip` and `pytest` are those of a fresh virtual environment.

    It borrows what is installed here, editable installs too, by a path file.
    """
    home, commands = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("commands")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "borrowed.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
    for name, line in COMMANDS.items():
        script = commands / name
        script.write_text(f"#!/bin/sh\n{line.format(python=python, host=sys.executable)}\n")
        script.chmod(0o755)
    return os.environ | {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    "title", [pytest.param(title, marks=[pytest.mark.long] if title in LONG else []) for title in SECTIONS]
)
def test_a_section_runs_as_it_stands(title: str, shell: dict[str, str], tmp_path: Path) -> None:
    for earlier in SECTIONS:
        if earlier == title:
            break
        for block in SECTIONS[earlier]:
            if block.file:
                write(block, tmp_path)
    for block in SECTIONS[title]:
        if block.file:
            write(block, tmp_path)
            continue
        assert block.language == "console", f"a block that is neither a file nor run:\n{block.text}"
        for command, shown in sessions(block):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=shell,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}"
            lost = missing(shown, done.stdout)
            assert lost is None, f"{command}\nprinted no line like\n{lost}\n{done.stdout}"


def test_the_comparison_sees_what_differs() -> None:
    printed = "a check failed by 1.25 nats (z = -3.1)\nmoons: flow is first\nexit code 4"
    assert missing(["a check failed by 7 nats (z = 2)", "...", "exit code 4"], printed) is None
    assert missing(["a ... nats (z = 2)", "moons: ... first"], printed) is None
    assert missing(["a check passed by 1.25 nats (z = -3.1)"], printed) is not None
    assert missing(["moons: flow is first", "a check failed by 1.25 nats (z = -3.1)"], printed) is not None
    assert missing(["moons: flow is"], printed) is not None
    assert missing(["exit code 0"], printed) is not None
    assert missing(["34 checks: 9 passed, 0 failed in 2.25s"], "3 checks: 3 passed, 0 failed in 1e-3s") is None
    assert missing(["34 checks: 9 passed, 0 failed in 2.25s"], "3 checks: 3 passed, 1 failed in 1e-3s") is not None


def test_the_plugin_is_under_sixty_lines_and_every_file_is_formatted(tmp_path: Path) -> None:
    for blocks in SECTIONS.values():
        for block in blocks:
            if block.file:
                write(block, tmp_path)
    lines = len((tmp_path / "mixture.py").read_text().splitlines())
    assert lines < 60
    assert f"in {lines} lines" in TEXT
    options = ["--isolated", "--line-length", str(WIDTH)]
    for command in (["format", "--check"], ["check", "--select", "E,F,B,UP"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *options, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_what_it_names_is_there() -> None:
    assert set(LONG) <= SECTIONS.keys()
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (GUIDE.parent / link).exists()
    table = TEXT[TEXT.index("| mistake |") : TEXT.index("## 4.")]
    named = set(re.findall(r"\| `(\w+)` \|", table))
    assert len(named) >= 5
    assert named <= {check.name for check in CHECKS}
