"""The first layer for images: each pixel's own distribution, made Gaussian.

    z = G^-1(e + (1 - 2 e) F(x)),     G the standard normal's distribution function, e = G(-EDGE)

F is the pixel's histogram in the training data, linear within a bin (Chen and Gopinath 2000; Meng et al. 2020,
arXiv:2003.01941, use the same in one dimension). Codes 0..levels-1 dequantised to [0, levels) have bins on whole codes,
so that before any training the flow is the model of independent categorical pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genzoo_flow.layers import Fitted, Pass

BINS = 256
EDGE = 4.75
"""Where the histogram ends, in deviations of z; beyond, the map goes on as a line. The mass outside is 2e-6, and within
a float32 z still resolves x."""


class Marginal(Fitted):
    """The map above for each pixel of `(B, *shape)`. Inside it counts in float64: near 1, float32 cannot hold F."""

    low: Tensor
    high: Tensor
    width: Tensor
    table: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        dims = math.prod(shape)
        self.register_buffer("low", torch.zeros((), dtype=torch.float64))
        self.register_buffer("high", torch.ones((), dtype=torch.float64))
        self.register_buffer("width", torch.tensor(1 / BINS, dtype=torch.float64))
        uniform = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
        self.register_buffer("table", uniform.repeat(dims, 1))  # (dims, BINS + 1): F at the edges of bins

    @property
    def _tail(self) -> Tensor:
        return 2 * EDGE / (self.high - self.low)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """As Layer.forward."""
        x = inputs.flatten(1).double()
        inside = x.clamp(self.low, self.high)
        place = (inside - self.low) / self.width
        index = place.detach().long().clamp(max=self._last())
        below, above = self._edges(index)
        mass = 1 - 2 * _OUT
        z = torch.special.ndtri(_OUT + mass * (below + (above - below) * (place - index)))
        ladj = ((above - below) * (mass / self.width)).log() + 0.5 * z.square() + 0.5 * math.log(2 * math.pi)
        ladj = torch.where(inside == x, ladj, self._tail.log())
        z = z + (x - inside) * self._tail
        return z.to(inputs.dtype).view_as(inputs), ladj.sum(1).to(inputs.dtype)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """As Layer.inverse."""
        z = inputs.flatten(1).double()
        inside = z.clamp(-EDGE, EDGE)
        mass = 1 - 2 * _OUT
        level = ((torch.special.ndtr(inside) - _OUT) / mass).clamp(0, 1)
        edges = self.table[:, 1:].contiguous()
        index = torch.searchsorted(edges, level.T.contiguous(), right=True).T.clamp(max=self._last())
        below, above = self._edges(index)
        part = ((level - below) / (above - below)).clamp(0, 1)
        ladj = (self.width / (mass * (above - below))).log() - 0.5 * inside.square() - 0.5 * math.log(2 * math.pi)
        ladj = torch.where(inside == z, ladj, -self._tail.log())
        x = self.low + self.width * (index + part) + (z - inside) / self._tail
        return x.to(inputs.dtype).view_as(inputs), ladj.sum(1).to(inputs.dtype)

    def fit(self, x: Tensor) -> None:
        """Histograms of `x (N, *shape)`, one a pixel, smoothed by one example's worth of the histogram of all pixels.

        Bins are whole numbers wide where that gives 16 to 256 of them, halves and so on below, so that the edges of
        dequantised codes are edges of bins.
        """
        self.low.copy_(x.min().floor())
        self.high.copy_(torch.maximum(x.max().ceil(), self.low + 1))
        span = float(self.high - self.low)
        self.width.fill_(span / BINS if span > BINS else 1 / math.ceil(16 / span))
        bins = self._last() + 1
        rows = torch.arange(self.table.shape[0], device=x.device) * bins
        counts = torch.zeros(len(rows) * bins, dtype=torch.float64, device=x.device)
        for at in range(0, len(x), 2000):
            place = ((x[at : at + 2000].flatten(1).double() - self.low) / self.width).long().clamp(max=bins - 1)
            counts += torch.bincount((place + rows).flatten(), minlength=len(counts))
        counts = counts.view(len(rows), bins)
        pooled = counts.sum(0) + 1
        counts = counts + pooled / pooled.sum()
        self.table.fill_(1)
        self.table[:, 0] = 0
        self.table[:, 1:bins] = (counts / counts.sum(1, keepdim=True)).cumsum(1)[:, :-1]

    def _last(self) -> int:
        """The last bin that is in use."""
        return round(float((self.high - self.low) / self.width)) - 1

    def _edges(self, index: Tensor) -> tuple[Tensor, Tensor]:
        table = self.table.T  # (BINS + 1, dims)
        return table.gather(0, index), table.gather(0, index + 1)


_OUT = 0.5 * math.erfc(EDGE / math.sqrt(2))
