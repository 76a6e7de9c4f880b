"""Training by a game between generator and critic: two optimisers, averaged generator, noise fitted at the end."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from genzoo.config import TrainSettings
from genzoo.errors import NumericsError
from genzoo.interface import Learner
from genzoo.seeding import derive_seed, evaluating, seeded
from genzoo.spec import Batch, Split
from genzoo_gan.networks import begin_at
from genzoo_gan.noise import ANNEALED, FITTED

if TYPE_CHECKING:
    from genzoo_gan.gan import Adversarial

MARGINALS = 5_000
"""Examples behind the marginals at which a generator begins."""


class AdversarialLearner(Learner):
    """Steps of the critic, and after every `critic_steps` of them one of the generator. The loss is the critic's, which
    is no likelihood; the averaged generator is what is evaluated."""

    def __init__(self, model: Adversarial, settings: TrainSettings) -> None:
        self.model = model
        self.settings = settings
        self._players = {"critic": self._player(model.critic), "generator": self._player(model.generator)}
        self.every = model.critic_steps
        self._average = self._copy()
        self._steps = 0

    def _player(self, network: nn.Module) -> torch.optim.AdamW:
        settings = self.settings
        parameters = [p for p in network.parameters() if p.requires_grad]
        return torch.optim.AdamW(
            parameters, settings.learning_rate, settings.betas, weight_decay=settings.weight_decay, fused=True
        )

    def _copy(self) -> Adversarial:
        return copy.deepcopy(self.model).eval().requires_grad_(False)

    def start(self, train: Split) -> None:
        """A generator of codes begins at independent dimensions with the data's marginals."""
        generator = torch.Generator().manual_seed(derive_seed("start", self.settings.seed))
        rows = torch.randperm(len(train), generator=generator)[:MARGINALS]
        location = self.model.observation.location(train.batch(rows, generator).x.to(self.model.device))
        if location is not None:
            begin_at(self.model.generator, location)
            self._average = self._copy()

    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """One step of the critic, and maybe one of the generator."""
        model, settings = self.model.train(), self.settings
        x, y = model.observation.seen(batch.x), batch.y if self.model.spec.classes is not None else None
        rate = settings.learning_rate_at(progress)
        with torch.no_grad():
            fake = model.play(len(x), y)
        loss = self._critic_loss(x, fake, y)
        self._apply(loss, "critic", rate * model.config.critic_rate)
        metrics = {"loss": loss.detach()}
        self._steps += 1
        if self._steps % self.every == 0:
            judged = model.judge(model.play(len(x), y), y)
            generator_loss = (softplus(-judged) if model.game == "gan" else -judged).mean()
            self._apply(generator_loss, "generator", rate)
            metrics["generator_loss"] = generator_loss.detach()
            done = self._steps // self.every
            decay = min(settings.ema, (1 + done) / (10 + done))
            averages: list[Tensor] = list(self._average.generator.parameters())
            torch._foreach_lerp_(averages, [p.detach() for p in model.generator.parameters()], 1 - decay)
        return metrics

    def _critic_loss(self, x: Tensor, fake: Tensor, y: Tensor | None) -> Tensor:
        model = self.model
        real, made = model.judge(torch.cat([x, fake]), None if y is None else y.repeat(2)).chunk(2)
        gan = model.game == "gan"
        loss = softplus(-real) + softplus(made) if gan else made - real
        if model.penalty:
            share = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device)
            at = (x if gan else share * x + (1 - share) * fake).detach().requires_grad_()
            (slope,) = torch.autograd.grad(model.judge(at, y).sum(), at, create_graph=True)
            size = slope.flatten(1).norm(dim=1)
            loss = loss + model.penalty * (0.5 * size.square() if gan else (size - 1).square())
        return loss.mean()

    def _apply(self, loss: Tensor, player: str, rate: float) -> None:
        """One step of one player, whose gradient alone is taken; NumericsError where it is not finite."""
        optimizer = self._players[player]
        parameters = optimizer.param_groups[0]["params"]
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        limit = float("inf") if self.settings.clip is None else self.settings.clip
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        if not bool((loss + norm).isfinite()):
            found = f"{float(loss.detach())}, its gradient's norm {float(norm)}"
            raise NumericsError(f"loss of the {player} is {found} at step {self._steps}")
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()

    def finish(self, train: Split, valid: Split) -> None:
        """Fit the noise of the averaged generator on validation data."""
        model = self._average
        with torch.no_grad(), evaluating(model), seeded(derive_seed("noise", self.settings.seed), model.device):
            for mine, its in zip(model.critic.parameters(), self.model.critic.parameters(), strict=True):
                mine.copy_(its)
            rows = torch.arange(min(len(valid), FITTED if model.near else ANNEALED))
            x, y = valid.batch(rows, torch.Generator().manual_seed(0))
            model.fit_noise(x.to(model.device), None if model.spec.classes is None or y is None else y.to(model.device))

    def evaluated(self) -> Adversarial:
        """The averaged generator, with its noise."""
        return self._average

    def state_dict(self) -> dict[str, Any]:
        """Both networks, the average, both optimisers, the step count."""
        return {
            "model": self.model.state_dict(),
            "average": self._average.state_dict(),
            **{name: optimizer.state_dict() for name, optimizer in self._players.items()},
            "steps": self._steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.model.load_state_dict(state["model"])
        self._average.load_state_dict(state["average"])
        for name, optimizer in self._players.items():
            optimizer.load_state_dict(state[name])
        self._steps = state["steps"]
