"""Conditional flow matching with optimal-transport paths (Lipman et al. 2023, arXiv:2210.02747).

    x_t = t x + (1 - (1 - sigma) t) eps,   t from 0 (noise) to 1 (data),   s_t = 1 - (1 - sigma) t     (eq. 22)
    dx_t / dt = v(x_t, t),   min_v E |v(x_t, t) - (x - (1 - sigma) eps)|^2                              (eq. 23)

The best v is the mean of x - (1 - sigma) eps given x_t, and with x0_hat in the place of E[x given x_t] it is

    v = (x0_hat - (1 - sigma) x_t) / s_t,   so that the loss is |x - x0_hat|^2 / s_t^2

The model is the flow, x_1 of x_0 ~ N(0, I):

    log p(x) = log N(x_0; 0, I) - int_0^1 div v dt,   solved backwards from x_1 = x (ode.py): an estimate

The reverse SDE with the same x0_hat is another model, and has a lower bound.
"""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from genzoo.config import Config
from genzoo.errors import CapabilityError
from genzoo.spec import DataSpec
from genzoo_ddpm.continuous import ODE, Continuous
from genzoo_ddpm.interpolants import OptimalTransport, Point
from genzoo_ddpm.objectives import evenly
from genzoo_ddpm.ode import Flow
from genzoo_ddpm.options import NetworkConfig
from genzoo_ddpm.schedules import Chain, LogSNRSchedule

INTERVALS, LOWEST = 128, -10.0
"""Of log-SNR, over which the draws of the SDE's bound are allocated, and where it begins."""


class FlowMatchingConfig(NetworkConfig):
    """Configuration of flow matching."""

    sigma_min: float = Field(
        1e-3, gt=0, lt=1, description="noise at t = 1, which the flow takes for data: far below their own detail"
    )


@final
class FlowMatching(Continuous):
    """Flow matching; the model is the ODE."""

    Config: ClassVar[type[Config]] = FlowMatchingConfig

    def __init__(self, spec: DataSpec, config: FlowMatchingConfig | None = None) -> None:
        super().__init__(spec, config)
        c = self.config
        assert isinstance(c, FlowMatchingConfig)
        if spec.levels is not None:
            raise CapabilityError(
                f"flow_matching is a flow of real data; score_sde takes codes as they are: got {spec.levels} levels"
            )
        self.transport = OptimalTransport(c.sigma_min)
        chain = Chain(LogSNRSchedule(INTERVALS, -2 * math.log(self.transport.sigma), LOWEST))
        self._assemble_law(ODE(), chain, self.transport)

    @property
    def loss_in_nats(self) -> bool:
        """False: a squared error of velocities."""
        return False

    def flow(self) -> Flow:
        """See Denoising."""
        return TransportFlow(self)

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        """Mean over the dimensions of (v - (x - (1 - sigma) eps))^2, t even over the batch."""
        z, labels = self._encoded(x, condition)
        point = self.transport.at_time(evenly(len(z), z.device).double(), z.dtype)
        mean, _ = self._predict_from(point.signal * z + point.noise * torch.randn_like(z), point, labels)
        return ((mean - z) / point.noise).square().mean(1)


class TransportFlow(Flow):
    """dx / dt = v(x, t), from data at t = 1 to noise at t = 0."""

    start, end, scale = 1.0, 0.0, 1.0

    def __init__(self, model: FlowMatching) -> None:
        self.model = model

    def at(self, time: Tensor, dtype: torch.dtype) -> Point:
        """See Flow."""
        return self.model.transport.at_time(time, dtype)

    def drift(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """See Flow."""
        point, sigma = self.at(time, x.dtype), self.model.transport.sigma
        return (self.model._predict_from(x, point, labels)[0] - (1 - sigma) * x) / point.noise

    def log_prior(self, x: Tensor) -> Tensor:
        """See Flow; N(0, I)."""
        return -0.5 * (x.double().square() + math.log(2 * math.pi)).sum(1)

    def prior(self, n: int) -> Tensor:
        """See Flow."""
        loc = self.model.denoiser.loc
        return torch.randn(n, self.model.spec.dims, dtype=loc.dtype, device=loc.device)
