"""A correct density over dequantised codes (Theis et al., arXiv:1511.01844), and mutants with one thing wrong.

    s = (x + u) / L, u ~ U[0, 1)^D,    y = logit s,    log w = log q(y) + sum_i -log s_i (1 - s_i) - D log L

q is a mixture of Gaussians with diagonal covariances. exp(log w) is unbiased for P(x), the integral over the cell.
Attributes of a mutant: see `mutant_flow.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from genzoo import DataSpec, LatentVariableModel, hookimpl
from genzoo.cards import ModelCard
from genzoo.config import Config, TrainSettings

COMPONENTS = 2


class TwinDequantised(LatentVariableModel):
    """The correct one."""

    def __init__(self, spec: DataSpec, config: Config | None = None) -> None:
        super().__init__(spec, config)
        assert spec.levels is not None
        self.levels = spec.levels
        self.logits = nn.Parameter(torch.zeros(COMPONENTS))
        self.loc = nn.Parameter(torch.randn(COMPONENTS, spec.dims))
        self.log_scale = nn.Parameter(torch.full((COMPONENTS, spec.dims), math.log(1.5)))

    def default_training(self) -> TrainSettings:
        return TrainSettings(learning_rate=0.05)

    def log_prob(self, y: Tensor) -> Tensor:
        """log q, `(K, B)`, of `y (K, B, D)`."""
        log_n = -0.5 * ((y[..., None, :] - self.loc) * (-self.log_scale).exp()).square() - self.log_scale
        return (log_n.sum(-1) - 0.5 * y.shape[-1] * math.log(2 * math.pi) + self.logits.log_softmax(-1)).logsumexp(-1)

    def noise(self, k: int, n: int) -> Tensor:
        """u, `(k, n, D)`."""
        return torch.rand(k, n, self.spec.dims).clamp(1e-6, 1 - 1e-6)

    def constant(self) -> float:
        """Of the change of variables from codes to fractions."""
        return -self.spec.dims * math.log(self.levels)

    def _log_weights(self, x: Tensor, num_samples: int, condition: Tensor | None) -> Mapping[str, Tensor]:
        s = (x.flatten(1).float() + self.noise(num_samples, len(x))) / self.levels
        y = s.log() - (1 - s).log()
        jacobian = -(s.log() + (1 - s).log()).sum(-1) + self.constant()
        return {"base": self.log_prob(y), "log_det": jacobian}

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return -torch.stack(list(self._log_weights(x, 1, None).values())).sum(0)[0]

    def to_codes(self, scaled: Tensor) -> Tensor:
        """Codes of L s."""
        return scaled.floor()

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        c = torch.multinomial(self.logits.softmax(-1), n, replacement=True)
        y = self.loc[c] + self.log_scale[c].exp() * torch.randn(n, self.spec.dims)
        codes = self.to_codes(self.levels * y.sigmoid()).clamp(0, self.levels - 1)
        return codes.view(n, *self.spec.event_shape).to(torch.uint8)


class NoConstant(TwinDequantised):
    """-D log L, the constant of dequantization, is forgotten."""

    caught_by: ClassVar[str] = "mass_is_one[levels_image]"
    effect: ClassVar[float] = 0.1

    def constant(self) -> float:
        return 0.0


class OneNoise(TwinDequantised):
    """One draw of the noise stands for all K."""

    rows = 2**20  # all draws in one chunk

    caught_by: ClassVar[str] = "draws_tighten[levels_image]"
    effect: ClassVar[float] = 0.1

    def noise(self, k: int, n: int) -> Tensor:
        return super().noise(1, n).expand(k, -1, -1)


class RoundedSamples(TwinDequantised):
    """Samples are rounded to the nearest code, not down."""

    caught_by: ClassVar[str] = "samples_match[levels_image]"
    effect: ClassVar[float] = 0.1
    measure: ClassVar[str] = "samples"

    def to_codes(self, scaled: Tensor) -> Tensor:
        return scaled.round()


@hookimpl
def genzoo_models() -> list[ModelCard]:
    names = {
        "twin_dequantised": TwinDequantised,
        "dequantised_no_constant": NoConstant,
        "dequantised_one_noise": OneNoise,
        "dequantised_rounded_samples": RoundedSamples,
    }
    return [
        ModelCard(
            name=name,
            summary=(model.__doc__ or "").strip(),
            family="mixture",
            target=f"{__name__}:{model.__name__}",
            data=("discrete",),
            num_samples={"discrete": 64},
            kind="weights",
        )
        for name, model in names.items()
    ]
