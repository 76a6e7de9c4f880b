"""A correct autoregressive model over codes, and mutants with one thing wrong.

    p(x) = 1/2 sum_o p_o(x),    p_o(x) = prod_i Categorical(x_i; softmax(b + W x)_i), W masked by the order o

The two orders are first to last and last to first (compare Uria et al., arXiv:1310.1757). The answer is exact.
Attributes of a mutant: see `mutant_flow.py`.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from genzoo import DataSpec, GradientModel, LogLikelihood, hookimpl
from genzoo.cards import ModelCard
from genzoo.config import Config, TrainSettings


class TwinOrders(GradientModel):
    """The correct one."""

    mask: Tensor

    def __init__(self, spec: DataSpec, config: Config | None = None) -> None:
        super().__init__(spec, config)
        assert spec.levels is not None
        self.levels = spec.levels
        size = spec.dims * spec.levels
        self.weight = nn.Parameter(0.1 * torch.randn(2, size, size))
        self.bias = nn.Parameter(torch.zeros(2, size))
        lower = self.lower().repeat_interleave(spec.levels, 0).repeat_interleave(spec.levels, 1)
        self.register_buffer("mask", torch.stack([lower, lower.T]), persistent=False)

    def lower(self) -> Tensor:
        """`(D, D)`: 1 where the row's dimension may see the column's, in the order first to last."""
        return torch.ones(self.spec.dims, self.spec.dims).tril(-1)

    def default_training(self) -> TrainSettings:
        return TrainSettings(learning_rate=0.05)

    def logits(self, codes: Tensor) -> Tensor:
        """Under each order, `(2, B, D, levels)`, of `codes (B, D)`."""
        seen = nn.functional.one_hot(codes, self.levels).flatten(1).float()
        outputs = seen @ (self.weight * self.mask).transpose(1, 2) + self.bias[:, None]
        return outputs.unflatten(-1, (self.spec.dims, self.levels))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Their log, `(..., levels)`."""
        return logits.log_softmax(-1)

    def log_prob(self, codes: Tensor) -> Tensor:
        log_p = self.probabilities(self.logits(codes))
        picked = log_p.gather(-1, codes[None, ..., None].expand(2, -1, -1, 1))[..., 0].sum(-1)  # (2, B)
        return picked.logsumexp(0) - math.log(2)

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return -self.log_prob(x.flatten(1).long())

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return LogLikelihood.exact(self.log_prob(x.flatten(1).long()))

    def temper(self, logits: Tensor) -> Tensor:
        """Logits that the sampler draws from."""
        return logits

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        codes = torch.zeros(n, self.spec.dims, dtype=torch.int64)
        backward = torch.rand(n) < 0.5
        for i in range(self.spec.dims):
            at = torch.where(backward, self.spec.dims - 1 - i, i)
            logits = self.temper(self.logits(codes))[backward.long(), torch.arange(n), at]  # (n, levels)
            codes[torch.arange(n), at] = torch.multinomial(logits.softmax(-1), 1)[:, 0]
        return codes.view(n, *self.spec.event_shape).to(torch.uint8)


class AveragedLogits(TwinOrders):
    """The logits of the orders are averaged where their probabilities should be."""

    caught_by: ClassVar[str] = "mass_is_one[binary]"
    effect: ClassVar[float] = 0.1

    def logits(self, codes: Tensor) -> Tensor:
        return super().logits(codes).mean(0, keepdim=True).expand(2, -1, -1, -1)


class LeakyMask(TwinOrders):
    """Each dimension sees itself."""

    caught_by: ClassVar[str] = "mass_is_one[binary]"
    effect: ClassVar[float] = 0.1

    def lower(self) -> Tensor:
        return torch.ones(self.spec.dims, self.spec.dims).tril(0)


class LossSign(TwinOrders):
    """The loss is the log-likelihood, and not minus it."""

    caught_by: ClassVar[str] = "training_helps[binary]"
    effect: ClassVar[float] = 0.1
    measure: ClassVar[str] = "loss"

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return -super()._loss(x, progress, condition)


class SharpLogits(TwinOrders):
    """Samples at temperature 0.75."""

    caught_by: ClassVar[str] = "samples_match[binary]"
    effect: ClassVar[float] = 0.03
    measure: ClassVar[str] = "samples"

    def temper(self, logits: Tensor) -> Tensor:
        return logits / 0.75


@hookimpl
def genzoo_models() -> list[ModelCard]:
    names = {
        "twin_orders": TwinOrders,
        "orders_averaged_logits": AveragedLogits,
        "orders_leaky_mask": LeakyMask,
        "orders_loss_sign": LossSign,
        "orders_sharp_logits": SharpLogits,
    }
    return [
        ModelCard(
            name=name,
            summary=(model.__doc__ or "").strip(),
            family="autoregressive",
            target=f"{__name__}:{model.__name__}",
            data=("binary", "discrete"),
        )
        for name, model in names.items()
    ]
