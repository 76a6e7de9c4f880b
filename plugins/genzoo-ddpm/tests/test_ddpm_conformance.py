"""The conformance kit, quick level, at the few steps that the card names, where the full sum over them is cheap.

`genzoo check ddpm ddim d3pm score_sde flow_matching --level full` is the thorough one.
"""

from collections.abc import Callable

import pytest

import genzoo.testing

NAMES = ("ddpm", "ddim", "d3pm", "score_sde", "flow_matching")


@pytest.mark.parametrize("check", [check for name in NAMES for check in genzoo.testing.checks(name)])
def test_conformance(check: Callable[[], None]) -> None:
    check()
