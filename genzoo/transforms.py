"""Maps between data as handed over and the space a model works in, each with its log-Jacobian in nats.

    Dequantize    y = x + u, u ~ q(u given x) on [0, 1); "ladj" is -log q(u given x)   (Theis et al., arXiv:1511.01844)
    Logit         y = logit(s), s = l + (1 - 2l) x / levels                            (Dinh et al., arXiv:1605.08803)
    Standardize   y = (x - loc) / scale

A chain works in float64 and casts once, for the model. `ladj (B,)` is log |dy/dx|, to be added to log p_Y(y).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from genzoo.errors import CapabilityError, InputError
from genzoo.nn import MLP
from genzoo.spec import DataSpec


class Transform(nn.Module, ABC):
    """A map from data `(B, *event_shape)` to model space of the same event shape, float64."""

    def fit(self, x: Tensor) -> None:
        """Set buffers from training examples `x`, already mapped by the transforms before this one."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`y` and `ladj (B,)`, both float64."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Back to data, `(N, *event_shape)` float64 (codes for Dequantize)."""

    @abstractmethod
    def observed(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """An observation `x` with Gaussian noise of scale `noise (*event_shape)`, mapped, and its noise, float64.

        CapabilityError where the map makes the noise other than Gaussian.
        """


class Noise(nn.Module, ABC):
    """A distribution q(u given x) on [0, 1)^D, reparameterised."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Noise `u` like `x` in float64, and log q(u given x) `(B,)`."""


class UniformNoise(Noise):
    """u uniform: log q = 0."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See Noise."""
        return torch.rand_like(x, dtype=torch.float64), x.new_zeros(len(x), dtype=torch.float64)


class VariationalNoise(Noise):
    """u = sigmoid(m(x) + exp(s(x)) eps), m and s a network of the codes (one affine layer of
    Ho et al., arXiv:1902.00275).

    log q(u given x) = sum log N(eps; 0, 1) - s - log u (1 - u). Starts near uniform: m = 0, s = log 1.6.
    """

    def __init__(self, spec: DataSpec, hidden: int = 128) -> None:
        super().__init__()
        if spec.levels is None:
            raise CapabilityError("variational dequantization is for discrete data; this data set is real")
        self.levels = spec.levels
        if len(spec.event_shape) == 3:
            channels = spec.event_shape[0]
            last = nn.Conv2d(16, 2 * channels, 3, padding=1)
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
            self.network = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.SiLU(), last)
        else:
            self.network = nn.Sequential(nn.Flatten(), MLP(spec.dims, 2 * spec.dims, [hidden], zero_last=True))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See Noise."""
        scaled = (2.0 * x.to(torch.float32) + 1.0) / self.levels - 1.0
        out = self.network(scaled)
        loc, log_scale = (part.reshape(x.shape).to(torch.float64) for part in out.chunk(2, dim=1))
        # 1.6 makes the logit-normal nearest to uniform; tanh bounds the scale to a factor e^4 either way
        log_scale = math.log(1.6) + 4.0 * torch.tanh(log_scale / 4.0)
        eps = torch.randn_like(loc)
        pre = loc + log_scale.exp() * eps
        # log u (1 - u) = logsigmoid(pre) + logsigmoid(-pre)
        log_slope = nn.functional.logsigmoid(pre) + nn.functional.logsigmoid(-pre)
        log_q = -0.5 * eps.square() - 0.5 * math.log(2 * math.pi) - log_scale - log_slope
        return torch.sigmoid(pre), log_q.flatten(1).sum(1)


class Dequantize(Transform):
    """Codes 0..levels-1 to reals in [0, levels).

    exp(log p(x + u) - log q(u given x)) is unbiased for the integral of p over the cell of x, which is at most the mass
    that `inverse` gives to x: it floors, and gives what lies below 0 or above `levels` to the edge cells, so that the
    discrete distribution sums to one and the mean over u is a bound about it.
    """

    def __init__(self, spec: DataSpec, noise: Noise) -> None:
        super().__init__()
        if spec.levels is None:
            raise CapabilityError("dequantization is for discrete data; this data set is real")
        self.levels = spec.levels
        self.noise = noise

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See Transform; draws u from the global RNG."""
        u, log_q = self.noise(x)
        return x.to(torch.float64) + u, -log_q

    def inverse(self, y: Tensor) -> Tensor:
        """See Transform."""
        return y.floor().clamp(0, self.levels - 1)

    def observed(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See Transform. A code gets u from the uniform law, whatever the noise's: the codes beside it may be unknown.
        With noise, x + 1/2 = (code + u) + noise eps + (1/2 - u), whose last part, of variance 1/12, joins the noise."""
        noisy = noise > 0
        u = torch.where(noisy, 0.5, torch.rand_like(x, dtype=torch.float64))
        return x.to(torch.float64) + u, torch.where(noisy, (noise.square() + 1 / 12).sqrt(), 0.0)


class Logit(Transform):
    """y = logit(s), s = l + (1 - 2l) x / levels; ladj = sum of log((1 - 2l) / levels) - log s - log(1 - s), float64.

    For real data `levels` is 1 and x must lie in [0, 1].
    """

    def __init__(self, spec: DataSpec, margin: float) -> None:
        super().__init__()
        self.levels = spec.levels or 1
        self.margin = margin

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See Transform; InputError for x outside [0, levels]."""
        low, high = (float(end) for end in x.detach().aminmax())
        if low < 0 or high > self.levels:
            raise InputError(f"expected data in [0, {self.levels}] for the logit; got {low:.6g}..{high:.6g}")
        s = self.margin + (1 - 2 * self.margin) * (x.to(torch.float64) / self.levels)
        log_s, log_rest = s.log(), torch.log1p(-s)
        ladj = math.log((1 - 2 * self.margin) / self.levels) - log_s - log_rest
        return log_s - log_rest, ladj.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """See Transform."""
        s = torch.sigmoid(y.to(torch.float64))
        return (s - self.margin) / (1 - 2 * self.margin) * self.levels

    def observed(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See Transform."""
        if bool((noise > 0).any()):
            raise CapabilityError(
                "noise through a logit is not Gaussian: expected noise 0 (in-painting) for a model behind logit, or a "
                "model trained with logit=none"
            )
        return self(x)[0], noise


class Standardize(Transform):
    """y = (x - loc) / scale; one loc and scale a data set for images, one a dimension for vectors.

    ladj = -sum log scale. A constant dimension keeps scale 1.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.shared = len(spec.event_shape) > 1
        self.dims = spec.dims
        shape = () if self.shared else spec.event_shape
        self.register_buffer("loc", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(shape, dtype=torch.float64))

    def fit(self, x: Tensor) -> None:
        """Mean and standard deviation of `x`."""
        x = x.to(torch.float64)
        x = x.flatten() if self.shared else x
        self.loc.copy_(x.mean(0))
        scale = x.std(0, correction=0)
        # rounding of the mean leaves a constant near 1e-16 of its size
        constant = scale <= 1e-12 * self.loc.abs()
        self.scale.copy_(torch.where(constant, torch.ones_like(scale), scale))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See Transform."""
        y = (x.to(torch.float64) - self.loc) / self.scale
        ladj = -self.scale.log().sum() * (self.dims if self.shared else 1)
        return y, ladj.expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        """See Transform."""
        return y.to(torch.float64) * self.scale + self.loc

    def observed(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """See Transform."""
        return self(x)[0], noise / self.scale
