"""A model around a model: an inner model over mapped data, answering about the data as it is handed over.

    log p(x) = log p_inner(T x) + log |dT/dx|; with dequantization, draws (u, z) under one log-mean-exp

Its learner and estimators are the inner ones on mapped data. A loss that is not in nats gets no Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from genzoo.class_mixture import mixed
from genzoo.config import AdapterConfig, TrainSettings
from genzoo.config import Config as BaseConfig
from genzoo.errors import ConfigError
from genzoo.interface import ConditionalSampler, GenerativeModel, GradientModel, Learner
from genzoo.likelihood import LogLikelihood, WeightSums
from genzoo.records import MARKS
from genzoo.seeding import seeded
from genzoo.spec import Batch, DataSpec, Split
from genzoo.transforms import Dequantize, Logit, Standardize, Transform, UniformNoise, VariationalNoise
from genzoo.wrapping import Answer, WrappedLearner, Wrapper

FIT_POINTS = 20_000
"""Training examples from which transforms take their statistics."""


def adapt(make: Callable[[DataSpec], GenerativeModel], spec: DataSpec, config: AdapterConfig) -> GenerativeModel:
    """Build `make(inner spec)` and put around it what `config` asks for.

    Raises:
        ConfigError: an adapter that does not fit the data or the model.
    """
    if config.class_mixture != "none" and spec.classes is None:
        raise ConfigError("class_mixture needs labelled data (labels=true); this data set has no classes")
    mapped = config.dequantization != "none" or config.logit is not None or config.standardize
    if not mapped:
        model = make(spec)
    else:
        if config.dequantization == "none" and spec.levels is not None:
            raise ConfigError("logit and standardize map real data: discrete data needs dequantization as well")
        if config.dequantization != "none" and spec.levels is None:
            raise ConfigError(f"dequantization={config.dequantization} is for discrete data; this data set is real")
        inner = make(DataSpec(spec.event_shape, None, spec.classes))
        model = ADAPTED[isinstance(inner, GradientModel), isinstance(inner, ConditionalSampler)](spec, config, inner)
    return model if config.class_mixture == "none" else mixed(spec, config, model)


def _transforms(spec: DataSpec, config: AdapterConfig) -> list[Transform]:
    chain: list[Transform] = []
    if config.dequantization != "none":
        noise = UniformNoise() if config.dequantization == "uniform" else VariationalNoise(spec)
        chain.append(Dequantize(spec, noise))
    if config.logit is not None:
        chain.append(Logit(spec, config.logit))
    if config.standardize:
        chain.append(Standardize(spec))
    return chain


class Adapted(Wrapper):
    """`inner` on data mapped by a chain of transforms.

    With dequantization each of the K draws has its own noise u and its own latent: one flat log-mean-exp over an inner
    `exact` or `weights`, the arithmetic mean over anything else; the answer is never exact.
    """

    Config = AdapterConfig
    config: AdapterConfig

    def __init__(self, spec: DataSpec, config: BaseConfig, inner: GenerativeModel) -> None:
        super().__init__(spec, config)
        self.inner = inner
        self.transforms = nn.ModuleList(_transforms(spec, self.config))
        self.stochastic = any(isinstance(t, Dequantize) for t in self.transforms)
        if any(True for _ in self.transforms.parameters()) and not isinstance(self, GradientModel):
            raise ConfigError("variational dequantization is trained by gradient; this model is not: use uniform")

    def to_inner(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mapped data, float32, and the log-Jacobian `(B,)` in nats (with -log q(u given x) of the noise)."""
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for transform in self.transforms:
            x, ladj = transform(x)
            total = total + ladj
        return x.to(torch.float32), total

    def to_data(self, y: Tensor) -> Tensor:
        """The inverse, in the spec's dtype."""
        for transform in reversed(self.transforms):
            assert isinstance(transform, Transform)
            y = transform.inverse(y)
        return y.to(self.spec.dtype)

    def answer(self, x: Tensor, num_samples: int, condition: Tensor | None, inner: Answer) -> LogLikelihood:
        """What `inner` says of mapped data, about the data itself."""
        if not self.stochastic:
            y, ladj = self.to_inner(x)
            return inner(y, num_samples, condition).shifted(ladj, "log_jacobian")
        n, done = len(x), 0
        chunk = max(1, _rows(self.spec) // max(1, n))
        sums, parts = WeightSums(), []
        shared = torch.zeros((), dtype=torch.float64, device=x.device)
        while done < num_samples:
            k = min(chunk, num_samples - done)
            done += k
            repeated = None if condition is None else condition.repeat(k)
            y, ladj = self.to_inner(x.repeat(k, *[1] * len(self.spec.event_shape)))  # (k B, *event_shape)
            part = inner(y, 1, repeated).shifted(ladj, "log_jacobian")
            shared = torch.maximum(shared, part.shared_variance)
            if part.kind in ("exact", "weights"):
                anatomy = part.anatomy()
                sums.add(
                    part.lower.view(k, n),
                    {name: term.view(k, n).mean(0) for name, term in part.terms.items()},
                    {name: array.view(k, n, *array.shape[1:]).mean(0) for name, array in anatomy.items()},
                )
            else:
                parts.append((k, part))
        if sums.count:
            return sums.result(shared_variance=shared)
        return replace(_mean_over_draws(parts, n, num_samples), shared_variance=shared)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return self.to_data(self.inner.sample(n, None, condition))

    def inner_split(self, split: Split) -> Split:
        """Mapped."""
        return AdaptedSplit(self, split)

    def traces(self, x: Tensor, n: int, seed: int) -> dict[str, Tensor]:
        """The inner model's, mapped back to data frame by frame."""
        with torch.no_grad(), seeded(seed, self.device):
            y, _ = self.to_inner(x)
            return {
                name: value if name.endswith(MARKS) else self.to_data(value.flatten(0, 1)).view(value.shape)
                for name, value in self.inner.traces(y, n, seed).items()
            }

    def learner(self, settings: TrainSettings) -> Learner:
        """The inner learner on mapped data."""
        return MappedLearner(self, self.inner.learner(settings))

    def fit_transforms(self, train: Split) -> None:
        """Let each transform take its statistics from training data mapped by those before it."""
        generator = torch.Generator().manual_seed(0)
        points = torch.randperm(len(train), generator=generator)[:FIT_POINTS]
        x = train.batch(points, generator).x.to(self.device)
        with torch.no_grad():
            for transform in self.transforms:
                assert isinstance(transform, Transform)
                transform.fit(x)
                x, _ = transform(x)

    def around(self, inner: GenerativeModel) -> Self:
        """See Wrapper; the transforms are shared, not copied."""
        copy = type(self)(self.spec, self.config, inner)
        copy.transforms = self.transforms
        return copy.to(self.device)


class AdaptedGradient(Adapted, GradientModel):
    """Adapted, where the inner model is trained by gradient: so is this one, its trainable noise included."""

    inner: GradientModel

    def __init__(self, spec: DataSpec, config: BaseConfig, inner: GenerativeModel) -> None:
        super().__init__(spec, config, inner)
        if any(True for _ in self.transforms.parameters()) and not self.inner.loss_in_nats:
            raise ConfigError("variational dequantization needs a model whose loss is in nats; this one's is not")

    @property
    def loss_in_nats(self) -> bool:
        """As the inner model's."""
        return self.inner.loss_in_nats

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        y, ladj = self.to_inner(x)
        loss = self.inner.loss(y, progress, condition)
        return loss - ladj.to(loss.dtype) if self.inner.loss_in_nats else loss

    def _initialise(self, train: Split) -> None:
        self.fit_transforms(train)
        self.inner._initialise(self.inner_split(train))

    def _calibrate(self, train: Split, valid: Split) -> None:
        self.inner._calibrate(self.inner_split(train), self.inner_split(valid))

    def learner(self, settings: TrainSettings) -> Learner:
        """One gradient learner over inner model and noise."""
        return GradientModel.learner(self, settings)


class AdaptedSampler(Adapted, ConditionalSampler):
    """Adapted, where the inner model is a conditional sampler: so is this one, on the mapped observation."""

    @property
    def exact_given(self) -> bool:
        """As the inner model's; codes are dequantised without a look at the rest, which is not exact."""
        assert isinstance(self.inner, ConditionalSampler)
        return self.inner.exact_given and not self.stochastic

    def _sample_given(self, x: Tensor, mask: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        assert isinstance(self.inner, ConditionalSampler)
        y, scale = x, noise
        for transform in self.transforms:
            assert isinstance(transform, Transform)
            y, scale = transform.observed(y, scale)
        drawn = self.to_data(self.inner.sample_given(y.to(torch.float32), mask, scale, None, condition))
        return torch.where(mask & (noise == 0), x.to(drawn.dtype), drawn)


class AdaptedGradientSampler(AdaptedGradient, AdaptedSampler):
    """Both."""


ADAPTED: dict[tuple[bool, bool], type[Adapted]] = {
    (False, False): Adapted,
    (True, False): AdaptedGradient,
    (False, True): AdaptedSampler,
    (True, True): AdaptedGradientSampler,
}
"""Whether the inner model is trained by gradient, and whether it is a conditional sampler."""


class AdaptedSplit(Split):
    """A split seen through an adapter; dequantization noise is drawn anew at each batch, from the global RNG."""

    def __init__(self, adapted: Adapted, split: Split) -> None:
        self.adapted = adapted
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """See Split."""
        x, y = self.split.batch(indices, generator)
        with torch.no_grad():
            mapped, _ = self.adapted.to_inner(x.to(self.adapted.device))
        return Batch(mapped, y)

    @property
    def fingerprint(self) -> str:
        """Of the split itself."""
        return self.split.fingerprint


class MappedLearner(WrappedLearner):
    """An inner learner fed with mapped batches."""

    wrapper: Adapted

    def start(self, train: Split) -> None:
        """Fit the transforms, then start the inner learner on mapped data."""
        self.wrapper.fit_transforms(train)
        self.inner.start(self.wrapper.inner_split(train))

    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The inner step; a loss in nats is corrected by the mean log-Jacobian."""
        with torch.no_grad():
            y, ladj = self.wrapper.to_inner(batch.x)
        metrics = self.inner.step(Batch(y, batch.y), progress)
        if self.inner.loss_in_nats:
            metrics["loss"] = metrics["loss"] - ladj.mean()
        return metrics


def _rows(spec: DataSpec) -> int:
    """Examples mapped and evaluated at once: near 4,096 in few dimensions, fewer for images, to stay in cache."""
    return max(128, min(4096, 2**18 // spec.dims))


def _mean_over_draws(parts: list[tuple[int, LogLikelihood]], n: int, num_samples: int) -> LogLikelihood:
    """Arithmetic mean over draws of answers that must not be exponentiated; each part holds `(k n,)` values."""
    lower = torch.cat([part.lower.view(k, n) for k, part in parts])  # (K, n)

    def mean(values: list[Tensor]) -> Tensor:
        """Over draws; values of one part are (k n, ...)."""
        split = [v.view(k, n, *v.shape[1:]) for (k, _), v in zip(parts, values, strict=True)]
        return torch.cat(split).mean(0)

    first = parts[0][1]
    terms = {name: mean([part.terms[name] for _, part in parts]) for name in first.terms}
    arrays = {name: mean([part.arrays[name] for _, part in parts]) for name in first.arrays}
    make = LogLikelihood.estimate if first.kind == "estimate" else LogLikelihood.lower_bound
    variance = lower.var(0) / num_samples if num_samples > 1 else None
    return make(lower.mean(0), num_samples=num_samples, variance=variance, terms=terms, arrays=arrays)
