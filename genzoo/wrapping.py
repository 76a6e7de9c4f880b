"""Models around a model, what adapters and class mixtures share: the inner model answers, the wrapper translates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from genzoo.config import TrainSettings
from genzoo.interface import Estimator, GenerativeModel, Learner
from genzoo.likelihood import LogLikelihood
from genzoo.seeding import evaluating, seeded
from genzoo.spec import Split
from genzoo.stratified import StratifiedEstimator

Answer = Callable[[Tensor, int, Tensor | None], LogLikelihood]
"""(x, num_samples, condition) of the inner model to what it says; draws from the global RNG as it stands."""


class Wrapper(GenerativeModel):
    """A model whose answers are another's, translated. Its estimators are the inner ones, translated alike."""

    inner: GenerativeModel

    @abstractmethod
    def answer(self, x: Tensor, num_samples: int, condition: Tensor | None, inner: Answer) -> LogLikelihood:
        """What `inner` says, about the data of this model."""

    @abstractmethod
    def around(self, inner: GenerativeModel) -> Self:
        """The same wrapper, its own state included, around another inner model of the same kind."""

    def inner_split(self, split: Split) -> Split:
        """A split as the inner model sees it."""
        return split

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return self.answer(x, num_samples, condition, lambda y, k, c: self.inner.log_likelihood(y, k, None, c))

    def count_parameters(self) -> int:
        """The inner model's, and the wrapper's own."""
        own = sum(parameter.numel() for name, parameter in self.named_parameters() if not name.startswith("inner."))
        return self.inner.count_parameters() + own

    def default_training(self) -> TrainSettings:
        """The inner model's."""
        return self.inner.default_training()

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        """The inner model's, translated."""

        def wrapped(make: Callable[[], Estimator]) -> Callable[[], Estimator]:
            def wrap() -> Estimator:
                inner = make()
                kind = WrappedStratified if isinstance(inner, StratifiedEstimator) else WrappedEstimator
                return kind(self, inner)

            return wrap

        return {name: wrapped(make) for name, make in self.inner.estimators().items()}


class WrappedEstimator(Estimator):
    """An inner estimator, its answers translated."""

    def __init__(self, wrapper: Wrapper, inner: Estimator) -> None:
        self.name = inner.name
        self.batch_size = inner.batch_size
        self.calls = inner.calls
        self.another = inner.another
        self.sharper = inner.sharper
        self.suggested_samples = inner.suggested_samples
        self.suggested_points = inner.suggested_points
        self.validated = inner.validated
        self.wrapper = wrapper
        self.inner = inner

    def start(self, valid: Split, seed: int) -> None:
        """Tune the inner estimator on validation data as it sees them."""
        self.inner.start(self.wrapper.inner_split(valid), seed)

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """See GenerativeModel.log_likelihood."""
        self.wrapper._check(x, condition)
        with torch.no_grad(), evaluating(self.wrapper), seeded(seed, self.wrapper.device):
            answer = self.wrapper.answer(
                x, num_samples, condition, lambda y, k, c: self.inner.log_likelihood(y, k, None, c)
            )
        self.name = self.inner.name  # which may tell the effort of its latest answer
        return answer


class WrappedStratified(WrappedEstimator, StratifiedEstimator):
    """An inner estimator of the mean, each of its randomisations translated."""

    inner: StratifiedEstimator

    def draws(self, n: int, num_samples: int) -> int:
        """The inner one's."""
        return self.inner.draws(n, num_samples)


class WrappedLearner(Learner):
    """An inner learner under a wrapper; leaves write `start` and `step`."""

    def __init__(self, wrapper: Wrapper, inner: Learner) -> None:
        self.wrapper = wrapper
        self.inner = inner
        self.settings = inner.settings
        self.loss_in_nats = inner.loss_in_nats

    @property
    def converged(self) -> bool:
        """The inner learner's, in both directions."""
        return self.inner.converged

    @converged.setter
    def converged(self, value: bool) -> None:
        self.inner.converged = value

    def finish(self, train: Split, valid: Split) -> None:
        """The inner one's."""
        self.inner.finish(self.wrapper.inner_split(train), self.wrapper.inner_split(valid))

    def evaluated(self) -> GenerativeModel:
        """The wrapper around the inner model that is evaluated."""
        return self.wrapper.around(self.inner.evaluated())

    def state_dict(self) -> dict[str, Any]:
        """The wrapper's own state, and the inner learner's."""
        own = {name: value for name, value in self.wrapper.state_dict().items() if not name.startswith("inner.")}
        return {"wrapper": own, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.wrapper.load_state_dict(state["wrapper"], strict=False)
        self.inner.load_state_dict(state["inner"])
