"""Denoising diffusion with T steps (Ho et al. 2020, arXiv:2006.11239) and its full variational bound.

Notation and chain as in schedules.py: x_t = a_t x_0 + s_t eps; x0_hat(x_t, t) is a denoiser in closed form plus what
the network adds (networks.py). The model is p(x_T) = N(a_T m, a_T^2 diag C + s_T^2), m and C the data's mean and
covariance, then p(x_{t-1} given x_t) = N(A_t x_t + C_t x0_hat, v_t) down to t = 2, then a decoder p(x_0 given x_1):

    -log p(x_0) <= KL(q(x_T given x_0), p(x_T)) + sum_{t=2}^T E KL_t - E log p(x_0 given x_1)
    KL_t = 1/2 sum_i [log v_t / b_t + b_t / v_t - 1 + C_t^2 (x_0 - x0_hat)_i^2 / v_t],  v_t of dimension i

Steps are held at index t - 1. Index 0 is the decoder: it is one of the steps that the estimate draws where it needs the
network (real data), and is evaluated once or twice an example where it does not (codes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from genzoo.config import Config
from genzoo.config import Config as BaseConfig
from genzoo.errors import CapabilityError
from genzoo.interface import ConditionalSampler, Estimator
from genzoo.likelihood import LogLikelihood
from genzoo.noising import GaussianProcess, Noising
from genzoo.spec import DataSpec, Split
from genzoo_ddpm.bound import PILOT_NUMBERS, drawn_bound, subset
from genzoo_ddpm.denoising import Denoising
from genzoo_ddpm.estimators import estimators_of
from genzoo_ddpm.frames import traced
from genzoo_ddpm.given import draw_given
from genzoo_ddpm.interpolants import VariancePreserving
from genzoo_ddpm.learned import LearnedSchedule, continuous_loss
from genzoo_ddpm.objectives import OBJECTIVES
from genzoo_ddpm.ode import Flow, ProbabilityFlow
from genzoo_ddpm.options import DiffusionConfig, schedule_of
from genzoo_ddpm.schedules import Chain, Subsequence
from genzoo_ddpm.terms import StepTerms
from genzoo_ddpm.variances import VARIANCES

PILOT_ROWS, PILOT_IMAGES = 1 << 17, 1 << 10
"""Pairs of example and step that fit variances and allocation, two network calls each: some seconds on one core."""


class Diffusion(Denoising, ConditionalSampler, Noising):
    """The chain, its network and its bound; DDPM and DDIM are its leaves and differ in `eta` alone."""

    Config: ClassVar[type[Config]] = DiffusionConfig

    def __init__(self, spec: DataSpec, config: DiffusionConfig | None, eta: float) -> None:
        super().__init__(spec, config)
        c = self.options
        variance, schedule = VARIANCES[c.variance], schedule_of(spec, c)
        self._assemble(
            Chain(schedule, eta),
            VariancePreserving(),
            decoder_variance=c.decoder_variance,
            outputs=1 + variance.outputs,
            eta=eta,
        )
        self.schedule: LearnedSchedule | None = None
        if c.schedule == "learned":
            ends = schedule.log_snr()
            self.schedule = LearnedSchedule(float(ends[0]), float(ends[-1]))
            # tables are not stored: they follow the weights
            self.register_load_state_dict_post_hook(_follow)  # type: ignore[no-untyped-call]
        self.variance = variance(self.chain, self.denoiser.prior_ratio)
        self.objective = OBJECTIVES[c.objective]()
        self.allocation = StepTerms(self).allocation()

    @property
    def options(self) -> DiffusionConfig:
        """The config, typed."""
        assert isinstance(self.config, DiffusionConfig)
        return self.config

    @property
    def loss_in_nats(self) -> bool:
        """True for the variational objective; the continuous-time bound is that of another chain, and above it."""
        return self.objective.in_nats and self.schedule is None

    # the network

    def _predict(self, x: Tensor, step: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """x0_hat `(R, D)` at x_t, and what the variance is made from (`Variance.log_variance`)."""
        return self._predict_at(x, self.chain.log_snr[step], condition)

    def _log_variance(self, step: Tensor, cue: Tensor) -> Tensor:
        """log v_t of the reverse step, of the decoder at index 0: `(R, 1 or D)` float64."""
        first = (step == 0)[:, None]
        return torch.where(first, self.decoder.log_variance, self.variance.log_variance(step, cue).double())

    def _nats(self, step: Tensor, square: Tensor, log_variance: Tensor) -> Tensor:
        """The bound's term `(R,)` float64 at each step: KL_t, or -log p(x_0 given x_1) at index 0 of real data.

        `square (R, D)` holds (x_0 - x0_hat)^2.
        """
        chain, first = self.chain, (step == 0)[:, None]
        precision, posterior = (-log_variance).exp(), chain.variance[step][:, None]
        fixed = (posterior * precision - 1 - posterior.masked_fill(first, 1.0).log()).masked_fill(
            first, math.log(2 * math.pi)
        )
        fit = chain.pull.square()[step][:, None] * square * precision
        return 0.5 * (log_variance + fixed + fit).expand_as(square).sum(1)

    def _errors(self, x: Tensor, step: Tensor, eps: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0 - x0_hat)^2 `(R, D)` and the variance's cue, in batches of the network's size."""
        return self._errors_at(x, self.chain.log_snr[step], eps, condition)

    def _terms(self, x: Tensor, step: Tensor, eps: Tensor, condition: Tensor) -> Tensor:
        """The bound's term `(R,)` float64."""
        square, cue = self._errors(x, step, eps, condition)
        return self._nats(step, square.double(), self._log_variance(step, cue))

    # training

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        z, labels = self._encoded(x, condition)
        if self.schedule is not None:
            return continuous_loss(self, self.schedule, z, labels).to(z.dtype)
        step = self.objective.draw(len(z), self.first, len(self.chain), z.device)
        eps = torch.randn_like(z)
        square, cue = self._errors(z, step, eps, labels)
        log_variance = self._log_variance(step, cue)
        # The decoder's constant would be the loudest term of the loss when index 0 is drawn; it is added exactly.
        constant = self._decoder_constant()
        offset = torch.where(step == 0, constant, 0.0)
        loss = self.objective.loss(
            square,
            self.chain.log_snr[step].exp().to(z.dtype)[:, None],
            lambda square: self._nats(step, square.double(), log_variance) - offset,
            len(self.chain) - self.first,
        )
        if self.objective.in_nats:
            loss = loss + constant + self._prior(z) + self._decoder_loss(z)
        return loss.to(z.dtype)

    def _calibrate(self, train: Split, valid: Split) -> None:
        """Fit variances and allocation to a pilot: a few examples at every step, each with a noise and its mirror."""
        self._follow_schedule()
        most = PILOT_ROWS if self.network.rows > 1000 else PILOT_IMAGES
        count = len(self.chain) - self.first
        n = max(1, min(most, PILOT_NUMBERS // self.spec.dims) // count)
        # Training data: validation data then speak of what was chosen without them.
        z, labels = self._encoded(*subset(train, most, self.device))
        rows = torch.randint(len(z), (count * n,), device=z.device)
        z, labels, eps = z[rows], labels[rows], torch.randn(count * n, self.spec.dims, dtype=z.dtype, device=z.device)
        step = torch.arange(self.first, len(self.chain), device=z.device).repeat_interleave(n)
        both = [self._errors(z, step, sign * eps, labels) for sign in (1, -1)]
        self.decoder.fit((both[0][0][step == 0].double().mean() + both[1][0][step == 0].double().mean()) / 2)
        self.variance.fit(self.chain, step, [(square.double(), cue.double()) for square, cue in both])
        # every noise's term with the variances just fitted
        nats = [self._nats(step, square.double(), self._log_variance(step, cue)) for square, cue in both]
        values = (nats[0] + nats[1]) / 2
        terms = StepTerms(self)
        self.allocation.fit(step, values, terms.excess(z, step, eps), terms.spread)

    def _follow_schedule(self) -> None:
        """Bring the tables of chain and variances to where a learned schedule is."""
        if self.schedule is None:
            return
        values = tuple(self.schedule.log_snr(len(self.chain)).tolist())
        chain = Chain(Subsequence(len(values), values), self.eta)
        variance = VARIANCES[self.options.variance](chain, self.denoiser.prior_ratio)
        stored = self.variance.state_dict()
        for mine, fresh in ((self.chain, chain), (self.variance, variance)):
            for name, table in fresh.named_buffers():
                if mine is self.chain or name not in stored:
                    mine.get_buffer(name).copy_(table)

    # the bound

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        self._need_noise()
        return drawn_bound(StepTerms(self), self.allocation, *self._encoded(x, condition), num_samples)

    def _need_noise(self) -> None:
        if self.eta == 0:
            raise CapabilityError(
                "eta = 0 makes each step of the inference process and of the sampler a deterministic map, whose "
                "variational bound is -inf: expected eta > 0 for a likelihood (sampling works)"
            )

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        """See estimators.py."""
        return estimators_of(self)

    def flow(self) -> Flow:
        """See Denoising."""
        return ProbabilityFlow(self)

    # sampling

    def _draw(self, labels: Tensor) -> Tensor:
        *_, x = self._trajectory(labels)
        return self._last(x, labels).reshape(len(x), *self.spec.event_shape)

    @property
    def exact_given(self) -> bool:
        """Particles, and a denoiser that is learned."""
        return False

    def _sample_given(self, x: Tensor, mask: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        z, labels = self._encoded(x, condition)
        drawn = draw_given(self, z, mask.flatten(1), noise.flatten(), labels).view_as(x)
        return torch.where(mask & (noise == 0), x, drawn).to(self.spec.dtype)

    def _trajectory(self, labels: Tensor) -> Iterator[Tensor]:
        """x_T, ..., x_1, each `(n, D)`."""
        x = self._start(len(labels))
        yield x
        for t in range(len(self.chain) - 1, 0, -1):
            mean, log_variance = self._means(x, t, labels)
            # at eta = 0 there is no noise, whatever variance a fit would grant (Song et al. 2021, eq. 12)
            x = mean if self.eta == 0 else mean + (0.5 * log_variance).exp().to(x.dtype) * torch.randn_like(x)
            yield x

    def _means(self, x: Tensor, t: int, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(x_{t-1} given x_t) at index `t` >= 1."""
        denoised, log_variance = self._denoised(x, t, labels)
        return float(self.chain.keep[t]) * x + float(self.chain.pull[t]) * denoised, log_variance

    def _denoised(self, x: Tensor, t: int, labels: Tensor) -> tuple[Tensor, Tensor]:
        """x0_hat `(n, D)` at index `t`, and log v_t `(n, 1 or D)`, of the decoder at 0."""
        step = torch.full((len(x),), t, device=x.device)
        denoised, cue = self._predict(x, step, labels)
        return denoised, self._log_variance(step, cue)

    @classmethod
    def forward_process(cls, spec: DataSpec, config: BaseConfig) -> GaussianProcess:
        """See Noising. Of ddim too: its q(x_t given x_0) is the same, whatever eta."""
        assert isinstance(config, DiffusionConfig)
        chain = Chain(schedule_of(spec, config))
        return GaussianProcess(chain.signal, chain.noise, spec.levels)

    def traces(self, x: Tensor, n: int, seed: int) -> dict[str, Tensor]:
        """See `genzoo_ddpm.frames`."""
        process = GaussianProcess(self.chain.signal, self.chain.noise, self.spec.levels)

        def reverse(labels: Tensor, times: Sequence[int]) -> list[Tensor]:
            back = list(self._trajectory(labels))
            frames = [self.decoder.decode(back[process.steps - t]) for t in times[:-1]]
            return [*frames, self._last(back[-1], labels).to(frames[0].dtype)]

        return traced(self, process, reverse, self.denoiser.loc, x, n, seed)


def _follow(model: Diffusion, incompatible: object) -> None:
    """After weights are loaded."""
    model._follow_schedule()
