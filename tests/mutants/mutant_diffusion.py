"""A correct diffusion of eight steps in the plane (Ho et al., arXiv:2006.11239), and mutants with one thing wrong.

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps,    p(x_{t-1} given x_t) = N(mu_t(x_t), v_t),    p(x_T) = N(0, 1)
    log p(x_0) >= E log p(x_0 given x_1) - sum_{t>1} KL(q(x_{t-1} given x_t, x_0), p) - KL(q(x_T given x_0), p)

mu_t is the mean of q(x_{t-1} given x_t, x_0) at a predicted x_0, and v_t is learned. The bound is always the full sum.
Estimators: `vlb`, the default, and `weights`, over whole paths. Attributes of a mutant: see `mutant_flow.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from genzoo import DataSpec, Estimator, GradientModel, LogLikelihood, hookimpl
from genzoo.cards import ModelCard
from genzoo.config import Config, TrainSettings
from genzoo.interface import ModelEstimator
from genzoo.nn import MLP
from genzoo.seeding import evaluating, seeded
from genzoo.spec import Split

STEPS = 8
SIGNAL = (1.0, 0.97, 0.88, 0.72, 0.52, 0.32, 0.16, 0.06, 0.01)
"""a_t for t = 0..STEPS."""


def log_normal(x: Tensor, loc: Tensor, variance: Tensor) -> Tensor:
    """log N(x; loc, variance) summed over the last axis."""
    return (-0.5 * ((x - loc).square() / variance + variance.log() + math.log(2 * math.pi))).sum(-1)


def kl_normal(loc: Tensor, variance: Tensor, other: Tensor, other_variance: Tensor) -> Tensor:
    """KL between Gaussians, summed over the last axis of the means."""
    ratio = variance / other_variance
    return (0.5 * ((loc - other).square() / other_variance + ratio - 1 - ratio.log())).sum(-1)


class TwinDiffusion(GradientModel):
    """The correct one."""

    loc: Tensor
    scale: Tensor

    def __init__(self, spec: DataSpec, config: Config | None = None) -> None:
        super().__init__(spec, config)
        self.register_buffer("loc", torch.zeros(2))
        self.register_buffer("scale", torch.ones(2))
        self.net = MLP(2 + STEPS, 2, [48, 48])
        posterior = [self.posterior_variance(t) if t > 1 else 1 - SIGNAL[1] for t in range(1, STEPS + 1)]
        self.log_variance = nn.Parameter(torch.tensor(posterior).log())

    def _initialise(self, train: Split) -> None:
        x = train.batch(torch.arange(len(train)), torch.Generator()).x
        self.loc.copy_(x.mean(0))
        self.scale.copy_(x.std(0))

    def default_training(self) -> TrainSettings:
        return TrainSettings(learning_rate=0.02)

    def posterior_variance(self, t: int) -> float:
        """Of q(x_{t-1} given x_t, x_0)."""
        return (1 - SIGNAL[t - 1]) * self.beta(t) / (1 - SIGNAL[t])

    def beta(self, t: int) -> float:
        return 1 - SIGNAL[t] / SIGNAL[t - 1]

    def posterior_mean(self, x0: Tensor, xt: Tensor, t: int) -> Tensor:
        first = math.sqrt(SIGNAL[t - 1]) * self.beta(t) * x0
        return (first + math.sqrt(1 - self.beta(t)) * (1 - SIGNAL[t - 1]) * xt) / (1 - SIGNAL[t])

    def reverse(self, xt: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of p(x_{t-1} given x_t)."""
        step = torch.zeros(STEPS)
        step[t - 1] = 1
        x0 = math.sqrt(SIGNAL[t]) * xt + self.net(torch.cat([xt, step.expand(*xt.shape[:-1], STEPS)], -1))
        return self.posterior_mean(x0, xt, t), self.log_variance[t - 1].exp()

    def noised(self, x0: Tensor, t: int) -> Tensor:
        return math.sqrt(SIGNAL[t]) * x0 + math.sqrt(1 - SIGNAL[t]) * torch.randn_like(x0)

    def divergence(self, x0: Tensor, t: int) -> Tensor:
        """KL of step t at one draw of x_t."""
        xt = self.noised(x0, t)
        mean, variance = self.reverse(xt, t)
        own = torch.tensor(self.posterior_variance(t))
        return kl_normal(self.posterior_mean(x0, xt, t), own, mean, variance)

    def steps(self) -> list[int]:
        """The time steps whose KL is summed."""
        return list(range(2, STEPS + 1))

    def total(self, divergences: Tensor) -> Tensor:
        """Of `(T, ...)`."""
        return divergences.sum(0)

    def decoder(self, x0: Tensor) -> Tensor:
        """log p(x_0 given x_1) in data units, at one draw of x_1."""
        return log_normal(x0, *self.reverse(self.noised(x0, 1), 1)) - self.scale.log().sum()

    def prior(self, x0: Tensor) -> Tensor:
        """-KL(q(x_T given x_0), p(x_T))."""
        spread = torch.tensor(1 - SIGNAL[STEPS])
        return -kl_normal(math.sqrt(SIGNAL[STEPS]) * x0, spread, torch.zeros(()), torch.ones(()))

    def bound(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Terms of one draw of the bound, of `x (..., 2)`, and the KLs of the steps `(T, ...)`."""
        x0 = (x - self.loc) / self.scale
        divergences = torch.stack([self.divergence(x0, t) for t in self.steps()])
        terms = {"decoder": self.decoder(x0), "diffusion": -self.total(divergences), "prior": self.prior(x0)}
        return terms, divergences

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        terms, _ = self.bound(x)
        return -torch.stack(list(terms.values())).sum(0)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        single, divergences = self.bound(x.expand(num_samples, *x.shape))
        terms = {name: term.double().expand(num_samples, len(x)) for name, term in single.items()}
        draws = torch.stack(list(terms.values())).sum(0)  # (K, B)
        return LogLikelihood.lower_bound(
            draws.mean(0),
            num_samples=num_samples,
            variance=draws.var(0) / num_samples if num_samples > 1 else None,
            terms=self.named({name: term.mean(0) for name, term in terms.items()}),
            arrays={"diffusion_per_step": self.parts(-divergences.double().mean(1).T)},
        )

    def parts(self, anatomy: Tensor) -> Tensor:
        """The parts of the diffusion term `(B, T)` as they are told."""
        return anatomy

    def named(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """The terms as they are told."""
        return terms

    def path_log_weight(self, x: Tensor) -> Tensor:
        """log p(x_0..x_T) - log q(x_1..x_T given x_0) of one path an example, `(B,)`."""
        x0 = (x - self.loc) / self.scale
        xt = self.noised(x0, STEPS)
        own = log_normal(xt, math.sqrt(SIGNAL[STEPS]) * x0, torch.tensor(1 - SIGNAL[STEPS]))
        log_w = log_normal(xt, torch.zeros(()), torch.ones(())) - own - self.scale.log().sum()
        for t in range(STEPS, 1, -1):
            mean, variance = self.posterior_mean(x0, xt, t), torch.tensor(TwinDiffusion.posterior_variance(self, t))
            before = mean + variance.sqrt() * torch.randn_like(mean)
            log_w = log_w + log_normal(before, *self.reverse(xt, t)) - self.path_entropy(before, mean, variance)
            xt = before
        return log_w + log_normal(x0, *self.reverse(xt, 1))

    def path_entropy(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """log q(x_{t-1} given x_t, x_0)."""
        return log_normal(x, mean, variance)

    def path_noise(self, n: int) -> Callable[[], Tensor]:
        """Source of the sampler's noise `(n, 2)`."""
        return lambda: torch.randn(n, 2)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        noise = self.path_noise(n)
        x = noise()
        for t in range(STEPS, 0, -1):
            mean, variance = self.reverse(x, t)
            x = mean + variance.sqrt() * noise()
        return self.loc + self.scale * x

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        return {"vlb": lambda: ModelEstimator("vlb", self), "weights": lambda: PathWeights(self)}


class PathWeights(Estimator):
    name = "weights"

    def __init__(self, model: TwinDiffusion) -> None:
        self.model = model

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        self.model.spec.check(x, condition)
        with torch.no_grad(), evaluating(self.model), seeded(seed, self.model.device):
            return LogLikelihood.weights(torch.stack([self.model.path_log_weight(x) for _ in range(num_samples)]))


class StepLeftOut(TwinDiffusion):
    """The KL of the second step is not in the sum."""

    caught_by: ClassVar[str] = "bound_mass_is_below_one[plane]"
    effect: ClassVar[float] = 0.1

    def steps(self) -> list[int]:
        return super().steps()[1:]


class PosteriorVariance(TwinDiffusion):
    """beta_t for the variance of q(x_{t-1} given x_t, x_0)."""

    caught_by: ClassVar[str] = "bound_mass_is_below_one[plane]"
    effect: ClassVar[float] = 0.1

    def posterior_variance(self, t: int) -> float:
        return self.beta(t)


class MeanOverSteps(TwinDiffusion):
    """The mean over time steps where their sum should stand; one draw, so that the spread is not known."""

    caught_by: ClassVar[str] = "below_the_truth[plane]"
    effect: ClassVar[float] = 0.1

    def total(self, divergences: Tensor) -> Tensor:
        return divergences.mean(0)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return LogLikelihood.lower_bound(super()._log_likelihood(x, 1, condition).lower)


class SubsampledWeights(TwinDiffusion):
    """A bound with one random time step a draw, called weights and so exponentiated."""

    caught_by: ClassVar[str] = "mass_is_one[plane]"
    effect: ClassVar[float] = 0.1

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        x0 = ((x - self.loc) / self.scale).expand(num_samples, *x.shape)
        every = torch.stack([self.divergence(x0, t) for t in self.steps()])  # (T, K, B)
        chosen = every.gather(0, torch.randint(len(every), (1, *every.shape[1:])))[0]
        return LogLikelihood.weights(self.decoder(x0) - len(every) * chosen + self.prior(x0))


class TermsSign(TwinDiffusion):
    """The named diffusion term is a KL, and not minus a KL."""

    caught_by: ClassVar[str] = "terms_sum[plane]"
    effect: ClassVar[float] = 0.1
    measure: ClassVar[str] = "terms"

    def named(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        return terms | {"diffusion": -terms["diffusion"]}


class PartsShort(TwinDiffusion):
    """The parts of the diffusion term, one a time step, leave out the step next to the data."""

    caught_by: ClassVar[str] = "terms_sum[plane]"
    effect: ClassVar[float] = 0.1
    measure: ClassVar[str] = "parts"

    def parts(self, anatomy: Tensor) -> Tensor:
        return anatomy[:, 1:]


class PathWithoutEntropy(TwinDiffusion):
    """The path weights miss the normaliser of q."""

    caught_by: ClassVar[str] = "estimators_agree[plane]"
    effect: ClassVar[float] = 0.1
    measure: ClassVar[str] = "weights"

    def path_entropy(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return (-0.5 * (x - mean).square() / variance).sum(-1)


class NoiseReused(TwinDiffusion):
    """The sampler draws its noise once and adds the same at each step."""

    caught_by: ClassVar[str] = "samples_match[plane]"
    effect: ClassVar[float] = 0.1
    measure: ClassVar[str] = "samples"

    def path_noise(self, n: int) -> Callable[[], Tensor]:
        noise = torch.randn(n, 2)
        return lambda: noise


@hookimpl
def genzoo_models() -> list[ModelCard]:
    names = {
        "twin_diffusion": TwinDiffusion,
        "diffusion_step_left_out": StepLeftOut,
        "diffusion_posterior_variance": PosteriorVariance,
        "diffusion_mean_over_steps": MeanOverSteps,
        "diffusion_subsampled_weights": SubsampledWeights,
        "diffusion_terms_sign": TermsSign,
        "diffusion_parts_short": PartsShort,
        "diffusion_path_without_entropy": PathWithoutEntropy,
        "diffusion_noise_reused": NoiseReused,
    }
    return [
        ModelCard(
            name=name,
            summary=(model.__doc__ or "").strip(),
            family="denoising diffusion",
            target=f"{__name__}:{model.__name__}",
            data=("real",),
            min_dims=2,
            max_dims=2,
            kind="weights" if model is SubsampledWeights else "lower_bound",
        )
        for name, model in names.items()
    ]
