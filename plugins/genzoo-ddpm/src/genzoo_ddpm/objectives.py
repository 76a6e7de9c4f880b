"""What a step of training minimises: squared error of eps, or the variational bound."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor


class Objective(ABC):
    """Draws one step an example and turns its squared error into a loss."""

    in_nats: ClassVar[bool]

    @abstractmethod
    def draw(self, n: int, first: int, last: int, device: torch.device) -> Tensor:
        """Step indices `(n,)` in first..last - 1, each uniform."""

    @abstractmethod
    def loss(self, square: Tensor, snr: Tensor, nats: Callable[[Tensor], Tensor], count: int) -> Tensor:
        """Loss `(B,)` of `square (B, D)`, the squared errors of x_0.

        `snr (B, 1)` is a_t^2 / s_t^2, which makes them errors of eps; `nats` maps squared errors to the bound's term at
        the drawn step, `(B,)`; `count` is the number of steps.
        """


class Simple(Objective):
    """Mean of (eps - eps_hat)^2 over dimensions (Ho et al. 2020, eq. 14): a weighted bound, not in nats.

    The bound is added with weight 1e-3 and no gradient to the mean, as Nichol & Dhariwal 2021 do, so that a learned
    variance is trained; for the other variances that part has no gradient.
    """

    in_nats = False

    def draw(self, n: int, first: int, last: int, device: torch.device) -> Tensor:
        """See Objective."""
        return torch.randint(first, last, (n,), device=device)

    def loss(self, square: Tensor, snr: Tensor, nats: Callable[[Tensor], Tensor], count: int) -> Tensor:
        """See Objective."""
        return (snr * square).mean(1) + 1e-3 * nats(square.detach())


class VariationalBound(Objective):
    """The bound itself: count times the term at one step, the steps of a batch spread evenly (Kingma et al. 2021)."""

    in_nats = True

    def draw(self, n: int, first: int, last: int, device: torch.device) -> Tensor:
        """See Objective."""
        place = evenly(n, device)
        return (first + (place * (last - first)).to(torch.int64)).clamp(max=last - 1)

    def loss(self, square: Tensor, snr: Tensor, nats: Callable[[Tensor], Tensor], count: int) -> Tensor:
        """See Objective."""
        return count * nats(square)


def evenly(n: int, device: torch.device) -> Tensor:
    """`(n,)` in [0, 1), each uniform: (u + i / n) mod 1 with one u for all."""
    return (torch.rand((), device=device) + torch.arange(n, device=device) / n) % 1


OBJECTIVES: dict[str, type[Simple] | type[VariationalBound]] = {"simple": Simple, "vlb": VariationalBound}
