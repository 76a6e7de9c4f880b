"""What the bounds sum over: a term an index, each an expectation over noise. Index 0 is the decoder's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genzoo_ddpm.allocation import Allocation
from genzoo_ddpm.stepwise import StepModel

if TYPE_CHECKING:
    from genzoo_ddpm.denoising import Denoising
    from genzoo_ddpm.diffusion import Diffusion

EDGE = 1e-12
"""Uniform numbers stay this far from 0 and 1, whose normal quantiles are infinite."""


class Terms(ABC):
    """Terms of a bound at indices 0..count - 1, of which those from `first` on are estimated by draws."""

    model: StepModel
    first: int
    count: int
    alone: int
    """How many indices at the start are unlike their neighbours."""
    spread: float | None
    """Variance of `excess` where it is known."""

    def allocation(self) -> Allocation:
        """Unfitted, for these indices."""
        return Allocation(self.count, self.first, self.alone).to(self.model.device)

    @abstractmethod
    def __call__(self, z: Tensor, index: Tensor, place: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        """The term `(R,)` float64, nats, of `z (R, D)` with `noise (R, D)` at `index (R,)`.

        `place (R,)`, uniform in [0, 1), says where inside an index that stands for an interval; `labels` as in
        `condition_features`.
        """

    @abstractmethod
    def noise(self, like: Tensor, even: Tensor | None = None) -> Tensor:
        """Fresh noise of the shape of `like (R, D)`; its first columns are made from `even`, uniform numbers."""

    @abstractmethod
    def mirror(self, noise: Tensor) -> Tensor:
        """Other noise of the same law, as unlike as can be."""

    @abstractmethod
    def excess(self, z: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """A control variate `(R,)` float64 of `mirrored`: its mean over the noise is 0."""

    @abstractmethod
    def prior(self, z: Tensor) -> Tensor:
        """What the end of the chain costs, `(B,)` float64 nats."""

    @abstractmethod
    def decoder(self, z: Tensor) -> Tensor:
        """A draw `(B,)` float64 of -log p(x_0 given x_1), where `first` is 1."""

    def mirrored(self, z: Tensor, index: Tensor, place: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        """The average over the noise and its mirror: what is odd in it cancels, at the cost of a second call."""
        mirror = self.mirror(noise)
        return (self(z, index, place, noise, labels) + self(z, index, place, mirror, labels)) / 2


class GaussianTerms(Terms):
    """Of a Gaussian chain, whose noise is eps: the control variate is |eps|^2 - D, of variance 2 D."""

    model: Denoising

    def __init__(self, model: Denoising) -> None:
        self.model = model
        self.first = model.first
        self.count = len(model.chain)
        self.alone = 1 - model.first
        self.spread = 2.0 * model.spec.dims

    def noise(self, like: Tensor, even: Tensor | None = None) -> Tensor:
        """See Terms: normal, evenly through its quantiles."""
        eps = torch.randn_like(like)
        if even is not None:
            eps[:, : even.shape[1]] = torch.special.ndtri(even.clamp(EDGE, 1 - EDGE)).to(like.dtype)
        return eps

    def mirror(self, noise: Tensor) -> Tensor:
        """See Terms."""
        return -noise

    def excess(self, z: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """See Terms."""
        return noise.double().square().sum(1) - noise.shape[1]

    def prior(self, z: Tensor) -> Tensor:
        """See Terms."""
        return self.model._prior(z)

    def decoder(self, z: Tensor) -> Tensor:
        """See Terms."""
        return -self.model._decoder_draw(z)


class StepTerms(GaussianTerms):
    """KL_t and the decoder: the steps of the model's own chain."""

    model: Diffusion

    def __call__(self, z: Tensor, index: Tensor, place: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        """See Terms; a step has no inside."""
        return self.model._terms(z, index, noise, labels)


class ContinuousTerms(GaussianTerms):
    """The bound of the chain with infinitely many steps between the same ends (Kingma et al. 2021, arXiv:2107.00630):

        E KL = 1/2 w int_{lam_T}^{lam_1} exp(lam) E |x_0 - x0_hat(x_lam)|^2 dlam,   w = ((1 + eta^2) / (2 eta))^2

    It depends on the schedule through its ends alone, and on no reverse variance: in the limit they all are the
    forward one's, eta^2 times. w is 1 for DDPM. Index k >= 1 is the part of the integral between steps k and k + 1; the
    prior is the chain's at lam_T, the decoder its own at lam_1.
    """

    def __call__(self, z: Tensor, index: Tensor, place: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        """See Terms; `place` is the share of the interval, from its noisier end."""
        model, table = self.model, self.model.chain.log_snr
        below = (index - 1).clamp(min=0)
        width = table[below] - table[index]  # 0 for the decoder
        log_snr = table[index] + place * width
        square, _ = model._errors_at(z, log_snr, noise, labels)
        square = square.double()
        nats = 0.5 * noise_factor(model.eta) * width * log_snr.exp() * square.sum(1)
        return torch.where(index == 0, model._decoder_nats(square), nats)


def noise_factor(eta: float) -> float:
    """w of ContinuousTerms: C_t^2 / (2 b_t) of the chain's tables tends to w exp(lam) dlam / 2."""
    return ((1 + eta**2) / (2 * eta)) ** 2
