"""Finite mixtures: p(x) = sum_k pi_k p_k(x), exact, with p_k Gaussian or a product of Bernoullis or categoricals.

On labelled data p(x given y) = sum_k pi_yk p_k(x): every class weighs the same components in its own way. In-painting
is exact: the components' weights given what is seen, then the chosen component's own conditional.
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from genzoo.config import Config as BaseConfig
from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.interface import ConditionalSampler, Learner
from genzoo.likelihood import LogLikelihood
from genzoo.spec import DataSpec
from genzoo_mixture.components import Components
from genzoo_mixture.em import EMLearner
from genzoo_mixture.factors import FactorAnalysers
from genzoo_mixture.gaussians import Covariance, Gaussians
from genzoo_mixture.products import Bernoullis, Categoricals

ROWS = 4096
"""Examples evaluated at once."""


class MixtureConfig(BaseConfig):
    """What every mixture has."""

    components: int | None = Field(None, ge=1, description="K; none: 32 in few dimensions, 64 for images")
    restarts: int = Field(3, ge=1, description="k-means++ starts, of which the best after a few rounds of EM goes on")
    tolerance: float = Field(1e-7, ge=0, description="full-batch EM ends when a round gains less, nats an example")


class GaussianMixtureConfig(MixtureConfig):
    """As for MixtureConfig, with the covariances."""

    covariance: Covariance | Literal["factors"] | None = Field(
        None, description="full, diagonal, tied or factors; none: full up to 16 dimensions, factor analysers above"
    )
    rank: int = Field(8, ge=1, description="factors of a factor analyser")
    ridge: float = Field(
        1e-6, ge=0, description="times the mean variance, added to each variance: no component collapses"
    )


class ProductMixtureConfig(MixtureConfig):
    """As for MixtureConfig, with the smoothing."""

    smoothing: float = Field(1.0, gt=0, description="pseudo-counts a component and dimension, over all its levels")


class Mixture(ConditionalSampler):
    """A mixture of `Components`; leaves choose them."""

    Config: ClassVar[type[BaseConfig]] = MixtureConfig
    log_weights: Tensor

    def __init__(self, spec: DataSpec, config: BaseConfig | None, components: Components) -> None:
        super().__init__(spec, config)
        self.components = components
        k, classes = components.count, spec.classes or 1
        self.register_buffer("log_weights", torch.zeros(classes, k, dtype=torch.float64).log_softmax(1))

    @property
    def options(self) -> MixtureConfig:
        """The config, typed."""
        return cast(MixtureConfig, self.config)

    def count_parameters(self) -> int:
        """The weights, of which those of a class sum to one, and what the components learn."""
        return self.components.free() + self.log_weights.numel() - len(self.log_weights)

    def joint(self, x: Tensor, condition: Tensor | None, seen: Tensor | None = None) -> Tensor:
        """log pi_k + log p_k(x), `(N, K)`, of flat float64 `x`, where `seen (D,)` alone if given."""
        weights = self.log_weights if condition is None else self.log_weights[condition]
        return weights + self.components.log_prob(x, seen)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        flat = x.flatten(1).to(torch.float64)
        parts = []
        for at in range(0, len(flat), ROWS):
            rows = slice(at, at + ROWS)
            parts.append(self.joint(flat[rows], None if condition is None else condition[rows]).logsumexp(1))
        return LogLikelihood.exact(torch.cat(parts) if parts else flat.new_zeros(0))

    def _shaped(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.spec.event_shape).to(self.spec.dtype)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        weights = self.log_weights.exp() if condition is None else self.log_weights.exp()[condition]
        k = torch.multinomial(weights, n if condition is None else 1, replacement=True).flatten()
        return self._shaped(self.components.sample(k))

    @property
    def exact_given(self) -> bool:
        """The conditional of a mixture is a mixture of conditionals."""
        return True

    def _sample_given(self, x: Tensor, mask: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        if bool((noise > 0).any()):
            raise CapabilityError("a mixture in-paints; it does not denoise: give noise 0")
        flat = x.flatten(1).to(torch.float64)
        drawn = flat.clone()
        patterns, which = torch.unique(mask.flatten(1), dim=0, return_inverse=True)
        for at, seen in enumerate(patterns):
            rows = which == at
            some = flat[rows]
            weights = self.joint(some, None if condition is None else condition[rows], seen).softmax(1)
            k = torch.multinomial(weights, 1).flatten()
            rest = self.components.sample_rest(some, seen, k) if bool(seen.any()) else self.components.sample(k)
            drawn[rows] = torch.where(seen, some, rest)
        return self._shaped(drawn)

    def learner(self, settings: TrainSettings) -> Learner:
        """Expectation-maximisation."""
        return EMLearner(self, settings)

    def default_training(self) -> TrainSettings:
        """Full-batch EM in few dimensions; above, running averages over batches (see EMLearner)."""
        return TrainSettings(batch_size=None if self.spec.dims <= 16 else 2000)


def _count(spec: DataSpec, config: MixtureConfig) -> int:
    return config.components or (32 if spec.dims <= 16 else 64)


class GaussianMixture(Mixture):
    """`gmm`: Gaussians. Raises CapabilityError for discrete data, which goes behind dequantization."""

    Config = GaussianMixtureConfig

    def __init__(self, spec: DataSpec, config: GaussianMixtureConfig | None = None) -> None:
        config = config or GaussianMixtureConfig()
        if spec.levels is not None:
            raise CapabilityError("gmm takes real data; discrete data goes through dequantization=uniform")
        kind = config.covariance or ("full" if spec.dims <= 16 else "factors")
        count, ridge = _count(spec, config), config.ridge
        made: Components
        if kind == "factors":
            made = FactorAnalysers(count, spec.dims, min(config.rank, spec.dims), ridge)
        else:
            made = Gaussians(count, spec.dims, kind, ridge)
        super().__init__(spec, config, made)


class BernoulliMixture(Mixture):
    """`bernoulli_mixture`: products of Bernoullis, for two levels."""

    Config = ProductMixtureConfig

    def __init__(self, spec: DataSpec, config: ProductMixtureConfig | None = None) -> None:
        config = config or ProductMixtureConfig()
        if spec.levels != 2:
            raise CapabilityError(
                f"bernoulli_mixture takes binary data; got {spec.describe()}: try categorical_mixture"
            )
        super().__init__(spec, config, Bernoullis(_count(spec, config), spec.dims, config.smoothing))


class CategoricalMixture(Mixture):
    """`categorical_mixture`: products of categoricals, for any number of levels."""

    Config = ProductMixtureConfig

    def __init__(self, spec: DataSpec, config: ProductMixtureConfig | None = None) -> None:
        config = config or ProductMixtureConfig()
        if spec.levels is None:
            raise CapabilityError("categorical_mixture takes discrete data; for real vectors there is gmm")
        super().__init__(spec, config, Categoricals(_count(spec, config), spec.dims, spec.levels, config.smoothing))
