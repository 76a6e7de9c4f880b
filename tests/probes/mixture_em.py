"""Probe: a Gaussian mixture by expectation maximisation (Dempster et al. 1977), behind dequantization where data is
discrete.

    log p(x) = log sum_c pi_c N(x; m_c, diag v_c)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from genzoo import DataSpec, GenerativeModel, Learner, LogLikelihood, hookimpl
from genzoo.cards import ModelCard
from genzoo.config import Config as BaseConfig
from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.spec import Batch, Split


class MixtureConfig(BaseConfig):
    components: int = Field(4, ge=1, description="Gaussians")
    tolerance: float = Field(1e-4, description="gain in nats below which a step changes nothing; negative: goes on")


class Mixture(GenerativeModel):
    Config = MixtureConfig
    config: MixtureConfig
    log_pi: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, spec: DataSpec, config: BaseConfig | None = None) -> None:
        super().__init__(spec, config)
        if spec.levels is not None:
            raise CapabilityError("the mixture takes real data; discrete data goes through dequantization=uniform")
        shape = self.config.components, spec.dims
        self.register_buffer("log_pi", torch.full(shape[:1], -math.log(shape[0]), dtype=torch.float64))
        self.register_buffer("mean", torch.randn(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))

    def joint(self, x: Tensor) -> Tensor:
        """log pi_c N(x; m_c, v_c), `(B, C)` nats."""
        flat = x.flatten(1).to(torch.float64)[:, None]  # (B, 1, D)
        terms = (flat - self.mean).square() / self.variance + self.variance.log() + math.log(2 * math.pi)
        return self.log_pi - 0.5 * terms.sum(-1)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return LogLikelihood.exact(self.joint(x).logsumexp(1))

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        c = torch.multinomial(self.log_pi.exp(), max(n, 1), replacement=True)[:n]
        x = self.mean[c] + self.variance[c].sqrt() * torch.randn(n, self.spec.dims, dtype=torch.float64)
        return x.view(n, *self.spec.event_shape).to(torch.float32)

    def default_training(self) -> TrainSettings:
        return TrainSettings(batch_size=None)

    def learner(self, settings: TrainSettings) -> Learner:
        return ExpectationMaximisation(self, settings)


class ExpectationMaximisation(Learner):
    loss_in_nats = True

    def __init__(self, model: Mixture, settings: TrainSettings) -> None:
        self.model, self.settings, self.last = model, settings, math.inf

    def start(self, train: Split) -> None:
        """k-means++ (Arthur and Vassilvitskii 2007): each centre a point drawn by squared distance to those before."""
        x = train.batch(torch.arange(len(train)), torch.Generator().manual_seed(0)).x.flatten(1).to(torch.float64)
        weight = torch.ones(len(x), dtype=torch.float64)
        for c in range(self.model.config.components):
            self.model.mean[c] = x[torch.multinomial(weight, 1)[0]]
            weight = (x[:, None] - self.model.mean[: c + 1]).square().sum(-1).amin(1) + 1e-12
        self.model.variance.copy_(x.var(0).clamp(min=1e-6).expand_as(self.model.variance))

    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        x = batch.x.flatten(1).to(torch.float64)
        joint = self.model.joint(batch.x)
        r = joint.softmax(1)  # (N, C)
        total = r.sum(0).clamp(min=1e-9)
        self.model.log_pi.copy_((total / total.sum()).log())
        self.model.mean.copy_(r.T @ x / total[:, None])
        spread = (x[:, None] - self.model.mean).square()  # (N, C, D)
        self.model.variance.copy_(((r[..., None] * spread).sum(0) / total[:, None]).clamp(min=1e-4))
        loss = -joint.logsumexp(1).mean()
        self.converged = self.last - float(loss) < self.model.config.tolerance
        self.last = float(loss)
        return {"loss": loss}

    def evaluated(self) -> Mixture:
        return self.model

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.last = state["last"]


@hookimpl
def genzoo_models() -> list[ModelCard]:
    adapters = {"discrete": {"dequantization": "uniform", "standardize": True}}
    card = ModelCard(
        name="probe_mixture",
        summary="Gaussian mixture by EM",
        family="mixture",
        target="mixture_em:Mixture",
        data=("real", "discrete"),
        adapters=adapters,
        num_samples={"discrete": 64},
    )
    return [card]
