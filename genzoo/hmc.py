"""Hamiltonian Monte Carlo along a geometric path (Neal 2011, arXiv:1206.1901), for `genzoo.ais`.

    log f_b(z) = (1 - b) log f_0(z) + b log f(z)
    p ~ N(0, I);  L leapfrog steps of size e:  p += (e/2) s d/dz log f_b,  z += e s p,  p += (e/2) s d/dz log f_b
    accept (z', p') with probability min(1, f_b(z') N(p') / f_b(z) N(p))

s is a scale per dimension: with s near the target's, one e fits all. e is fixed before the estimate, by `tune`: a step
that looked at the chains it moves would leave no f_b invariant, and the weights would be biased.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from genzoo.errors import InputError

ACCEPTANCE = 0.65
"""What step sizes are tuned to: the optimum in many dimensions (Beskos et al. 2013, arXiv:1001.4460)."""

JITTER = 0.2
"""Each trajectory's step is drawn within this share of the tuned one, so that none returns to where it began."""


class Law(Protocol):
    """A normalised distribution that can be drawn, for B examples; `torch.distributions` are such laws, if made with
    `validate_args=False`: a trajectory may leave the finite numbers, and is then rejected."""

    def sample(self, sample_shape: torch.Size) -> Tensor:
        """`(C, B, *event)` for a sample shape (C,)."""
        ...

    def log_prob(self, value: Tensor) -> Tensor:
        """`(C, B)` nats; differentiable."""
        ...


@dataclass(frozen=True)
class SmoothPoint:
    """A state with both ends of the path, and their gradients, at it.

    Attributes:
        z: `(C, B, *event)`.
        start, target: log f_0 and log f, `(C, B)` float64.
        start_score, target_score: their gradients, like z.
    """

    z: Tensor
    start: Tensor
    target: Tensor
    start_score: Tensor
    target_score: Tensor

    def log_prob(self, beta: float) -> Tensor:
        """log f_beta, `(C, B)`; the ends themselves at 0 and 1, where the other may be infinite."""
        if beta in (0.0, 1.0):
            return self.target if beta else self.start
        return (1 - beta) * self.start + beta * self.target

    def score(self, beta: float) -> Tensor:
        """d/dz log f_beta, like z."""
        return (1 - beta) * self.start_score + beta * self.target_score

    def where(self, mask: Tensor, other: SmoothPoint) -> SmoothPoint:
        """This point where `mask (C, B)`, the other elsewhere."""
        wide = mask.reshape(*mask.shape, *[1] * (self.z.ndim - 2))
        return SmoothPoint(
            torch.where(wide, self.z, other.z),
            torch.where(mask, self.start, other.start),
            torch.where(mask, self.target, other.target),
            torch.where(wide, self.start_score, other.start_score),
            torch.where(wide, self.target_score, other.target_score),
        )


class GeometricPath:
    """From a law that can be drawn to a target known up to a constant, both differentiable.

    Args:
        start: normalised, for B examples.
        target: z `(C, B, *event)` to log f(z) `(C, B)` nats.
    """

    def __init__(self, start: Law, target: Callable[[Tensor], Tensor]) -> None:
        self.start = start
        self.target = target

    def draw(self, chains: int) -> SmoothPoint:
        """Independent draws of the start."""
        return self.at(self.start.sample(torch.Size((chains,))))

    def at(self, z: Tensor) -> SmoothPoint:
        """Values and gradients at `z (C, B, *event)`."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            start, target = self.start.log_prob(z), self.target(z)
            scores = [_gradient(value, z) for value in (start, target)]
        return SmoothPoint(z.detach(), start.detach().double(), target.detach().double(), *scores)


@dataclass(frozen=True)
class StepSizes:
    """A step size for each band of inverse temperatures: `sizes[i]` up to and including `edges[i]`.

    Raises:
        InputError: as many edges as sizes, rising to 1, and sizes above 0 are wanted.
    """

    edges: Sequence[float]
    sizes: Sequence[float]

    def __post_init__(self) -> None:
        rises = list(self.edges) == sorted(self.edges) and list(self.edges[-1:]) == [1.0]
        if len(self.edges) != len(self.sizes) or not rises or min(self.sizes) <= 0:
            raise InputError(
                "expected as many sizes as edges, sizes above 0 and edges rising to 1.0; "
                f"got {list(self.sizes)} at {list(self.edges)}"
            )

    def __call__(self, beta: float) -> float:
        """The size at `beta`."""
        return self.sizes[bisect.bisect_left(self.edges, beta)]


def trajectory(
    path: GeometricPath, point: SmoothPoint, beta: float, step: float, leapfrog: int, scale: Tensor | float = 1.0
) -> tuple[SmoothPoint, Tensor]:
    """One move with steps near `step`: the new point, and the probability `(C, B)` with which each of its states was
    accepted; 0 where the trajectory left the finite numbers."""
    momentum = torch.randn_like(point.z)
    jitter = 1 + JITTER * (2 * torch.rand_like(point.start) - 1)  # (C, B)
    size = (step * jitter).to(point.z.dtype).reshape(*jitter.shape, *[1] * (point.z.ndim - 2)) * scale
    end, p = point, momentum
    for _ in range(leapfrog):
        p = p + 0.5 * size * end.score(beta)
        end = path.at(end.z + size * p)
        p = p + 0.5 * size * end.score(beta)
    log_ratio = end.log_prob(beta) - _kinetic(p) - point.log_prob(beta) + _kinetic(momentum)
    acceptance = log_ratio.clamp(max=0.0).exp().nan_to_num(nan=0.0)
    return end.where(torch.rand_like(acceptance) < acceptance, point), acceptance


class HMC:
    """The transition: one trajectory. It has detailed balance with respect to each f_beta.

    Args:
        path: that of the estimate.
        steps: step sizes, in units of `scale`.
        leapfrog: L. Each costs one gradient of the target.
        scale: s, which broadcasts over z `(C, B, *event)`; must not depend on the chains.
    """

    def __init__(self, path: GeometricPath, steps: StepSizes, leapfrog: int, scale: Tensor | float = 1.0) -> None:
        if leapfrog < 1:
            raise InputError(f"expected at least 1 leapfrog step; got {leapfrog}")
        self.path = path
        self.steps = steps
        self.leapfrog = leapfrog
        self.scale = scale

    def __call__(self, point: SmoothPoint, beta: float) -> SmoothPoint:
        """See genzoo.ais.Transition."""
        return trajectory(self.path, point, beta, self.steps(beta), self.leapfrog, self.scale)[0]


def tune(
    path: GeometricPath,
    betas: Sequence[float],
    leapfrog: int,
    scale: Tensor | float = 1.0,
    *,
    chains: int = 4,
    bands: int = 20,
    moves: int = 10,
    initial: float = 0.3,
) -> StepSizes:
    """Step sizes under which trajectories are accepted with a mean probability of ACCEPTANCE, band by band.

    Anneals pilot chains with log e moved by the difference of the acceptance from its aim (Robbins and Monro 1951); a
    band's size is the mean log e of the second half of its moves. The chains are thrown away.

    Args:
        path: on pilot examples, which are not those of the estimate or the estimate draws afresh.
        betas, leapfrog, scale: as for the estimate.
        chains, moves: an example, a band (three times as many in the first).
        bands: each of as many inverse temperatures.
    """
    with torch.no_grad():
        point, log_step = path.draw(chains), math.log(initial)
        bands = min(bands, len(betas) - 1)
        last = [round((band + 1) * (len(betas) - 1) / bands) for band in range(bands)]
        sizes = []
        for first, end in zip([0, *last[:-1]], last, strict=True):
            trail, count = [], moves if first else 3 * moves
            for move in range(count):
                beta = betas[first + math.ceil((end - first) * (move + 1) / count)]
                point, acceptance = trajectory(path, point, beta, math.exp(log_step), leapfrog, scale)
                log_step += float(acceptance.mean()) - ACCEPTANCE
                trail.append(log_step)
            second = trail[count // 2 :]
            sizes.append(math.exp(sum(second) / len(second)))
    return StepSizes([betas[index] for index in last], sizes)


class StoredSteps(nn.Module):
    """Step sizes that a model keeps among its buffers, so that its likelihood needs no tuning: tuned once, in a
    learner's `finish`, they are those of every later call.

    Args:
        bands: of inverse temperatures, as in `tune`.
        initial: the size before anything is tuned.
    """

    edges: Tensor
    sizes: Tensor

    def __init__(self, bands: int = 10, initial: float = 0.2) -> None:
        super().__init__()
        self.register_buffer("edges", torch.linspace(1 / bands, 1, bands, dtype=torch.float64))
        self.register_buffer("sizes", torch.full((bands,), initial, dtype=torch.float64))

    def forward(self) -> StepSizes:
        """The sizes as they stand."""
        return StepSizes(self.edges.tolist(), self.sizes.tolist())

    def tune(
        self, path: GeometricPath, betas: Sequence[float], leapfrog: int, scale: Tensor | float, chains: int, moves: int
    ) -> None:
        """See `tune`; `betas` has at least as many steps as there are bands."""
        found = tune(path, betas, leapfrog, scale, chains=chains, bands=len(self.sizes), moves=moves)
        self.edges.copy_(torch.tensor(found.edges, dtype=torch.float64))
        self.sizes.copy_(torch.tensor(found.sizes, dtype=torch.float64))


def _kinetic(momentum: Tensor) -> Tensor:
    return 0.5 * (momentum.double() ** 2).flatten(2).sum(-1)


def _gradient(value: Tensor, z: Tensor) -> Tensor:
    """d/dz of each value in `value (C, B)`, zero where it does not depend on z."""
    if not value.requires_grad:
        return torch.zeros_like(z)
    return torch.autograd.grad(value.sum(), z, materialize_grads=True)[0]
