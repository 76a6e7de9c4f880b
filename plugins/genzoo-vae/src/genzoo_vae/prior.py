"""The law of the latent z (d dimensions): a standard normal, or a mixture that is learned with the networks.

    StandardNormal      p(z) = N(0, I)                                            KL(q, p) in closed form
    GaussianMixture     p(z) = sum_j softmax(a)_j N(z; m_j, diag(s_j)^2)          KL(q, p) from draws

A decoder is continuous, so a standard normal cannot give separate rings without a bridge between them; a mixture can
(Tomczak & Welling 2018, arXiv:1705.07120, whose VampPrior is such a mixture with the encoder's laws as components).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from genzoo_vae.posterior import GaussianPosterior

LOG_2PI = math.log(2 * math.pi)


class Prior(nn.Module, ABC):
    """A law of z `(*S, d)`."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z), `(*S,)` float64 nats."""

    @abstractmethod
    def log_prob_per_latent(self, z: Tensor) -> Tensor:
        """log p(z_i given z_<i), `(*S, d)` float64 nats: it sums to log p(z)."""

    @abstractmethod
    def draw(self, n: int, like: Tensor) -> Tensor:
        """n draws `(n, d)`, in the dtype and on the device of `like`."""

    @abstractmethod
    def kl_per_latent(self, q: GaussianPosterior) -> Tensor | None:
        """`(B, d)` nats that sum to KL(q, p); None where it has no closed form."""

    def initialise(self, z: Tensor) -> None:
        """Begin at encoded examples `z (N, d)`, where there is anything to learn."""


class StandardNormal(Prior):
    """N(0, I).

    Args:
        latents: d.
    """

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.latents = latents

    def log_prob(self, z: Tensor) -> Tensor:
        """See Prior."""
        return -0.5 * (z.double() ** 2).sum(-1) - 0.5 * self.latents * LOG_2PI

    def log_prob_per_latent(self, z: Tensor) -> Tensor:
        """See Prior."""
        return -0.5 * (z.double() ** 2 + LOG_2PI)

    def draw(self, n: int, like: Tensor) -> Tensor:
        """See Prior."""
        return torch.randn(n, self.latents, dtype=like.dtype, device=like.device)

    def kl_per_latent(self, q: GaussianPosterior) -> Tensor | None:
        """See Prior."""
        return q.kl_from_standard_normal()


class GaussianMixture(Prior):
    """A learned mixture of Gaussians with diagonal covariances, spread like N(0, I) until it is initialised.

    Args:
        latents: d.
        components: J.
    """

    def __init__(self, latents: int, components: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latents))
        self.log_scale = nn.Parameter(torch.full((components, latents), -math.log(components) / latents))

    def _log_scales(self) -> Tensor:
        return self.log_scale.clamp(-9.0, 3.0)  # as for the posterior

    def log_prob(self, z: Tensor) -> Tensor:
        """See Prior. In the dtype of `z` inside: (z - m)/s loses nothing to cancellation, as expanded squares would."""
        log_scale = self._log_scales()
        squares = (((z[..., None, :] - self.loc) * (-log_scale).exp()) ** 2).sum(-1)  # (*S, J)
        log_weights = self.logits.log_softmax(0) - log_scale.sum(1) - 0.5 * self.loc.shape[1] * LOG_2PI  # (J,)
        return (log_weights - 0.5 * squares).logsumexp(-1).double()

    def log_prob_per_latent(self, z: Tensor) -> Tensor:
        """See Prior. The law of z_1..z_i is the mixture of the same components, cut to these dimensions."""
        scale, logs = self._log_scales(), self.logits.log_softmax(0)  # logs: of weight times density, (*S, J)
        first = []
        for i in range(z.shape[-1]):
            squares = ((z[..., i, None] - self.loc[:, i]) * (-scale[:, i]).exp()).square()
            logs = logs - 0.5 * squares - (scale[:, i] + 0.5 * LOG_2PI)
            first.append(logs.logsumexp(-1).double())
        total = torch.stack(first, -1)
        return torch.diff(total, dim=-1, prepend=torch.zeros_like(total[..., :1]))

    def initialise(self, z: Tensor) -> None:
        """Means at J of the examples, each component with a J-th of the volume of all, equal weights."""
        components, latents = self.loc.shape
        chosen = torch.randperm(len(z), device=z.device)[torch.arange(components, device=z.device) % len(z)]
        self.loc.copy_(z[chosen])
        spread = z.std(0, correction=0).clamp(min=1e-3).log() - math.log(components) / latents
        self.log_scale.copy_(spread.expand_as(self.log_scale))

    def draw(self, n: int, like: Tensor) -> Tensor:
        """See Prior."""
        j = torch.multinomial(self.logits.softmax(0), n, replacement=True)
        return self.loc[j] + self._log_scales().exp()[j] * torch.randn_like(self.loc[j])

    def kl_per_latent(self, q: GaussianPosterior) -> Tensor | None:
        """None: a mixture has no closed form."""
        return None
