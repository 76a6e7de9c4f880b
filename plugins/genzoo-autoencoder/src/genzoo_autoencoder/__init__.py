"""The plain autoencoder for genzoo: `autoencoder`. The card only; torch is imported with the model."""

from __future__ import annotations

from genzoo.cards import ModelCard
from genzoo.hookspecs import hookimpl

__all__ = ["genzoo_models"]


@hookimpl
def genzoo_models() -> list[ModelCard]:
    """The model `autoencoder`."""
    return [
        ModelCard(
            name="autoencoder",
            summary="trained on reconstruction alone; density of codes and noise of the head fitted afterwards",
            family="autoencoder",
            target="genzoo_autoencoder.autoencoder:Autoencoder",
            paper="Hinton and Salakhutdinov 2006, doi:10.1126/science.1127647; Ghosh et al. 2020, arXiv:1903.12436",
            adapters={"real": {"standardize": True}},
            num_samples={"real": 500, "binary": 500, "discrete": 64},
            kind="weights",
            checked={"hidden": (64, 64), "components": 16},
        ),
    ]
