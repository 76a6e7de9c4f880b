"""Variational autoencoders for genzoo: the card only; torch is imported with the model."""

from __future__ import annotations

from genzoo.cards import ModelCard
from genzoo.hookspecs import hookimpl

__all__ = ["genzoo_models"]


@hookimpl
def genzoo_models() -> list[ModelCard]:
    """The model `vae`."""
    return [
        ModelCard(
            name="vae",
            summary="Gaussian latent, neural encoder and decoder; evaluated by importance weights",
            family="variational autoencoder",
            target="genzoo_vae.vae:VAE",
            paper="Kingma and Welling 2014, arXiv:1312.6114",
            adapters={"real": {"standardize": True}},
            num_samples={"real": 500, "binary": 500, "discrete": 64},
            kind="weights",
        )
    ]
