"""Networks that plugins may share. Shapes: B examples, D features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from genzoo.spec import DataSpec


class MLP(nn.Sequential):
    """Linear layers with an activation between: `(B, inputs)` to `(B, outputs)`.

    Args:
        inputs, outputs: features.
        hidden: width of each hidden layer.
        activation: module class, made anew for each layer.
        zero_last: start the last layer at zero, so that the network begins as the zero function.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int],
        activation: type[nn.Module] = nn.SiLU,
        *,
        zero_last: bool = False,
    ) -> None:
        widths = [inputs, *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
        last = nn.Linear(widths[-1], outputs)
        if zero_last:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        super().__init__(*layers, last)


class ResidualMLP(nn.Module):
    """Residual blocks h + W2 a(W1 a(h)) (He et al., arXiv:1603.05027): `(B, inputs)` to `(B, outputs)`.

    Args:
        inputs, outputs, width: features outside and inside.
        blocks: residual blocks of two layers.
        zero_last: as in MLP.
    """

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int, *, zero_last: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(blocks)
        )
        self.last = nn.Linear(width, outputs)
        if zero_last:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs)` to `(B, outputs)`."""
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        return cast(Tensor, self.last(nn.functional.silu(h)))


class SinusoidalEmbedding(nn.Module):
    """sin and cos of t at geometric frequencies (Vaswani et al., arXiv:1706.03762): `(B,)` to `(B, features)`.

    Args:
        features: even number of outputs.
        low, high: lowest and highest angular frequency.
    """

    frequencies: Tensor

    def __init__(self, features: int, low: float = 1.0, high: float = 1000.0) -> None:
        super().__init__()
        frequencies = torch.exp(torch.linspace(math.log(low), math.log(high), features // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """`(B,)` to `(B, features)`."""
        angle = t[:, None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class Decoder(nn.Module):
    """z and one-hot label `(*S, B, d + classes)` to a head's parameters `(*S, B, P, D)`.

    Args:
        net: `(*S, B, d + classes)` to `(*S, B, features D)`.
        dims, parameters: D and P.
        features: outputs of the network a dimension; where fewer than P, one shared linear map makes P of them.
    """

    def __init__(self, net: nn.Module, dims: int, parameters: int, features: int) -> None:
        super().__init__()
        self.features = features
        self.net = net
        mixes = features < parameters
        self.mix = nn.Parameter(torch.randn(parameters, features) / math.sqrt(features)) if mixes else None
        self.bias = nn.Parameter(torch.zeros(parameters, dims))

    def forward(self, z: Tensor) -> Tensor:
        """See the class."""
        h: Tensor = self.net(z).reshape(*z.shape[:-1], self.features, self.bias.shape[1])  # (*S, B, features, D)
        return (h if self.mix is None else self.mix @ h) + self.bias


def bfloat16_training(module: nn.Module, device: torch.device) -> torch.autocast:
    """The context in which a network's convolutions and products are bfloat16 while it trains on a CPU, about twice as
    fast there. What is evaluated is float32, since bfloat16 moves a bound; keep losses out of it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=module.training and device.type == "cpu")


def condition_features(spec: DataSpec, condition: Tensor | None, n: int, like: Tensor) -> Tensor:
    """One-hot labels `(n, classes)` in the dtype and on the device of `like`; `(n, 0)` for an unconditional spec."""
    if spec.classes is None or condition is None:
        return like.new_zeros((n, 0))
    return nn.functional.one_hot(condition, spec.classes).to(like.dtype)


def condition_width(spec: DataSpec) -> int:
    """Features that `condition_features` gives."""
    return spec.classes or 0
