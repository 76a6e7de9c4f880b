"""Normalizing flow: an invertible map f from data to standard normal noise, with an exact density.

    log p(x) = log N(f(x); 0, I) + log |det df/dx|,        x = f^-1(z) with z ~ N(0, I)

Vectors `(D,)` go through rational-quadratic spline couplings (Durkan et al. 2019, arXiv:1906.04032); images `(C, H, W)`
through the same splines with convolutions in a multi-scale architecture (Dinh et al. 2017, arXiv:1605.08803). Terms:
`base` = log N(f(x)), `log_det`; array `log_det_per_layer` `(B, layers)`.
"""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor

from genzoo.config import Config as BaseConfig
from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.interface import GradientModel
from genzoo.likelihood import LogLikelihood
from genzoo.nn import condition_features, condition_width
from genzoo.seeding import evaluating, seeded
from genzoo.spec import DataSpec, Split
from genzoo_flow.image import image_flow
from genzoo_flow.layers import Chain, Fitted, Standardise, standard_normal
from genzoo_flow.vector import spline_couplings

FIT = 50_000
"""Examples that the first layer's statistics rest on: all of MNIST's training images."""


class FlowConfig(BaseConfig):
    """Settings of `flow`. None takes the first number up to two dimensions, the second for longer vectors, the third
    for images."""

    layers: int | None = Field(None, ge=1, le=64, description="couplings: 4; 6; for images 2 rounds a scale")
    hidden: int | None = Field(None, ge=1, le=1024, description="width of the networks: 64; 64; 32")
    bins: int | None = Field(None, ge=2, le=64, description="bins of a spline: 16; 8; 8")
    bound: float | None = Field(
        None, ge=1, le=16, description="splines act on [-bound, bound], in deviations: 4; 4; 5. At most 16 for float32"
    )


class Flow(GradientModel):
    """Spline coupling flow. Raises CapabilityError for discrete data, which goes behind `dequantization`, and for
    events that are neither vectors nor images."""

    Config = FlowConfig
    config: FlowConfig

    def __init__(self, spec: DataSpec, config: BaseConfig | None = None) -> None:
        super().__init__(spec, config)
        if spec.levels is not None:
            raise CapabilityError("a flow needs real data: put discrete data behind dequantization=uniform")
        classes = condition_width(spec)
        if len(spec.event_shape) == 1:
            layers, bins = (4, 16) if spec.dims <= 2 else (6, 8)
            couplings = spline_couplings(
                spec.dims,
                classes,
                layers=self.config.layers or layers,
                hidden=self.config.hidden or 64,
                bins=self.config.bins or bins,
                bound=self.config.bound or 4.0,
            )
            self.flow = Chain([Standardise(spec.dims), *couplings.layers])
        elif len(spec.event_shape) == 3:
            self.flow = image_flow(
                spec.event_shape,
                classes,
                rounds=self.config.layers or 2,
                hidden=self.config.hidden or 32,
                bins=self.config.bins or 8,
                bound=self.config.bound or 5.0,
            )
        else:
            raise CapabilityError(f"expected events (D,) or (C, H, W); got {spec.event_shape}")

    def default_training(self) -> TrainSettings:
        """Up to two dimensions a high rate: six couplings of 8 bins had a fifth more KL after 10 s with 4e-3 than with
        8e-3 (2spirals, checkerboard). For images small batches: on MNIST 15 s of one thread gave 1.337 bits/dim with
        32 images a step at 4e-3, 1.353 with 64 at 5e-3."""
        if len(self.spec.event_shape) == 1:
            return TrainSettings(learning_rate=1e-2 if self.spec.dims <= 2 else 3e-3, batch_size=512)
        return TrainSettings(learning_rate=4e-3, batch_size=32)

    def _initialise(self, train: Split) -> None:
        generator = torch.Generator().manual_seed(0)
        rows = torch.randperm(len(train), generator=generator)[:FIT]
        # in pieces: mapped data is float64 on its way here
        x = torch.cat([train.batch(piece, generator).x for piece in torch.split(rows, 5000)])
        cast(Fitted, self.flow.layers[0]).fit(x)

    def _context(self, condition: Tensor | None, x: Tensor) -> Tensor | None:
        return None if self.spec.classes is None else condition_features(self.spec, condition, len(x), x)

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        z, ladj = self.flow(x, self._context(condition, x))
        loss: Tensor = -standard_normal(z) - ladj
        return loss

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        z, ladj = self.flow.parts(x, self._context(condition, x))
        base, ladj = standard_normal(z.double()), ladj.double()
        terms = {"base": base, "log_det": ladj.sum(1)}
        lower = sum(terms.values(), torch.zeros_like(base))
        return LogLikelihood.exact(lower, terms=terms, arrays={"log_det_per_layer": ladj})

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        z = torch.randn(n, self.spec.dims, device=self.device)
        x: Tensor = self.flow.inverse(z, self._context(condition, z))[0]
        return x

    def traces(self, x: Tensor, n: int, seed: int) -> dict[str, Tensor]:
        """`layers (n, couplings + 1, *event_shape)`: noise on its way to data, coupling by coupling, which ends in the
        draws of `sample(n, seed)` (of a conditional flow, under labels drawn alike).

        A frame leaves out the couplings still to come, so that all are in data units: the first is what the dimensions
        give without any coupling.
        """
        with torch.no_grad(), evaluating(self), seeded(seed, self.device):
            z = torch.randn(n, self.spec.dims, device=self.device)
            classes = self.spec.classes
            drawn = None if classes is None else torch.randint(0, classes, (n,), device=self.device)
            frames = [self.flow.settled(z), *self.flow.unrolled(z, self._context(drawn, z))]
        return {"layers": torch.stack(frames, 1), "layers_at": torch.arange(len(frames))}
