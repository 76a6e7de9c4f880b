"""Generative adversarial networks for genzoo, with a likelihood: `gan`, `wgan`. Cards only."""

from __future__ import annotations

from typing import Any

from genzoo.cards import ModelCard
from genzoo.hookspecs import hookimpl

__all__ = ["genzoo_models"]

FAMILY = "generative adversarial network"
ADAPTERS: dict[str, dict[str, Any]] = {"real": {"standardize": True}}
EFFORT = {"real": 200, "binary": 4, "discrete": 4}
"""Draws from cells in the plane; annealed chains."""
CHECKED = {"least_noise": 0.5, "width": 32, "distributions": 10}


@hookimpl
def genzoo_models() -> list[ModelCard]:
    """The models that this plugin brings."""
    return [
        ModelCard(
            name="gan",
            summary="non-saturating GAN; noise around the generator, fitted on validation, gives a likelihood",
            family=FAMILY,
            target="genzoo_gan.gan:GAN",
            paper="Goodfellow et al. 2014, arXiv:1406.2661; Wu et al. 2017, arXiv:1611.04273",
            adapters=ADAPTERS,
            num_samples=EFFORT,
            kind="weights",
            checked=CHECKED,
        ),
        ModelCard(
            name="wgan",
            summary="Wasserstein GAN with gradient penalty; likelihood as for gan",
            family=FAMILY,
            target="genzoo_gan.gan:WGAN",
            paper="Gulrajani et al. 2017, arXiv:1704.00028; Wu et al. 2017, arXiv:1611.04273",
            adapters=ADAPTERS,
            num_samples=EFFORT,
            kind="weights",
            checked=CHECKED,
        ),
    ]
