"""The conformance kit, quick level, at the few steps that the card names, where the full sum over them is cheap.

`genzoo check ddpm ddim d3pm --level full` is the thorough one.
"""

from collections.abc import Callable

import pytest

import genzoo.testing


@pytest.mark.parametrize("check", [check for name in ("ddpm", "ddim", "d3pm") for check in genzoo.testing.checks(name)])
def test_conformance(check: Callable[[], None]) -> None:
    check()
