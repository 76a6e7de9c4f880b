"""Records whose every string would steer a terminal: nothing of a report's text is more than printable characters."""

from __future__ import annotations

import dataclasses
import io
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from genzoo import report
from genzoo.records import RunRecord, write_arrays
from genzoo.report.leagues import MATCHES

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\u2028\r\bx"
N = 50


def evil(run: Path, name: str, **more: Any) -> None:
    """A cell in which every text field, and every key and value of a table, holds control characters."""
    values: dict[str, Any] = {
        "status": "ok",
        "kind": "weights",
        "nll": 1.0,
        "stderr": 0.1,
        "event_shape": [2],
        "label": f"{name}[{EVIL}]",
        "dataset": f"/tmp/{EVIL}",
        "protocol": {"dataset": EVIL, "split": EVIL, "target": EVIL, "key": EVIL},
        "config": {EVIL: EVIL},
        "terms": {EVIL: 0.5},
        "metrics": {EVIL: {"value": 1.0, "reference": 2.0}},
        "versions": {EVIL: EVIL},
        "machine": {EVIL: EVIL},
        "evaluation": {"estimator": f"{EVIL}[a={EVIL}]", "num_samples": 5, "points": N},
        "notes": [EVIL],
        "parameters": 3,
        "seconds_train": 1.0,
        **dict.fromkeys(("family", "summary", "paper", "plugin", "budget", "commit", "started", "device"), EVIL),
    }
    record = RunRecord(cell=name, model=f"{name}{EVIL}", seed=0, **values | more)
    record.save(run / "cells" / name)
    lower = np.random.default_rng(len(name)).standard_normal(N) - 1.0
    arrays = {"index": np.arange(N), "lower": lower, "valid_nll": np.array([3.0, 2.0])}
    arrays |= {"valid_step": np.array([1, 2]), "valid_seconds": np.array([0.5, 1.0])}
    write_arrays(run / "cells" / name / "arrays.npz", arrays)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("runs") / name for name in ("a\x1b[31m", "b\x07")]
    for path in paths:
        evil(path, "one", commit=f"{path.name}{EVIL}")
        evil(path, "other")
        error = {"type": EVIL, "message": EVIL, "traceback": f"  {EVIL}\n{EVIL}"}
        evil(path, "failed", status="failed", error=error, nll=None)
    return paths


def harmless(text: str) -> None:
    wrong = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs")}
    assert not wrong, sorted(map(hex, map(ord, wrong)))


@pytest.mark.parametrize("terminal", [False, True])
def test_the_table_on_a_terminal_and_in_a_pipe(terminal: bool, runs: list[Path]) -> None:
    stream = io.StringIO()
    report.terminal(runs, Console(file=stream, force_terminal=terminal, color_system=None, width=200))
    text = stream.getvalue()
    harmless(text)
    assert r"one[\x1b[2J" in text
    assert "failed" in text


TEXTS = [(form, view) for form in report.FORMATS for view in ("results", *report.VIEWS, "changes")]
PAGES = ("results", *MATCHES)
"""Views in which the page differs: it has all others."""


@pytest.mark.parametrize(("form", "view"), [pair for pair in TEXTS if pair[0] != "html" or pair[1] in PAGES])
def test_every_format_of_every_view(form: str, view: str, runs: list[Path]) -> None:
    text = report.render(runs, form, view)
    harmless(text)
    if view not in ("published", "floors") or form == "html":
        assert "one" in text


def test_the_records_are_as_evil_as_they_look(runs: list[Path]) -> None:
    """Every text field holds what it should not show; a field that is new must join them."""
    record = RunRecord.load(runs[0] / "cells" / "failed")
    bare = {"cell", "status", "kind", "split", "seed", "schema"}
    texts = {field.name for field in dataclasses.fields(record) if field.type in ("str", "str | None")}
    assert {name for name in texts - bare if EVIL not in (getattr(record, name) or "")} == set()
