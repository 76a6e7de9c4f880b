"""GANs with a likelihood: a generator G of noise z, and noise around it that is fitted after training (Wu et al. 2017).

    p(x) = integral of p(x given G(z)) N(z; 0, I) dz            p(x given G): see `genzoo_gan.observation`

The noise is fitted on validation data, and `sample` draws it: without it the law has no density, or one of no use. The
bound is of kind `weights`. Real data with two latents: importance sampling from cells of the prior near x
(`genzoo_gan.cells`), nearly tight. Otherwise annealed from the prior by Hamiltonian moves (`genzoo.latent`), over
`distributions` steps whose sizes are tuned with the noise: a GAN has no encoder, and draws of the prior alone lie tens
of nats below. `ais`, ten times as many steps, tells how tight that is.

    gan     D: -log D(x) - log(1 - D(G(z))) + c/2 |d logit D(x)|^2;  G: -log D(G(z))
            non-saturating, Goodfellow et al. 2014; the penalty lets the players settle, Mescheder et al. 2018
    wgan    D: D(G(z)) - D(x) + c (|d D| - 1)^2 between them;  G: -D(G(z))         Gulrajani et al. 2017

The critic sees draws with noise, of codes where the data is codes (the gradient goes straight through), and not G.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Independent, Normal

from genzoo.ais import forward, sigmoidal
from genzoo.config import Config, TrainSettings
from genzoo.hmc import HMC, GeometricPath, StoredSteps
from genzoo.interface import Estimator, Learner, ModelEstimator
from genzoo.latent import AnnealedImportance, LatentJoint, Proposal
from genzoo.likelihood import LogLikelihood, WeightSums
from genzoo.nn import condition_features, condition_width
from genzoo.spec import DataSpec
from genzoo_gan.adversarial import AdversarialLearner
from genzoo_gan.cells import CellLaw, Cells, midpoints
from genzoo_gan.networks import critic_for, generator_for
from genzoo_gan.noise import DRAWS, LARGEST, ROUNDS, SMALLEST, best_log_noise
from genzoo_gan.observation import observation_for

PENALTIES = {"gan": (0.3, 10.0), "wgan": (0.1, 10.0)}
"""Weights of the gradient penalty, of vectors and of images (wgan: Gulrajani et al. 2017, code and section 4; gan: of
images that of Mescheder et al. 2018)."""
BANDS, LEAPFROG = 10, 2
"""Step sizes along the path, and leapfrog steps of a move."""
PILOT, PILOT_CHAINS, PILOT_MOVES = 16, 2, 8
"""Examples, chains of each and moves of each band on which step sizes are tuned."""
FIT_DISTRIBUTIONS, FIT_CHAINS = 40, 2
"""Of the annealing from which z is drawn to fit the noise."""
BATCH, VALIDATED = 100, 64
"""Examples annealed between two looks at the clock, and to validate a training."""


class GANConfig(Config):
    """Configuration of `GAN` and `WGAN`."""

    latents: int | None = Field(None, ge=1, description="dimensions of z; none: 2 for points of the plane, else 16")
    width: int | None = Field(
        None, ge=4, description="of three hidden layers (128; 256 above 256 dimensions), or channels of conv (32)"
    )
    network: Literal["mlp", "conv"] = Field(
        "mlp", description="mlp: ten times the steps, and draws of the bound, that convolutions get on a CPU"
    )
    critic_steps: int | None = Field(
        None, ge=1, description="steps of D for one of G; none: 1 for gan, 3 for wgan (2 in the plane)"
    )
    played_noise: float = Field(
        0.1,
        ge=0,
        lt=LARGEST,
        description="of real data, s that the critic sees around G, in units of its scale; 0: none",
    )
    least_noise: float = Field(
        SMALLEST, gt=0, lt=LARGEST, description="smallest s that is tried for real data, in units of its scale"
    )
    penalty: float | None = Field(
        None,
        ge=0,
        description="c, weight of the gradient penalty; none: 10 for images; else 0.3 for gan, 0.1 for wgan",
    )
    critic_rate: float = Field(1.0, gt=0, description="learning rate of D over that of G")
    distributions: int = Field(100, ge=BANDS, description="steps of the annealing behind the bound")


class Adversarial(LatentJoint):
    """Generator, critic and noise; leaves name the game."""

    Config: ClassVar[type[Config]] = GANConfig
    config: GANConfig
    game: ClassVar[Literal["gan", "wgan"]]

    def __init__(self, spec: DataSpec, config: GANConfig | None = None) -> None:
        super().__init__(spec, config)
        c, image = self.config, len(spec.event_shape) == 3
        self.latents = c.latents or (2 if spec.event_shape == (2,) and spec.levels is None else 16)
        self.near = self.latents == 2 and spec.levels is None
        classes = condition_width(spec)
        self.generator = generator_for(spec, self.latents + classes, c.width, c.network)
        self.critic = critic_for(spec, classes, c.width, c.network, free=self.game == "wgan")
        self.observation = observation_for(spec, self.near, c.played_noise, c.least_noise)
        self.penalty = PENALTIES[self.game][image] if c.penalty is None else c.penalty
        self.critic_steps = c.critic_steps or (1 if self.game == "gan" else 2 if self.near else 3)
        self.steps = StoredSteps(BANDS)
        self.rows = 1 << 14 if spec.dims <= 16 else 2048 if c.network == "mlp" else 512

    def generate(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """G(z) `(*S, B, *event_shape)` at `z (*S, B, d)`."""
        label = condition_features(self.spec, condition, z.shape[-2], z)
        joined = torch.cat([z, label.expand(*z.shape[:-1], -1)], -1)
        return self.generator(joined.flatten(0, -2)).view(*z.shape[:-1], *self.spec.event_shape)  # type: ignore[no-any-return]

    def play(self, n: int, condition: Tensor | None) -> Tensor:
        """What the critic sees of n draws, with gradient."""
        z = torch.randn(n, self.latents, device=self.device)
        return self.observation.played(self.generate(z, condition))

    def judge(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """D(x) `(B,)`, a logit or a critic's value."""
        label = condition_features(self.spec, condition, len(x), x)
        return self.critic(torch.cat([x.flatten(1), label], 1))[:, 0]  # type: ignore[no-any-return]

    # the likelihood

    @property
    def log_noise(self) -> Tensor:
        """log s; see `genzoo_gan.observation`."""
        return self.observation.log_noise

    def proposal(self, x: Tensor, condition: Tensor | None) -> Proposal:
        """Cells of the prior near x, or the prior of z: a GAN has no encoder."""
        if self.near:
            return CellLaw(Cells(self._in_parts, midpoints(x.device), condition).shares(x, condition, self.log_noise))
        loc = torch.zeros(len(x), self.latents, device=self.device)
        return Independent(Normal(loc, 1.0, validate_args=False), 1, validate_args=False)

    def log_joint(self, x: Tensor, z: Tensor, condition: Tensor | None) -> Tensor:
        """See LatentJoint."""
        return self.observation.log_prob(self.generate(z, condition), x) + self._log_prior(z)

    @staticmethod
    def _log_prior(z: Tensor) -> Tensor:
        return -0.5 * (z.double().square() + math.log(2 * math.pi)).sum(-1)

    def sample_joint(self, n: int, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """See LatentJoint."""
        z = torch.randn(n, self.latents, device=self.device)
        return self.observation.sample(self._in_parts(z, condition)), z

    def _in_parts(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """G(z) `(n, *event_shape)` at `z (n, d)`, `rows` at once."""
        labels = [None] * len(z) if condition is None else torch.split(condition, self.rows)
        return torch.cat(
            [self.generate(some, label) for some, label in zip(torch.split(z, self.rows), labels, strict=False)]
        )

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        if not self.near:
            return self._annealing().log_likelihood(x, num_samples, None, condition)
        sums = WeightSums()
        for observed, log_ratio in self._draws(x, num_samples, condition):
            sums.add(observed + log_ratio, {"observation": observed.mean(0), "latent": log_ratio.mean(0)})
        return sums.result()

    def _draws(self, x: Tensor, num_samples: int, condition: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """log p(x given z) and log p(z) - log q(z given x), `(k, B)` float64, of z from the cells, part by part."""
        q, chunk = self.proposal(x, condition), max(1, self.rows // max(1, len(x)))
        for at in range(0, num_samples, chunk):
            z = q.sample(torch.Size((min(chunk, num_samples - at),)))
            yield self.observation.log_prob(self.generate(z, condition), x), self._log_prior(z) - q.log_prob(z)

    def _annealing(self) -> AnnealedImportance:
        annealing = AnnealedImportance(self, self.config.distributions, LEAPFROG)
        annealing.steps = self.steps()
        return annealing

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return self.sample_joint(n, condition)[0]

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        """Importance sampling from `cells` near the example, or `annealed` from the prior; and `ais`, longer chains."""
        first: dict[str, Callable[[], Estimator]] = {"annealed": self._annealed}
        if self.near:
            first = {"cells": lambda: ModelEstimator("cells", self)}
        return first | {"ais": lambda: AnnealedImportance(self)}

    def _annealed(self) -> Estimator:
        estimator = ModelEstimator(f"annealed[distributions={self.config.distributions}]", self)
        estimator.batch_size, estimator.validated = BATCH, VALIDATED
        estimator.sharper = True  # than one draw of the prior, which the pieces of `log_joint` are of
        estimator.calls = self.config.distributions * LEAPFROG
        return estimator

    # the noise

    def fit_noise(self, x: Tensor, condition: Tensor | None) -> None:
        """Set s to the best value for `x`: of a bound over draws from cells (`genzoo_gan.noise`), or for draws of z
        given x by annealing, whose steps are tuned on the way, from each start of the observation, the best staying."""
        if self.near:
            for _ in range(ROUNDS):
                squares, log_ratio = (torch.cat(parts) for parts in zip(*self._squares(x, condition), strict=True))
                self.log_noise.copy_(best_log_noise(squares, log_ratio, self.spec.dims, self.config.least_noise))
            return
        found = []
        for start in self.observation.starts:
            self.log_noise.fill_(start)
            for _ in range(ROUNDS):
                self.tune_steps(x[:PILOT], None if condition is None else condition[:PILOT])
                self.observation.fit(self._in_parts(self._posterior(x, condition), condition), x)
            self.tune_steps(x[:PILOT], None if condition is None else condition[:PILOT])
            bound = float(self._log_likelihood(x, FIT_CHAINS, condition).lower.mean())
            found.append((bound, [buffer.clone() for buffer in self.buffers()]))
        for buffer, best in zip(self.buffers(), max(found, key=lambda pair: pair[0])[1], strict=True):
            buffer.copy_(best)

    def _squares(self, x: Tensor, condition: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        """|x - G(z)|^2 and log p(z) - log q(z given x), `(k, B)` float64, of DRAWS from the cells."""
        q, chunk = self.proposal(x, condition), max(1, self.rows // max(1, len(x)))
        for at in range(0, DRAWS, chunk):
            z = q.sample(torch.Size((min(chunk, DRAWS - at),)))
            away = (x - self.generate(z, condition)).flatten(2).square().sum(-1, dtype=torch.float64)
            yield away, self._log_prior(z) - q.log_prob(z)

    def tune_steps(self, x: Tensor, condition: Tensor | None) -> None:
        """Step sizes of the annealing, on pilot chains that are thrown away."""
        q, path = self._path(x, condition)
        self.steps.tune(path, sigmoidal(self.config.distributions), LEAPFROG, q.stddev, PILOT_CHAINS, PILOT_MOVES)

    def _posterior(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """z `(B, d)`, one about from p(z given x) each: of the ends of annealed chains, by their weights."""
        q, path = self._path(x, condition)
        move = HMC(path, self.steps(), LEAPFROG, q.stddev)
        log_w, ends = forward(path, move, sigmoidal(FIT_DISTRIBUTIONS), FIT_CHAINS)
        chosen = torch.multinomial(log_w.softmax(0).T, 1)[:, 0]
        return ends[chosen, torch.arange(len(x), device=x.device)]

    def _path(self, x: Tensor, condition: Tensor | None) -> tuple[Proposal, GeometricPath]:
        q = self.proposal(x, condition)
        return q, GeometricPath(q, lambda z: self.log_joint(x, z, condition))

    # training

    def learner(self, settings: TrainSettings) -> Learner:
        """Two optimisers in turn."""
        return AdversarialLearner(self, settings)

    def default_training(self) -> TrainSettings:
        """Adam with little momentum, as is usual in games."""
        image = len(self.spec.event_shape) == 3
        return TrainSettings(learning_rate=5e-4 if image else 1e-3, betas=(0.5, 0.9))


class GAN(Adversarial):
    """`gan`: the non-saturating game."""

    game = "gan"


class WGAN(Adversarial):
    """`wgan`: the Wasserstein game with a gradient penalty."""

    game = "wgan"
