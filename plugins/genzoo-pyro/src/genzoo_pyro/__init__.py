"""Probabilistic programs in Pyro as genzoo models: `pyro_vae`, `pyro_mixture`, and any program of one's own.

`genzoo_pyro.model` has PyroModel and ExactPyroModel. Nothing here imports torch or Pyro.
"""

from __future__ import annotations

from genzoo.cards import ModelCard
from genzoo.hookspecs import hookimpl


@hookimpl
def genzoo_models() -> list[ModelCard]:
    """The models that this plugin brings."""
    return [
        ModelCard(
            name="pyro_vae",
            summary="a variational autoencoder written as a Pyro program and guide",
            family="variational autoencoder",
            target="genzoo_pyro.vae:PyroVAE",
            paper="Kingma and Welling 2014, arXiv:1312.6114; Bingham et al. 2019, arXiv:1810.09538",
            adapters={"real": {"standardize": True}},
            num_samples={"real": 500, "binary": 500, "discrete": 50},
            kind="weights",
            checked={"hidden": (32, 32)},
        ),
        ModelCard(
            name="pyro_mixture",
            summary="a finite mixture with its discrete latent enumerated by Pyro, trained by gradient",
            family="mixture",
            target="genzoo_pyro.mixture:PyroMixture",
            paper="McLachlan and Peel 2000, Finite Mixture Models; Bingham et al. 2019, arXiv:1810.09538",
            adapters={"real": {"standardize": True}},
            kind="exact",
        ),
    ]
