"""Noise schedules and the tables of the chain they define.

    q(x_t given x_0) = N(a_t x_0, s_t^2 I),   a_t^2 = sigmoid(lam_t),  s_t^2 = sigmoid(-lam_t),   t = 1..T

with lam_t = log a_t^2 / s_t^2 the log signal-to-noise ratio, falling in t. The chain's posterior (Song et al. 2021,
arXiv:2010.02502, eq. 7; eta = 1 is Ho et al. 2020, arXiv:2006.11239, eq. 6-7) is

    q(x_{t-1} given x_t, x_0) = N(A_t x_t + C_t x_0, b_t I),   b_t = eta^2 s_{t-1}^2 / s_t^2 (1 - a_t^2 / a_{t-1}^2)
    A_t = sqrt(s_{t-1}^2 - b_t) / s_t,   C_t = a_{t-1} - A_t a_t

Tables are float64 and hold step t at index t - 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BETA_MAX = 0.999
"""Largest beta_t, as Nichol & Dhariwal 2021: at 1 the signal would be gone and log-SNR -inf."""


@dataclass(frozen=True)
class Schedule(ABC):
    """Log signal-to-noise ratios of a chain of `steps` steps."""

    steps: int

    @abstractmethod
    def log_snr(self) -> Tensor:
        """lam_1..lam_T `(T,)` float64, strictly falling."""


@dataclass(frozen=True)
class LinearSchedule(Schedule):
    """beta_t linear from 1e-4 to 0.02 at T = 1000 (Ho et al. 2020, arXiv:2006.11239), scaled by 1000 / T."""

    def log_snr(self) -> Tensor:
        """See Schedule."""
        scale = 1000 / self.steps
        return _from_betas(torch.linspace(1e-4 * scale, 0.02 * scale, self.steps, dtype=torch.float64))


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """a_t^2 = f(t) / f(0), f(t) = cos^2(pi/2 (t/T + 0.008) / 1.008) (Nichol & Dhariwal 2021, arXiv:2102.09672)."""

    def log_snr(self) -> Tensor:
        """See Schedule."""
        time = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        log_f = 2 * torch.log(torch.cos((time + 0.008) / 1.008 * math.pi / 2).abs())
        return _from_betas(-torch.expm1(log_f.diff()))


@dataclass(frozen=True)
class LogSNRSchedule(Schedule):
    """lam_t linear in t from `high` to `low`, as VDM's fixed schedule (Kingma et al. 2021, arXiv:2107.00630).

    Args:
        high: log-SNR at t = 1: the decoder's noise.
        low: log-SNR at t = T: what the prior does not see.
    """

    high: float = 13.3
    low: float = -5.0

    def log_snr(self) -> Tensor:
        """See Schedule."""
        return torch.linspace(self.high, self.low, self.steps, dtype=torch.float64)


@dataclass(frozen=True)
class Subsequence(Schedule):
    """Some steps of another schedule, given by their log-SNRs."""

    values: tuple[float, ...]

    def log_snr(self) -> Tensor:
        """See Schedule."""
        return torch.tensor(self.values, dtype=torch.float64)


def _from_betas(betas: Tensor) -> Tensor:
    log_signal = torch.log1p(-betas.clamp(max=BETA_MAX)).cumsum(0)  # log a_t^2
    return log_signal - torch.log(-torch.expm1(log_signal))


class Chain(nn.Module):
    """Tables `(T,)` of a schedule; A, C, b and beta at index 0 (t = 1) belong to the decoder and hold 0, 1, 0, 0.

    Attributes:
        log_snr: lam_t.
        signal, noise: a_t, s_t.
        keep, pull: A_t, C_t.
        variance: b_t, the posterior variance ("fixed small" where eta = 1).
        beta: 1 - a_t^2 / a_{t-1}^2 ("fixed large").
    """

    log_snr: Tensor
    signal: Tensor
    noise: Tensor
    keep: Tensor
    pull: Tensor
    variance: Tensor
    beta: Tensor

    def __init__(self, schedule: Schedule, eta: float = 1.0) -> None:
        super().__init__()
        log_snr = schedule.log_snr()
        signal, noise = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
        # 1 - a_t^2 / a_{t-1}^2 = -expm1(softplus(-lam_{t-1}) - softplus(-lam_t)): no cancellation at either end
        softplus = nn.functional.softplus(-log_snr)
        beta = torch.zeros_like(log_snr)
        beta[1:] = -torch.expm1(softplus[:-1] - softplus[1:])
        variance, keep, pull = torch.zeros_like(beta), torch.zeros_like(beta), torch.ones_like(beta)
        variance[1:] = eta**2 * beta[1:] * (noise[:-1] / noise[1:]) ** 2
        # For eta = 1 the two differences below are products: A = a_t/a_{t-1} s_{t-1}^2/s_t^2, C = a_{t-1} beta/s_t^2.
        if eta == 1:
            keep[1:] = signal[1:] / signal[:-1] * (noise[:-1] / noise[1:]) ** 2
            pull[1:] = signal[:-1] * beta[1:] / noise[1:] ** 2
        else:
            keep[1:] = (noise[:-1] ** 2 - variance[1:]).clamp(min=0).sqrt() / noise[1:]
            pull[1:] = signal[:-1] - keep[1:] * signal[1:]
        tables = {
            "log_snr": log_snr,
            "signal": signal,
            "noise": noise,
            "keep": keep,
            "pull": pull,
            "variance": variance,
            "beta": beta,
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def __len__(self) -> int:
        return len(self.log_snr)

    def noised(self, x: Tensor, step: Tensor, eps: Tensor) -> Tensor:
        """x_t = a_t x_0 + s_t eps: `(R, D)` at indices `step (R,)`."""
        return column(self.signal, step, x) * x + column(self.noise, step, x) * eps


def column(table: Tensor, step: Tensor, like: Tensor) -> Tensor:
    """Entries `(R, 1)` of `table (T,)` at `step (R,)`, in the dtype of `like`."""
    return table[step].to(like.dtype)[:, None]
