"""Finite mixtures for genzoo, trained by expectation-maximisation: `gmm`, `bernoulli_mixture`, `categorical_mixture`.

Cards only; torch is imported with the models.
"""

from __future__ import annotations

from genzoo.cards import ModelCard
from genzoo.hookspecs import hookimpl

__all__ = ["genzoo_models"]

UNIFORM = {"dequantization": "uniform"}


@hookimpl
def genzoo_models() -> list[ModelCard]:
    """The models that this plugin brings."""
    return [
        ModelCard(
            name="gmm",
            summary="mixture of Gaussians: full, diagonal, tied or factor-analyser covariances, by EM",
            family="mixture",
            target="genzoo_mixture.models:GaussianMixture",
            paper="Dempster et al. 1977, doi:10.1111/j.2517-6161.1977.tb01600.x; Ghahramani and Hinton 1996",
            adapters={"real": {"standardize": True}, "discrete": UNIFORM, "binary": UNIFORM},
            kind="exact",
        ),
        ModelCard(
            name="bernoulli_mixture",
            summary="mixture of products of Bernoullis (naive Bayes with a hidden class), by EM",
            family="mixture",
            target="genzoo_mixture.models:BernoulliMixture",
            paper="McLachlan and Peel 2000, Finite Mixture Models",
            data=("binary",),
            kind="exact",
        ),
        ModelCard(
            name="categorical_mixture",
            summary="mixture of products of categoricals (naive Bayes with a hidden class), by EM",
            family="mixture",
            target="genzoo_mixture.models:CategoricalMixture",
            paper="McLachlan and Peel 2000, Finite Mixture Models",
            data=("binary", "discrete"),
            kind="exact",
        ),
    ]
