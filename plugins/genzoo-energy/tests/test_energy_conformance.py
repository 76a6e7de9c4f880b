"""The conformance kit, quick level: a machine scored by its annealed sampler, an enumerable one, a field."""

from collections.abc import Callable

import pytest

import genzoo.testing

MODELS = [
    *genzoo.testing.checks("rbm"),
    *genzoo.testing.checks("rbm", hidden=8, method="tempering"),
    *genzoo.testing.checks("ebm"),
]


@pytest.mark.parametrize("check", MODELS)
def test_conformance(check: Callable[[], None]) -> None:
    check()
