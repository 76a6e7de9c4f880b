"""The restricted Boltzmann machine as a field, and its path from independent pixels, all in nats.

    log f(v) = b.v + sum_j log(1 + exp(c_j + v W_j))          p(v) = f(v) / Z,  v (D) and h (H) binary
    p(h_j = 1 given v) = s(c_j + v W_j)                       p(v_i = 1 given h) = s(b_i + W_i h),  s logistic

The path of Salakhutdinov and Murray (2008, doi:10.1145/1390156.1390266), a the logits of the pixels' marginals:

    log f_t(v) = ((1 - t) a + t b).v + sum_j log(1 + exp(t (c_j + v W_j))) - log Z_0
    Z_0 = 2^H prod_i (1 + exp a_i),                           f_1 = f / Z_0, f_0 independent pixels, normalised

The kernel v -> h -> v at temperature t leaves f_t invariant and has detailed balance, which RAISE needs. Labels shift b
and c, so that every class has a machine, and a Z, of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

ENUMERATED = 1 << 14
"""States summed at once."""


@dataclass(frozen=True)
class Machine:
    """The parameters of machines, one for all examples (B = 1) or one each.

    Attributes:
        weights: W `(D, H)`; visible: b `(B, D)`; hidden: c `(B, H)`; base: a `(D,)`.
    """

    weights: Tensor
    visible: Tensor
    hidden: Tensor
    base: Tensor

    def inputs(self, v: Tensor) -> Tensor:
        """c + v W, `(*S, B, H)`."""
        return v @ self.weights + self.hidden

    def outputs(self, h: Tensor) -> Tensor:
        """b + W h, `(*S, B, D)`."""
        return h @ self.weights.T + self.visible

    def log_f(self, v: Tensor) -> Tensor:
        """log f(v), `(*S, B)` float64."""
        return (v * self.visible).sum(-1, dtype=torch.float64) + softplus(self.inputs(v)).sum(-1, dtype=torch.float64)

    def draw_hidden(self, v: Tensor, t: float | Tensor = 1.0) -> Tensor:
        """h given v at temperature t."""
        return torch.bernoulli((t * self.inputs(v)).sigmoid())

    def draw_visible(self, h: Tensor, t: float | Tensor = 1.0) -> Tensor:
        """v given h at temperature t."""
        return torch.bernoulli(((1 - t) * self.base + t * self.outputs(h)).sigmoid())

    def log_base_mass(self) -> Tensor:
        """log Z_0, `()` float64."""
        return softplus(self.base.double()).sum() + self.weights.shape[1] * math.log(2)

    def enumerable(self) -> bool:
        """Whether the smaller side has few enough states to sum over."""
        return min(self.weights.shape) <= 16

    def log_z(self) -> Tensor:
        """log Z `(B,)` float64, by enumeration of the smaller side."""
        total = None
        for side in _states(min(self.weights.shape), self.weights):
            part = self._log_marginals(side).logsumexp(0)  # (B,)
            total = part if total is None else torch.logaddexp(total, part)
        assert total is not None
        return total

    def _log_marginals(self, side: Tensor) -> Tensor:
        """log of f summed over the larger side, `(S, B)`, at states `side (S, D or H)` of the smaller."""
        if self.weights.shape[0] <= self.weights.shape[1]:
            return self.log_f(side[:, None])
        pulls = side @ self.weights.T  # (S, D)
        visible = softplus(pulls[:, None] + self.visible).sum(-1, dtype=torch.float64)
        return (side[:, None] * self.hidden).sum(-1, dtype=torch.float64) + visible

    def sample(self, n: int) -> Tensor:
        """n exact draws of one machine (B = 1), `(n, D)`: the smaller side from its table, then the other."""
        side = torch.cat(list(_states(min(self.weights.shape), self.weights)))
        weights = self._log_marginals(side)[:, 0].softmax(0)
        chosen = side[torch.multinomial(weights, n, replacement=True)]
        return chosen if self.weights.shape[0] <= self.weights.shape[1] else self.draw_visible(chosen)


class FieldPoint:
    """A state of the chains, with c + v W computed once (see `genzoo.ais.Point`)."""

    def __init__(self, machine: Machine, z: Tensor) -> None:
        self.machine = machine
        self.z = z  # (C, B, D)
        self.inputs = machine.inputs(z)

    def log_prob(self, beta: float) -> Tensor:
        """log f_t(v), `(C, B)` float64."""
        m = self.machine
        linear = (self.z * ((1 - beta) * m.base + beta * m.visible)).sum(-1, dtype=torch.float64)
        return linear + softplus(beta * self.inputs).sum(-1, dtype=torch.float64) - m.log_base_mass()


class FieldPath:
    """From independent pixels to the machine, for B examples (see `genzoo.ais.Path`). Its mass is Z / Z_0."""

    def __init__(self, machine: Machine, examples: int) -> None:
        self.machine = machine
        self.examples = examples

    def draw(self, chains: int) -> FieldPoint:
        """Independent pixels."""
        chance = self.machine.base.sigmoid().expand(chains, self.examples, -1)
        return self.at(torch.bernoulli(chance))

    def at(self, z: Tensor) -> FieldPoint:
        """The point of a state `(C, B, D)`."""
        return FieldPoint(self.machine, z)


def gibbs(point: FieldPoint, beta: float) -> FieldPoint:
    """v -> h -> v at temperature beta."""
    machine = point.machine
    h = torch.bernoulli((beta * point.inputs).sigmoid())
    return FieldPoint(machine, machine.draw_visible(h, beta))


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x) of independent binary `x`, `(*S, B)` float64, both `(*S, B, D)`."""
    return logsigmoid((2 * x - 1) * logits).sum(-1, dtype=torch.float64)


def _states(bits: int, like: Tensor) -> Iterator[Tensor]:
    """All binary vectors of that length, `(S, bits)` at a time."""
    place = 2 ** torch.arange(bits, device=like.device)
    for codes in torch.split(torch.arange(2**bits, device=like.device), ENUMERATED):
        yield (codes[:, None] // place % 2).to(like.dtype)
