"""Autoregressive models for genzoo: `naive_bayes`, `nade`, `made`, `pixelcnn`, `transformer`. All are exact.

Cards only; torch is imported with the models.
"""

from __future__ import annotations

from genzoo.cards import ModelCard
from genzoo.hookspecs import hookimpl

__all__ = ["genzoo_models"]

FAMILY = "autoregressive"
STANDARD = {"real": {"standardize": True}}


@hookimpl
def genzoo_models() -> list[ModelCard]:
    """The models that this plugin brings."""
    return [
        ModelCard(
            name="naive_bayes",
            summary="dimensions independent given the label, each with a learned law",
            family="Bayesian network",
            target="genzoo_autoregressive.models:NaiveBayes",
            paper="Bishop 2006, Pattern Recognition and Machine Learning, section 8.2.2",
            adapters=STANDARD,
            kind="exact",
        ),
        ModelCard(
            name="nade",
            summary="neural autoregressive distribution estimator: one hidden layer shared by all conditionals",
            family=FAMILY,
            target="genzoo_autoregressive.models:NADE",
            paper="Larochelle and Murray 2011, PMLR 15:29-37",
            adapters=STANDARD,
            kind="exact",
            checked={"hidden": 32},
        ),
        ModelCard(
            name="made",
            summary="masked autoencoder; several orders make a mixture of full likelihoods",
            family=FAMILY,
            target="genzoo_autoregressive.models:MADE",
            paper="Germain et al. 2015, arXiv:1502.03509",
            adapters=STANDARD,
            kind="exact",
            checked={"hidden": (64, 64), "orders": 2},
        ),
        ModelCard(
            name="pixelcnn",
            summary="gated convolutions over the pixels above and to the left",
            family=FAMILY,
            target="genzoo_autoregressive.models:PixelCNN",
            paper="van den Oord et al. 2016, arXiv:1606.05328",
            data=("binary", "discrete"),
            min_dims=4,
            images=True,
            kind="exact",
            checked={"width": 16, "depth": 2, "kernel": 3},
        ),
        ModelCard(
            name="transformer",
            summary="causal self-attention over the dimensions, with cached sampling",
            family=FAMILY,
            target="genzoo_autoregressive.models:Transformer",
            paper="Vaswani et al. 2017, arXiv:1706.03762; Child et al. 2019, arXiv:1904.10509",
            adapters=STANDARD,
            kind="exact",
            checked={"width": 32, "depth": 2},
        ),
    ]
