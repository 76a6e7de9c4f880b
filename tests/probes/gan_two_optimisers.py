"""Probe: a generative adversarial network (Goodfellow et al., arXiv:1406.2661) with two optimisers in one learner.

    p_sigma(x) = E_z N(x; G(z), sigma^2), z ~ N(0, 1)    (Wu et al., arXiv:1611.04273)

sigma is fitted on validation; the weights N(x; G(z_k), sigma^2) are unbiased for p_sigma(x); a sample is G(z) + noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from genzoo import DataSpec, GenerativeModel, Learner, LogLikelihood, hookimpl
from genzoo.cards import ModelCard
from genzoo.config import Config as BaseConfig
from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.likelihood import WeightSums
from genzoo.nn import MLP
from genzoo.spec import Batch, Split


class GANConfig(BaseConfig):
    latents: int = Field(2, ge=1, description="dimensions of z")
    width: int = Field(32, ge=1, description="hidden units of both networks")


class GAN(GenerativeModel):
    Config = GANConfig
    config: GANConfig
    log_sigma: Tensor

    def __init__(self, spec: DataSpec, config: BaseConfig | None = None) -> None:
        super().__init__(spec, config)
        if spec.levels is not None:
            raise CapabilityError("this GAN takes real data")
        self.generator = MLP(self.config.latents, spec.dims, [self.config.width] * 2)
        self.register_buffer("log_sigma", torch.zeros((), dtype=torch.float64))

    def generate(self, n: int) -> Tensor:
        """Noise-free G(z), `(n, D)`."""
        parameter = next(self.generator.parameters())
        x: Tensor = self.generator(torch.randn(n, self.config.latents, device=parameter.device))
        return x

    def log_normal(self, x: Tensor, centre: Tensor, log_sigma: Tensor) -> Tensor:
        """log N(x; centre, sigma^2) over the last axis, nats."""
        square = (x.to(torch.float64) - centre.to(torch.float64)).square().sum(-1) * (-2 * log_sigma).exp()
        return -0.5 * square - self.spec.dims * (log_sigma + 0.5 * math.log(2 * math.pi))

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        sums, flat = WeightSums(), x.flatten(1)
        while sums.count < num_samples:
            k = min(max(1, 16384 // len(x)), num_samples - sums.count)
            sums.add(self.log_normal(flat, self.generate(k * len(x)).view(k, *flat.shape), self.log_sigma), {})
        return sums.result()

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        centre = self.generate(n)
        x = centre + self.log_sigma.exp().to(centre.dtype) * torch.randn_like(centre)
        return x.view(n, *self.spec.event_shape)

    def default_training(self) -> TrainSettings:
        return TrainSettings(betas=(0.5, 0.9), warmup=0.0)

    def learner(self, settings: TrainSettings) -> Learner:
        return Adversarial(self, settings)


class Adversarial(Learner):
    def __init__(self, model: GAN, settings: TrainSettings) -> None:
        self.model, self.settings = model, settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.critic = MLP(model.spec.dims, 1, [model.config.width] * 2).to(model.device)
        players = (model.generator, self.critic)
        rate, betas = settings.learning_rate, settings.betas
        self.optimizers = [torch.optim.Adam(player.parameters(), lr=rate, betas=betas) for player in players]

    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        softplus, real, fake = nn.functional.softplus, batch.x.flatten(1), self.model.generate(len(batch.x))
        critic = softplus(-self.critic(real)).mean() + softplus(self.critic(fake.detach())).mean()
        self._update(1, critic)
        generator = softplus(-self.critic(fake)).mean()  # the non-saturating loss
        self._update(0, generator)
        return {"loss": generator.detach(), "critic": critic.detach()}

    def _update(self, which: int, loss: Tensor) -> None:
        self.optimizers[which].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizers[which].step()

    @torch.no_grad()
    def finish(self, train: Split, valid: Split) -> None:
        """The best of 25 values of sigma for 256 validation points and 512 common draws."""
        x = valid.batch(torch.arange(min(256, len(valid))), torch.Generator().manual_seed(0)).x.flatten(1)
        centre = self.model.generate(512)
        grid = torch.linspace(math.log(0.02), math.log(5.0), 25, dtype=torch.float64, device=x.device)
        scores = [self.model.log_normal(x[:, None], centre, s).logsumexp(1).mean() for s in grid]
        self.model.log_sigma.copy_(grid[torch.stack(scores).argmax()])

    def evaluated(self) -> GAN:
        return self.model

    def state_dict(self) -> dict[str, Any]:
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"model": self.model.state_dict(), "critic": self.critic.state_dict(), "optimizers": optimizers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.critic.load_state_dict(state["critic"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


@hookimpl
def genzoo_models() -> list[ModelCard]:
    card = ModelCard(
        name="probe_gan",
        summary="GAN with Gaussian noise",
        family="adversarial",
        target="gan_two_optimisers:GAN",
        data=("real",),
        num_samples={"real": 64},
        kind="weights",
    )
    return [card]
