"""Variances v_t of the reverse steps p(x_{t-1} given x_t) = N(A_t x_t + C_t x0_hat, v_t), t = 2..T.

With err^2 the mean square error of x0_hat at t, the bound's optimum is v_t = b_t + C_t^2 err^2 / D per dimension
(Bao et al. 2022, arXiv:2201.06503, eq. 7). Which one is used decides the bound, so its name stands in the estimator's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from genzoo_ddpm.schedules import Chain


class Variance(nn.Module, ABC):
    """A reverse variance. `outputs`: how many numbers a dimension it takes from the network (0 or 1)."""

    name: ClassVar[str]
    outputs: ClassVar[int] = 0

    @abstractmethod
    def log_variance(self, step: Tensor, output: Tensor | None) -> Tensor:
        """log v at indices `step (R,)`, t >= 2: `(R, 1)`, or `(R, D)` made from the network's `output (R, D)`."""

    def fit(self, chain: Chain, mean_square: Tensor) -> None:
        """Set buffers from `mean_square (T,)`, the mean of (x_0 - x0_hat)^2 over dimensions and data at each step."""


class TableVariance(Variance):
    """One number a step."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        # index 0 is the decoder's and never read: any finite number will do
        log = torch.where(torch.arange(len(table)) > 0, table, 1.0).log()
        self.register_buffer("table", log)

    def log_variance(self, step: Tensor, output: Tensor | None) -> Tensor:
        """See Variance."""
        return self.table[step][:, None]


class FixedSmall(TableVariance):
    """v_t = b_t, the posterior variance; exact where data are one point (Ho et al. 2020)."""

    name = "small"

    def __init__(self, chain: Chain) -> None:
        super().__init__(chain.variance)


class FixedLarge(TableVariance):
    """v_t = beta_t; nearly exact where data are a unit Gaussian (Ho et al. 2020)."""

    name = "large"

    def __init__(self, chain: Chain) -> None:
        super().__init__(chain.beta)


class Analytic(TableVariance):
    """The optimum per step, fitted on the averaged weights; the posterior variance until then."""

    name = "analytic"

    def __init__(self, chain: Chain) -> None:
        super().__init__(chain.variance)

    def fit(self, chain: Chain, mean_square: Tensor) -> None:
        """See Variance."""
        self.table[1:] = (chain.variance + chain.pull**2 * mean_square)[1:].log()


class Learned(Variance):
    """Per dimension: log v between log b_t and log beta_t (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15)."""

    name = "learned"
    outputs = 1
    small: Tensor
    large: Tensor

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        first = torch.arange(len(chain)) > 0
        self.register_buffer("small", torch.where(first, chain.variance, 1.0).log(), persistent=False)
        self.register_buffer("large", torch.where(first, chain.beta, 1.0).log(), persistent=False)

    def log_variance(self, step: Tensor, output: Tensor | None) -> Tensor:
        """See Variance. The untrained network (output 0) stands in the middle."""
        if output is None:
            raise ValueError("expected the network's output for a learned variance; got None")
        share = torch.sigmoid(output)
        return self.small[step][:, None] + share * (self.large - self.small)[step][:, None]


VARIANCES: dict[str, type[FixedSmall] | type[FixedLarge] | type[Analytic] | type[Learned]] = {
    cls.name: cls for cls in (FixedSmall, FixedLarge, Analytic, Learned)
}
