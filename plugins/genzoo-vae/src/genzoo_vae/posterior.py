"""The Gaussian q(z given x) = N(m, L L^T), with L diagonal or lower triangular.

    z = m + L eps            log q(z given x) = -|eps|^2 / 2 - sum_i log L_ii - (d/2) log 2 pi
    KL(q, N(0, I)) = sum_i [ (L_ii^2 + sum_{j<i} L_ij^2 + m_i^2 - 1) / 2 - log L_ii ]

Term i of the KL is E KL(q(z_i given z_<i, x), N(0, 1)): the chain rule, and for diagonal L the KL of latent i.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal


class GaussianPosterior:
    """q(z given x) for a batch, made of an encoder's outputs.

    Args:
        outputs: `(B, outputs_for(d, full))`: m, then log L_ii (shifted), then L below its diagonal, row by row.
        latents: d.
        full: whether L is triangular.
    """

    def __init__(self, outputs: Tensor, latents: int, full: bool) -> None:
        self.loc = outputs[:, :latents]
        # a scale outside exp(-9), exp(3) means a lost encoder; within it float32 is safe
        self.log_diagonal = outputs[:, latents : 2 * latents].clamp(-9.0, 3.0)
        self.lower: Tensor | None = None
        if full and latents > 1:
            rows, columns = torch.tril_indices(latents, latents, -1, device=outputs.device)
            lower = outputs.new_zeros(len(outputs), latents, latents)
            lower[:, rows, columns] = outputs[:, 2 * latents :]
            self.lower = lower  # (B, d, d), zero diagonal

    @staticmethod
    def outputs_for(latents: int, full: bool) -> int:
        """How many numbers an encoder gives for an example."""
        return 2 * latents + (latents * (latents - 1) // 2 if full else 0)

    def draw(self, k: int) -> tuple[Tensor, Tensor]:
        """k draws z `(k, B, d)` and the eps `(k, B, d)` that they are made of."""
        eps = torch.randn((k, *self.loc.shape), dtype=self.loc.dtype, device=self.loc.device)
        z = self.loc + self.log_diagonal.exp() * eps
        if self.lower is not None:
            z = z + torch.einsum("bij,kbj->kbi", self.lower, eps)
        return z, eps

    def log_prob(self, eps: Tensor) -> Tensor:
        """log q(z given x), `(k, B)` float64 nats, at the draw made of `eps`."""
        constant = 0.5 * self.loc.shape[1] * math.log(2 * math.pi)
        return -0.5 * (eps.double() ** 2).sum(-1) - self.log_diagonal.sum(-1, dtype=torch.float64) - constant

    def log_prob_per_latent(self, eps: Tensor) -> Tensor:
        """log q(z_i given z_<i, x), `(k, B, d)` float64 nats, at the draw made of `eps`: it sums to `log_prob`."""
        return -0.5 * (eps.double() ** 2 + math.log(2 * math.pi)) - self.log_diagonal.double()

    def law(self) -> Distribution:
        """The same q as a distribution of torch, in float64."""
        loc, diagonal = self.loc.double(), self.log_diagonal.double().exp()
        if self.lower is None:
            return Independent(Normal(loc, diagonal, validate_args=False), 1, validate_args=False)
        return MultivariateNormal(loc, scale_tril=self.lower.double() + torch.diag_embed(diagonal), validate_args=False)

    def kl_from_standard_normal(self) -> Tensor:
        """`(B, d)` float64 nats, summing to KL(q(z given x), N(0, I))."""
        log_diagonal = self.log_diagonal.double()
        squares = (2 * log_diagonal).exp() + self.loc.double() ** 2
        if self.lower is not None:
            squares = squares + (self.lower.double() ** 2).sum(-1)
        return 0.5 * (squares - 1) - log_diagonal
