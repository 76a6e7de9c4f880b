"""A variational diffusion model with T steps: Kingma et al. 2021, arXiv:2107.00630, eq. 11 to 14.
-log p(x) <= KL(q(z_1|x), N(0, I)) + E -log p(x|z_0) + T/2 E_{i, e} expm1(g(t) - g(s)) |e - e_hat|^2
"""

import math

import torch
from torch import Tensor

from genzoo import DataSpec, GradientModel, LogLikelihood, hookimpl
from genzoo.cards import ModelCard
from genzoo.config import Config, TrainSettings
from genzoo.nn import ResidualMLP

T, LOW, HIGH = 16, -6.0, 6.0  # steps; g = -log SNR at t = 0 and t = 1


class VDM(GradientModel):
    def __init__(self, spec: DataSpec, config: Config | None = None) -> None:
        super().__init__(spec, config)
        self.network = ResidualMLP(spec.dims + 1, spec.dims, 64, 2, zero_last=True)

    def _noise(self, z: Tensor, g: Tensor) -> Tensor:  # e_hat; z alone is right for pure noise
        return self.network(torch.cat([z, g / HIGH], 1)) + z * torch.sigmoid(g).sqrt()

    def _loss(self, x: Tensor, progress: float, condition: None = None) -> Tensor:
        step = torch.randint(1, T + 1, (len(x), 1), device=x.device)
        g, g_s = (LOW + (HIGH - LOW) * (step - back) / T for back in (0, 1))
        e = torch.randn_like(x)
        z = torch.sigmoid(-g).sqrt() * x + torch.sigmoid(g).sqrt() * e
        diffusion = 0.5 * T * (torch.expm1(g - g_s) * (e - self._noise(z, g)).square()).sum(1)
        variance, log_scale = torch.sigmoid(torch.tensor(HIGH)), math.log(2 * math.pi) + LOW
        prior = 0.5 * (variance + (1 - variance) * x.square() - 1 - variance.log()).sum(1)
        return prior + 0.5 * self.spec.dims * (log_scale + 1) + diffusion

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: None) -> LogLikelihood:
        draws = -torch.stack([self._loss(x, 1.0).double() for _ in range(num_samples)])
        noise = draws.var(0) / num_samples if num_samples > 1 else None
        return LogLikelihood.lower_bound(draws.mean(0), num_samples=num_samples, variance=noise)

    def _sample(self, n: int, condition: None) -> Tensor:
        z = torch.randn(n, self.spec.dims, device=self.device)
        for i in range(T, 0, -1):
            g, g_s = LOW + (HIGH - LOW) * torch.tensor([i, i - 1.0]) / T
            c = -torch.expm1(g_s - g)
            z = z - torch.sigmoid(g).sqrt() * c * self._noise(z, g.expand(n, 1))
            z = (torch.sigmoid(-g_s) / torch.sigmoid(-g)).sqrt() * z
            z = z + (torch.sigmoid(g_s) * c).sqrt() * torch.randn_like(z)
        return z / math.sqrt(1 / (1 + math.exp(LOW))) + math.exp(LOW / 2) * torch.randn_like(z)

    def default_training(self) -> TrainSettings:
        return TrainSettings(learning_rate=3e-3, batch_size=512)


@hookimpl
def genzoo_models() -> list[ModelCard]:
    made = {"target": f"{__name__}:VDM", "data": ("real",), "kind": "lower_bound"}
    adapters = {"real": {"standardize": True}}
    return [ModelCard(name="vdm", summary="VDM", family="vdm", adapters=adapters, **made)]
