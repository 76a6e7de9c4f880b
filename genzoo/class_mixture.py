"""A conditional model and its class frequencies: p(x, y) = pi_y p(x given y), or p(x) = sum_y pi_y p(x given y)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genzoo.config import AdapterConfig, TrainSettings
from genzoo.config import Config as BaseConfig
from genzoo.errors import CapabilityError
from genzoo.interface import GenerativeModel, Learner
from genzoo.likelihood import LogLikelihood
from genzoo.spec import Batch, DataSpec, Split


class ClassMixture(GenerativeModel):
    """A conditional model and the class frequencies pi_y, with one added to each count (Laplace).

    joint      log p(x, y) = log pi_y + log p(x given y), from an answer of any kind
    marginal   log p(x) = log sum_y pi_y p(x given y), from `exact` or `weights` only: a mean in nats has no sum
    """

    Config = AdapterConfig
    config: AdapterConfig
    log_prior: Tensor

    def __init__(self, spec: DataSpec, config: BaseConfig, inner: GenerativeModel) -> None:
        assert isinstance(config, AdapterConfig)
        assert spec.classes is not None
        super().__init__(spec if config.class_mixture == "joint" else spec.unconditional(), config)
        self.classes = spec.classes
        self.inner = inner
        uniform = torch.full((self.classes,), 1.0 / self.classes, dtype=torch.float64)
        self.register_buffer("log_prior", uniform.log())

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        if condition is not None:
            inner = self.inner.log_likelihood(x, num_samples, None, condition)
            return inner.shifted(self.log_prior[condition], "log_class")
        answers = []
        for label in range(self.classes):
            y = torch.full((len(x),), label, dtype=torch.int64, device=x.device)
            answers.append(self.inner.log_likelihood(x, num_samples, None, y))
        kind = answers[0].kind
        if kind not in ("exact", "weights"):
            raise CapabilityError(f"p(x) from p(x given y) needs answers of kind exact or weights; this one is {kind}")
        joint = torch.stack([answer.lower for answer in answers]) + self.log_prior[:, None]  # (classes, B)
        lower = joint.logsumexp(0)
        # sum_y r_y e_y of class errors e_y shared by all examples, 0 <= r_y and sum 1: at most the largest variance
        shared = torch.stack([answer.shared_variance for answer in answers]).max()
        if kind == "exact":
            return LogLikelihood.exact(lower, shared_variance=shared)
        variances = [answer.variance for answer in answers if answer.variance is not None]
        known = len(variances) == self.classes
        # delta method: the weight of class y has relative variance v_y and share r_y of the sum
        variance = ((joint - lower).exp().square() * torch.stack(variances)).sum(0) if known else None
        return LogLikelihood(
            lower=lower, kind="weights", num_samples=num_samples, variance=variance, shared_variance=shared
        )

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        if condition is None:
            condition = torch.multinomial(self.log_prior.exp(), max(n, 1), replacement=True)[:n]
        return self.inner.sample(n, None, condition)

    def default_training(self) -> TrainSettings:
        """The inner model's."""
        return self.inner.default_training()

    def learner(self, settings: TrainSettings) -> Learner:
        """The inner learner, which sees the labels; the class frequencies are counted at its start."""
        return ClassMixtureLearner(self, self.inner.learner(settings))

    def count(self, train: Split) -> None:
        """Set pi from the labels of the training split."""
        _, y = train.batch(torch.arange(len(train)), torch.Generator().manual_seed(0))
        if y is None:
            raise CapabilityError("class_mixture needs labels; the training split has none")
        counts = torch.bincount(y.cpu(), minlength=self.classes).to(torch.float64) + 1
        self.log_prior.copy_((counts / counts.sum()).log())

    def around(self, inner: GenerativeModel) -> ClassMixture:
        """The same class frequencies around another inner model."""
        spec = DataSpec(self.spec.event_shape, self.spec.levels, self.classes)
        copy = ClassMixture(spec, self.config, inner).to(self.device)
        copy.log_prior.copy_(self.log_prior)
        return copy


class ClassMixtureLearner(Learner):
    """An inner learner, with the class frequencies counted at its start."""

    def __init__(self, mixture: ClassMixture, inner: Learner) -> None:
        self.mixture = mixture
        self.inner = inner
        self.settings = inner.settings

    @property
    def converged(self) -> bool:
        """The inner learner's, in both directions."""
        return self.inner.converged

    @converged.setter
    def converged(self, value: bool) -> None:
        self.inner.converged = value

    def start(self, train: Split) -> None:
        """Count labels, start the inner learner."""
        self.mixture.count(train)
        self.inner.start(train)

    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The inner step."""
        return self.inner.step(batch, progress)

    def finish(self, train: Split, valid: Split) -> None:
        """The inner one's."""
        self.inner.finish(train, valid)

    def evaluated(self) -> GenerativeModel:
        """The mixture around the inner model that is evaluated."""
        return self.mixture.around(self.inner.evaluated())

    def state_dict(self) -> dict[str, Any]:
        """Frequencies and inner learner."""
        return {"log_prior": self.mixture.log_prior, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.mixture.log_prior.copy_(state["log_prior"])
        self.inner.load_state_dict(state["inner"])
