"""The conformance kit, quick level, over both games."""

from collections.abc import Callable

import pytest

import genzoo.testing


@pytest.mark.parametrize("check", [*genzoo.testing.checks("gan"), *genzoo.testing.checks("wgan")])
def test_conformance(check: Callable[[], None]) -> None:
    check()
