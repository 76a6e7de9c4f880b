"""Normalizing flows for genzoo: the card only; torch and nflows are imported with the model."""

from __future__ import annotations

from genzoo.cards import ModelCard
from genzoo.hookspecs import hookimpl


@hookimpl
def genzoo_models() -> list[ModelCard]:
    """The model `flow`."""
    return [
        ModelCard(
            name="flow",
            summary="rational-quadratic spline couplings; multi-scale for images",
            family="normalizing flow",
            target="genzoo_flow.model:Flow",
            paper="Durkan et al. 2019, arXiv:1906.04032",
            # No logit and no scaling of codes: the flow's own first layer is fitted to the data, and for images its
            # bins stand on whole codes, which a shift of the codes would spoil.
            adapters={
                "real": {"standardize": True},
                "discrete": {"dequantization": "uniform"},
                "binary": {"dequantization": "uniform"},
            },
            # draws of the dequantization noise: 2,000 MNIST images in about 20 s of one thread
            num_samples={"discrete": 10, "binary": 10},
            kind="exact",
            checked={"layers": 3, "hidden": 16, "bins": 6},
        )
    ]
