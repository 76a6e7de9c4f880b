"""Autoregressive models: p(x) = prod_i p(x_i given x_<i), every factor a head whose parameters a causal network gives.

    naive_bayes   p(x given y) = prod_i p(x_i given y)                    nothing but the label
    nade          h_i = a(c + sum_{j<i} W_j x_j)                          one hidden layer, shared
    made          masked layers; p(x) = 1/M sum_m p(x in order m)         full likelihoods are averaged, never logits
    pixelcnn      gated convolutions over the pixels above and to the left
    transformer   causal self-attention

Exact, in nats. Sampling is one dimension at a time. Given some dimensions (`sample_given`) the draw is exact where
these come first in the order; otherwise it is one of `PARTICLES` sequential draws, taken by importance resampling.
"""

from __future__ import annotations

import math
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from genzoo.config import Config as BaseConfig
from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.interface import ConditionalSampler, GradientModel
from genzoo.likelihood import LogLikelihood
from genzoo.nn import condition_features, condition_width
from genzoo.spec import DataSpec, Split
from genzoo_autoregressive.conditionals import conditionals, features, inputs
from genzoo_autoregressive.networks import Attention, Causal, Constant, Masked, Shared
from genzoo_autoregressive.pixels import PixelNetwork

PARTICLES = 16
ROWS_OF_NUMBERS = 1 << 22
"""Parameters of the head held at once, which bounds the rows evaluated together."""


class ComponentsConfig(BaseConfig):
    """What every model here has."""

    components: int = Field(16, ge=1, description="of a mixture: Gaussians of real data, tables of more than 32 levels")


class Autoregressive(GradientModel, ConditionalSampler):
    """A causal network and a head; leaves choose the network."""

    Config: ClassVar[type[BaseConfig]] = ComponentsConfig
    waves: ClassVar[bool] = False
    """Whether the network sees sines and cosines of real data beside them."""

    def __init__(self, spec: DataSpec, config: BaseConfig | None = None) -> None:
        super().__init__(spec, config)
        self.head = conditionals(spec, cast(ComponentsConfig, self.config).components)
        self.network = self._network(features(spec, self.waves), self.head.parameters_per_dim, condition_width(spec))
        self.bias = nn.Parameter(torch.zeros(self.head.parameters_per_dim, spec.dims))

    def _network(self, inputs: int, outputs: int, classes: int) -> Causal:
        raise NotImplementedError

    def _initialise(self, train: Split) -> None:
        """Start at independent dimensions with the marginals of the data."""
        rows = torch.randperm(len(train))[:10_000]
        self.bias.copy_(self.head.marginal_parameters(train.batch(rows, torch.Generator().manual_seed(0)).x))

    def _parameters_of(self, flat: Tensor, condition: Tensor | None, member: int) -> Tensor:
        label = condition_features(self.spec, condition, len(flat), self.bias)
        seen = inputs(self.spec, flat, self.waves)
        return self.network(seen, label, member) + self.bias  # type: ignore[no-any-return]

    def _log_prob(self, flat: Tensor, condition: Tensor | None, member: int) -> Tensor:
        return self.head.log_prob(self._parameters_of(flat, condition, member), flat)

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        """Minus the log-likelihood; where there are several orders, that of one, whose mean bounds the mixture's."""
        members = len(self.network.orders)
        member = int(torch.randint(members, ())) if members > 1 else 0
        return -self._log_prob(x.flatten(1), condition, member).to(torch.float32)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        flat, members = x.flatten(1), len(self.network.orders)
        rows = max(1, ROWS_OF_NUMBERS // (self.head.parameters_per_dim * self.spec.dims))
        parts = []
        for at in range(0, len(flat), rows):
            some = None if condition is None else condition[at : at + rows]
            each = [self._log_prob(flat[at : at + rows], some, m) for m in range(members)]
            parts.append(torch.stack(each).logsumexp(0) - math.log(members))
        return LogLikelihood.exact(torch.cat(parts) if parts else self.bias.new_zeros(0))

    # sampling

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        members = torch.randint(len(self.network.orders), (n,), device=self.bias.device)
        flat = torch.zeros(n, self.spec.dims, device=self.bias.device)
        for m in torch.unique(members).tolist():  # type: ignore[no-untyped-call]
            rows = members == m
            flat[rows] = self._draw(flat[rows], None, None if condition is None else condition[rows], m)[0]
        return self._shaped(flat)

    def _draw(self, flat: Tensor, seen: Tensor | None, condition: Tensor | None, member: int) -> tuple[Tensor, Tensor]:
        """Fill in `flat (n, D)` where `seen (D,)` is False, one dimension at a time; and the log-probability `(n,)` of
        what was seen, given what came before it."""
        log_w = torch.zeros(len(flat), dtype=torch.float64, device=flat.device)
        label = condition_features(self.spec, condition, len(flat), self.bias)
        step = self.network.stepper(lambda some: inputs(self.spec, flat[:, some], self.waves), label, member)
        for i in self.network.orders[member].tolist():
            params = (step(i) + self.bias[:, i])[:, :, None]
            if seen is not None and bool(seen[i]):
                log_w += self.head.log_prob_per_dim(self._padded(params, i), flat)[:, i].double()
            else:
                flat[:, i] = self.head.sample_per_dim(params)[:, 0]
        return flat, log_w

    def _padded(self, params: Tensor, i: int) -> Tensor:
        """Parameters of dimension i at its place among all."""
        full = params.new_zeros(*params.shape[:2], self.spec.dims)
        full[:, :, i : i + 1] = params
        return full

    def _shaped(self, flat: Tensor) -> Tensor:
        return flat.reshape(len(flat), *self.spec.event_shape).to(self.spec.dtype)

    @property
    def exact_given(self) -> bool:
        """Only where what is seen comes first."""
        return False

    def _sample_given(self, x: Tensor, mask: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        if bool((noise > 0).any()):
            raise CapabilityError("an autoregressive model in-paints; it does not denoise: give noise 0")
        flat, drawn = x.flatten(1).to(torch.float32), torch.empty_like(x.flatten(1), dtype=torch.float32)
        patterns, which = torch.unique(mask.flatten(1), dim=0, return_inverse=True)
        for at, seen in enumerate(patterns):
            rows = which == at
            labels = None if condition is None else condition[rows]
            drawn[rows] = self._given(flat[rows], seen, labels)
        return self._shaped(torch.where(mask.flatten(1), flat, drawn))

    def _given(self, flat: Tensor, seen: Tensor, condition: Tensor | None) -> Tensor:
        """One draw for each row; particles of every order compete by the probability of what they saw."""
        members = len(self.network.orders)
        first = seen[self.network.orders].to(torch.int64)  # (M, D) in each order
        exact = members == 1 and bool((first[:, 1:] <= first[:, :-1]).all())
        # as many particles of every order, which weigh alike
        count = 1 if exact else members * math.ceil(PARTICLES / members)
        candidates, weights = [], []
        for p in range(count):
            filled, log_w = self._draw(flat.clone(), seen, condition, p % members)
            candidates.append(filled)
            weights.append(log_w)
        chosen = torch.multinomial(torch.stack(weights, 1).softmax(1), 1)[:, 0]
        return torch.stack(candidates, 1)[torch.arange(len(flat), device=flat.device), chosen]


class NaiveBayes(Autoregressive):
    """`naive_bayes`: dimensions independent given the label."""

    def _network(self, inputs: int, outputs: int, classes: int) -> Causal:
        return Constant(self.spec.dims, outputs, classes)

    def default_training(self) -> TrainSettings:
        """A high rate: the tables are all there is."""
        return TrainSettings(learning_rate=2e-2, batch_size=512)


class NADEConfig(ComponentsConfig):
    """Configuration of `NADE`."""

    hidden: int = Field(256, ge=1, description="width of the hidden layer")


class NADE(Autoregressive):
    """`nade`: one hidden layer, shared, which in the plane is all there is between one dimension and the next: with
    waves 6,000 steps came to a KL of 0.0013 on moons and 0.0023 on 8gaussians, to 0.015 and 0.0051 without."""

    Config = NADEConfig
    waves = True

    def _network(self, inputs: int, outputs: int, classes: int) -> Causal:
        return Shared(self.spec.dims, inputs, outputs, classes, cast(NADEConfig, self.config).hidden)

    def default_training(self) -> TrainSettings:
        """Few examples a step: each is a matrix of hidden units."""
        return TrainSettings(learning_rate=2e-3, batch_size=512 if self.spec.dims <= 16 else 64)


class MADEConfig(ComponentsConfig):
    """Configuration of `MADE`."""

    hidden: tuple[int, ...] | None = Field(
        None, description="widths of the hidden layers; none: three of 128 in few dimensions, two of 1,024 above"
    )
    orders: int = Field(1, ge=1, le=64, description="orders of an ensemble, each with masks of its own")
    seed: int = Field(0, ge=0, description="of the orders after the first and of their masks")


class MADE(Autoregressive):
    """`made`: masked layers, one or several orders."""

    Config = MADEConfig

    def _network(self, inputs: int, outputs: int, classes: int) -> Causal:
        c = cast(MADEConfig, self.config)
        hidden = c.hidden or ((128, 128, 128) if self.spec.dims <= 16 else (1024, 1024))
        return Masked(self.spec.dims, inputs, outputs, classes, hidden, c.orders, c.seed)

    def default_training(self) -> TrainSettings:
        """As for other small networks."""
        few = self.spec.dims <= 16
        return TrainSettings(learning_rate=4e-3 if few else 1e-3, batch_size=512 if few else 128)


class PixelCNNConfig(ComponentsConfig):
    """Configuration of `PixelCNN`."""

    width: int = Field(32, ge=4, description="channels of each stack")
    depth: int = Field(6, ge=1, description="gated layers")
    kernel: int = Field(5, ge=3, le=9, description="side of the masked convolutions; odd")


class PixelCNN(Autoregressive):
    """`pixelcnn`: for images of one channel. Raises CapabilityError for others."""

    Config = PixelCNNConfig

    def _network(self, inputs: int, outputs: int, classes: int) -> Causal:
        c, shape = cast(PixelCNNConfig, self.config), self.spec.event_shape
        if len(shape) != 3 or shape[0] != 1 or self.spec.levels is None:
            raise CapabilityError(
                f"pixelcnn takes discrete images of one channel, (1, H, W); got {self.spec.describe()}"
            )
        if c.kernel % 2 == 0:
            raise CapabilityError(f"pixelcnn needs an odd kernel; got {c.kernel}")
        return PixelNetwork(shape, inputs, outputs, classes, c.width, c.depth, c.kernel)

    def default_training(self) -> TrainSettings:
        """Small batches, since a budget on a CPU buys few steps: three minutes of one core on binary MNIST came to 87.7
        nats with 16 examples a step, to 92.0 with 32."""
        return TrainSettings(learning_rate=2e-3, batch_size=16)


class TransformerConfig(ComponentsConfig):
    """Configuration of `Transformer`."""

    width: int = Field(64, ge=8, description="features of a place")
    depth: int = Field(3, ge=1, description="blocks")
    heads: int = Field(4, ge=1, description="attention heads; they divide the width")


class Transformer(Autoregressive):
    """`transformer`: causal self-attention."""

    Config = TransformerConfig

    def _network(self, inputs: int, outputs: int, classes: int) -> Causal:
        c = cast(TransformerConfig, self.config)
        if c.width % c.heads:
            raise CapabilityError(f"transformer needs heads that divide the width; got {c.heads} and {c.width}")
        return Attention(self.spec.dims, inputs, outputs, classes, c.width, c.depth, c.heads)

    def default_training(self) -> TrainSettings:
        """Long sequences fill a batch by themselves."""
        return TrainSettings(learning_rate=2e-3, batch_size=256 if self.spec.dims <= 16 else 16)
