"""What the bounds sum over: a term an index, each an expectation over the noise eps. Index 0 is the decoder's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from genzoo_ddpm.diffusion import Diffusion


class Terms(ABC):
    """Terms of a bound at indices 0..count - 1, of which those from `first` on are estimated by draws."""

    def __init__(self, model: Diffusion) -> None:
        self.model = model
        self.first = model.first
        self.count = len(model.chain)

    @abstractmethod
    def __call__(self, z: Tensor, index: Tensor, place: Tensor, eps: Tensor, labels: Tensor) -> Tensor:
        """The term `(R,)` float64, nats, of `z (R, D)` with noise `eps (R, D)` at `index (R,)`.

        `place (R,)`, uniform in [0, 1), says where inside an index that stands for an interval; `labels` as in
        `condition_features`.
        """

    def mirrored(self, z: Tensor, index: Tensor, place: Tensor, eps: Tensor, labels: Tensor) -> Tensor:
        """The average over eps and -eps: what is odd in the noise cancels, at the cost of a second call."""
        return (self(z, index, place, eps, labels) + self(z, index, place, -eps, labels)) / 2


class StepTerms(Terms):
    """KL_t and the decoder: the steps of the model's own chain."""

    def __call__(self, z: Tensor, index: Tensor, place: Tensor, eps: Tensor, labels: Tensor) -> Tensor:
        """See Terms; a step has no inside."""
        return self.model._terms(z, index, eps, labels)


class ContinuousTerms(Terms):
    """The bound of the chain with infinitely many steps between the same ends (Kingma et al. 2021, arXiv:2107.00630):

        E KL = 1/2 w int_{lam_T}^{lam_1} exp(lam) E |x_0 - x0_hat(x_lam)|^2 dlam,   w = ((1 + eta^2) / (2 eta))^2

    It depends on the schedule through its ends alone, and on no reverse variance: in the limit they all are the
    forward one's, eta^2 times. w is 1 for DDPM. Index k >= 1 is the part of the integral between steps k and k + 1; the
    prior is the chain's at lam_T, the decoder its own at lam_1.
    """

    def __call__(self, z: Tensor, index: Tensor, place: Tensor, eps: Tensor, labels: Tensor) -> Tensor:
        """See Terms; `place` is the share of the interval, from its noisier end."""
        model, table = self.model, self.model.chain.log_snr
        below = (index - 1).clamp(min=0)
        width = table[below] - table[index]  # 0 for the decoder
        log_snr = table[index] + place * width
        square, cue = model._errors_at(z, log_snr, eps, labels)
        square = square.double()
        nats = 0.5 * noise_factor(model.eta) * width * log_snr.exp() * square.sum(1)
        decoder = index == 0
        if bool(decoder.any()):
            some = index[decoder]
            nats[decoder] = model._nats(some, square[decoder], model._log_variance(some, cue[decoder]))
        return nats


def noise_factor(eta: float) -> float:
    """w of ContinuousTerms: C_t^2 / (2 b_t) of the chain's tables tends to w exp(lam) dlam / 2."""
    return ((1 + eta**2) / (2 * eta)) ** 2
