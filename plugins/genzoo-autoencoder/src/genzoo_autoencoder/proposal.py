"""q(z given x): a Gaussian around the code e(x), of one width for all examples, with a share a of the prior beside it.

    q(z given x) = (1 - a) N(z; e(x), L L^T) + a p(z)

Reconstruction alone may send x to a code from which it cannot come, with the right one far away. The share bounds the
weights, p(z) / q(z given x) <= 1 / a, and in few dimensions finds that code. In many, no draw of the prior ever lands
near anything, and a is 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genzoo_autoencoder.density import CodeDensity


class CodeLaw:
    """q of B examples, in float64; a `genzoo.latent.Proposal`. Draws are differentiable in L.

    Args:
        code: e(x) `(B, d)`.
        width: L `(d, d)`, lower triangular.
        prior: p(z), and labels `(B,)` or None.
        share: a.
    """

    def __init__(self, code: Tensor, width: Tensor, prior: CodeDensity, condition: Tensor | None, share: float) -> None:
        self.code, self.width = code.double(), width.double()
        self.prior, self.condition, self.share = prior, condition, share

    def sample(self, sample_shape: torch.Size) -> Tensor:
        """z `(k, B, d)` for `sample_shape (k,)`."""
        eps = torch.randn(*sample_shape, *self.code.shape, dtype=torch.float64, device=self.code.device)
        z = self.code + eps @ self.width.T
        if not self.share:
            return z
        chosen = torch.rand(z.shape[:-1], device=z.device) < self.share  # (k, B)
        labels = None if self.condition is None else self.condition.expand(chosen.shape)[chosen]
        drawn = torch.zeros_like(z)
        drawn[chosen] = self.prior.draw(int(chosen.sum()), labels)
        return torch.where(chosen[..., None], drawn, z)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z given x) `(k, B)` nats at z `(k, B, d)`."""
        return self._log_prob(value, self.prior.log_prob(value, self.condition) if self.share else None)

    def log_ratio(self, z: Tensor) -> Tensor:
        """log p(z) - log q(z given x) `(k, B)` nats, p(z) evaluated once."""
        log_p = self.prior.log_prob(z, self.condition)
        return log_p - self._log_prob(z, log_p)

    def _log_prob(self, z: Tensor, log_p: Tensor | None) -> Tensor:
        apart = (z.double() - self.code).flatten(0, -2)  # (k B, d)
        eps: Tensor = torch.linalg.solve_triangular(self.width, apart.T, upper=False).T.view(z.shape)
        log_near = -0.5 * (eps.square() + math.log(2 * math.pi)).sum(-1) - self.width.diagonal().log().sum()
        if not self.share or log_p is None:
            return log_near
        return torch.logaddexp(math.log1p(-self.share) + log_near, math.log(self.share) + log_p)

    @property
    def mean(self) -> Tensor:
        """`(B, d)`."""
        return self._moments()[0]

    @property
    def stddev(self) -> Tensor:
        """`(B, d)`."""
        return self._moments()[1].sqrt()

    def _moments(self) -> tuple[Tensor, Tensor]:
        variance = self.width.square().sum(1).expand_as(self.code)
        if not self.share:
            return self.code, variance
        loc, spread = self.prior.moments(self.condition)  # (B or 1, d) each
        mean = (1 - self.share) * self.code + self.share * loc
        square = (1 - self.share) * (variance + self.code.square()) + self.share * (spread + loc.square())
        return mean, square - mean.square()
