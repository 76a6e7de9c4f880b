"""Networks that give one number an example: g of an energy-based model."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from genzoo.nn import ResidualMLP, condition_width
from genzoo.spec import DataSpec


class ResidualImage(nn.Module):
    """A small ResNet (He et al., arXiv:1603.05027) without norms, which would tie dimensions or examples together:
    `(R, channels, H, W)` and labels `(R, classes)` to `(R,)`.

    Args:
        channels: of the input. width: of the blocks, which stand at half the sides and at a quarter.
        blocks: at each of the two sizes. classes: 0 for none.
    """

    def __init__(self, channels: int, width: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.label = nn.Linear(classes, width, bias=False) if classes else None
        self.fine = nn.ModuleList(_block(width) for _ in range(blocks))
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.coarse = nn.ModuleList(_block(2 * width) for _ in range(blocks))
        self.last = nn.Linear(2 * width, 1, bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """See the class."""
        h = self.first(x)
        if self.label is not None:
            h = h + self.label(label)[:, :, None, None]
        for block in self.fine:
            h = h + block(h)
        h = self.down(silu(h))
        for block in self.coarse:
            h = h + block(h)
        return cast(Tensor, self.last(silu(h).sum((2, 3))))[:, 0]


class Vectors(nn.Module):
    """A residual MLP for what is no image: `(R, inputs)` and labels to `(R,)`."""

    def __init__(self, inputs: int, width: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.network = ResidualMLP(inputs + classes, 1, width, blocks, zero_last=True)
        self.network.last.bias.requires_grad_(False)  # a constant cancels against Z

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """See the class."""
        return cast(Tensor, self.network(torch.cat([x.flatten(1), label], 1)))[:, 0]


def tilt_for(spec: DataSpec, width: int, blocks: int) -> nn.Module:
    """g for real data `(R, *event_shape)`, or for codes in one-hot form `(R, D, L)`."""
    levels, classes = spec.levels or 1, condition_width(spec)
    if len(spec.event_shape) == 3:
        return ResidualImage(spec.event_shape[0] * levels, width, blocks, classes)
    return Vectors(spec.dims * levels, width, blocks, classes)


def _block(width: int) -> nn.Sequential:
    first, second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
    return nn.Sequential(nn.SiLU(), first, nn.SiLU(), second)
