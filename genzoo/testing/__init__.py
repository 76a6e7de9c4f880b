"""The conformance kit: is a model's likelihood right? Behind `genzoo check`, and pytest parameters for plugins' tests.

import genzoo.testing
import pytest

@pytest.mark.parametrize("check", genzoo.testing.checks("mine"))
def test_conformance(check):
    check()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from genzoo.registry import load_registry
from genzoo.testing.kit import CHECKS, Check, Receipt, Result, planned, run, run_check, subject_of
from genzoo.testing.subject import CheckFailed, CheckSkipped, Subject

__all__ = [
    "CHECKS",
    "Check",
    "CheckFailed",
    "CheckSkipped",
    "Receipt",
    "Result",
    "Subject",
    "checks",
    "run",
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


def _as_test(subject: Subject, check: Check, problem: str, expected: Mapping[str, str]) -> None:
    import pytest

    result = run_check(subject, check, problem, expected)
    outcomes: dict[str, Callable[[str], Any]] = {
        "failed": pytest.fail,
        "skipped": pytest.skip,
        "expected": pytest.xfail,
    }
    if result.outcome in outcomes:
        outcomes[result.outcome](result.message)
