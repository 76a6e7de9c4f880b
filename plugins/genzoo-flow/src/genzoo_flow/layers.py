"""Layers of a flow, as transforms in the sense of nflows: `forward` takes data towards noise.

    z, ladj = layer(x, context)              ladj (B,) = log |det dz/dx|
    x, -ladj = layer.inverse(z, context)

`context` is one-hot labels `(B, classes)` or None. A composed layer can also tell the parts of ladj one by one.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from nflows.transforms.base import Transform
from torch import Tensor, nn

from genzoo_flow.spline import rational_quadratic

Pass = tuple[Tensor, Tensor]


class Layer(Transform):  # type: ignore[misc]  # nflows is untyped
    """An invertible map of `(B, ...)`."""

    @abstractmethod
    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """Towards noise: outputs and log |det| `(B,)`."""

    @abstractmethod
    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """Towards data: outputs and log |det| `(B,)` of the inverse."""

    def parts(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """As `forward`, but log |det| is `(B, depth)`, one column for each elementary layer inside."""
        z, ladj = self(inputs, context)
        return z, ladj[:, None]

    def settled(self, z: Tensor) -> Tensor:
        """`inverse` with every coupling inside left out: what depends on no other dimension, and the order."""
        return self.inverse(z)[0]

    def unrolled(self, z: Tensor, context: Tensor | None = None) -> Iterator[Tensor]:
        """What `z` is after each coupling inside on its way to data, those to come left out; the last is `inverse`."""
        yield from ()


class Fitted(Layer):
    """A layer whose buffers come from data."""

    @abstractmethod
    def fit(self, x: Tensor) -> None:
        """Set the buffers from examples `x`, once, before training."""


class Composed(Layer):
    """A layer made of others: `forward` is the sum over `parts`."""

    @abstractmethod
    def parts(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """As Layer.parts."""

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """As Layer.forward."""
        z, ladj = self.parts(inputs, context)
        return z, ladj.sum(1)


class Chain(Composed):
    """Layers one after another."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def parts(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """As Layer.parts."""
        columns = []
        for layer in self._sequence():
            inputs, ladj = layer.parts(inputs, context)
            columns.append(ladj)
        return inputs, torch.cat(columns, 1) if columns else inputs.new_zeros(len(inputs), 0)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """As Layer.inverse."""
        total = inputs.new_zeros(len(inputs))
        for layer in reversed(self._sequence()):
            inputs, ladj = layer.inverse(inputs, context)
            total = total + ladj
        return inputs, total

    def _sequence(self) -> list[Layer]:
        return [cast(Layer, layer) for layer in self.layers]

    def settled(self, z: Tensor) -> Tensor:
        """As Layer.settled."""
        return _settled(self._sequence(), z)

    def unrolled(self, z: Tensor, context: Tensor | None = None) -> Iterator[Tensor]:
        """As Layer.unrolled."""
        layers = self._sequence()
        while layers:
            layer = layers.pop()
            for state in layer.unrolled(z, context):
                yield _settled(layers, state)
            z, _ = layer.inverse(z, context)


def _settled(layers: Sequence[Layer], z: Tensor) -> Tensor:
    for layer in reversed(layers):
        z = layer.settled(z)
    return z


class Standardise(Fitted):
    """z = (x - loc) / scale with each dimension's mean and deviation: ActNorm with frozen statistics
    (Kingma and Dhariwal 2018, arXiv:1807.03039, section 3.1)."""

    loc: Tensor
    log_scale: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(dims))
        self.register_buffer("log_scale", torch.zeros(dims))

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """`(B, dims)`, as Layer.forward."""
        return (inputs - self.loc) * torch.exp(-self.log_scale), -self.log_scale.sum().expand(len(inputs))

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """`(B, dims)`, as Layer.inverse."""
        return inputs * self.log_scale.exp() + self.loc, self.log_scale.sum().expand(len(inputs))

    def fit(self, x: Tensor) -> None:
        """Mean and deviation; a dimension that never moves keeps scale 1."""
        scale = x.double().std(0, correction=0)
        self.loc.copy_(x.double().mean(0))
        self.log_scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)).log())


class Permutation(Layer):
    """A fixed order of the channels (dimension 1)."""

    order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """`(B, C, ...)`, as Layer.forward."""
        return inputs.index_select(1, self.order), inputs.new_zeros(len(inputs))

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """`(B, C, ...)`, as Layer.inverse."""
        return inputs.index_select(1, self.order.argsort()), inputs.new_zeros(len(inputs))

    def parts(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """No column: there is nothing to tell."""
        return inputs.index_select(1, self.order), inputs.new_zeros(len(inputs), 0)


class SplineCoupling(Layer):
    """Channels start..stop-1 go through splines whose parameters a network computes from the others, which pass.

    Args:
        moved: (start, stop), along dimension 1. Where these are all channels the network sees a constant one.
        network: (kept `(B, C_kept, ...)`, context) to `(B, C_moved (3 K - 1), ...)`.
        bound: b of the splines.
        temperature: unnormalised widths and heights are divided by it; nflows uses the root of the hidden width.
            Under Adam the splines then learn that much more slowly.
    """

    def __init__(self, moved: tuple[int, int], network: nn.Module, *, bound: float, temperature: float) -> None:
        super().__init__()
        (self.start, self.stop), self.network = moved, network
        self.bound, self.temperature = bound, temperature

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """`(B, C, ...)`, as Layer.forward."""
        return self._pass(inputs, context, inverse=False)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """`(B, C, ...)`, as Layer.inverse."""
        return self._pass(inputs, context, inverse=True)

    def settled(self, z: Tensor) -> Tensor:
        """As Layer.settled: left out."""
        return z

    def unrolled(self, z: Tensor, context: Tensor | None = None) -> Iterator[Tensor]:
        """As Layer.unrolled: itself."""
        yield self.inverse(z, context)[0]

    def _pass(self, inputs: Tensor, context: Tensor | None, inverse: bool) -> Pass:
        moved = inputs[:, self.start : self.stop]
        # no empty pieces: in two dimensions each call counts
        before = [inputs[:, : self.start]] if self.start else []
        after = [inputs[:, self.stop :]] if self.stop < inputs.shape[1] else []
        kept = before + after or [torch.ones_like(moved)]
        raw = self.network(kept[0] if len(kept) == 1 else torch.cat(kept, 1), context)
        raw = raw.unflatten(1, (moved.shape[1], -1)).movedim(2, 0).contiguous()  # (3 K - 1, B, C_moved, ...)
        moved, ladj = rational_quadratic(moved, raw, self.bound, inverse, self.temperature)
        return torch.cat([*before, moved, *after], 1), ladj.flatten(1).sum(1)


def standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) `(B,)` of `(B, D)`."""
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))
