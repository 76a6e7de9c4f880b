"""Importance sampling of a latent z in the plane, from cells of its prior that lie near the example once generated.

    z = Phi^-1(u), u uniform on the unit square, cut into N^2 equal cells with midpoints u_j, g_j = G(Phi^-1(u_j))
    q(j given x)   0.1 / N^2 + 0.9 N(x; g_j, s_j^2 I) / sum over k,   s_j^2 = s^2 + h_j^2
    draw           a cell from q, then u uniform in it:  log w = log N(x; G(z), s^2 I) - log(N^2 q(j given x))

In a cell the prior is uniform in u, so p(z) / q(z given x) is 1 / (N^2 q(j given x)) there: E w = p(x) for any q that
is nowhere zero, and the share of the prior keeps that ratio below 10. h_j is half the way to the farthest neighbour of
g_j, so that a cell which G stretches is drawn by every example that it may reach. Draws are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SIDE = 64
"""N, cells a side."""
PRIOR_SHARE = 0.1


def midpoints(device: torch.device) -> Tensor:
    """z at the midpoints of the cells, `(N^2, 2)` float32."""
    return _latent(torch.arange(SIDE**2, device=device), torch.tensor([0.5, 0.5], device=device).double())


class Cells:
    """What a generator makes of one z a cell, for each label of a batch.

    Args:
        generate: z `(R, 2)` and labels `(R,)` or None to `(R, *event_shape)`.
        z: `(N^2, 2)`, one a cell.
        condition: labels `(B,)` of the examples, or None.
    """

    def __init__(
        self, generate: Callable[[Tensor, Tensor | None], Tensor], z: Tensor, condition: Tensor | None
    ) -> None:
        self._labels = None if condition is None else torch.unique(condition)
        labels = [None] if self._labels is None else self._labels[:, None].expand(-1, len(z))
        self.generated = torch.stack([generate(z, label).flatten(1).double() for label in labels])  # (L, N^2, D)

    def squares(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Squared distances `(B, N^2)` float64 of `x` to what its label generates."""
        x, which = x.flatten(1).double(), self._which(x, condition)
        square = x.new_empty(len(x), self.generated.shape[1])
        for at, generated in enumerate(self.generated):
            some = x[which == at]
            # the expanded square, exact enough in float64
            square[which == at] = some.square().sum(1)[:, None] + generated.square().sum(1) - 2 * some @ generated.T
        return square.clamp_(min=0)

    def shares(self, x: Tensor, condition: Tensor | None, log_noise: Tensor) -> Tensor:
        """q(j given x) `(B, N^2)` float64."""
        reached = torch.stack([reach(generated) for generated in self.generated])[self._which(x, condition)]
        variance = (2 * log_noise.double()).exp() + reached
        log_near = -0.5 * (self.squares(x, condition) / variance + self.generated.shape[2] * variance.log())
        return PRIOR_SHARE / SIDE**2 + (1 - PRIOR_SHARE) * log_near.softmax(1)

    def _which(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Place of each example's label, `(B,)`."""
        if self._labels is None or condition is None:
            return torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return torch.searchsorted(self._labels, condition)


class CellLaw:
    """q(z given x) of B examples, piecewise the prior; a `genzoo.latent.Proposal`.

    Args:
        share: q(j given x) `(B, N^2)` float64.
    """

    def __init__(self, share: Tensor) -> None:
        self.share = share
        z = midpoints(share.device).double()
        self.mean = (share @ z).float()
        self.stddev = (share @ z.square() - (share @ z).square()).clamp(min=SIDE**-2).sqrt().float()

    def sample(self, sample_shape: torch.Size) -> Tensor:
        """z `(k, B, 2)` float32 for `sample_shape (k,)`."""
        cell = torch.multinomial(self.share, sample_shape[0], replacement=True).T  # (k, B)
        return _latent(cell, torch.rand(*cell.shape, 2, dtype=torch.float64, device=cell.device))

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z given x) `(k, B)` float64 at z `(k, B, 2)`."""
        z = value.double()
        row, column = (torch.special.ndtr(z.detach()) * SIDE).long().clamp(max=SIDE - 1).unbind(-1)
        share = self.share.T.gather(0, row * SIDE + column)
        return share.log() + 2 * math.log(SIDE) - 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


def reach(generated: Tensor) -> Tensor:
    """h^2 `(N^2,)` of cells whose midpoints are generated at `(N^2, D)`."""
    grid = generated.view(SIDE, SIDE, -1)
    farthest = grid.new_zeros(SIDE, SIDE)
    for axis in (0, 1):
        step = grid.diff(dim=axis).square().sum(-1)
        for at in (0, 1):
            part = farthest.narrow(axis, at, SIDE - 1)
            part.copy_(torch.maximum(part, step))
    return farthest.flatten() / 4


def _latent(cell: Tensor, place: Tensor) -> Tensor:
    """z `(*S, 2)` float32 at `place`, float64 in [0, 1]^2, of `cell (*S,)`."""
    corner = torch.stack([cell // SIDE, cell % SIDE], -1)
    u = ((corner + place) / SIDE).clamp(2.0**-53, 1 - 2.0**-53)  # z is within 8.2 of 0
    z: Tensor = torch.special.ndtri(u)
    return z.float()
