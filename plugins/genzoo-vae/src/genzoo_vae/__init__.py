"""Variational autoencoders for genzoo: the card only; torch is imported with the model."""

from __future__ import annotations

from genzoo.cards import ModelCard
from genzoo.hookspecs import hookimpl

__all__ = ["genzoo_models"]


@hookimpl
def genzoo_models() -> list[ModelCard]:
    """The models `vae` and `hvae`."""
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
            checked={"hidden": (64, 64), "prior_components": 8},
        ),
        ModelCard(
            name="hvae",
            summary="groups of latents from coarse to fine, convolutions, learned priors; for images",
            family="variational autoencoder",
            target="genzoo_vae.hierarchical:HierarchicalVAE",
            paper="Sonderby et al. 2016, arXiv:1602.02282",
            min_dims=4,
            images=True,
            adapters={"real": {"standardize": True}},
            num_samples={"real": 128, "binary": 128, "discrete": 128},
            kind="weights",
            checked={"width": 8, "top": 3, "coarse_layers": 1},
        ),
    ]
