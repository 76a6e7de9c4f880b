"""Networks whose output for a dimension depends on the dimensions before it alone.

    (x (B, F, D), label (B, classes)) -> (B, P, D),      output i a function of inputs j < i and of the label

`Masked` knows several orders; the others go in the order of the dimensions (raster order for images).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention, silu

from genzoo.nn import bfloat16_training

FEW = 16
"""Dimensions up to which training is float32, since speed is bound by dispatch there."""
Look = Callable[[slice], Tensor]
"""Features `(B, F, d)` of some dimensions, as they are now."""
Stepper = Callable[[int], Tensor]
"""Output `(B, P)` of a dimension; asked for one dimension after another, in the order."""


class Causal(nn.Module, ABC):
    """A network as described at the module's head."""

    orders: Tensor
    """`(M, D)`: in which order each member of an ensemble goes; one row, 0..D-1, for most."""

    @abstractmethod
    def forward(self, x: Tensor, label: Tensor, member: int = 0) -> Tensor:
        """See the module."""

    def stepper(self, look: Look, label: Tensor, member: int = 0) -> Stepper:
        """To draw one dimension at a time; networks that can keep what earlier dimensions gave are faster."""
        return lambda i: self(look(slice(None)), label, member)[:, :, i]  # type: ignore[no-any-return]


def natural(dims: int) -> Tensor:
    """The order of the dimensions, `(1, D)`."""
    return torch.arange(dims)[None]


class Constant(Causal):
    """No dimension depends on another: a table for each label, starting at zero."""

    def __init__(self, dims: int, outputs: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("orders", natural(dims), persistent=False)
        self.table = nn.Parameter(torch.zeros(max(1, classes), outputs, dims))

    def forward(self, x: Tensor, label: Tensor, member: int = 0) -> Tensor:
        """See Causal."""
        if not label.shape[1]:
            return self.table.expand(len(x), -1, -1)
        return torch.einsum("bc,cpd->bpd", label, self.table)


class Shared(Causal):
    """NADE (Larochelle and Murray 2011, eq. 2-4): h_i = a(c + sum_{j<i} W_j x_j), out_i = V_i h_i.

    The sums over j < i are products of matrices: in blocks of about sqrt(D) dimensions, what the blocks before gave,
    and a triangle within the block. On 784 pixels a training step takes two fifths of the time of a running sum over D,
    and in bfloat16 a fifth.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("orders", natural(dims), persistent=False)
        self.into = nn.Parameter(torch.randn(dims, inputs, hidden) / math.sqrt(dims * inputs))
        self.start = nn.Linear(classes + 1, hidden, bias=False)
        self.out = nn.Parameter(torch.randn(dims, outputs, hidden) * (0.1 / math.sqrt(hidden)))

    def forward(self, x: Tensor, label: Tensor, member: int = 0) -> Tensor:
        """See Causal."""
        (b, f, d), h = x.shape, self.into.shape[2]
        n = math.isqrt(d - 1) + 1  # dimensions in a block
        k = -(-d // n)  # blocks
        with bfloat16_training(self, x.device) if d > FEW else contextlib.nullcontext():
            into = pad(self.into, (0, 0, 0, 0, 0, k * n - d)).view(k, n * f, h)
            places = pad(x, (0, k * n - d)).view(b, f, k, n).permute(2, 0, 3, 1)  # (k, B, n, F)
            blocks = (places.reshape(k, b, n * f) @ into).cumsum(0)  # (k, B, H)
            before = self._begin(label) + pad(blocks[:-1], (0, 0, 0, 0, 1, 0))
            earlier = x.new_ones(n, n).tril(-1)  # i sees j < i
            seen = (places[:, None] * earlier[:, None, :, None]).reshape(k, n * b, n * f)
            within = (seen @ into).view(k, n, b, h)
            hidden = silu(within + before[:, None]).view(k * n, b, h)[:d]
            return (hidden @ self.out.transpose(1, 2)).permute(1, 2, 0).to(x.dtype)

    def _begin(self, label: Tensor) -> Tensor:
        """c, and what the label adds, `(B, H)`."""
        return cast(Tensor, self.start(torch.cat([self.out.new_ones(len(label), 1), label], 1)))

    def stepper(self, look: Look, label: Tensor, member: int = 0) -> Stepper:
        """The sum so far is kept: a dimension costs H, not D H."""
        total = self._begin(label).clone()

        def at(i: int) -> Tensor:
            if i:
                total.add_(look(slice(i - 1, i))[:, :, 0] @ self.into[i - 1])
            return silu(total) @ self.out[i].T

        return at


class Masked(Causal):
    """MADE (Germain et al. 2015): masked layers; M orders with degrees of their own share the weights.

    A hidden unit of degree m sees inputs whose place in the order is below m; output i sees hidden units of degree at
    most its place.
    """

    def __init__(
        self, dims: int, inputs: int, outputs: int, classes: int, hidden: Sequence[int], members: int, seed: int
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.arange(dims), *(torch.randperm(dims, generator=generator) for _ in range(members - 1))]
        self.register_buffer("orders", torch.stack(orders))
        widths = [dims * inputs, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.label = nn.ModuleList(nn.Linear(classes, width, bias=False) for width in hidden if classes)
        self.last = nn.Linear(widths[-1], outputs * dims)
        self.skip = nn.Linear(dims * inputs, outputs * dims, bias=False)
        for layer in (self.last, self.skip):
            with torch.no_grad():
                layer.weight.mul_(0.1)
        self.inputs, self.outputs = inputs, outputs
        for m, order in enumerate(orders):
            place = order.argsort()  # of each dimension
            degree = place.repeat(inputs)
            for depth, width in enumerate(hidden):
                # degrees 1..D-1 (0 would see nothing), as even as can be, shuffled for all members but the first
                new = torch.arange(width) % max(1, dims - 1) + 1
                if m:
                    new = new[torch.randperm(width, generator=generator)]
                first = depth == 0
                mask = new[:, None] > degree if first else new[:, None] >= degree
                self.register_buffer(f"mask_{m}_{depth}", mask, persistent=False)
                degree = new
            out = place.repeat(outputs)
            self.register_buffer(f"mask_{m}_last", out[:, None] >= degree, persistent=False)
            self.register_buffer(f"mask_{m}_skip", out[:, None] > place.repeat(inputs), persistent=False)

    def _mask(self, member: int, name: str | int) -> Tensor:
        return cast(Tensor, getattr(self, f"mask_{member}_{name}"))

    def forward(self, x: Tensor, label: Tensor, member: int = 0) -> Tensor:
        """See Causal."""
        flat = x.flatten(1)  # (B, F D): feature by feature, as the masks are
        h = flat
        for depth, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            h = linear(h, layer.weight * self._mask(member, depth), layer.bias)
            h = silu(h + self.label[depth](label) if len(self.label) else h)
        out = linear(h, self.last.weight * self._mask(member, "last"), self.last.bias)
        out = out + linear(flat, self.skip.weight * self._mask(member, "skip"))
        return out.view(len(x), self.outputs, -1)


class Block(nn.Module):
    """Causal self-attention and an MLP, each after a norm and added (pre-norm)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        """`(B, T, width)`; with a `cache` of keys and values `h` is the newest place alone, and joins it."""
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
            for part in self.qkv(self.first(h)).chunk(3, 2)
        )
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = [k, v]
        mixed = scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        h = h + self.merge(mixed.transpose(1, 2).flatten(2))
        return h + cast(Tensor, self.mlp(self.second(h)))


class Attention(Causal):
    """A decoder-only transformer: place i sees the dimensions before it, shifted by a start vector from the label."""

    def __init__(self, dims: int, inputs: int, outputs: int, classes: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.register_buffer("orders", natural(dims), persistent=False)
        self.into = nn.Linear(inputs, width)
        self.start = nn.Linear(classes + 1, width, bias=False)
        self.place = nn.Parameter(0.1 * torch.randn(dims, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, outputs)
        with torch.no_grad():
            self.out.weight.mul_(0.1)

    def begin(self, n: int, label: Tensor) -> Tensor:
        """The start vectors `(n, 1, width)`."""
        one = self.place.new_ones(n, 1)
        return cast(Tensor, self.start(torch.cat([one, label], 1)))[:, None]

    def forward(self, x: Tensor, label: Tensor, member: int = 0) -> Tensor:
        """See Causal."""
        h = torch.cat([self.begin(len(x), label), self.into(x.transpose(1, 2))[:, :-1]], 1) + self.place
        for block in self.blocks:
            h = block(h)
        return cast(Tensor, self.out(self.norm(h))).transpose(1, 2)

    def stepper(self, look: Look, label: Tensor, member: int = 0) -> Stepper:
        """Keys and values of earlier places are kept: a dimension costs one place."""
        caches = [list[Tensor]() for _ in self.blocks]

        def at(i: int) -> Tensor:
            before = self.into(look(slice(i - 1, i)).transpose(1, 2)) if i else self.begin(len(label), label)
            h = before + self.place[i]
            for block, cache in zip(self.blocks, caches, strict=True):
                h = block(h, cache)
            return cast(Tensor, self.out(self.norm(h)))[:, 0]

        return at
