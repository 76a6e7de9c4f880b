"""The laws that 2D densities are made of: noisy points, noisy rings, noisy curves, a lattice and a checkerboard.

A law gives draws and an exact log-density in float64; `PlaneDensity` adds entropy, bounds and a quadrature rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from genzoo.data.toy.noise import Noise
from genzoo.data.toy.rules import gauss_panels


class Law(Protocol):
    """A distribution over the plane. One with parts is their equal mixture: centres, rings, branches."""

    def draw(self, rng: np.random.Generator, n: int) -> Tensor:
        """`(n, 2)` float64, independent draws."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """Normalised log-density `(N,)`, nats, of finite `x (N, 2)` float64."""
        ...


@runtime_checkable
class Parted(Law, Protocol):
    """A law that is the equal mixture of parts, which can be told apart."""

    @property
    def parts(self) -> list[Law]:
        """p(x given k) for each part k."""
        ...

    def draw_labelled(self, rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor]:
        """The same draws as `draw`, and the part that each comes from, `(n,)` int64."""
        ...


def _choice(rng: np.random.Generator, count: int, n: int) -> Tensor:
    return torch.from_numpy(rng.integers(0, count, n))


@dataclass(frozen=True, eq=False)
class Points:
    """Equal mixture of noisy `centres (K, D)`."""

    centres: Tensor
    noise: Noise

    @property
    def parts(self) -> list[Law]:
        return [Points(centre[None], self.noise) for centre in self.centres]

    def draw(self, rng: np.random.Generator, n: int) -> Tensor:
        return self.draw_labelled(rng, n)[0]

    def draw_labelled(self, rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor]:
        k = _choice(rng, len(self.centres), n)
        return self.centres[k] + self.noise.draw(rng, n, self.centres.shape[1]), k

    def log_prob(self, x: Tensor) -> Tensor:
        count = len(self.centres)
        return self.noise.log_mixture(x, self.centres, x.new_full((count,), -math.log(count)))


@dataclass(frozen=True, eq=False)
class Rings:
    """Equal mixture of circles with `centres (K, 2)` and `radii (K,)`, each convolved with N(0, scale^2 I).

    p(x given k) = exp(-(r - R)^2 / 2s^2) i0e(r R / s^2) / (2 pi s^2), with r the distance to the centre.
    """

    centres: Tensor
    radii: Tensor
    scale: float

    @property
    def parts(self) -> list[Law]:
        return [Rings(self.centres[k, None], self.radii[k, None], self.scale) for k in range(len(self.radii))]

    def draw(self, rng: np.random.Generator, n: int) -> Tensor:
        return self.draw_labelled(rng, n)[0]

    def draw_labelled(self, rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor]:
        k = _choice(rng, len(self.radii), n)
        angle = torch.from_numpy(rng.uniform(0, 2 * math.pi, n))
        circle = torch.stack([angle.cos(), angle.sin()], 1) * self.radii[k, None]
        return self.centres[k] + circle + self.scale * torch.from_numpy(rng.standard_normal((n, 2))), k

    def log_prob(self, x: Tensor) -> Tensor:
        variance = self.scale**2
        r = torch.hypot(x[:, :1] - self.centres[:, 0], x[:, 1:] - self.centres[:, 1])  # (N, K)
        log_ring = torch.special.i0e(r * self.radii / variance).log() - (r - self.radii).square() / (2 * variance)
        return torch.logsumexp(log_ring, 1) - math.log(2 * math.pi * variance * len(self.radii))


@dataclass(frozen=True, eq=False)
class NoisyCurve:
    """Equal mixture of the branches of a curve, with noise.

    Args:
        curve: maps s `(M,)` in [0, 1] to points `(branches, M, 2)`.
        power: s = U^(1/power) with U uniform, so that s has the density power * s^(power - 1).
        noise: what is added to each point of the curve.
        edges: panels `(P+1,)` of the 48-point Gauss-Legendre rule over s.
    """

    curve: Callable[[Tensor], Tensor]
    power: int
    noise: Noise
    edges: Tensor

    @cached_property
    def _mixture(self) -> tuple[Tensor, Tensor]:
        """The quadrature as a mixture of noisy points: centres `(M, 2)` and log-weights `(M,)`."""
        s, weights = gauss_panels(self.edges, 48)
        points = self.curve(s)  # (branches, M, 2)
        log_weights = (weights * self.power * s ** (self.power - 1) / len(points)).log()
        return points.flatten(0, 1), log_weights.repeat(len(points))

    @property
    def parts(self) -> list[Law]:
        branches = len(self.curve(torch.zeros(1, dtype=torch.float64)))
        return [replace(self, curve=partial(_branch, self.curve, k)) for k in range(branches)]

    def draw(self, rng: np.random.Generator, n: int) -> Tensor:
        return self.draw_labelled(rng, n)[0]

    def draw_labelled(self, rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor]:
        points = self.curve(torch.from_numpy(rng.random(n)) ** (1 / self.power))  # (branches, n, 2)
        k = _choice(rng, len(points), n)
        return points[k, torch.arange(n)] + self.noise.draw(rng, n, 2), k

    def log_prob(self, x: Tensor) -> Tensor:
        centres, log_weights = self._mixture
        return self.noise.log_mixture(x, centres, log_weights)


def _branch(curve: Callable[[Tensor], Tensor], k: int, s: Tensor) -> Tensor:
    """Branch k of a curve, as a curve of one branch."""
    return curve(s)[k, None]


@dataclass(frozen=True, eq=False)
class Lattice:
    """Product of one mixture on the line `(K, 1)` with itself, turned by 45 degrees: (u + v, v - u)/sqrt 2."""

    axis: Points

    @staticmethod
    def turn(points: Tensor) -> Tensor:
        """(u, v) to the plane, `(N, 2)` to `(N, 2)`."""
        u, v = points.unbind(1)
        return torch.stack([u + v, v - u], 1) / math.sqrt(2)

    def draw(self, rng: np.random.Generator, n: int) -> Tensor:
        return self.turn(self.axis.draw(rng, 2 * n).view(n, 2))

    def log_prob(self, x: Tensor) -> Tensor:
        u, v = (x[:, :1] - x[:, 1:]) / math.sqrt(2), (x[:, :1] + x[:, 1:]) / math.sqrt(2)
        return self.axis.log_prob(u) + self.axis.log_prob(v)


@dataclass(frozen=True)
class Checkerboard:
    """Uniform on the eight squares [2i, 2i + 2) x [2j, 2j + 2) with i, j in -2..1 and i + j even: density 1/32."""

    def draw(self, rng: np.random.Generator, n: int) -> Tensor:
        # Multiples of 2^-21 are exact in float32 up to 4, so that no point is rounded across an edge.
        offset = torch.from_numpy(rng.integers(0, 2**22, (n, 2))) * 2.0**-21
        column = _choice(rng, 4, n) - 2
        row = 2 * (_choice(rng, 2, n) - 1) + column % 2
        return offset + 2.0 * torch.stack([column, row], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        cell = (x / 2).floor()
        inside = ((cell >= -2) & (cell <= 1)).all(1) & (cell.sum(1) % 2 == 0)
        return x.new_full((len(x),), -math.inf).masked_fill_(inside, -math.log(32))
