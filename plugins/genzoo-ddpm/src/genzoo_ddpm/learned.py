"""A schedule that is learned, and the continuous-time bound that it is learned with (Kingma et al. 2021,
arXiv:2107.00630, sections 4.1, 5 and appendix I.2).

Log-SNR falls from `high` to `low` as t goes from 0 to 1, in bins of one width d over log-SNR, of which bin b takes the
share tau_b of the time: lam(t) is monotone and piecewise linear, lam' = -d / tau_b. With infinitely many steps

    E KL = E_t h(t),   h(t) = 1/2 w |lam'(t)| exp(lam) |x_0 - x0_hat(x_lam)|^2   (w as in ContinuousTerms)

depends on the two ends alone, which are fixed here. What the shares change is the variance of h, that is E h^2:

    E_t h(t)^2 = sum_b d^2 g_b / tau_b,    g_b the mean over bin b of (h / lam')^2,    least at tau_b prop. to sqrt(g_b)

Its gradient in tau needs no derivative of the network: a draw in bin b, of probability tau_b, gives h^2 tau_b / tau'_b
as an estimate of the value at other shares tau', without bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from genzoo_ddpm.objectives import evenly
from genzoo_ddpm.terms import noise_factor

if TYPE_CHECKING:
    from genzoo_ddpm.diffusion import Diffusion

BINS = 32
"""Of log-SNR: half a unit each over the whole range."""


class Place(NamedTuple):
    """Where the schedule stands: lam and -dlam/dt `(R,)` float64, and the bin `(R,)`."""

    log_snr: Tensor
    slope: Tensor
    bin: Tensor


class LearnedSchedule(nn.Module):
    """Shares of the time of bins of log-SNR; at first all alike, as `log_snr`.

    Args:
        high, low: the ends, which stay.
    """

    def __init__(self, high: float, low: float) -> None:
        super().__init__()
        self.high, self.low = high, low
        self.logits = nn.Parameter(torch.zeros(BINS))

    @property
    def shares(self) -> Tensor:
        """tau `(BINS,)` float64."""
        return self.logits.double().softmax(0)

    def at(self, time: Tensor) -> Place:
        """At `time (R,)` float64 in [0, 1]; without gradient."""
        with torch.no_grad():
            shares, width = self.shares, (self.high - self.low) / BINS
            ends = shares.cumsum(0)
            index = torch.searchsorted(ends, time, right=True).clamp(max=BINS - 1)
            inside = ((time - ends[index]) / shares[index] + 1).clamp(0, 1)
            return Place(self.high - width * (index + inside), width / shares[index], index)

    def log_snr(self, steps: int) -> Tensor:
        """lam_1..lam_T `(T,)` float64 of a chain whose steps take the same time each."""
        table = self.at(torch.linspace(0, 1, steps, dtype=torch.float64, device=self.logits.device)).log_snr
        table[0], table[-1] = self.high, self.low  # as they are, not as sums of bins
        return table

    def push(self, h: Tensor, index: Tensor) -> Tensor:
        """0 `(R,)` float64, whose gradient is that of log E h^2 in the shares; `h (R,)` fell into bins `index (R,)`."""
        square, shares = h.detach().square(), self.shares
        value = square / square.mean().clamp(min=torch.finfo(torch.float64).tiny)
        value = value * (shares.detach() / shares)[index]
        return value - value.detach()


def continuous_loss(model: Diffusion, schedule: LearnedSchedule, z: Tensor, labels: Tensor) -> Tensor:
    """Minus the continuous-time bound `(B,)` float64 nats of `z (B, D)` from one draw each, with the gradients of the
    network in its mean and of the schedule in its variance. Real data spend 1 of T draws on the decoder."""
    model._need_noise()
    time = evenly(len(z), z.device).double()
    share = 0.0 if model.first else 1 / len(model.chain)
    decoder = time < share
    place = schedule.at(((time - share) / (1 - share)).clamp(0, 1))
    log_snr = torch.where(decoder, model.chain.log_snr[0], place.log_snr)
    square, cue = model._errors_at(z, log_snr, torch.randn_like(z), labels)
    square = square.double()
    h = 0.5 * noise_factor(model.eta) * place.slope * log_snr.exp() * square.sum(1)
    constant = model._decoder_constant()
    diffusion = h / (1 - share) + schedule.push(h.masked_fill(decoder, 0.0), place.bin)
    if share:
        first = torch.zeros_like(place.bin)
        nats = model._nats(first, square, model._log_variance(first, cue)) - constant
        diffusion = torch.where(decoder, nats / share, diffusion)
    return diffusion + constant + model._prior(z) + model._decoder_loss(z)
