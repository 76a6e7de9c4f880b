"""How data become noise: x = a x_0 + s eps, along log-SNR lam = log a^2 / s^2.

All such paths hold the same distributions up to scale, so that a bound over lam, or an ODE, is the same along each. A
network sees the path's own x, and where on it x stands as a number in the units of log-SNR.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Point(NamedTuple):
    """Where rows stand on a path: a, s `(R, 1)`, and what the network is told `(R,)`, in the dtype asked for."""

    signal: Tensor
    noise: Tensor
    told: Tensor


class Interpolant(ABC):
    """A path from data to noise."""

    @abstractmethod
    def at(self, log_snr: Tensor, dtype: torch.dtype) -> Point:
        """At `log_snr (R,)` float64."""


@dataclass(frozen=True)
class VariancePreserving(Interpolant):
    """a^2 + s^2 = 1 (Song et al. 2021, arXiv:2011.13456, eq. 11)."""

    def at(self, log_snr: Tensor, dtype: torch.dtype) -> Point:
        """See Interpolant."""
        signal, noise = (torch.sigmoid(sign * log_snr).sqrt().to(dtype)[:, None] for sign in (1, -1))
        return Point(signal, noise, log_snr.to(dtype))


@dataclass(frozen=True)
class OptimalTransport(Interpolant):
    """a = t, s = 1 - (1 - sigma) t, noise at t = 0, data at t = 1 (Lipman et al. 2023, arXiv:2210.02747, eq. 20).

    Args:
        sigma: what noise is left at t = 1.
    """

    sigma: float

    def at(self, log_snr: Tensor, dtype: torch.dtype) -> Point:
        """See Interpolant."""
        ratio = (0.5 * log_snr).exp()
        return self.at_time(ratio / (1 + (1 - self.sigma) * ratio), dtype)

    def at_time(self, time: Tensor, dtype: torch.dtype) -> Point:
        """At t `(R,)` float64. The network is told -2 log s, smooth at t = 0 and near lam at the fine end."""
        noise = 1 - (1 - self.sigma) * time
        return Point(time.to(dtype)[:, None], noise.to(dtype)[:, None], (-2 * noise.log()).to(dtype))
