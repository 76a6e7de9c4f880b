"""Inline options, budgets and training settings: what is read, what is refused and in which words."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genzoo.config import Budget, Config, Reference, TrainSettings, split_outside_brackets
from genzoo.errors import BudgetError, ConfigError, UnknownNameError

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
plain_numbers = st.integers(-(2**62), 2**62) | st.floats(allow_nan=False)
items = st.booleans() | plain_numbers | words
values = st.none() | items | st.lists(items, max_size=3) | st.dictionaries(words, items, max_size=2)
names = st.from_regex(r"[a-z0-9][a-z0-9_./-]{0,10}", fullmatch=True)
keys = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)


@settings(max_examples=300, deadline=None)
@given(st.builds(Reference, names, st.dictionaries(keys, values, max_size=3)))
def test_a_reference_is_read_back_from_its_text(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference


@settings(max_examples=100, deadline=None)
@given(st.lists(st.builds(Reference, names, st.dictionaries(keys, values, max_size=2)), min_size=1, max_size=3))
def test_a_list_of_references_is_split_between_them(references: list[Reference]) -> None:
    parts = split_outside_brackets(",".join(map(str, references)))
    assert [Reference.parse(part) for part in parts] == references


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_reference_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        [Reference.parse(part) for part in split_outside_brackets(text)]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("flow", {}),
        (" flow[ layers = 8 , bound=1e-3 ] ", {"layers": 8, "bound": 1e-3}),
        ("vae[hidden=[64, 32],head=gaussian]", {"hidden": [64, 32], "head": "gaussian"}),
        ("m[a=none,b=None,c=true,d=false]", {"a": None, "b": None, "c": True, "d": False}),
        ('m[a="none",b="1",c="x, y]",d=\'"\']', {"a": "none", "b": "1", "c": "x, y]", "d": '"'}),
        (r'm[a="\"",b=2]', {"a": '"', "b": 2}),
    ],
)
def test_inline_options(text: str, options: dict[str, object]) -> None:
    assert Reference.parse(text).options == options


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flow[layers]", "cannot read 'layers' in model 'flow\\[layers\\]': expected key=value"),
        ("flow[layers=1,layers=2]", "key 'layers' stands twice"),
        ("flow[layers=8", "expected name or name\\[key=value,...\\]"),
        ("flow[a=[1]", "unbalanced bracket"),
        ('flow[a="x]', "unbalanced quote"),
        ("flow[a=1 2]", "cannot read value '1 2': expected a number, true, false, none, a word or a list"),
        ("flow[a=1\nb=2]", "cannot read value"),
        ("flow[a=" + 3000 * "[" + 3000 * "]" + "]", "cannot read value"),
        ("[a=1]", "expected name"),
    ],
)
def test_what_is_no_reference(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "amount", "unit", "printed"),
    [
        ("2000steps", 2000, "steps", "2000steps"),
        ("1step", 1, "steps", "1steps"),
        ("12345678steps", 12345678, "steps", "12345678steps"),
        ("0.5epochs", 0.5, "epochs", "0.5epochs"),
        (" 60 s ", 60, "s", "60s"),
        ("1.25s", 1.25, "s", "1.25s"),
    ],
)
def test_budgets(text: str, amount: float, unit: str, printed: str) -> None:
    budget = Budget.parse(text)
    assert (budget.amount, budget.unit, str(budget)) == (amount, unit, printed)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    "text", ["", "60", "s", "-1s", "0s", "1.5steps", "1e3steps", "nan s", "10 minutes", "9" * 400 + "steps", "1s 2s"]
)
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(BudgetError, match="is not a budget"):
        Budget.parse(text)


class Example(Config):
    layers: int = 4
    scale: float = 1.0


def test_unknown_keys_are_answered_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown config key of x 'layer': did you mean layers\?"):
        Example.parse({"layer": 3}, "x")


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"config of x: layers='a': input .*; scale=inf: input should be a finite"):
        Example.parse({"layers": "a", "scale": math.inf}, "x")


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    settings = TrainSettings(learning_rate=1.0, warmup=0.1)
    assert settings.learning_rate_at(0.0) == 0.01  # never zero, which would waste a step
    assert settings.learning_rate_at(0.05) == pytest.approx(0.5)
    assert settings.learning_rate_at(0.1) == 1.0
    assert settings.learning_rate_at(0.55) == pytest.approx(0.5)
    assert settings.learning_rate_at(1.0) == pytest.approx(0.0, abs=1e-12)
    assert TrainSettings(learning_rate=1.0, schedule="constant").learning_rate_at(1.0) == 1.0
