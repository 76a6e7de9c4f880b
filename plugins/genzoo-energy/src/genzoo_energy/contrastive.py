"""Training of Boltzmann machines: the gradient of log p(v) is the difference of two means of the same statistics.

    d log p / dW = <v h> given the data - <v h> under the model           (likewise b: <v>, c: <h>)

The second mean comes from k Gibbs sweeps: started at the data (contrastive divergence, Hinton 2002), from chains that
persist between steps (Tieleman 2008, doi:10.1145/1390156.1390290), or from such chains at several temperatures of
the path in `machine.py`, which swap states by Metropolis' rule (parallel tempering, Desjardins et al. 2010).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genzoo.config import TrainSettings
from genzoo.errors import NumericsError
from genzoo.interface import Learner
from genzoo.seeding import derive_seed, seeded
from genzoo.spec import Batch, Split
from genzoo_energy.machine import FieldPath, FieldPoint, Machine, gibbs

if TYPE_CHECKING:
    from genzoo_energy.rbm import RBM

MARGINALS = 20_000
"""Examples behind the marginals at which the machine and its path start."""


class ContrastiveLearner(Learner):
    """Gradient steps of an RBM, in place, with averaged weights. The loss is the difference of the free energies of
    data and chains, which is no likelihood."""

    def __init__(self, model: RBM, settings: TrainSettings) -> None:
        self.model = model
        self.settings = settings
        self._average = copy.deepcopy(model)
        self._steps = 0
        count = model.config.temperatures if model.config.method == "tempering" else 1
        shape = (count, model.config.chains, model.spec.dims)
        self.chains = torch.zeros(shape, device=model.device)
        classes = model.spec.classes
        self.labels = torch.arange(model.config.chains, device=model.device) % (classes or 1)

    def start(self, train: Split) -> None:
        """`begin` at some of the training examples."""
        generator = torch.Generator().manual_seed(derive_seed("marginals", self.settings.seed))
        rows = torch.randperm(len(train), generator=generator)[:MARGINALS]
        self.begin(train.batch(rows, generator).x)

    def begin(self, x: Tensor, below: RBM | None = None) -> None:
        """Biases at the log-odds of the pixels of `x (N, *event_shape)`, chains at independent pixels; where there is a
        machine `below`, whose hidden units x are, this one as that turned over (see `RBM.turn`)."""
        base = log_odds(x.flatten(1).to(torch.float32)).to(self.model.device)
        with torch.no_grad(), seeded(derive_seed("chains", self.settings.seed), self.model.device):
            self.model.base.copy_(base)
            self.model.visible.copy_(base)
            if below is not None:
                self.model.turn(below)
            self.chains = torch.bernoulli(base.sigmoid().expand_as(self.chains))
        self._average = copy.deepcopy(self.model)

    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """One ascent of the log-likelihood's gradient."""
        model, settings = self.model, self.settings
        with torch.no_grad():
            v = batch.x.flatten(1).to(torch.float32)
            labels = batch.y if model.spec.classes is not None else None
            machine = model.machine(labels, len(v))
            ghosts, ghost_labels = self._negative(v, labels, machine)
            ghost_machine = model.machine(ghost_labels, len(ghosts))
            up, down = machine.inputs(v).sigmoid(), ghost_machine.inputs(ghosts).sigmoid()
            rate = settings.learning_rate_at(progress)
            share = self._shares(labels, ghost_labels, len(ghosts))[:, None]
            weighted, weighted_down = share * ghosts, share * down
            changes = [
                v.T @ up / len(v) - weighted.T @ down,
                v.mean(0) - weighted.sum(0),
                up.mean(0) - weighted_down.sum(0),
            ]
            parameters: list[Tensor] = [model.weights, model.visible, model.hidden]
            if model.of_class is not None:
                parameters.append(model.of_class)
                data = self._by_class(labels, v / len(v), up / len(v))
                changes.append(data - self._by_class(ghost_labels, weighted, weighted_down))
            for parameter, change in zip(parameters, changes, strict=True):
                parameter.add_(change - settings.weight_decay * parameter, alpha=rate)
            loss = (ghost_machine.log_f(ghosts).mean() - machine.log_f(v).mean()).to(torch.float32)
            if not bool(loss.isfinite()):
                raise NumericsError(f"free energy difference is {float(loss)} at step {self._steps}")
            self._steps += 1
            decay = min(settings.ema, (1 + self._steps) / (10 + self._steps))
            for mine, its in zip(self._average.parameters(), model.parameters(), strict=True):
                mine.lerp_(its, 1 - decay)
        return {"loss": loss}

    def _by_class(self, labels: Tensor | None, v: Tensor, h: Tensor) -> Tensor:
        classes = self.model.spec.classes
        assert labels is not None
        assert classes is not None
        one_hot = torch.nn.functional.one_hot(labels, classes).to(v.dtype)
        return one_hot.T @ torch.cat([v, h], 1)

    def _shares(self, labels: Tensor | None, ghost_labels: Tensor | None, n: int) -> Tensor:
        """What each of n ghosts weighs, `(n,)`: the chains have all classes alike, the batch has them as they come."""
        classes = self.model.spec.classes
        if labels is None or ghost_labels is None or classes is None:
            return torch.full((n,), 1 / n, device=self.model.device)
        wanted = torch.bincount(labels, minlength=classes) / len(labels)
        have = torch.bincount(ghost_labels, minlength=classes).clamp(min=1)
        return (wanted / have)[ghost_labels]

    def _negative(self, v: Tensor, labels: Tensor | None, machine: Machine) -> tuple[Tensor, Tensor | None]:
        """States that stand for the model's, and their labels."""
        model = self.model
        if model.config.method == "cd":
            for _ in range(model.config.steps):
                v = machine.draw_visible(machine.draw_hidden(v))
            return v, labels
        mine = self.labels if model.spec.classes is not None else None
        path = FieldPath(model.machine(mine, len(self.labels)), len(self.labels))
        count = len(self.chains)
        betas = [1.0] if count == 1 else [i / (count - 1) for i in range(count)]
        for _ in range(model.config.steps):
            points = [gibbs(path.at(state[None]), beta) for state, beta in zip(self.chains, betas, strict=True)]
            if count > 1:
                self._swap(points, betas)
            self.chains = torch.stack([point.z[0] for point in points])
        return self.chains[-1], mine

    def _swap(self, points: list[FieldPoint], betas: list[float]) -> None:
        """Exchange neighbours, from hot to cold, with probability min(1, f_a(y) f_b(x) / f_a(x) f_b(y))."""
        for i in range(len(points) - 1):
            x, y, a, b = points[i], points[i + 1], betas[i], betas[i + 1]
            log_ratio = y.log_prob(a) + x.log_prob(b) - x.log_prob(a) - y.log_prob(b)  # (1, n)
            swap = (torch.rand_like(log_ratio).log() < log_ratio)[..., None]
            lower, upper = torch.where(swap, y.z, x.z), torch.where(swap, x.z, y.z)
            points[i], points[i + 1] = FieldPoint(x.machine, lower), FieldPoint(x.machine, upper)

    def finish(self, train: Split, valid: Split) -> None:
        """Bring the path's start up to date in the averaged model."""
        with torch.no_grad():
            self._average.base.copy_(self.model.base)

    def evaluated(self) -> RBM:
        """The averaged model."""
        return self._average

    def state_dict(self) -> dict[str, Any]:
        """Model, average, chains, step count."""
        return {
            "model": self.model.state_dict(),
            "average": self._average.state_dict(),
            "chains": self.chains,
            "steps": self._steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.model.load_state_dict(state["model"])
        self._average.load_state_dict(state["average"])
        self.chains = state["chains"].to(self.model.device).clone()
        self._steps = state["steps"]


def log_odds(x: Tensor) -> Tensor:
    """Of ones in each column of `x (N, D)`, `(D,)`, by the rule of succession."""
    ones = x.sum(0)
    return ((ones + 1) / (len(x) - ones + 1)).log()
