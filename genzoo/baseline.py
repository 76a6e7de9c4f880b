"""The baseline that every model has to beat, and an exact oracle: one Gaussian with full covariance (one a class).

log p(x) = -1/2 (D log 2 pi + log det C + (x - m)^T C^-1 (x - m))

Given y = x_O + s eps, a draw is x' + C_:O (C_OO + s^2)^-1 (y - y') with (x', y') drawn from the joint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from genzoo.config import Config as BaseConfig
from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.interface import ConditionalSampler, Learner
from genzoo.likelihood import LogLikelihood
from genzoo.spec import Batch, DataSpec, Split


class GaussianConfig(BaseConfig):
    """Config of the Gaussian baseline."""

    ridge: float = Field(1e-6, ge=0, description="times the mean variance, added to the diagonal: constant dimensions")
    max_points: int = Field(50_000, ge=2, description="training examples the moments are taken from")


class Gaussian(ConditionalSampler):
    """N(m, C) by maximum likelihood, for real data; one a class on a conditional spec. Exact."""

    Config = GaussianConfig
    config: GaussianConfig
    loc: Tensor
    factor: Tensor

    def __init__(self, spec: DataSpec, config: BaseConfig | None = None) -> None:
        super().__init__(spec, config)
        if spec.levels is not None:
            raise CapabilityError("the Gaussian takes real data; discrete data goes through dequantization=uniform")
        classes, dims = spec.classes or 1, spec.dims
        self.register_buffer("loc", torch.zeros(classes, dims, dtype=torch.float64))
        self.register_buffer("factor", torch.eye(dims, dtype=torch.float64).repeat(classes, 1, 1))

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        flat = x.flatten(1).to(torch.float64)
        label = torch.zeros(len(x), dtype=torch.int64, device=x.device) if condition is None else condition
        lower = flat.new_empty(len(x))
        for k in torch.unique(label).tolist():
            rows = label == k
            factor = self.factor[k]
            z = torch.linalg.solve_triangular(factor, (flat[rows] - self.loc[k]).T, upper=False)  # (D, n)
            log_det = factor.diagonal().log().sum()
            lower[rows] = -0.5 * (self.spec.dims * math.log(2 * math.pi) + z.square().sum(0)) - log_det
        return LogLikelihood.exact(lower)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        label = torch.zeros(n, dtype=torch.int64, device=self.loc.device) if condition is None else condition
        x = torch.randn(n, self.spec.dims, dtype=torch.float64, device=self.loc.device)
        for k in torch.unique(label).tolist():
            rows = label == k
            x[rows] = x[rows] @ self.factor[k].T + self.loc[k]
        return x.view(n, *self.spec.event_shape).to(torch.float32)

    @property
    def exact_given(self) -> bool:
        """Conditionals of a Gaussian are Gaussian."""
        return True

    def _sample_given(self, x: Tensor, mask: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        flat, observed, scale = x.flatten(1).to(torch.float64), mask.flatten(1), noise.flatten()
        drawn = self._sample(len(x), condition).flatten(1).to(torch.float64)
        gap = flat - drawn - scale * torch.randn_like(flat)
        label = torch.zeros(len(x), dtype=torch.int64, device=x.device) if condition is None else condition
        # one linear system for each class and pattern of observed dimensions
        patterns, which = torch.unique(torch.cat([label[:, None], observed], 1), dim=0, return_inverse=True)
        for at, (k, *pattern) in enumerate(patterns.tolist()):
            rows, seen = which == at, torch.tensor(pattern, dtype=torch.bool, device=x.device)
            covariance = self.factor[k] @ self.factor[k].T
            system = covariance[seen][:, seen] + scale[seen].square().diag()
            drawn[rows] += torch.linalg.solve(system, gap[rows][:, seen].T).T @ covariance[seen]
        drawn = torch.where(observed & (scale == 0), flat, drawn)
        return drawn.view_as(x).to(torch.float32)

    def count_parameters(self) -> int:
        """Mean and symmetric covariance of each class."""
        dims = self.spec.dims
        return len(self.loc) * (dims + dims * (dims + 1) // 2)

    def learner(self, settings: TrainSettings) -> Learner:
        """Moments in closed form."""
        return GaussianLearner(self, settings)

    def default_training(self) -> TrainSettings:
        """One step only evaluates a batch."""
        return TrainSettings(batch_size=1024)

    def fit(self, x: Tensor, y: Tensor | None) -> None:
        """Set mean and covariance (maximum likelihood, plus the ridge) of each class that `y` shows."""
        flat = x.flatten(1).to(torch.float64)
        label = torch.zeros(len(x), dtype=torch.int64, device=x.device) if y is None else y.to(x.device)
        ridge = self.config.ridge * max(float(flat.var(0, correction=0).mean()), torch.finfo(torch.float32).tiny)
        for k in torch.unique(label).tolist():
            rows = flat[label == k]
            centred = rows - rows.mean(0)
            covariance = centred.T @ centred / len(rows)
            covariance.diagonal().add_(ridge)
            self.loc[k] = rows.mean(0)
            self.factor[k] = torch.linalg.cholesky(covariance)


class GaussianLearner(Learner):
    """Fits at the start; the one step reports the loss, and training has converged."""

    loss_in_nats = True

    def __init__(self, model: Gaussian, settings: TrainSettings) -> None:
        self.model = model
        self.settings = settings

    def start(self, train: Split) -> None:
        """Mean and covariance of a seeded subset of at most `max_points`."""
        generator = torch.Generator().manual_seed(0)
        points = torch.randperm(len(train), generator=generator)[: self.model.config.max_points]
        x, y = train.batch(points, generator)
        self.model.fit(x.to(self.model.device), y if self.model.spec.classes is not None else None)

    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The mean negative log-likelihood of a batch; nothing is left to learn."""
        self.converged = True
        y = batch.y if self.model.spec.classes is not None else None
        return {"loss": -self.model.log_likelihood(batch.x, condition=y).lower.mean()}

    def evaluated(self) -> Gaussian:
        """The model itself."""
        return self.model

    def state_dict(self) -> dict[str, Any]:
        """The model's."""
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.model.load_state_dict(state["model"])
