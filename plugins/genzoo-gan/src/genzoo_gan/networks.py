"""Generators and critics: MLPs, or transposed and strided convolutions for images.

The MLPs have ReLU, whose second derivative is free: the gradient penalty differentiates the critic twice."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from genzoo.errors import CapabilityError
from genzoo.nn import MLP
from genzoo.spec import DataSpec


class ImageGenerator(nn.Module):
    """z `(R, d)` to `(R, C H W)`: a map of a quarter of the sides, doubled twice and cut to size (DCGAN, Radford et al.
    2016, arXiv:1511.06434, with group norms, since batch statistics would tie examples together)."""

    def __init__(self, inputs: int, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.shape = shape
        self.small = (shape[1] + 3) // 4, (shape[2] + 3) // 4
        self.first = nn.Linear(inputs, 2 * width * self.small[0] * self.small[1])
        self.body = nn.Sequential(
            nn.GroupNorm(8, 2 * width),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.ConvTranspose2d(width, shape[0], 4, stride=2, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """See the class."""
        h = self.first(z).view(len(z), -1, *self.small)
        return cast(Tensor, self.body(h))[:, :, : self.shape[1], : self.shape[2]].flatten(1)


class ImageCritic(nn.Module):
    """x and label `(R, C H W + classes)` to `(R, 1)`."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int) -> None:
        super().__init__()
        self.shape, self.classes = shape, classes
        self.body = nn.Sequential(
            nn.Conv2d(shape[0], width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        places = ((shape[1] + 3) // 4) * ((shape[2] + 3) // 4)
        self.last = nn.Linear(2 * width * places + classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        pixels, label = torch.split(x, [x.shape[1] - self.classes, self.classes], 1)
        h = self.body(pixels.reshape(len(x), *self.shape))
        return cast(Tensor, self.last(torch.cat([h, label], 1)))


def generator_for(spec: DataSpec, inputs: int, width: int | None, network: str) -> nn.Module:
    """`(R, inputs)` to `(R, D)`. Raises CapabilityError for convolutions on what is no image."""
    if network == "conv":
        return ImageGenerator(inputs, _image(spec), _eights(width or 32))
    return MLP(inputs, spec.dims, _hidden(spec, width), nn.ReLU)


def critic_for(spec: DataSpec, classes: int, width: int | None, network: str, free: bool) -> nn.Module:
    """`(R, D + classes)` to `(R, 1)`. Where only differences count (`free`), the last bias, which cancels, is fixed."""
    if network == "conv":
        images = ImageCritic(_image(spec), classes, _eights(width or 32))
        images.last.bias.requires_grad_(not free)
        return images
    vectors = MLP(spec.dims + classes, 1, _hidden(spec, width), nn.ReLU)
    cast(nn.Linear, vectors[-1]).bias.requires_grad_(not free)
    return vectors


def begin_at(generator: nn.Module, location: Tensor) -> None:
    """Let a generator of vectors begin near `location (D,)`; convolutions have no bias for each dimension."""
    if isinstance(generator, MLP):
        with torch.no_grad():
            cast(nn.Linear, generator[-1]).bias.copy_(location)


def _hidden(spec: DataSpec, width: int | None) -> list[int]:
    return [width or (128 if spec.dims <= 256 else 256)] * 3


def _image(spec: DataSpec) -> tuple[int, int, int]:
    if len(spec.event_shape) != 3:
        raise CapabilityError(f"network=conv is for images (C, H, W); this data has events {spec.event_shape}")
    channels, height, breadth = spec.event_shape
    return channels, height, breadth


def _eights(width: int) -> int:
    """The next multiple of 8, which the norms' groups divide."""
    return (width + 7) // 8 * 8
