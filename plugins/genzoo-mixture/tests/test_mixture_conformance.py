"""The conformance kit, quick level, over every model of the plugin."""

from collections.abc import Callable

import pytest

import genzoo.testing

MODELS = [
    *genzoo.testing.checks("gmm"),
    *genzoo.testing.checks("gmm", covariance="factors", rank=1),
    *genzoo.testing.checks("bernoulli_mixture"),
    *genzoo.testing.checks("categorical_mixture"),
]


@pytest.mark.parametrize("check", MODELS)
def test_conformance(check: Callable[[], None]) -> None:
    check()
