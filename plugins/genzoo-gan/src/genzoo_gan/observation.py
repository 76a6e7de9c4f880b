"""What lies around a generator: p(x given G(z)), noise that gives a likelihood and that `sample` draws.

    Isotropic   N(x; G, s^2 I)                  one s: real data with a latent in the plane, for `genzoo_gan.cells`
    Diagonal    N(x; G, diag(s)^2)              other real data
    Codes       x = round(G + s L) on the axis of the codes scaled to [-1, 1], L logistic, cut to the codes; s of each
                dimension. Two levels: a Bernoulli with logit G / s.

One s for all pixels is the ceiling of Wu et al. (2017, arXiv:1611.04273): a pixel that never changes pays for those
that do. Here every pixel has its own, fitted to examples and to draws of z given them. A pixel's own residuals
are joined by PSEUDO average ones, so that no pixel is surer than the examples can tell.

The game is played with noise too: the critic sees draws, as `sample` gives them, and not G. Without it a critic tells a
curve of the plane from points around it, and the game may collapse (Arjovsky and Bottou 2017, arXiv:1701.04862).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from genzoo.heads import BernoulliHead, LogisticMixtureHead
from genzoo.spec import DataSpec

PSEUDO = 2.0
START = math.log(0.3), 0.0
"""log s of real data before it is fitted: of one s, and of many, whose fit comes from above faster."""
PLAYED = 0.1
"""Most s of the game for codes: no more than G varies at the start, else noise hides what z does from the critic."""
NARROWEST, WIDEST, TRIED = 1 / 8, 128.0, 41
"""Values of s that are tried for codes, in units of the game's, and how many."""
WIDE = 16.0
"""A second start of the fit for codes, where examples that no z comes near are noise."""


class Observation(nn.Module, ABC):
    """See the module. `generated` is G(z) `(*S, B, *event_shape)`, `x` data `(B, *event_shape)` in the spec's dtype."""

    log_noise: Tensor
    """log s, `()` or `(D,)`."""

    def __init__(self, spec: DataSpec, starts: Sequence[float], each: bool) -> None:
        super().__init__()
        self.spec = spec
        self.starts = tuple(starts)  # values of log s from which it is fitted, the model's own first
        self.register_buffer("log_noise", torch.full((spec.dims,) if each else (), starts[0]))

    @abstractmethod
    def log_prob(self, generated: Tensor, x: Tensor) -> Tensor:
        """log p(x given G) `(*S, B)` float64 nats."""

    @abstractmethod
    def sample(self, generated: Tensor) -> Tensor:
        """One draw around each, `(*S, B, *event_shape)` in the spec's dtype."""

    @abstractmethod
    def fit(self, generated: Tensor, x: Tensor) -> None:
        """Set s to the best value for pairs of `x` and `generated (B, *event_shape)`."""

    def seen(self, x: Tensor) -> Tensor:
        """Data as the critic sees it, float32."""
        return x

    @abstractmethod
    def played(self, generated: Tensor) -> Tensor:
        """What the critic sees of a generator, with gradient."""

    def location(self, x: Tensor) -> Tensor | None:
        """Where a generator should begin, `(D,)`; None for data whose mean is 0."""
        return None

    def _flat(self, generated: Tensor) -> Tensor:
        return generated.flatten(-len(self.spec.event_shape))


class Gaussian(Observation):
    """Both of the real data's; the game has noise of scale `played_noise`, whatever s is fitted later."""

    def __init__(self, spec: DataSpec, start: float, each: bool, played_noise: float) -> None:
        super().__init__(spec, [start], each)
        self.played_noise = played_noise

    def played(self, generated: Tensor) -> Tensor:
        """See Observation."""
        return generated + self.played_noise * torch.randn_like(generated) if self.played_noise else generated

    def log_prob(self, generated: Tensor, x: Tensor) -> Tensor:
        """See Observation."""
        log_s = self.log_noise.double()
        z = (x.flatten(1) - self._flat(generated)) * (-self.log_noise).exp()
        size = log_s.expand(self.spec.dims).sum() + 0.5 * self.spec.dims * math.log(2 * math.pi)
        return -0.5 * z.square().sum(-1, dtype=torch.float64) - size

    def sample(self, generated: Tensor) -> Tensor:
        """See Observation."""
        flat = self._flat(generated)
        return (flat + self.log_noise.exp() * torch.randn_like(flat)).view(generated.shape)


class Isotropic(Gaussian):
    """One scale, which `genzoo_gan.noise` fits."""

    def __init__(self, spec: DataSpec, played_noise: float) -> None:
        super().__init__(spec, START[0], each=False, played_noise=played_noise)

    def fit(self, generated: Tensor, x: Tensor) -> None:
        """See Observation."""
        self.log_noise.copy_(0.5 * (x - generated).square().mean().log())


class Diagonal(Gaussian):
    """A scale each dimension, at least `least`."""

    def __init__(self, spec: DataSpec, played_noise: float, least: float) -> None:
        super().__init__(spec, START[1], each=True, played_noise=played_noise)
        self.least = least

    def fit(self, generated: Tensor, x: Tensor) -> None:
        """See Observation; the average variance counts as PSEUDO examples."""
        squares = (x - generated).flatten(1).square()
        variance = (squares.sum(0) + PSEUDO * squares.mean()) / (len(x) + PSEUDO)
        self.log_noise.copy_(0.5 * variance.clamp(min=self.least**2).log())


class Codes(Observation):
    """Cells of a logistic. In the game s is half the distance of two codes or PLAYED, so that a generator learns
    chances where the data has chances; the gradient is that of a mean that fades beyond the ends."""

    def __init__(self, spec: DataSpec) -> None:
        assert spec.levels is not None
        played = min(1 / (spec.levels - 1), PLAYED)
        super().__init__(spec, [math.log(played), math.log(WIDE * played)], each=True)
        self.levels, self.played_noise = spec.levels, played
        self.head = BernoulliHead(spec) if spec.levels == 2 else LogisticMixtureHead(spec, 1)

    def _head_of(self, generated: Tensor) -> Tensor:
        """Of the head, `(*S, B, P, D)`."""
        loc = self._flat(generated)
        if self.levels == 2:
            return (loc * (-self.log_noise).exp())[..., None, :]
        return torch.stack([torch.zeros_like(loc), loc, self.log_noise.expand_as(loc)], -2)

    def log_prob(self, generated: Tensor, x: Tensor) -> Tensor:
        """See Observation."""
        return self.head.log_prob(self._head_of(generated), x)

    def sample(self, generated: Tensor) -> Tensor:
        """See Observation."""
        return self.head.sample(self._head_of(generated))

    def fit(self, generated: Tensor, x: Tensor) -> None:
        """See Observation; the average of all dimensions counts as PSEUDO examples of each."""
        s = self.played_noise
        tried = torch.linspace(math.log(NARROWEST * s), math.log(WIDEST * s), TRIED).to(x.device)
        flat, scores = x.flatten(1), []
        for value in tried:
            self.log_noise.fill_(value)
            log_p = self.head.log_prob_per_dim(self._head_of(generated), flat)  # (B, D)
            scores.append(log_p.sum(0) + PSEUDO * log_p.mean())
        self.log_noise.copy_(tried[torch.stack(scores).argmax(0)])

    def seen(self, x: Tensor) -> Tensor:
        """On the axis from -1 to 1."""
        return 2 * x.float() / (self.levels - 1) - 1

    def played(self, generated: Tensor) -> Tensor:
        """A draw, with the gradient of s (log(1 + e^((G + 1)/s)) - log(1 + e^((G - 1)/s))) (Bengio et al. 2013,
        arXiv:1308.3432: straight through)."""
        s = self.log_noise.exp().view(self.spec.event_shape)
        mean = s * (softplus((generated + 1) / s) - softplus((generated - 1) / s))
        with torch.no_grad():
            drawn = self.seen(self.sample(generated))
        return drawn + mean - mean.detach()

    def location(self, x: Tensor) -> Tensor:
        """G for independent dimensions: the mean on the axis, or s times the logit of two levels."""
        if self.levels == 2:
            return self.log_noise.exp() * self.head.marginal_parameters(x)[0]
        return self.seen(x).flatten(1).mean(0)


def observation_for(spec: DataSpec, isotropic: bool, played_noise: float, least: float) -> Observation:
    """What suits the data; all but `spec` are of real data."""
    if spec.levels is not None:
        return Codes(spec)
    return Isotropic(spec, played_noise) if isotropic else Diagonal(spec, played_noise, least)
