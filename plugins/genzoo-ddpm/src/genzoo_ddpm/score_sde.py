"""Score-based generative modelling by the variance-preserving SDE (Song et al. 2021, arXiv:2011.13456).

    dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw,   beta(t) = beta_min + t (beta_max - beta_min),   t in (0, 1]
    x_t given x_0 ~ N(a x_0, s^2),   a^2 = exp(-B(t)),  s^2 = 1 - a^2,   B(t) = int_0^t beta

The network gives the score (a x0_hat - x) / s^2. The loss is denoising score matching with likelihood weighting (Song
et al. 2021, arXiv:2101.09258), which with prior and decoder bounds the negative log-likelihood of the reverse SDE:

    -log p(x_0) <= KL(q(x_1 given x_0), p(x_1)) - E log p(x_0 given x_epsilon)
                   + 1/2 int_epsilon^1 beta E |score_hat - grad log q(x_t given x_0)|^2 dt

In log-SNR lam = -log(exp(B) - 1), -dlam = beta / s^2 dt, and the integral is

    1/2 int exp(lam) E |x_0 - x0_hat|^2 dlam

so that it depends on beta through the ends t = epsilon and t = 1 alone (Kingma et al. 2021, arXiv:2107.00630). Times of
training are uniform in lam, the importance sampling of arXiv:2101.09258; draws are solved in even steps of lam.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from genzoo.config import Config
from genzoo.errors import ConfigError
from genzoo.spec import DataSpec
from genzoo_ddpm.continuous import ODE, SDE, Continuous, Law
from genzoo_ddpm.interpolants import VariancePreserving
from genzoo_ddpm.objectives import evenly
from genzoo_ddpm.ode import Flow, ProbabilityFlow
from genzoo_ddpm.options import NetworkConfig, fine_end
from genzoo_ddpm.schedules import Chain, LogSNRSchedule
from genzoo_ddpm.terms import ContinuousTerms

LAWS: dict[str, type[SDE] | type[ODE]] = {"sde": SDE, "ode": ODE}


class ScoreSDEConfig(NetworkConfig):
    """Configuration of the SDE. Its ends are Song et al.'s."""

    law: Literal["sde", "ode"] = Field("sde", description="what is the model: the reverse SDE, or its probability flow")
    beta_min: float = Field(0.1, gt=0, description="beta at t = 0")
    beta_max: float = Field(20.0, gt=0, le=39, description="beta at t = 1; 39 leaves a signal of exp(-20)")
    epsilon: float | None = Field(
        None, gt=0, lt=1, description="t of the decoder; none: a log-SNR of 9 (1e-3) for real data, as ddpm's for codes"
    )
    steps: int = Field(128, ge=2, description="of the sampler, two network calls each")


@final
class ScoreSDE(Continuous):
    """Score-based generative modelling; what is the model, `law` says."""

    Config: ClassVar[type[Config]] = ScoreSDEConfig

    def __init__(self, spec: DataSpec, config: ScoreSDEConfig | None = None) -> None:
        super().__init__(spec, config)
        c = self.config
        assert isinstance(c, ScoreSDEConfig)
        high = fine_end(spec) if c.epsilon is None else log_snr(c.epsilon, c)
        low = log_snr(1.0, c)
        if high <= low:
            raise ConfigError(f"expected beta to leave noise at t = 1: log-SNR falls from {high:.4g} to {low:.4g}")
        law: Law = LAWS[c.law]()
        self._assemble_law(law, Chain(LogSNRSchedule(c.steps, high, low)), VariancePreserving())

    def flow(self) -> Flow:
        """See Denoising."""
        return ProbabilityFlow(self)

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        """The bound from one place on the path, even over the batch; the decoder of real data is one of its steps."""
        z, labels = self._encoded(x, condition)
        terms, count = ContinuousTerms(self), len(self.chain) - self.first
        place = evenly(len(z), z.device).double() * count
        step = place.to(torch.int64).clamp(max=count - 1)
        nats = terms(z, step + self.first, place - step, torch.randn_like(z), labels)
        constant = self._decoder_constant()  # the loudest part of a drawn decoder; it is added exactly
        nats = nats - torch.where(step + self.first == 0, constant, 0.0)
        return (count * nats + constant + self._prior(z) + self._decoder_loss(z)).to(z.dtype)


def log_snr(t: float, config: ScoreSDEConfig) -> float:
    """lam = -log(exp(B(t)) - 1)."""
    beta = t * config.beta_min + t * t / 2 * (config.beta_max - config.beta_min)
    return -math.log(math.expm1(beta))
