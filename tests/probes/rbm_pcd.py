"""Probe: a binary restricted Boltzmann machine by persistent contrastive divergence (Tieleman 2008), small enough to
enumerate.

    log p(x) = b.x + sum_j softplus(c_j + (W x)_j) - log Z
    log Z = log sum_h exp(c.h + sum_i softplus(b_i + (h W)_i))

Estimators: `enumeration` (exact), and `monte_carlo`: Z = 2^D E exp(-F(x)), x uniform, whose error all examples share.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from genzoo import DataSpec, Estimator, GenerativeModel, Learner, LogLikelihood, hookimpl
from genzoo.cards import ModelCard
from genzoo.config import Config as BaseConfig
from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.interface import ModelEstimator
from genzoo.seeding import seeded
from genzoo.spec import Batch, Split


class RBMConfig(BaseConfig):
    hidden: int = Field(4, ge=1, le=16, description="hidden units; 2^hidden terms are summed")
    chains: int = Field(64, ge=1, description="persistent chains")
    normaliser_samples: int = Field(2000, ge=2, description="draws for log Z of the estimator monte_carlo")


def states(n: int) -> Tensor:
    """All `2^n` binary vectors `(2^n, n)`, float64."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), dtype=torch.float64)


class RBM(GenerativeModel):
    Config = RBMConfig
    config: RBMConfig

    def __init__(self, spec: DataSpec, config: BaseConfig | None = None) -> None:
        super().__init__(spec, config)
        if spec.levels != 2 or spec.dims > 16:
            raise CapabilityError("the enumerated RBM takes binary data of at most 16 dimensions")
        self.w = nn.Parameter(0.1 * torch.randn(self.config.hidden, spec.dims, dtype=torch.float64))
        self.b = nn.Parameter(torch.zeros(spec.dims, dtype=torch.float64))
        self.c = nn.Parameter(torch.zeros(self.config.hidden, dtype=torch.float64))

    def minus_free_energy(self, v: Tensor) -> Tensor:
        """log of the unnormalised mass `(B,)` of `v (B, D)`."""
        return v @ self.b + nn.functional.softplus(self.c + v @ self.w.T).sum(-1)

    def log_z(self) -> Tensor:
        h = states(self.config.hidden)
        return (h @ self.c + nn.functional.softplus(self.b + h @ self.w).sum(-1)).logsumexp(0)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return LogLikelihood.exact(self.minus_free_energy(x.flatten(1).to(torch.float64)) - self.log_z())

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        table = states(self.spec.dims)
        drawn = torch.multinomial(self.minus_free_energy(table).softmax(0), max(n, 1), replacement=True)[:n]
        return table[drawn].view(n, *self.spec.event_shape).to(torch.uint8)

    def default_training(self) -> TrainSettings:
        return TrainSettings(learning_rate=0.3, batch_size=64)

    def learner(self, settings: TrainSettings) -> Learner:
        return PersistentContrastiveDivergence(self, settings)

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        exact = lambda: ModelEstimator("enumeration", self)  # noqa: E731
        return {"enumeration": exact, "monte_carlo": lambda: MonteCarloNormaliser(self)}


class MonteCarloNormaliser(Estimator):
    name = "monte_carlo"

    def __init__(self, model: RBM) -> None:
        self.model = model

    def start(self, valid: Split, seed: int) -> None:
        k, dims = self.model.config.normaliser_samples, self.model.spec.dims
        with torch.no_grad(), seeded(seed, self.model.device):
            log_w = self.model.minus_free_energy(torch.randint(2, (k, dims)).to(torch.float64))
        w = (log_w - log_w.max()).exp()
        self.log_z = dims * math.log(2) + log_w.max() + w.mean().log()
        self.variance = w.var() / w.mean().square() / k  # of log Z, by the delta method

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        self.model.spec.check(x, condition)
        with torch.no_grad():
            value = self.model.minus_free_energy(x.flatten(1).to(torch.float64)) - self.log_z
        k = self.model.config.normaliser_samples
        return LogLikelihood.estimate(
            value, num_samples=k, variance=torch.zeros_like(value), shared_variance=self.variance
        )


class PersistentContrastiveDivergence(Learner):
    def __init__(self, model: RBM, settings: TrainSettings) -> None:
        self.model, self.settings = model, settings
        self.chains = torch.zeros(model.config.chains, model.spec.dims, dtype=torch.float64)

    def start(self, train: Split) -> None:
        self.chains = torch.bernoulli(torch.full_like(self.chains, 0.5))

    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        v = batch.x.flatten(1).to(torch.float64)
        with torch.no_grad():
            h = torch.bernoulli(torch.sigmoid(self.model.c + self.chains @ self.model.w.T))
            self.chains = torch.bernoulli(torch.sigmoid(self.model.b + h @ self.model.w))
        contrast = self.model.minus_free_energy(self.chains).mean() - self.model.minus_free_energy(v).mean()
        gradients = torch.autograd.grad(contrast, list(self.model.parameters()))
        rate = self.settings.learning_rate_at(progress)
        with torch.no_grad():
            for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
                parameter.sub_(rate * gradient)
        return {"loss": contrast.detach()}

    def evaluated(self) -> RBM:
        return self.model

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "chains": self.chains}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.chains = state["chains"].clone()


@hookimpl
def genzoo_models() -> list[ModelCard]:
    card = ModelCard(
        name="probe_rbm",
        summary="RBM by PCD, enumerated",
        family="energy",
        target="rbm_pcd:RBM",
        data=("binary",),
        max_dims=16,
    )
    return [card]
