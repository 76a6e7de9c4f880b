"""The README's table of what is promised under which fault: each line names a test that is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMED = re.compile(r"`([\w/-]+\.py)::(\w+)`")
TABLE = re.compile(r"<!-- promises -->\n(.*?)\n<!-- /promises -->", re.DOTALL)


def rows(text: str) -> list[list[str]]:
    """Cells of the table's lines, but for its head."""
    found = TABLE.search(text)
    assert found, "README has no table between <!-- promises --> and <!-- /promises -->"
    head, rule, *lines = found[1].splitlines()
    assert head.startswith("| fault |")
    assert set(rule) <= {"|", "-", ":", " "}
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def missing(lines: list[list[str]]) -> list[str]:
    """What is wrong: lines that name no test, and tests that are not there."""
    wrong = []
    for line in lines:
        named = NAMED.findall(line[-1])
        if len(line) != 3 or not named:
            wrong.append(f"{line[0]}: names no test")
        wrong += [f"{path}::{name}" for path, name in named if name not in names_in(ROOT / path)]
    return wrong


def names_in(path: Path) -> set[str]:
    """Names of the tests in a file; none where there is no file."""
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.Module([], [])
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_promise_names_a_test_that_is_there() -> None:
    lines = rows((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(lines) >= 10
    assert missing(lines) == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("| a | b | `tests/test_promises.py::test_a_promise_without_a_test_would_be_seen` |", []),
        ("| a | b | `tests/test_promises.py::test_none` |", ["tests/test_promises.py::test_none"]),
        ("| a | b | `tests/test_none.py::test_a` |", ["tests/test_none.py::test_a"]),
        ("| a | b | `tests/test_promises.py::rows` |", ["tests/test_promises.py::rows"]),
        ("| a | b | by hand |", ["a: names no test"]),
    ],
)
def test_a_promise_without_a_test_would_be_seen(line: str, wrong: list[str]) -> None:
    text = f"<!-- promises -->\n| fault | promise | test |\n|---|---|---|\n{line}\n<!-- /promises -->"
    assert missing(rows(text)) == wrong


def test_a_missing_table_would_be_seen() -> None:
    with pytest.raises(AssertionError, match="README has no table"):
        rows("# genzoo")
