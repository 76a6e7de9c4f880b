"""The conformance kit, quick level, over every model of the plugin."""

from collections.abc import Callable

import pytest

import genzoo.testing

NAMES = ("naive_bayes", "nade", "made", "pixelcnn", "transformer")


@pytest.mark.parametrize("check", [check for name in NAMES for check in genzoo.testing.checks(name)])
def test_conformance(check: Callable[[], None]) -> None:
    check()
