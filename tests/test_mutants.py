"""The kit against models that are wrong in the classic ways, and against correct twins of theirs.

Each mutant is trained as the quick level trains, and only its named check is run. A mutant that escapes is a fault of
the kit; an alarm about a twin is one too: the false-alarm rate of a check is 1e-7 by construction, and `make calibrate`
measures it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from genzoo.registry import Registry
from genzoo.testing import kit

ROOT = Path(__file__).parent.parent


def module(path: Path) -> ModuleType:
    """A file that is in no package, as a module of its own name."""
    if path.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[path.stem])
    return sys.modules[path.stem]


effects = module(ROOT / "tests" / "mutants" / "effects.py")
REGISTRY: Registry = effects.registry()
MUTANTS: list[str] = effects.names(twins=False)
TWINS: list[str] = effects.names(twins=True)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught_at_its_stated_effect(name: str) -> None:
    subject = kit.subject_of(REGISTRY, name)
    check, problem = effects.catcher(subject)
    result = kit.run_check(subject, check, problem, {})
    assert result.outcome == "failed", f"{name} escapes {result.name}: {result.outcome} {result.message}"
    assert effects.effect(subject) >= effects.model_class(subject).effect


@pytest.mark.parametrize("name", TWINS)
def test_twin_passes_every_check(name: str) -> None:
    assert_passes(kit.run(kit.subject_of(REGISTRY, name)))


@pytest.mark.long
@pytest.mark.parametrize("name", TWINS)
def test_twin_passes_from_another_seed(name: str) -> None:
    assert_passes(kit.run(kit.subject_of(REGISTRY, name, seed=1)))


def assert_passes(receipt: kit.Receipt) -> None:
    assert receipt.ok, [f"{result.name}: {result.message}" for result in receipt.results if result.outcome == "failed"]


@pytest.mark.parametrize("name", TWINS)
def test_statistics_raise_no_alarm_in_five_seeds(name: str) -> None:
    """`make calibrate` does the same in 200."""
    calibrate = module(ROOT / "benchmarks" / "calibrate.py")
    assert calibrate.alarms(REGISTRY, name, range(100, 105)).alarms == []


def test_the_suite_is_as_broad_as_it_says() -> None:
    assert len(TWINS) == 6
    assert len(MUTANTS) >= 20
    classes: list[Any] = [effects.model_class(kit.subject_of(REGISTRY, name)) for name in MUTANTS]
    assert sum(cls.effect == 0.03 for cls in classes) >= 5
    assert all(cls.effect in (0.03, 0.1) for cls in classes)
    catchers = Counter(cls.caught_by.partition("[")[0] for cls in classes)
    assert max(catchers.values()) <= len(MUTANTS) / 2, catchers


def test_page_of_checks_is_current() -> None:
    """`make checks` writes it."""
    written = (ROOT / "CHECKS.md").read_text()
    assert module(ROOT / "benchmarks" / "checks_page.py").page() == written
    assert all(f"### {check.name}\n" in written for check in kit.CHECKS)
