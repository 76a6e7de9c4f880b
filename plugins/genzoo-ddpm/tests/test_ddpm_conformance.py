"""The conformance kit, quick level, at the few steps that the card names, where the full sum over them is cheap.

`genzoo check ddpm ddim --level full` is the thorough one.
"""

from collections.abc import Callable

import pytest

import genzoo.testing


@pytest.mark.parametrize("check", [*genzoo.testing.checks("ddpm"), *genzoo.testing.checks("ddim")])
def test_conformance(check: Callable[[], None]) -> None:
    check()
