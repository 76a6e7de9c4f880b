"""Layers of a flow, as transforms in the sense of nflows: `forward` takes data towards noise.

    z, ladj = layer(x, context)              ladj (B,) = log |det dz/dx|
    x, -ladj = layer.inverse(z, context)

`context` is one-hot labels `(B, classes)` or None. A composed layer can also tell the parts of ladj one by one.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from nflows.transforms.base import Transform
from torch import Tensor, nn

from genzoo_flow.spline import parameters_of, rational_quadratic

Pass = tuple[Tensor, Tensor]


class Layer(Transform):  # type: ignore[misc]  # nflows is untyped
    """An invertible map of `(B, ...)`."""

    @abstractmethod
    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """Towards noise: outputs and log |det| `(B,)`."""

    @abstractmethod
    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """Towards data: outputs and log |det| `(B,)` of the inverse."""

    def fit(self, x: Tensor, context: Tensor | None) -> None:
        """Set buffers from examples `x` as they reach this layer, once, before training."""

    def parts(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """As `forward`, but log |det| is `(B, depth)`, one column for each elementary layer inside."""
        z, ladj = self(inputs, context)
        return z, ladj[:, None]


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
        for layer in self.layers:
            inputs, ladj = layer.parts(inputs, context)
            columns.append(ladj)
        return inputs, torch.cat(columns, 1) if columns else inputs.new_zeros(len(inputs), 0)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """As Layer.inverse."""
        total = inputs.new_zeros(len(inputs))
        for layer in reversed(self.layers):
            inputs, ladj = layer.inverse(inputs, context)
            total = total + ladj
        return inputs, total

    def fit(self, x: Tensor, context: Tensor | None) -> None:
        """Each layer on what comes out of those before it."""
        for layer in self.layers:
            layer.fit(x, context)
            x, _ = layer(x, context)

    def unrolled(self, z: Tensor, context: Tensor | None = None) -> Iterator[Tensor]:
        """`z`, then what each inverse layer makes of it, down to data."""
        yield z
        for layer in reversed(self.layers):
            z, _ = layer.inverse(z, context)
            yield z


class Standardise(Layer):
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

    def fit(self, x: Tensor, context: Tensor | None) -> None:
        """Mean and deviation; a dimension that never moves keeps scale 1."""
        scale = x.double().std(0, correction=0)
        self.loc.copy_(x.double().mean(0))
        self.log_scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)).log())


class Permutation(Layer):
    """A fixed random order of the dimensions."""

    order: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(dims))

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """`(B, dims)`, as Layer.forward."""
        return inputs[:, self.order], inputs.new_zeros(len(inputs))

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """`(B, dims)`, as Layer.inverse."""
        return inputs[:, self.order.argsort()], inputs.new_zeros(len(inputs))


class SplineCoupling(Layer):
    """Some channels go through splines whose parameters a network computes from the others.

    Args:
        moved: which channels (dimension 1) are transformed; the rest, which the network sees, pass unchanged. Where all
            are moved the network sees a constant one.
        channels: how many there are.
        network: (kept `(B, C_kept, ...)`, context) to `(B, C_moved (3 K - 1), ...)`, with the K widths and heights
            counted in units of 1 / `temperature`.
        bins, bound: K and b of the spline.
        temperature: unnormalised widths and heights are divided by it; nflows uses the root of the hidden width.
    """

    def __init__(
        self, moved: Sequence[int], channels: int, network: nn.Module, bins: int, bound: float, temperature: float
    ) -> None:
        super().__init__()
        kept = [i for i in range(channels) if i not in set(moved)]
        self.network, self.bins, self.bound, self.temperature = network, bins, bound, temperature
        order = torch.tensor([*kept, *moved])
        self.kept = len(kept)
        # an order that is already there costs nothing; otherwise one index_select each way
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)
        scale = torch.ones(parameters_of(bins))
        scale[: 2 * bins] /= temperature
        self.register_buffer("scale", scale, persistent=False)

    order: Tensor
    back: Tensor
    scale: Tensor

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """`(B, C, ...)`, as Layer.forward."""
        return self._pass(inputs, context, inverse=False)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> Pass:
        """`(B, C, ...)`, as Layer.inverse."""
        return self._pass(inputs, context, inverse=True)

    def _pass(self, inputs: Tensor, context: Tensor | None, inverse: bool) -> Pass:
        ordered = inputs.index_select(1, self.order)
        kept, moved = ordered[:, : self.kept], ordered[:, self.kept :]
        raw = self.network(kept if self.kept else torch.ones_like(inputs[:, :1]), context)
        raw = raw.unflatten(1, (moved.shape[1], -1)).movedim(2, -1)  # (B, C_moved, ..., 3 K - 1)
        moved, ladj = rational_quadratic(moved, raw * self.scale, self.bound, inverse)
        return torch.cat([kept, moved], 1).index_select(1, self.back), ladj.flatten(1).sum(1)


def standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) `(B,)` of `(B, D)`."""
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))
