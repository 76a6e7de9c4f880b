"""The conformance kit, quick level, at few steps, where the full sum over them is cheap.

`genzoo check 'ddpm[steps=8]' 'ddim[steps=8]' --level full` is the thorough one.
"""

from collections.abc import Callable

import pytest

import genzoo.testing


@pytest.mark.parametrize("check", [*genzoo.testing.checks("ddpm", steps=8), *genzoo.testing.checks("ddim", steps=8)])
def test_conformance(check: Callable[[], None]) -> None:
    check()
