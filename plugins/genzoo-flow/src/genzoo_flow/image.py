"""The multi-scale flow for images `(C, H, W)`.

After the marginals (`marginal.py`) each scale turns 2 x 2 pixels a b / c d into channels in the order a, d, b, c
(Dinh et al. 2017, arXiv:1605.08803, section 3.6). Spline couplings then move

    b, c  given a, d          (the checkerboard of section 3.4 there: every moved pixel has four kept neighbours)
    d     given a, b, c
    colours of odd and of even number given the others, where there are several

after which b, c and d leave for the noise and a goes on as an image of half the size. What is left when a side
becomes odd or small is a vector, and goes through couplings for vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from genzoo_flow.layers import Chain, Composed, Layer, Pass, Permutation, SplineCoupling
from genzoo_flow.marginal import Marginal
from genzoo_flow.spline import UNIT_SLOPE, parameters_of
from genzoo_flow.vector import spline_couplings

SMALLEST = 8
"""Least side that is halved: below, a network over all pixels is cheaper than a convolution."""


class ConvNet(nn.Module):
    """Convolutions with a bias of their own at each place, since digits are not the same everywhere; zero at first.

    Args:
        inputs: channels.
        moved: channels whose splines the outputs describe.
        classes: width of the context; 0 for none.
        hidden: channels inside.
        size: (H, W).
        bins: of the splines.
    """

    def __init__(self, inputs: int, moved: int, classes: int, hidden: int, size: tuple[int, int], bins: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, hidden, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(1, hidden, *size))
        self.label = nn.Linear(classes, hidden, bias=False) if classes else None
        self.middle = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.last = nn.Conv2d(hidden, moved * parameters_of(bins), 1)
        with torch.no_grad():
            self.last.weight.zero_()
            cast(Tensor, self.last.bias).zero_().view(moved, -1)[:, 2 * bins :] = UNIT_SLOPE

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`(B, inputs, H, W)` to `(B, moved (3 K - 1), H, W)`."""
        h = self.first(x) + self.place
        if self.label is not None:
            h = h + self.label(context)[:, :, None, None]
        h = torch.relu(h)
        h = h + torch.relu(self.middle(h))
        out: Tensor = self.last(h)
        return out


class Scale(Composed):
    """Squeeze, couplings, three quarters out, and `rest` on the remaining quarter: `(B, C, H, W)` to `(B, C H W)`."""

    def __init__(self, couplings: Chain, rest: Layer) -> None:
        super().__init__()
        self.couplings, self.rest = couplings, rest

    def parts(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """As Layer.parts."""
        h, here = self.couplings.parts(squeeze(inputs), context)
        channels = inputs.shape[1]
        z, there = self.rest.parts(h[:, :channels], context)
        return torch.cat([z, h[:, channels:].flatten(1)], 1), torch.cat([here, there], 1)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """As Layer.inverse."""
        quarter = inputs.shape[1] // 4
        a, there = self.rest.inverse(inputs[:, :quarter], context)
        h, here = self.couplings.inverse(_joined(a, inputs[:, quarter:]), context)
        return unsqueeze(h), here + there

    def settled(self, z: Tensor) -> Tensor:
        """As Layer.settled: each pixel's noise in its place."""
        quarter = z.shape[1] // 4
        return self._whole(self.rest.settled(z[:, :quarter]), z[:, quarter:])

    def unrolled(self, z: Tensor, context: Tensor | None = None) -> Iterator[Tensor]:
        """As Layer.unrolled: the quarter that goes further, then the whole."""
        quarter = z.shape[1] // 4
        for a in self.rest.unrolled(z[:, :quarter], context):
            yield self._whole(a, z[:, quarter:])
        a, _ = self.rest.inverse(z[:, :quarter], context)
        for h in self.couplings.unrolled(_joined(a, z[:, quarter:]), context):
            yield unsqueeze(h)

    def _whole(self, a: Tensor, others: Tensor) -> Tensor:
        return unsqueeze(self.couplings.settled(_joined(a, others)))


def _joined(a: Tensor, others: Tensor) -> Tensor:
    """A quarter `(B, C, H/2, W/2)` and the noise of the others `(B, 3 C H/2 W/2)` as channels `(B, 4 C, H/2, W/2)`."""
    return torch.cat([a, others.reshape(len(a), -1, *a.shape[2:])], 1)


class Flat(Composed):
    """A layer for vectors, used on images of one shape."""

    def __init__(self, shape: tuple[int, int, int], inner: Layer) -> None:
        super().__init__()
        self.shape, self.inner = shape, inner

    def parts(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """As Layer.parts."""
        return self.inner.parts(inputs.flatten(1), context)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """As Layer.inverse."""
        x, ladj = self.inner.inverse(inputs, context)
        return x.reshape(-1, *self.shape), ladj

    def settled(self, z: Tensor) -> Tensor:
        """As Layer.settled."""
        return self.inner.settled(z).reshape(-1, *self.shape)

    def unrolled(self, z: Tensor, context: Tensor | None = None) -> Iterator[Tensor]:
        """As Layer.unrolled."""
        for x in self.inner.unrolled(z, context):
            yield x.reshape(-1, *self.shape)


def squeeze(x: Tensor) -> Tensor:
    """`(B, C, H, W)` to `(B, 4 C, H/2, W/2)`: channels in the order a, d, b, c, each with its C colours."""
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    return torch.cat([a, d, b, c], 1)


def unsqueeze(h: Tensor) -> Tensor:
    """The inverse of `squeeze`."""
    a, d, b, c = h.chunk(4, 1)
    rows = torch.stack([torch.stack([a, b], -1), torch.stack([c, d], -1)], -3)  # (B, C, H/2, 2, W/2, 2)
    return rows.flatten(4).flatten(2, 3)


def image_flow(shape: tuple[int, ...], classes: int, *, rounds: int, hidden: int, bins: int, bound: float) -> Chain:
    """Marginals, then scale after scale.

    Args:
        shape: (C, H, W).
        classes: width of the context; 0 for none.
        rounds: how often the couplings of a scale are gone through.
        hidden: channels of the convolutions; vectors take twice that width.
        bins, bound: of the splines.
    """
    channels, height, width = shape
    return Chain([Marginal(shape), _scales((channels, height, width), classes, rounds, hidden, bins, bound)])


def _scales(shape: tuple[int, int, int], classes: int, rounds: int, hidden: int, bins: int, bound: float) -> Layer:
    channels, height, width = shape
    if height % 2 or width % 2 or min(height, width) < SMALLEST:
        vector = spline_couplings(
            channels * height * width,
            classes,
            layers=2 * rounds,
            hidden=2 * hidden,
            bins=bins,
            bound=bound,
            temperature=(2 * hidden) ** 0.5,
        )
        return Flat(shape, vector)
    size = height // 2, width // 2
    squeezed = 4 * channels

    def coupling(start: int, stop: int) -> SplineCoupling:
        network = ConvNet(squeezed - (stop - start), stop - start, classes, hidden, size, bins)
        return SplineCoupling((start, stop), network, bound=bound, temperature=hidden**0.5)

    couplings: list[Layer] = []
    for _ in range(rounds):
        if channels > 1:
            order = torch.arange(squeezed)
            order = torch.cat([order[order % channels % 2 == odd] for odd in (0, 1)])
            even = int((order % channels % 2 == 0).sum())
            couplings += [Permutation(order), coupling(even, squeezed), coupling(0, even), Permutation(order.argsort())]
        couplings += [coupling(2 * channels, squeezed), coupling(channels, 2 * channels)]
    return Scale(Chain(couplings), _scales((channels, *size), classes, rounds, hidden, bins, bound))
