"""GANs with a likelihood: a generator G of noise z, and Gaussian noise of one scale around it (Wu et al. 2017).

    p(x) = integral of N(x; G(z), s^2 I) N(z; 0, I) dz

s is fitted on validation data after training, and `sample` adds that noise: without it the law has no density. The
bound is importance sampling, kind `weights`: in two latent dimensions from cells of the prior near x
(`genzoo_gan.cells`), else from the prior, loose where s is small against the data, which the table then shows; the
estimator `ais` anneals from there (`genzoo.latent`), and is the one to read for images.

    gan     D: -log D(x) - log(1 - D(G(z)));  G: -log D(G(z))         non-saturating, Goodfellow et al. 2014
    wgan    D: D(G(z)) - D(x) + c (|d D| - 1)^2 between them;  G: -D(G(z))         Gulrajani et al. 2017
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Independent, Normal

from genzoo.config import Config, TrainSettings
from genzoo.errors import CapabilityError
from genzoo.interface import Estimator, Learner, ModelEstimator
from genzoo.latent import AnnealedImportance, LatentJoint, Proposal
from genzoo.likelihood import LogLikelihood, WeightSums
from genzoo.nn import condition_features, condition_width
from genzoo.spec import DataSpec
from genzoo_gan.adversarial import AdversarialLearner
from genzoo_gan.cells import CellLaw, Cells, midpoints
from genzoo_gan.networks import critic_for, generator_for
from genzoo_gan.noise import DRAWS, LARGEST, ROUNDS, SMALLEST, best_log_noise

PENALTY, PENALTY_IMAGES = 0.1, 10.0
"""Weight of the gradient penalty (Gulrajani et al. 2017: for images section 4, for the plane their code)."""


class GANConfig(Config):
    """Configuration of `GAN` and `WGAN`."""

    latents: int | None = Field(None, ge=1, description="dimensions of z; none: 2 for points of the plane, else 32")
    width: int | None = Field(None, ge=4, description="of the hidden layers (128) or channels (32)")
    critic_steps: int | None = Field(None, ge=1, description="steps of D for one of G; none: 1 for gan, 3 for wgan")
    least_noise: float = Field(
        SMALLEST, gt=0, lt=LARGEST, description="smallest s that is tried, in units of the data's scale"
    )
    penalty: float | None = Field(
        None, ge=0, description="c, weight of the gradient penalty of wgan; none: 0.1 for vectors, 10 for images"
    )
    critic_rate: float = Field(1.0, gt=0, description="learning rate of D over that of G")


class Adversarial(LatentJoint):
    """Generator, critic and noise; leaves name the game. Raises CapabilityError for codes, which go behind
    dequantization."""

    Config: ClassVar[type[Config]] = GANConfig
    config: GANConfig
    game: ClassVar[Literal["gan", "wgan"]]
    log_noise: Tensor

    def __init__(self, spec: DataSpec, config: GANConfig | None = None) -> None:
        super().__init__(spec, config)
        if spec.levels is not None:
            raise CapabilityError(f"{self.game} takes real data: put codes behind dequantization=uniform")
        few = spec.event_shape == (2,)
        self.latents = self.config.latents or (2 if few else 32)
        classes = condition_width(spec)
        self.generator = generator_for(spec, self.latents + classes, self.config.width)
        self.critic = critic_for(spec, classes, self.config.width, free=self.game == "wgan")
        default = PENALTY_IMAGES if len(spec.event_shape) == 3 else PENALTY
        self.penalty = default if self.config.penalty is None else self.config.penalty
        self.register_buffer("log_noise", torch.tensor(math.log(0.3)))
        self.rows = 1 << 14 if len(spec.event_shape) == 1 else 512

    def generate(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """G(z) `(*S, B, *event_shape)` at `z (*S, B, d)`."""
        label = condition_features(self.spec, condition, z.shape[-2], z)
        joined = torch.cat([z, label.expand(*z.shape[:-1], -1)], -1)
        return self.generator(joined.flatten(0, -2)).view(*z.shape[:-1], *self.spec.event_shape)  # type: ignore[no-any-return]

    def judge(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """D(x) `(B,)`, a logit or a critic's value."""
        label = condition_features(self.spec, condition, len(x), x)
        return self.critic(torch.cat([x.flatten(1), label], 1))[:, 0]  # type: ignore[no-any-return]

    # the likelihood

    def _log_noise_density(self, squares: Tensor) -> Tensor:
        """log N(x; G, s^2 I) in nats at |x - G|^2, float64."""
        log_s = self.log_noise.double()
        return -0.5 * squares * (-2 * log_s).exp() - self.spec.dims * (log_s + 0.5 * math.log(2 * math.pi))

    @staticmethod
    def _squares(x: Tensor, generated: Tensor) -> Tensor:
        return (x - generated).square().flatten(generated.ndim - x.ndim + 1).sum(-1, dtype=torch.float64)

    def proposal(self, x: Tensor, condition: Tensor | None) -> Proposal:
        """Cells of the prior near x in two latent dimensions; else the prior of z: a GAN has no encoder."""
        if self.latents == 2:
            return CellLaw(Cells(self._in_parts, midpoints(x.device), condition).shares(x, condition, self.log_noise))
        loc = torch.zeros(len(x), self.latents, device=self.device)
        return Independent(Normal(loc, 1.0, validate_args=False), 1, validate_args=False)

    def log_joint(self, x: Tensor, z: Tensor, condition: Tensor | None) -> Tensor:
        """See LatentJoint."""
        return self._log_noise_density(self._squares(x, self.generate(z, condition))) + self._log_prior(z)

    @staticmethod
    def _log_prior(z: Tensor) -> Tensor:
        return -0.5 * (z.double().square() + math.log(2 * math.pi)).sum(-1)

    def sample_joint(self, n: int, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """See LatentJoint."""
        z = torch.randn(n, self.latents, device=self.device)
        x = self._in_parts(z, condition)
        return x + self.log_noise.exp() * torch.randn_like(x), z

    def _in_parts(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """G(z) `(n, *event_shape)` at `z (n, d)`, `rows` at once."""
        labels = [None] * len(z) if condition is None else torch.split(condition, self.rows)
        return torch.cat(
            [self.generate(some, label) for some, label in zip(torch.split(z, self.rows), labels, strict=False)]
        )

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        sums = WeightSums()
        for squares, log_ratio in self._draws(x, num_samples, condition):
            observed = self._log_noise_density(squares)
            sums.add(observed + log_ratio, {"observation": observed.mean(0), "latent": log_ratio.mean(0)})
        return sums.result()

    def _draws(self, x: Tensor, num_samples: int, condition: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """|x - G(z)|^2 and log p(z) - log q(z given x), `(k, B)` float64, of z from the proposal, part by part."""
        q, chunk = self.proposal(x, condition), max(1, self.rows // max(1, len(x)))
        for at in range(0, num_samples, chunk):
            z = q.sample(torch.Size((min(chunk, num_samples - at),)))
            yield self._squares(x, self.generate(z, condition)), self._log_prior(z) - q.log_prob(z)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return self.sample_joint(n, condition)[0]

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        """Importance sampling, from `cells` near the example or from the `prior`, and `ais` from there."""
        name = "cells" if self.latents == 2 else "prior"
        return {name: lambda: ModelEstimator(name, self), "ais": lambda: AnnealedImportance(self)}

    def fit_noise(self, x: Tensor, condition: Tensor | None) -> None:
        """Set s to the best value for `x`; see `genzoo_gan.noise`."""
        for _ in range(ROUNDS):
            squares, log_ratio = (torch.cat(parts) for parts in zip(*self._draws(x, DRAWS, condition), strict=True))
            self.log_noise.copy_(best_log_noise(squares, log_ratio, self.spec.dims, self.config.least_noise))

    # training

    def learner(self, settings: TrainSettings) -> Learner:
        """Two optimisers in turn."""
        return AdversarialLearner(self, settings)

    def default_training(self) -> TrainSettings:
        """Adam with little momentum, as is usual in games. For vectors at a rate that does not fall: the players
        circle, and the average over their circles is better than where they stop."""
        if len(self.spec.event_shape) == 3:
            return TrainSettings(learning_rate=5e-4, betas=(0.5, 0.9))
        return TrainSettings(betas=(0.5, 0.9), schedule="constant")


class GAN(Adversarial):
    """`gan`: the non-saturating game."""

    game = "gan"


class WGAN(Adversarial):
    """`wgan`: the Wasserstein game with a gradient penalty."""

    game = "wgan"
