"""A correct mixture of categoricals given a label, and mutants with one thing wrong.

    p(x given y) = sum_c pi_c(y) prod_i Categorical(x_i; softmax a_ci(y))

Without labels there is one set of parameters. The answer is exact. Attributes of a mutant: see `mutant_flow.py`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from genzoo import DataSpec, GradientModel, LogLikelihood, hookimpl
from genzoo.cards import ModelCard
from genzoo.config import Config, TrainSettings

COMPONENTS = 3


class TwinConditional(GradientModel):
    """The correct one."""

    def __init__(self, spec: DataSpec, config: Config | None = None) -> None:
        super().__init__(spec, config)
        assert spec.levels is not None
        labels = spec.classes or 1
        self.log_pi = nn.Parameter(torch.zeros(labels, COMPONENTS))
        self.log_p = nn.Parameter(torch.randn(labels, COMPONENTS, spec.dims, spec.levels))

    def default_training(self) -> TrainSettings:
        return TrainSettings(learning_rate=0.1)

    def weights(self, y: Tensor) -> Tensor:
        """log pi `(B, C)`."""
        return self.log_pi.log_softmax(-1)[y]

    def log_prob(self, codes: Tensor, y: Tensor) -> Tensor:
        """`(B,)` of `codes (B, D)` and labels `(B,)`."""
        log_p = self.log_p.log_softmax(-1)[y]  # (B, C, D, L)
        picked = log_p.gather(-1, codes[:, None, :, None].expand(*log_p.shape[:-1], 1))[..., 0]
        return (picked.sum(-1) + self.weights(y)).logsumexp(-1)

    def labels(self, condition: Tensor | None, n: int) -> Tensor:
        return torch.zeros(n, dtype=torch.int64) if condition is None else condition

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return -self.log_prob(x.flatten(1).long(), self.labels(condition, len(x)))

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return LogLikelihood.exact(self.log_prob(x.flatten(1).long(), self.labels(condition, len(x))))

    def sampled_labels(self, y: Tensor) -> Tensor:
        """Labels that the sampler conditions on."""
        return y

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        y = self.sampled_labels(self.labels(condition, n))
        c = torch.multinomial(self.log_pi.softmax(-1)[y], 1)[:, 0]
        codes = torch.multinomial(self.log_p.softmax(-1)[y, c].flatten(0, 1), 1)
        return codes.view(n, *self.spec.event_shape).to(torch.uint8)


class LabelsLeftOut(TwinConditional):
    """The sampler ignores the labels that it is given."""

    caught_by: ClassVar[str] = "samples_match[labelled]"
    effect: ClassVar[float] = 0.1
    measure: ClassVar[str] = "samples"

    def sampled_labels(self, y: Tensor) -> Tensor:
        return y[torch.randperm(len(y))]


class LabelFrequencies(TwinConditional):
    """Log-frequencies of the labels (against an even split) are left in the conditional: p(x, y), up to a constant."""

    caught_by: ClassVar[str] = "mass_is_one[labelled]"
    effect: ClassVar[float] = 0.1

    def weights(self, y: Tensor) -> Tensor:
        frequencies = torch.tensor([1.15, 0.85]) if len(self.log_pi) == 2 else torch.ones(1)
        return super().weights(y) + frequencies[y, None].log()


@hookimpl
def genzoo_models() -> list[ModelCard]:
    names = {
        "twin_conditional": TwinConditional,
        "conditional_labels_left_out": LabelsLeftOut,
        "conditional_label_frequencies": LabelFrequencies,
    }
    return [
        ModelCard(
            name=name,
            summary=(model.__doc__ or "").strip(),
            family="mixture",
            target=f"{__name__}:{model.__name__}",
            data=("binary",),
        )
        for name, model in names.items()
    ]
