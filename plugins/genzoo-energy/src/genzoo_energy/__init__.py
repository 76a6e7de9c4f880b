"""Energy-based models for genzoo: `rbm`, `ebm`. Cards only; torch is imported with the models."""

from __future__ import annotations

from genzoo.cards import ModelCard
from genzoo.hookspecs import hookimpl

__all__ = ["genzoo_models"]


@hookimpl
def genzoo_models() -> list[ModelCard]:
    """The models that this plugin brings."""
    return [
        ModelCard(
            name="rbm",
            summary="restricted Boltzmann machine: CD, PCD or parallel tempering; exact when small, RAISE when not",
            family="Boltzmann machine",
            target="genzoo_energy.rbm:RBM",
            paper="Smolensky 1986; Hinton 2002, doi:10.1162/089976602760128018; Burda et al. 2015, arXiv:1412.8566",
            data=("binary",),
            num_samples={"binary": 8},
            kind="weights",
            checked={"hidden": 20, "distributions": 20},
        ),
        ModelCard(
            name="ebm",
            summary="a network's energy in the plane, normalised by quadrature; four objectives",
            family="energy-based model",
            target="genzoo_energy.ebm:EBM",
            paper="LeCun et al. 2006; Song and Kingma 2021, arXiv:2101.03288",
            data=("real",),
            min_dims=2,
            max_dims=2,
            adapters={"real": {"standardize": True}},
            kind="exact",
            checked={"width": 32, "blocks": 1, "grid": 200, "train_grid": 32},
        ),
    ]
