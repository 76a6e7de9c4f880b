"""Discrete forward processes: codes x_0 in 0..L-1 to x_T that hold nothing of them, a dimension at a time.

    uniform     q(x_t given x_{t-1}) keeps a code with probability 1 - beta_t, else draws one of L evenly; for L = 2 the
                binomial kernel of Sohl-Dickstein et al. 2015 (arXiv:1503.03585, table 1)
    absorbing   ... else masks it, for good (Austin et al. 2021, arXiv:2107.03006)
    any_order   absorbing with infinitely many steps, in which dimensions are masked one by one, in random order

With abar_t = prod (1 - beta_s) and a network's p~(k given x_t) for each dimension of x_0, the model's reverse step is
p(x_{t-1} given x_t) = sum_k q(x_{t-1} given x_t, x_0 = k) p~(k given x_t), exact for one dimension where p~ is, and

    -log p(x_0) <= sum_{t=1}^T E KL(q(x_{t-1} given x_t, x_0), p(x_{t-1} given x_t))

whose term at t = 1 is -log p(x_0 given x_1); abar_T = 0, so that p(x_T) = q(x_T given x_0) and the prior costs nothing.
Steps are held at index t - 1. With masks, c of D dimensions masked,

    KL_t = rho_t sum_masked -log p~(x_0,i given x_t),    rho_t = (abar_{t-1} - abar_t) / (1 - abar_t), any_order: 1 / c

and the bound of any_order is the integral over abar of the continuous-time bound: given c, the masked set is even, and
int_0^1 u^{c-1} (1 - u)^{D-c} binom(D, c) du = 1 / c (Hoogeboom et al. 2022, arXiv:2110.02037; Shi et al. 2024,
arXiv:2406.04329). Codes are int64, a mask is L; noise is u in [0, 1), one a dimension.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class Kernel(nn.Module, ABC):
    """A forward process of `count` steps over codes of `levels` levels, and the reverse steps that it leads to.

    R rows, D dimensions. `step (R,)` are indices, `t` is one for all rows; `log_p (R, D, L)` is log p~ at x_t.
    """

    masks: bool
    count: int

    def __init__(self, levels: int, count: int) -> None:
        super().__init__()
        self.levels = levels
        self.count = count

    @abstractmethod
    def noised(self, x: Tensor, step: Tensor, u: Tensor) -> Tensor:
        """x_t `(R, D)` from codes `x` and noise `u (R, D)`."""

    @abstractmethod
    def clarity(self, x_t: Tensor, step: Tensor) -> Tensor:
        """log-odds `(R,)` float64 of a dimension of x_t that was kept: what the network is told of t."""

    @abstractmethod
    def believed(self, x_t: Tensor, step: Tensor, mass: Tensor) -> Tensor:
        """p(k given x_t) `(R, D, L)` were dimensions independent with histograms `mass (D, L)`."""

    @abstractmethod
    def nats(self, x: Tensor, x_t: Tensor, step: Tensor, log_p: Tensor) -> Tensor:
        """KL_t `(R,)` float64."""

    @abstractmethod
    def excess(self, x: Tensor, step: Tensor, u: Tensor, cost: Tensor) -> Tensor:
        """The part of KL_t that `cost (R, D)`, nats a dimension, explains, less its mean over `u`: `(R,)` float64."""

    @abstractmethod
    def lost(self, t: int) -> float:
        """Share of the dimensions that step `t` in 0..T has masked or drawn anew, in the mean."""

    @abstractmethod
    def path(self, x: Tensor, times: Sequence[int]) -> Iterator[Tensor]:
        """x_t `(R, D)` at rising `times` in 0..T along one path from codes `x`."""

    @abstractmethod
    def start(self, n: int, dims: int, device: torch.device) -> Tensor:
        """x_T `(n, dims)`: of the model, and of q."""

    @abstractmethod
    def reverse(self, x_t: Tensor, t: int, log_p: Tensor) -> Tensor:
        """x_{t-1} `(R, D)` drawn by the model."""

    @abstractmethod
    def back(self, x: Tensor, x_t: Tensor, t: int, log_p: Tensor) -> tuple[Tensor, Tensor]:
        """x_{t-1} `(R, D)` drawn from q(given x_t, x_0), and log p(x_{t-1} given x_t) - log q of it `(R,)` float64."""


class Uniform(Kernel):
    """Codes drawn anew.

    Args:
        levels: L. kept: abar_0 = 1 down to abar_T = 0, `(T + 1,)` float64.
    """

    masks = False
    kept: Tensor

    def __init__(self, levels: int, kept: Tensor) -> None:
        super().__init__(levels, len(kept) - 1)
        self.register_buffer("kept", kept, persistent=False)

    def noised(self, x: Tensor, step: Tensor, u: Tensor) -> Tensor:
        """See Kernel: u above abar_t says which code comes in the place of x."""
        kept = self.kept[step + 1][:, None]
        other = ((u - kept) / (1 - kept) * self.levels).to(torch.int64).clamp(0, self.levels - 1)
        return torch.where(u < kept, x, other)

    def clarity(self, x_t: Tensor, step: Tensor) -> Tensor:
        """See Kernel."""
        kept = self.kept[step + 1]
        return torch.logit(kept, 1e-6)

    def believed(self, x_t: Tensor, step: Tensor, mass: Tensor) -> Tensor:
        """See Kernel."""
        kept = self.kept[step + 1].to(mass.dtype)[:, None, None]
        likelihood = kept * nn.functional.one_hot(x_t, self.levels) + (1 - kept) / self.levels
        joint = likelihood * mass
        return joint / joint.sum(2, keepdim=True)

    def _mixture(self, x_t: Tensor, step: Tensor, p: Tensor) -> Tensor:
        """sum_k q(x_{t-1} given x_t, k) p(k) `(R, D, L)` float64, of `p (R, D, L)`.

        With 1 - beta, beta / L, abar_{t-1}, (1 - abar_{t-1}) / L = a, b, c, d:
        q(j given i, k) = (a [i = j] + b) (c [k = j] + d) / Z_ik,   Z_ik = q(x_t = i given k) = abar_t [i = k] + ...
        """
        after, before = self.kept[step + 1][:, None, None], self.kept[step][:, None, None]
        stay, drawn = after / before, (1 - after / before) / self.levels
        same = nn.functional.one_hot(x_t, self.levels)
        w = p.double() / (after * same + (1 - after) / self.levels)
        return (stay * same + drawn) * (before * w + (1 - before) / self.levels * w.sum(2, keepdim=True))

    def nats(self, x: Tensor, x_t: Tensor, step: Tensor, log_p: Tensor) -> Tensor:
        """See Kernel."""
        q = self._mixture(x_t, step, nn.functional.one_hot(x, self.levels))
        p = self._mixture(x_t, step, log_p.exp())
        return (torch.xlogy(q, q) - torch.xlogy(q, p)).flatten(1).sum(1)

    def excess(self, x: Tensor, step: Tensor, u: Tensor, cost: Tensor) -> Tensor:
        """See Kernel: none is known."""
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def lost(self, t: int) -> float:
        """See Kernel."""
        return 1 - float(self.kept[t])

    def path(self, x: Tensor, times: Sequence[int]) -> Iterator[Tensor]:
        """See Kernel."""
        before = 0
        for t in times:
            kept = float(self.kept[t] / self.kept[before])
            stays = torch.rand(x.shape, device=x.device) < kept
            x, before = torch.where(stays, x, torch.randint_like(x, self.levels)), t
            yield x

    def start(self, n: int, dims: int, device: torch.device) -> Tensor:
        """See Kernel."""
        return torch.randint(self.levels, (n, dims), device=device)

    def reverse(self, x_t: Tensor, t: int, log_p: Tensor) -> Tensor:
        """See Kernel."""
        step = torch.full((len(x_t),), t, device=x_t.device)
        return drawn(self._mixture(x_t, step, log_p.exp()).log())

    def back(self, x: Tensor, x_t: Tensor, t: int, log_p: Tensor) -> tuple[Tensor, Tensor]:
        """See Kernel."""
        step = torch.full((len(x_t),), t, device=x_t.device)
        q = self._mixture(x_t, step, nn.functional.one_hot(x, self.levels))
        p = self._mixture(x_t, step, log_p.exp())
        before = drawn(q.log())
        ratio = (taken(p, before) / taken(q, before)).log()
        return before, ratio.sum(1)


class Masking(Kernel):
    """What the two kernels with masks share: x_T is all masks."""

    masks = True

    @abstractmethod
    def weight(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """rho_t of KL_t, and the share of the dimensions that is masked in the mean, both `(R,)` float64."""

    @abstractmethod
    def revealed(self, x_t: Tensor, t: int) -> Tensor:
        """Which masks are lifted from x_t to x_{t-1}, bool `(R, D)`."""

    def clarity(self, x_t: Tensor, step: Tensor) -> Tensor:
        """See Kernel: of the masks that there are: p(x_0 given x_t) holds nothing else of t. Finite at both ends."""
        masked = (x_t == self.levels).sum(1)
        return ((x_t.shape[1] - masked + 0.5) / (masked + 0.5)).double().log()

    def believed(self, x_t: Tensor, step: Tensor, mass: Tensor) -> Tensor:
        """See Kernel."""
        masked = x_t == self.levels
        seen = nn.functional.one_hot(x_t.masked_fill(masked, 0), self.levels).to(mass.dtype)
        return torch.where(masked[..., None], mass, seen)

    def nats(self, x: Tensor, x_t: Tensor, step: Tensor, log_p: Tensor) -> Tensor:
        """See Kernel."""
        cost = -taken(log_p, x).double() * (x_t == self.levels)
        return self.weight(step)[0] * cost.sum(1)

    def excess(self, x: Tensor, step: Tensor, u: Tensor, cost: Tensor) -> Tensor:
        """See Kernel: the cost of what is masked."""
        masked = self.noised(x, step, u) == self.levels
        rho, share = self.weight(step)
        return rho * ((cost * masked).double().sum(1) - share * cost.double().sum(1))

    def path(self, x: Tensor, times: Sequence[int]) -> Iterator[Tensor]:
        """See Kernel: one u for all of it, since what is masked stays so."""
        u = torch.rand(x.shape, device=x.device)
        for t in times:
            yield self.noised(x, torch.full((len(x),), t - 1, device=x.device), u) if t else x

    def start(self, n: int, dims: int, device: torch.device) -> Tensor:
        """See Kernel."""
        return torch.full((n, dims), self.levels, device=device)

    def reverse(self, x_t: Tensor, t: int, log_p: Tensor) -> Tensor:
        """See Kernel."""
        return torch.where(self.revealed(x_t, t), drawn(log_p), x_t)

    def back(self, x: Tensor, x_t: Tensor, t: int, log_p: Tensor) -> tuple[Tensor, Tensor]:
        """See Kernel: which masks are lifted has the same law under both."""
        lifted = self.revealed(x_t, t)
        return torch.where(lifted, x, x_t), (taken(log_p, x).double() * lifted).sum(1)


class Absorbing(Masking):
    """Masks dimension by dimension, independently.

    Args:
        levels: L. kept: abar_0 = 1 down to abar_T = 0, `(T + 1,)` float64.
    """

    kept: Tensor

    def __init__(self, levels: int, kept: Tensor) -> None:
        super().__init__(levels, len(kept) - 1)
        self.register_buffer("kept", kept, persistent=False)

    def noised(self, x: Tensor, step: Tensor, u: Tensor) -> Tensor:
        """See Kernel."""
        return torch.where(u < self.kept[step + 1][:, None], x, self.levels)

    def lost(self, t: int) -> float:
        """See Kernel."""
        return 1 - float(self.kept[t])

    def weight(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """See Masking."""
        masked = 1 - self.kept[step + 1]
        return (self.kept[step] - self.kept[step + 1]) / masked, masked

    def revealed(self, x_t: Tensor, t: int) -> Tensor:
        """See Masking."""
        rho = float((self.kept[t] - self.kept[t + 1]) / (1 - self.kept[t + 1]))
        return (x_t == self.levels) & (torch.rand(x_t.shape, device=x_t.device) < rho)


class AnyOrder(Masking):
    """Masks one by one in random order: at index c - 1, c dimensions are masked. Steps are as many as dimensions."""

    def __init__(self, levels: int, dims: int) -> None:
        super().__init__(levels, dims)

    def noised(self, x: Tensor, step: Tensor, u: Tensor) -> Tensor:
        """See Kernel: the dimensions with the largest u."""
        rank = u.argsort(1).argsort(1)
        return torch.where(rank < (self.count - 1 - step)[:, None], x, self.levels)

    def lost(self, t: int) -> float:
        """See Kernel."""
        return t / self.count

    def weight(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """See Masking."""
        masked = (step + 1).double()
        return 1 / masked, masked / self.count

    def revealed(self, x_t: Tensor, t: int) -> Tensor:
        """See Masking: one of them."""
        masked = x_t == self.levels
        place = torch.rand(x_t.shape, device=x_t.device).masked_fill(~masked, -1.0).argmax(1, keepdim=True)
        return torch.zeros_like(masked).scatter(1, place, True) & masked


def taken(p: Tensor, x: Tensor) -> Tensor:
    """Entries `(R, D)` of `p (R, D, L)` at codes `x (R, D)`."""
    return p.gather(2, x[..., None])[..., 0]


def drawn(log_p: Tensor) -> Tensor:
    """Codes `(R, D)` from log-probabilities `(R, D, L)`: the largest of them plus Gumbel noise."""
    return (log_p - torch.empty_like(log_p).exponential_().log()).argmax(-1)


def linear(steps: int) -> Tensor:
    """abar_t = 1 - t / T `(T + 1,)` float64: each step takes as much, as Sohl-Dickstein et al. 2015."""
    return 1 - torch.arange(steps + 1, dtype=torch.float64) / steps


def cosine(steps: int) -> Tensor:
    """abar_t = cos^2(pi t / 2 T) `(T + 1,)` float64: finer steps at both ends; 0 at T."""
    kept = torch.cos(torch.arange(steps + 1, dtype=torch.float64) / steps * math.pi / 2).square()
    kept[-1] = 0.0
    return kept


SCHEDULES = {"linear": linear, "cosine": cosine}
