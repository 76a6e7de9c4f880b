"""A decoder that tells the pixels of 2 x 2 patches in four stages, each given those before (PixelVAE: Gulrajani et al.
2017, arXiv:1611.05013; in stages, all patches at once: Reed et al. 2017, arXiv:1703.03664).

    p(x given z) = p(a given z) p(d given z, a) p(b given z, a, d) p(c given z, a, d, b)

for the patches a b / c d. Within a stage the pixels are independent, so a likelihood is one pass and a sample is four.
Three quarters of the pixels lie between neighbours that are known: what the latents need not tell costs no divergence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

ORDER = (0, 3, 1, 2)
"""a, d, b, c among the channels that `pixel_unshuffle` makes of a patch."""


class StagedDecoder(nn.Module):
    """From a map of `width` channels, and the pixels, to `features` maps a pixel; zero at first.

    Args:
        channels: of the image. features: numbers a pixel that the head is made from.
        patch: 2, or 1 for a single stage, in which the pixels are independent given the map.
        width: channels of the map and of the networks.
        inputs: channels in which the networks see an image.
    """

    def __init__(self, channels: int, features: int, patch: int, width: int, inputs: int) -> None:
        super().__init__()
        self.channels, self.features, self.patch = channels, features, patch
        self.order = ORDER if patch == 2 else (0,)
        self.see = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs * seen, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)
            )
            for seen in range(1, len(self.order))
        )
        self.tell = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(width, features * channels, 3, padding=1),
            )
            for _ in self.order
        )
        for net in self.tell:
            last = cast(nn.Conv2d, cast(nn.Sequential, net)[-1])
            nn.init.zeros_(last.weight)
            nn.init.zeros_(cast(Tensor, last.bias))

    def forward(self, h: Tensor, planes: Tensor) -> Tensor:
        """Maps `(K B, C, features, H, W)` given the map `h (K B, width, H', W')` and the images as the networks see
        them, `planes (B, inputs, H, W)`: the k-th row of `h` for an image lies k B rows further on."""
        pixels = self._unfolded(planes)
        return self._folded([self._stage(s, h, pixels) for s in range(len(self.order))])

    def draw(self, h: Tensor, sample: Callable[[Tensor], Tensor], seen: Callable[[Tensor], Tensor]) -> Tensor:
        """Images `(R, C, H, W)`: `sample` makes images of maps as `forward` gives, `seen` planes of images."""
        maps = [self._stage(0, h, None)]
        x = sample(self._folded(maps + [torch.zeros_like(maps[0])] * (len(self.order) - 1)))
        for s in range(1, len(self.order)):
            maps.append(self._stage(s, h, self._unfolded(seen(x))))
            drawn = sample(self._folded(maps + [torch.zeros_like(maps[0])] * (len(self.order) - 1 - s)))
            at = self.order[s]
            x[..., at // 2 :: 2, at % 2 :: 2] = drawn[..., at // 2 :: 2, at % 2 :: 2]
        return x

    def _stage(self, s: int, h: Tensor, pixels: Tensor | None) -> Tensor:
        """Maps `(R, C * features, H', W')` of the pixels of stage `s`, given those of earlier ones."""
        if s > 0:
            assert pixels is not None
            known = self.see[s - 1](pixels[:, :, list(self.order[:s])].flatten(1, 2))
            h = h + known.repeat(len(h) // len(known), 1, 1, 1)
        return cast(Tensor, self.tell[s](h))

    def _unfolded(self, planes: Tensor) -> Tensor:
        """`(B, inputs, H, W)` to `(B, inputs, 4, H', W')`."""
        parts = nn.functional.pixel_unshuffle(planes, self.patch)
        return parts.reshape(len(planes), -1, self.patch**2, *parts.shape[2:])

    def _folded(self, maps: list[Tensor]) -> Tensor:
        """Of all stages, in their order, to `(R, C, features, H, W)`, float32."""
        at = [self.order.index(place) for place in range(len(self.order))]
        whole = torch.stack([maps[s] for s in at], 2).flatten(1, 2)
        maps_of_pixels = nn.functional.pixel_shuffle(whole.float(), self.patch)
        return maps_of_pixels.reshape(len(whole), self.channels, self.features, *maps_of_pixels.shape[2:])
