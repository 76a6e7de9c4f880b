"""Variances v_t of the reverse steps p(x_{t-1} given x_t) = N(A_t x_t + C_t x0_hat, v_t), t = 2..T.

With err^2 the mean square error of x0_hat in a dimension, the bound's optimum is v_t = b_t + C_t^2 err^2 (Bao et al.
2022, arXiv:2201.06503, eq. 7). A variance may depend on x_t, as the denoiser's does, but not on x_0. Which one is used
decides the bound, so its name stands in the estimator's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from genzoo_ddpm.allocation import smooth
from genzoo_ddpm.schedules import Chain

TINY = 1e-100
"""Below every variance met; keeps logarithms and quotients finite where one is 0."""


class Variance(nn.Module, ABC):
    """A reverse variance. `outputs`: how many numbers a dimension it takes from the network (0 or 1)."""

    name: ClassVar[str]
    outputs: ClassVar[int] = 0

    @abstractmethod
    def log_variance(self, step: Tensor, cue: Tensor) -> Tensor:
        """log v at indices `step (R,)`, t >= 2: `(R, 1 or D)`.

        `cue` is the network's output `(R, D)` where `outputs` is 1, else the denoiser's variance `(R, 1 or D)`.
        """

    def fit(self, chain: Chain, step: Tensor, pilot: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Set buffers from pairs of (x_0 - x0_hat)^2 `(R, D)` and cue at indices `step (R,)`, n rows each in order."""


class FixedSmall(Variance):
    """v_t = b_t, the posterior variance; exact where data are one point (Ho et al. 2020)."""

    name = "small"
    table: Tensor

    def __init__(self, chain: Chain, ratio: float) -> None:
        super().__init__()
        self.register_buffer("table", _log(chain.variance), persistent=False)

    def log_variance(self, step: Tensor, cue: Tensor) -> Tensor:
        """See Variance."""
        return self.table[step][:, None]


class FixedLarge(Variance):
    """v_t = beta_t; nearly exact where data are a unit Gaussian (Ho et al. 2020)."""

    name = "large"
    table: Tensor

    def __init__(self, chain: Chain, ratio: float) -> None:
        super().__init__()
        self.register_buffer("table", _log(chain.beta), persistent=False)

    def log_variance(self, step: Tensor, cue: Tensor) -> Tensor:
        """See Variance."""
        return self.table[step][:, None]


class Analytic(Variance):
    """v_t = b_t + C_t^2 r_t u, u the denoiser's variance (1 for real data), r_t fitted on the averaged weights."""

    name = "analytic"
    ratio: Tensor
    variance: Tensor
    pull: Tensor

    def __init__(self, chain: Chain, ratio: float) -> None:
        super().__init__()
        self.register_buffer("ratio", torch.full((len(chain),), ratio, dtype=torch.float64))
        self.register_buffer("variance", chain.variance.clone(), persistent=False)
        self.register_buffer("pull", chain.pull.clone(), persistent=False)

    def log_variance(self, step: Tensor, cue: Tensor) -> Tensor:
        """See Variance."""
        factor = (self.pull.square() * self.ratio)[step][:, None]
        # index 0 is the decoder's and never read: any finite number will do
        return (self.variance[step][:, None] + factor * cue.double()).clamp(min=TINY).log()

    def fit(self, chain: Chain, step: Tensor, pilot: Sequence[tuple[Tensor, Tensor]]) -> None:
        """See Variance. The bound's optimum is r = sum w u err^2 / sum w u^2 with w = v^-2; w is taken at r = 1."""
        first = int(step[0])
        n = int((step == first).sum())
        above, below = (torch.zeros(len(step), dtype=torch.float64, device=step.device) for _ in range(2))
        for square, cue in pilot:
            weight = (chain.variance / chain.pull.square())[step][:, None] + cue
            weight = cue / weight.clamp(min=TINY).square()
            above += (weight * square).mean(1)
            below += (weight * cue).mean(1)
        above, below = above.view(-1, n).sum(1), below.view(-1, n).sum(1)
        self.ratio[first:] = smooth(above / below.clamp(min=TINY), n)


class Learned(Variance):
    """Per dimension: log v between log b_t and log beta_t (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15)."""

    name = "learned"
    outputs = 1
    small: Tensor
    large: Tensor

    def __init__(self, chain: Chain, ratio: float) -> None:
        super().__init__()
        self.register_buffer("small", _log(chain.variance), persistent=False)
        self.register_buffer("large", _log(chain.beta), persistent=False)

    def log_variance(self, step: Tensor, cue: Tensor) -> Tensor:
        """See Variance. The untrained network (output 0) stands in the middle."""
        return self.small[step][:, None] + torch.sigmoid(cue) * (self.large - self.small)[step][:, None]


def _log(table: Tensor) -> Tensor:
    """Logarithms; index 0 is the decoder's and never read: any finite number will do."""
    return torch.where(torch.arange(len(table)) > 0, table, 1.0).log()


VARIANCES: dict[str, type[FixedSmall] | type[FixedLarge] | type[Analytic] | type[Learned]] = {
    cls.name: cls for cls in (FixedSmall, FixedLarge, Analytic, Learned)
}
