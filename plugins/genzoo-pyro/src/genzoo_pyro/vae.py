"""A variational autoencoder (Kingma & Welling, arXiv:1312.6114) written as a Pyro program and its guide.

p(x) = E_q p(x given f(z)) N(z; 0, I) / q(z given x), q(z given x) = N(m(x), diag s(x)^2); f, m, s are perceptrons.
Labels, where there are any, stand beside z and beside x as one-hot features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pyro
import pyro.distributions as dist
import torch
from pydantic import Field
from pyro.nn import PyroModule
from torch import Tensor

from genzoo.config import Config as BaseConfig
from genzoo.config import TrainSettings
from genzoo.nn import MLP, condition_features, condition_width
from genzoo.spec import DataSpec
from genzoo_pyro.heads import head, head_width
from genzoo_pyro.model import PyroModel

SMALL = 16  # data dimensions below which networks are those for the plane
FIRST_SCALE = -2.0  # added to the log scale of q: as wide as the prior from the start, z would say nothing of x


class VAEConfig(BaseConfig):
    """What a Pyro VAE is made of."""

    latent: int | None = Field(
        None, ge=1, description="dimensions of z; none: 2 below 16 data dimensions, 32 from there"
    )
    hidden: tuple[int, ...] | None = Field(
        None,
        min_length=1,
        description="decoder widths, the encoder's reversed; none: 128, 128 or 256, 256, as for latent",
    )
    kl_warmup: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of training in which the weight of the KL rises to 1, so that z is used before it is priced",
    )
    components: int = Field(3, ge=1, description="logistics a dimension for discrete data")


class Decoder(PyroModule):  # type: ignore[misc]
    """The program: z from the prior, x from the head."""

    origin: Tensor

    def __init__(self, spec: DataSpec, latent: int, hidden: Sequence[int], components: int) -> None:
        super().__init__()
        self.spec, self.components = spec, components
        width = head_width(spec, components)
        self.network = MLP(latent + condition_width(spec), width, hidden)
        self.register_buffer("origin", torch.zeros(latent), persistent=False)

    def forward(self, x: Tensor | None, n: int, condition: Tensor | None) -> Tensor:
        """Data `(n, *event_shape)`; `(K, n, *event_shape)` inside a plate of K draws."""
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.origin, 1.0).to_event(1))  # ([K,] n, latent)
            h = self.network(_beside(z, self.spec, condition))
            given = None if x is None else x.flatten(1)
            drawn = pyro.sample("x", head(self.spec, h, self.components), obs=given)
        return cast(Tensor, drawn.unflatten(-1, self.spec.event_shape))


class Encoder(PyroModule):  # type: ignore[misc]
    """The guide: q(z given x)."""

    def __init__(self, spec: DataSpec, latent: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.spec = spec
        self.network = MLP(spec.dims + condition_width(spec), 2 * latent, hidden[::-1])

    def forward(self, x: Tensor, n: int, condition: Tensor | None) -> None:
        """Samples z."""
        # codes to [-1, 1]: raw ones up to 255 would saturate the first layer
        scaled = x if self.spec.levels is None else 2 * x / (self.spec.levels - 1) - 1
        with pyro.plate("data", n):
            loc, log_scale = self.network(_beside(scaled.flatten(1), self.spec, condition)).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(loc, (log_scale + FIRST_SCALE).clamp(-9, 3).exp()).to_event(1))


class PyroVAE(PyroModel):
    """A VAE of two perceptrons. Heads: normal with learned scales, Bernoulli, a mixture of discretised logistics."""

    Config = VAEConfig

    def __init__(self, spec: DataSpec, config: VAEConfig | None = None) -> None:
        config = VAEConfig() if config is None else config
        latent = config.latent or (2 if spec.dims < SMALL else 32)
        hidden = config.hidden or ((128, 128) if spec.dims < SMALL else (256, 256))
        model, guide = Decoder(spec, latent, hidden, config.components), Encoder(spec, latent, hidden)
        super().__init__(spec, model, guide, config, config.kl_warmup)

    def default_training(self) -> TrainSettings:
        """See GenerativeModel."""
        if self.spec.dims < SMALL:
            return TrainSettings(learning_rate=3e-3, batch_size=256)
        return TrainSettings(learning_rate=1e-3, batch_size=128)


def _beside(features: Tensor, spec: DataSpec, condition: Tensor | None) -> Tensor:
    """`features (..., n, F)` with one-hot labels `(n, classes)` appended."""
    labels = condition_features(spec, condition, features.shape[-2], features)
    return torch.cat([features, labels.expand(*features.shape[:-1], -1)], dim=-1)
