"""The conformance kit, quick level. `genzoo check pyro_vae pyro_mixture --level full` is the thorough one."""

from collections.abc import Callable

import pytest

import genzoo.testing


@pytest.mark.parametrize("check", [*genzoo.testing.checks("pyro_vae"), *genzoo.testing.checks("pyro_mixture")])
def test_conformance(check: Callable[[], None]) -> None:
    check()
