"""The conformance kit, quick level. `genzoo check vae --level full` is the thorough one."""

from collections.abc import Callable

import pytest

import genzoo.testing


@pytest.mark.parametrize("check", [*genzoo.testing.checks("vae")])
def test_conformance(check: Callable[[], None]) -> None:
    check()
