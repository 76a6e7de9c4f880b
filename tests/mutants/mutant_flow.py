"""A correct flow of affine couplings in the plane (Dinh et al., arXiv:1605.08803), and mutants with one thing wrong.

    z = f((x - m) / s),    log p(x) = log N(z; 0, 1) + log |det df| - sum_i log s_i

A mutant overrides one method. `caught_by` is the check that must find it, `effect` the least harm in nats and `measure`
what it is done to; see `tests/mutants/effects.py`.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from genzoo import DataSpec, GradientModel, LogLikelihood, hookimpl
from genzoo.cards import ModelCard
from genzoo.config import Config, TrainSettings
from genzoo.nn import MLP
from genzoo.spec import Split

COUPLINGS = 4


class TwinFlow(GradientModel):
    """The correct one."""

    loc: Tensor
    scale: Tensor

    def __init__(self, spec: DataSpec, config: Config | None = None) -> None:
        super().__init__(spec, config)
        self.register_buffer("loc", torch.zeros(2))
        self.register_buffer("scale", torch.ones(2))
        self.nets = nn.ModuleList(MLP(1, 2, [24], nn.Tanh) for _ in range(COUPLINGS))

    def _initialise(self, train: Split) -> None:
        x = train.batch(torch.arange(len(train)), torch.Generator()).x
        self.loc.copy_(x.mean(0))
        self.scale.copy_(x.std(0))

    def default_training(self) -> TrainSettings:
        return TrainSettings(learning_rate=0.02)

    def log_scale(self) -> Tensor:
        """Of the standardisation, as it enters the log-det."""
        return self.scale.log()

    def features(self, h: Tensor) -> Tensor:
        """What a coupling's network sees of the half `h (B, 1)` that it keeps."""
        return h

    def coupling(self, i: int, kept: Tensor) -> tuple[Tensor, Tensor]:
        log_s, t = self.nets[i](self.features(kept)).chunk(2, 1)
        return log_s.tanh(), t

    def to_base(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z `(B, 2)` and log |det| `(B,)` without that of the standardisation."""
        halves = list(((x - self.loc) / self.scale).split(1, 1))
        log_det = x.new_zeros(len(x))
        for i in range(COUPLINGS):
            log_s, t = self.coupling(i, halves[i % 2])
            halves[1 - i % 2] = halves[1 - i % 2] * log_s.exp() + t
            log_det = log_det + log_s[:, 0]
        return torch.cat(halves, 1), log_det

    def from_base(self, z: Tensor) -> Tensor:
        halves = list(z.split(1, 1))
        for i in reversed(range(COUPLINGS)):
            log_s, t = self.coupling(i, halves[i % 2])
            halves[1 - i % 2] = (halves[1 - i % 2] - t) * (-log_s).exp()
        return self.loc + self.scale * torch.cat(halves, 1)

    def base_log_prob(self, z: Tensor) -> Tensor:
        return (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(1)

    def base_sample(self, n: int) -> Tensor:
        return torch.randn(n, 2)

    def log_prob(self, x: Tensor) -> Tensor:
        z, log_det = self.to_base(x)
        return self.base_log_prob(z) + log_det - self.log_scale().sum()

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return -self.log_prob(x)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return LogLikelihood.exact(self.log_prob(x))

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return self.from_base(self.base_sample(n))


class NoLogDet(TwinFlow):
    """The log-det of the couplings is dropped."""

    caught_by: ClassVar[str] = "mass_is_one[plane]"
    effect: ClassVar[float] = 0.1

    def to_base(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = super().to_base(x)
        return z, torch.zeros_like(log_det)


class LogDetSign(TwinFlow):
    """The log-det has the wrong sign."""

    caught_by: ClassVar[str] = "mass_is_one[plane]"
    effect: ClassVar[float] = 0.1

    def to_base(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = super().to_base(x)
        return z, -log_det


class NoScale(TwinFlow):
    """The standardisation is left out of the log-det."""

    caught_by: ClassVar[str] = "below_the_truth[plane]"
    effect: ClassVar[float] = 0.1

    def log_scale(self) -> Tensor:
        return torch.zeros_like(self.scale)


class MeanOverDimensions(TwinFlow):
    """The base density is averaged over dimensions where it should be summed."""

    caught_by: ClassVar[str] = "mass_is_one[plane]"
    effect: ClassVar[float] = 0.1

    def base_log_prob(self, z: Tensor) -> Tensor:
        return super().base_log_prob(z) / 2


class LogBaseTwo(TwinFlow):
    """The normaliser of the base in bits, the rest in nats."""

    caught_by: ClassVar[str] = "mass_is_one[plane]"
    effect: ClassVar[float] = 0.1

    def base_log_prob(self, z: Tensor) -> Tensor:
        return (-0.5 * z.square() - 0.5 * math.log2(2 * math.pi)).sum(1)


class EpsilonInScale(TwinFlow):
    """A small number added to the scale where it divides, but not in the log-det."""

    caught_by: ClassVar[str] = "mass_is_one[plane]"
    effect: ClassVar[float] = 0.03

    def to_base(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().to_base(self.loc + (x - self.loc) * self.scale / (self.scale + 0.07))


class BatchStatistics(TwinFlow):
    """The networks see their input normalised by the batch, at evaluation too."""

    caught_by: ClassVar[str] = "neighbours_do_not_matter[plane]"
    effect: ClassVar[float] = 0.1

    def features(self, h: Tensor) -> Tensor:
        return (h - h.mean()) / (h.std(correction=0) + 1e-3)


class DropoutLeftOn(TwinFlow):
    """Dropout that does not know of eval mode."""

    caught_by: ClassVar[str] = "exact_has_no_noise[plane]"
    effect: ClassVar[float] = 0.1

    def features(self, h: Tensor) -> Tensor:
        return nn.functional.dropout(h, 0.2, training=True)


class OtherPrior(TwinFlow):
    """Samples start from a uniform law of the same variance as the base that is scored."""

    caught_by: ClassVar[str] = "samples_match[plane]"
    effect: ClassVar[float] = 0.1
    measure: ClassVar[str] = "samples"

    def base_sample(self, n: int) -> Tensor:
        return math.sqrt(12) * (torch.rand(n, 2) - 0.5)


class Temperature(TwinFlow):
    """Samples at temperature 0.7."""

    caught_by: ClassVar[str] = "samples_match[plane]"
    effect: ClassVar[float] = 0.1
    measure: ClassVar[str] = "samples"

    def base_sample(self, n: int) -> Tensor:
        return 0.7 * super().base_sample(n)


class MildTemperature(TwinFlow):
    """Samples at temperature 0.85."""

    caught_by: ClassVar[str] = "samples_match[plane]"
    effect: ClassVar[float] = 0.03
    measure: ClassVar[str] = "samples"

    def base_sample(self, n: int) -> Tensor:
        return 0.85 * super().base_sample(n)


class TruncatedSupport(TwinFlow):
    """Samples from the base truncated to two deviations: 4.6 % a dimension are missing."""

    caught_by: ClassVar[str] = "samples_match[plane]"
    effect: ClassVar[float] = 0.03
    measure: ClassVar[str] = "samples"

    def base_sample(self, n: int) -> Tensor:
        return nn.init.trunc_normal_(torch.empty(n, 2))


@hookimpl
def genzoo_models() -> list[ModelCard]:
    names = {
        "twin_flow": TwinFlow,
        "flow_no_log_det": NoLogDet,
        "flow_log_det_sign": LogDetSign,
        "flow_no_scale": NoScale,
        "flow_mean_over_dimensions": MeanOverDimensions,
        "flow_log_base_two": LogBaseTwo,
        "flow_epsilon_in_scale": EpsilonInScale,
        "flow_batch_statistics": BatchStatistics,
        "flow_dropout_left_on": DropoutLeftOn,
        "flow_other_prior": OtherPrior,
        "flow_temperature": Temperature,
        "flow_mild_temperature": MildTemperature,
        "flow_truncated_support": TruncatedSupport,
    }
    return [
        ModelCard(
            name=name,
            summary=(model.__doc__ or "").strip(),
            family="normalizing flow",
            target=f"{__name__}:{model.__name__}",
            data=("real",),
            min_dims=2,
            max_dims=2,
        )
        for name, model in names.items()
    ]
