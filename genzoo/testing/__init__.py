"""The conformance kit: is a model's likelihood right? Behind `genzoo check`, and pytest parameters for plugins' tests.

`check_run` is `genzoo check RUN`: the same checks on trained checkpoints, and an audit of their stored numbers.

import genzoo.testing
import pytest

@pytest.mark.parametrize("check", genzoo.testing.checks("mine"))
def test_conformance(check):
    check()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from genzoo.registry import load_registry
from genzoo.testing.cell import CellSubject, cells
from genzoo.testing.kit import (
    CELL_CHECKS,
    CHECKS,
    Check,
    Receipt,
    Result,
    planned,
    run,
    run_cell,
    run_check,
    subject_of,
)
from genzoo.testing.subject import CheckFailed, CheckSkipped, ModelSubject, Subject

__all__ = [
    "CELL_CHECKS",
    "CHECKS",
    "CellSubject",
    "Check",
    "CheckFailed",
    "CheckSkipped",
    "ModelSubject",
    "Receipt",
    "Result",
    "Subject",
    "check_run",
    "checks",
    "run",
    "run_cell",
    "run_check",
    "subject_of",
]


def checks(
    name: str, level: str = "quick", *, expected_failures: Mapping[str, str] | None = None, **options: Any
) -> list[Any]:
    """Every check of a registered model as pytest parameters, callables without arguments.

    Args:
        name: registered name; options: inline config.
        level: "quick" or "full".
        expected_failures: `{check or check[problem]: reason}`: those fail as declared.
    """
    import pytest  # only where tests are collected

    subject = subject_of(load_registry(), name, level, **options)
    expected = dict(expected_failures or {})
    return [
        pytest.param(partial(_as_test, subject, check, problem, expected), id=f"{name}-{check.name}-{problem}")
        for check, problem in planned(subject)
    ]


def check_run(run: str | Path, level: str = "quick", *, seed: int = 0, plugins: Sequence[str] = ()) -> list[Receipt]:
    """Check the trained cells of a run: their checkpoints on their own data sets, and their stored numbers.

    The stored evaluation is made again from its own estimator, draws, seed and points: on the same place and code the
    number must come again bit for bit, elsewhere within a stated rounding. No reading is appended.

    Args:
        run: a bench folder or a cell folder; cells without a result are left out.
        level: "quick" recomputes the first whole batches of an evaluation that took long, "full" all of it.
        seed: of batches and draws of the checks. plugins: single-file plugins.

    Returns:
        A receipt for each cell, whose `ok` says whether all is well.

    Raises:
        RunError: no cells there, or a record that cannot be read.
    """
    return [run_cell(subject) for subject in cells(run, level, seed, plugins)]


def _as_test(subject: ModelSubject, check: Check[ModelSubject], problem: str, expected: Mapping[str, str]) -> None:
    import pytest

    result = run_check(subject, check, problem, expected)
    outcomes: dict[str, Callable[[str], Any]] = {
        "failed": pytest.fail,
        "skipped": pytest.skip,
        "expected": pytest.xfail,
    }
    if result.outcome in outcomes:
        outcomes[result.outcome](result.message)
