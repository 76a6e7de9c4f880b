"""The spaces of fields that are annealed: where chains live, p_0, the path from p_0 to the field and its moves.

Codes   p_0 = independent dimensions with the data's marginals        Gibbs with gradients (`flips.py`)
Reals   p_0 = N(m, diag(s)^2), the data's moments                     Langevin steps in training, adjusted by
        Metropolis' rule; Hamiltonian moves of LEAPFROG steps, s times a tuned size, in the annealed sampler
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from genzoo.ais import Path, Transition
from genzoo.hmc import HMC, GeometricPath, StoredSteps, trajectory
from genzoo.spec import DataSpec
from genzoo_energy.flips import CodePath, GibbsWithGradients

LEAPFROG = 2
LEAST = 1e-3
"""Least s, for data of scale 1."""
AIM = 0.574
"""Acceptance to which the size of Langevin steps is moved in training (Roberts and Rosenthal 1998)."""
RATE = 0.05
PILOT_CHAINS, PILOT_MOVES = 32, 8

Tilt = Callable[[Tensor], Tensor]
"""g `(C, B)` at states as a space feeds them to its network, `(C, B, ...)`."""


class Space(nn.Module, ABC):
    """See the module. States are `(C, B, D)`."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.spec = spec

    @abstractmethod
    def initialise(self, x: Tensor) -> None:
        """Set p_0 by examples `(N, *event_shape)`."""

    @abstractmethod
    def states(self, x: Tensor) -> Tensor:
        """Examples `(B, *event_shape)` as states `(B, D)`."""

    @abstractmethod
    def inputs(self, states: Tensor) -> Tensor:
        """States `(R, D)`, or what a path feeds to g, as the network takes them."""

    @abstractmethod
    def path(self, tilt: Tilt, examples: int) -> Path[Any]:
        """From p_0 to the field."""

    @abstractmethod
    def transition(self, path: Any) -> Transition[Any]:
        """The annealed sampler's move; of detailed balance."""

    @abstractmethod
    def walk(self, path: Any, states: Tensor, moves: int) -> Tensor:
        """States `(1, B, D)` after some moves of training chains at the field itself."""

    def tune(self, path: Any, betas: Sequence[float]) -> None:
        """Fix what the annealed sampler's moves are tuned in."""

    def data(self, states: Tensor) -> Tensor:
        """States `(n, D)` as examples."""
        return states.view(len(states), *self.spec.event_shape).to(self.spec.dtype)


class Codes(Space):
    """See the module.

    Args:
        changes: codes that a move proposes to change.
    """

    table: Tensor

    def __init__(self, spec: DataSpec, changes: int | None) -> None:
        super().__init__(spec)
        self.levels = spec.levels or 2
        self.changes = min(changes or max(1, round(0.5 * math.sqrt(spec.dims))), spec.dims)
        self.register_buffer("table", torch.full((spec.dims, self.levels), -math.log(self.levels)))

    def initialise(self, x: Tensor) -> None:
        """See Space; by the rule of succession."""
        flat = x.flatten(1).long()
        counts = torch.stack([(flat == code).sum(0) for code in range(self.levels)], 1).float() + 1 / self.levels
        self.table.copy_((counts / counts.sum(1, keepdim=True)).log())

    def states(self, x: Tensor) -> Tensor:
        """See Space."""
        return x.flatten(1).long()

    def inputs(self, states: Tensor) -> Tensor:
        """One-hot `(R, D, L)`, or codes `(R, D)`; as images of C L channels, or as vectors."""
        if states.ndim == 2:
            states = torch.nn.functional.one_hot(states, self.levels).to(self.table.dtype)
        shape = self.spec.event_shape
        if len(shape) != 3:
            return states.flatten(1)
        channels, height, breadth = shape
        image = states.view(-1, channels, height, breadth, self.levels).permute(0, 1, 4, 2, 3)
        return image.reshape(len(states), channels * self.levels, height, breadth)

    def path(self, tilt: Tilt, examples: int) -> CodePath:
        """See Space."""
        return CodePath(self.table, tilt, examples)

    def transition(self, path: CodePath) -> GibbsWithGradients:
        """See Space."""
        return GibbsWithGradients(path, self.changes)

    def walk(self, path: CodePath, states: Tensor, moves: int) -> Tensor:
        """See Space."""
        point, move = path.at(states), GibbsWithGradients(path, self.changes)
        for _ in range(moves):
            point = move(point, 1.0)
        return point.z


class Reals(Space):
    """See the module.

    Args:
        size: of Langevin steps at the start, in units of s.
    """

    loc: Tensor
    scale: Tensor
    log_size: Tensor

    def __init__(self, spec: DataSpec, size: float) -> None:
        super().__init__(spec)
        self.register_buffer("loc", torch.zeros(spec.dims))
        self.register_buffer("scale", torch.ones(spec.dims))
        self.register_buffer("log_size", torch.tensor(math.log(size)))
        self.steps = StoredSteps()

    def initialise(self, x: Tensor) -> None:
        """See Space."""
        flat = x.flatten(1)
        self.loc.copy_(flat.mean(0))
        self.scale.copy_(flat.std(0).clamp(min=LEAST))

    def states(self, x: Tensor) -> Tensor:
        """See Space."""
        return x.flatten(1)

    def inputs(self, states: Tensor) -> Tensor:
        """In units of p_0, whose dimensions may differ much in scale."""
        return ((states - self.loc) / self.scale).view(len(states), *self.spec.event_shape)

    def path(self, tilt: Tilt, examples: int) -> GeometricPath:
        """See Space."""
        law = Normal(self.loc.expand(examples, -1), self.scale.expand(examples, -1), validate_args=False)
        base = Independent(law, 1, validate_args=False)
        return GeometricPath(base, lambda z: base.log_prob(z) + tilt(z))  # type: ignore[no-untyped-call]

    def transition(self, path: GeometricPath) -> HMC:
        """See Space."""
        return HMC(path, self.steps(), LEAPFROG, self.scale)

    def walk(self, path: GeometricPath, states: Tensor, moves: int) -> Tensor:
        """See Space; the size of the steps follows the acceptance."""
        point = path.at(states)
        for _ in range(moves):
            point, acceptance = trajectory(path, point, 1.0, float(self.log_size.exp()), 1, self.scale)
            if self.training:
                self.log_size += RATE * (acceptance.mean().to(self.log_size) - AIM)
        return point.z

    def tune(self, path: GeometricPath, betas: Sequence[float]) -> None:
        """See Space."""
        self.steps.tune(path, betas, LEAPFROG, self.scale, PILOT_CHAINS, PILOT_MOVES)
