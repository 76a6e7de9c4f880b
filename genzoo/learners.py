"""The learner of gradient models: AdamW (Loshchilov & Hutter, arXiv:1711.05101), warm-up and cosine, clipping, EMA."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genzoo.config import TrainSettings
from genzoo.errors import NumericsError
from genzoo.interface import GradientModel, Learner
from genzoo.seeding import evaluating, seeded
from genzoo.spec import Batch, Split

NAMED = 3
"""Most parameters that an error names."""


class GradientLearner(Learner):
    """Gradient steps on `model.loss`, in place.

    The averaged weights follow avg <- d avg + (1 - d) w with d = min(ema, (1 + step) / (10 + step)), so that a short
    training is not dominated by its first weights.
    """

    def __init__(self, model: GradientModel, settings: TrainSettings) -> None:
        self.model = model
        self.settings = settings
        self.loss_in_nats = model.loss_in_nats
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        # the fused kernel costs a fifth of the plain loop for small networks
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self._average, self._averages = self._copy()
        self._steps = 0

    def start(self, train: Split) -> None:
        """Let the model set its buffers from the data, and begin the average there."""
        with torch.no_grad(), seeded(self.settings.seed, self.model.device):
            self.model._initialise(train)
        self._average, self._averages = self._copy()

    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """One Adam step on the mean loss; NumericsError when the loss or the gradient is not finite."""
        self.model.train()
        loss = self.model.loss(batch.x, progress, batch.y).mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        limit = float("inf") if self.settings.clip is None else self.settings.clip
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, limit)
        if not bool((loss + norm).isfinite()):
            if not bool(loss.isfinite()):
                raise NumericsError(f"loss is {float(loss.detach())} at step {self._steps}")
            wrong = [name for name, p in self.model.named_parameters() if not _finite_gradient(p)]
            named = f", from {', '.join(wrong[:NAMED])}" if wrong else ""  # else finite parts whose squares overflow
            raise NumericsError(f"gradient norm is {float(norm.detach())} at step {self._steps}{named}")
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.learning_rate_at(progress)
        self._optimizer.step()
        self._steps += 1
        decay = min(self.settings.ema, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._averages, [p.detach() for p in self._parameters], 1 - decay)
        return {"loss": loss.detach(), "gradient_norm": norm.detach()}

    def finish(self, train: Split, valid: Split) -> None:
        """Bring buffers up to date in the averaged model and let it fit what is not trained."""
        with torch.no_grad(), evaluating(self._average), seeded(self.settings.seed, self.model.device):
            for mine, its in zip(self._average.buffers(), self.model.buffers(), strict=True):
                mine.copy_(its)
            self._average._calibrate(train, valid)

    def evaluated(self) -> GradientModel:
        """The averaged model."""
        return self._average

    def state_dict(self) -> dict[str, Any]:
        """Model, average, optimiser, step count."""
        return {
            "model": self.model.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps": self._steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._steps = state["steps"]

    def _copy(self) -> tuple[GradientModel, list[Tensor]]:
        """A frozen copy of the model, and in it the tensors that follow the trained parameters, in their order."""
        average = copy.deepcopy(self.model).eval()
        follow: list[Tensor] = [p for p in average.parameters() if p.requires_grad]
        return average.requires_grad_(False), follow


def _finite_gradient(parameter: Tensor) -> bool:
    return parameter.grad is None or bool(parameter.grad.isfinite().all())
