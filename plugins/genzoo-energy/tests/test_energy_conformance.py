"""The conformance kit, quick level: machines scored by their annealed sampler and enumerable ones, stacks, a field."""

from collections.abc import Callable

import pytest

import genzoo.testing

MODELS = [
    *genzoo.testing.checks("rbm"),
    *genzoo.testing.checks("rbm", hidden=8, method="tempering"),
    *genzoo.testing.checks("dbn"),
    *genzoo.testing.checks("dbn", hidden=(12, 8), method="cd"),
    *genzoo.testing.checks("ebm"),
]


@pytest.mark.parametrize("check", MODELS)
def test_conformance(check: Callable[[], None]) -> None:
    check()
