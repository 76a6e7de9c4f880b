"""Energy-based models for genzoo: `rbm`, `dbn`, `ebm`. Cards only; torch is imported with the models."""

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
            name="dbn",
            summary="deep belief network: machines stacked greedily, importance weights over their units; Z as for rbm",
            family="deep belief network",
            target="genzoo_energy.dbn:DBN",
            paper="Hinton, Osindero and Teh 2006, doi:10.1162/neco.2006.18.7.1527; Salakhutdinov and Murray 2008",
            data=("binary",),
            num_samples={"binary": 16},
            kind="weights",
            checked={"hidden": (20, 20), "distributions": 20},
        ),
        ModelCard(
            name="ebm",
            summary="a network's energy: in the plane normalised by quadrature, elsewhere by annealing (RAISE)",
            family="energy-based model",
            target="genzoo_energy.ebm:EBM",
            paper="Song and Kingma 2021, arXiv:2101.03288; Grathwohl et al. 2021, arXiv:2102.04509",
            max_levels=32,
            because="its moves weigh every level of every pixel, which is out of reach for 8 bits",
            adapters={"real": {"standardize": True}},
            num_samples={"real": 2, "binary": 2, "discrete": 2},
            kind="weights",
            checked={"width": 32, "blocks": 1, "grid": 200, "train_grid": 64, "distributions": 10, "chains": 200},
        ),
    ]
