"""A conditional model and its class frequencies: p(x, y) = pi_y p(x given y), or p(x) = sum_y pi_y p(x given y)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from genzoo.config import AdapterConfig, TrainSettings
from genzoo.config import Config as BaseConfig
from genzoo.errors import CapabilityError
from genzoo.interface import ConditionalSampler, GenerativeModel, Learner
from genzoo.likelihood import LogLikelihood
from genzoo.spec import Batch, DataSpec, Split
from genzoo.wrapping import Answer, WrappedLearner, Wrapper


class ClassMixture(Wrapper):
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

    def answer(self, x: Tensor, num_samples: int, condition: Tensor | None, inner: Answer) -> LogLikelihood:
        """See Wrapper; CapabilityError for p(x) from an answer that has no sum over classes."""
        if condition is not None:
            return inner(x, num_samples, condition).shifted(self.log_prior[condition], "log_class")
        answers = each_class(lambda y: inner(x, num_samples, y), self.classes, len(x), x.device)
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

    def traces(self, x: Tensor, n: int, seed: int) -> dict[str, Tensor]:
        """The inner model's: paths under a label each, of whatever frequency."""
        return self.inner.traces(x, n, seed)

    def learner(self, settings: TrainSettings) -> Learner:
        """The inner learner, which sees the labels; the class frequencies are counted at its start."""
        return ClassMixtureLearner(self, self.inner.learner(settings))

    def count(self, train: Split) -> None:
        """Set pi from the labels of the training split."""
        self.log_prior.copy_(log_frequencies(train, self.classes))

    def around(self, inner: GenerativeModel) -> Self:
        """See Wrapper."""
        spec = DataSpec(self.spec.event_shape, self.spec.levels, self.classes)
        copy = type(self)(spec, self.config, inner).to(self.device)
        copy.log_prior.copy_(self.log_prior)
        return copy


def each_class(
    answer: Callable[[Tensor], LogLikelihood], classes: int, n: int, device: torch.device
) -> list[LogLikelihood]:
    """What is said of the same n examples under each label."""
    return [answer(torch.full((n,), label, dtype=torch.int64, device=device)) for label in range(classes)]


def log_frequencies(train: Split, classes: int) -> Tensor:
    """log pi_y `(classes,)` float64 of a split, with one added to each count; CapabilityError without labels."""
    _, y = train.batch(torch.arange(len(train)), torch.Generator().manual_seed(0))
    if y is None:
        raise CapabilityError("counting the classes needs labels; the training split has none")
    counts = torch.bincount(y.cpu(), minlength=classes).to(torch.float64) + 1
    return (counts / counts.sum()).log()


class ClassMixtureSampler(ClassMixture, ConditionalSampler):
    """p(x, y) of a conditional sampler, which it is too: given the label, the class frequencies do not matter."""

    @property
    def exact_given(self) -> bool:
        """As the inner model's."""
        assert isinstance(self.inner, ConditionalSampler)
        return self.inner.exact_given

    def _sample_given(self, x: Tensor, mask: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        assert isinstance(self.inner, ConditionalSampler)
        return self.inner.sample_given(x, mask, noise, None, condition)


def mixed(spec: DataSpec, config: AdapterConfig, inner: GenerativeModel) -> ClassMixture:
    """The class mixture around `inner` that `config` asks for. p(x) is no conditional sampler, whatever `inner` is: the
    class of an observation needs the density of the observed part alone."""
    joint = config.class_mixture == "joint" and isinstance(inner, ConditionalSampler)
    return (ClassMixtureSampler if joint else ClassMixture)(spec, config, inner)


class ClassMixtureLearner(WrappedLearner):
    """An inner learner, with the class frequencies counted at its start. Its loss is about p(x given y) alone."""

    wrapper: ClassMixture

    def __init__(self, wrapper: ClassMixture, inner: Learner) -> None:
        super().__init__(wrapper, inner)
        self.loss_in_nats = False

    def start(self, train: Split) -> None:
        """Count labels, start the inner learner."""
        self.wrapper.count(train)
        self.inner.start(train)

    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The inner step."""
        return self.inner.step(batch, progress)
