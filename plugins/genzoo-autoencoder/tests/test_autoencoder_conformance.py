"""The conformance kit, quick level."""

from collections.abc import Callable

import pytest

import genzoo.testing


@pytest.mark.parametrize("check", genzoo.testing.checks("autoencoder"))
def test_conformance(check: Callable[[], None]) -> None:
    check()
