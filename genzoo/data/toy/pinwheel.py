"""The pinwheel: Gaussian arms turned by an angle that grows with the distance along the arm.

Notation: f ~ N((1, 0), diag(radial^2, tangential^2)), arm k uniform in 0..arms-1, x = 2 R(-a) f with
a = 2 pi k/arms + rate exp(f0). With z = x/2 = r (cos phi, sin phi) and f = r (cos psi, sin psi), f has image z when
g(psi) = psi - rate exp(r cos psi) equals phi + 2 pi j/arms for an integer j;
the Jacobian is g'(psi) = 1 + rate e^f0 f1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genzoo.data.toy.rules import midpoint


def solve_monotone(
    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor, given: Tensor
) -> Tensor:
    """Roots `(N,)` of functions that rise through zero from `low` to `high`: Newton kept in its bracket.

    `function(u, given)` returns value and slope, elementwise; `low` may lie above `high` for a falling function.
    """
    low, high = low.clone(), high.clone()
    u = (low + high) / 2
    active = torch.arange(len(u))
    for _ in range(100):
        value, slope = function(u[active], given[active])
        below = value < 0
        low[active] = torch.where(below, u[active], low[active])
        high[active] = torch.where(below, high[active], u[active])
        step = value / slope
        newton, middle = u[active] - step, (low[active] + high[active]) / 2
        inside = (newton - low[active]) * (newton - high[active]) < 0
        u_next = torch.where(inside, newton, middle)
        # A Newton step of 1e-10 leaves an error of about its square.
        moved = (u_next - u[active]).abs() > 1e-10
        u[active] = u_next
        active = active[moved]
        if not len(active):
            break
    return u


@dataclass(frozen=True)
class Pinwheel:
    """Five arms by default, with the constants of Johnson et al. 2016 (arXiv:1603.06277), used again by FFJORD."""

    radial: float = 0.3
    tangential: float = 0.1
    arms: int = 5
    rate: float = 0.25
    far: float = 6.0
    """Beyond this r (17 radial deviations, mass below 1e-60) the density is averaged over the angle, which keeps the
    mass of each circle: there are too many windings to list."""

    def draw(self, rng: np.random.Generator, n: int) -> Tensor:
        f = torch.from_numpy(rng.standard_normal((n, 2)) * [self.radial, self.tangential] + [1, 0])
        arm = torch.from_numpy(rng.integers(0, self.arms, n))
        return self.turn(f, arm)

    def turn(self, f: Tensor, arm: Tensor) -> Tensor:
        """Features `f (N, 2)` of arms `arm (N,)` to points of the plane `(N, 2)`."""
        angle = arm * (2 * math.pi / self.arms) + self.rate * f[:, 0].exp()
        cos, sin = angle.cos(), angle.sin()
        return 2 * torch.stack([f[:, 0] * cos + f[:, 1] * sin, f[:, 1] * cos - f[:, 0] * sin], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        r, phi = torch.hypot(x[:, 0], x[:, 1]) / 2, torch.atan2(x[:, 1], x[:, 0])
        near = r <= self.far
        result = torch.empty_like(r)
        result[near] = self._sum_branches(r[near], phi[near])
        result[~near] = self._average(r[~near])
        return result - math.log(4)

    def _log_features(self, f0: Tensor, f1: Tensor) -> Tensor:
        """Log-density of the features."""
        squares = ((f0 - 1) / self.radial).square() + (f1 / self.tangential).square()
        return -squares / 2 - math.log(2 * math.pi * self.radial * self.tangential)

    def _average(self, r: Tensor) -> Tensor:
        """Log of the mean over the circle of radius r: (1/2 pi) int N(f) dpsi, with dpsi = df1/f0."""
        f1, weights = midpoint(-10 * self.tangential, 10 * self.tangential, self.tangential / 4)
        f0 = (r[:, None].square() - f1.square()).sqrt()
        return torch.logsumexp(self._log_features(f0, f1) + (weights / f0).log(), 1) - math.log(2 * math.pi)

    def _winding(self, psi: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """g and g'."""
        growth = self.rate * torch.exp(r * psi.cos())
        return psi - growth, 1 + growth * r * psi.sin()

    def _slope(self, psi: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """g' and g''."""
        cos, sin = psi.cos(), psi.sin()
        growth = self.rate * r * torch.exp(r * cos)
        return 1 + growth * sin, growth * (cos - r * sin.square())

    def _folds(self, r: Tensor) -> Tensor:
        """Ends `(N, 4)` of the three intervals on which g rises, falls and rises; the middle one may be empty.

        g' is least where cos psi = r sin^2 psi with psi < 0; if it is negative there, g' has one zero on either side.
        """
        steepest = -torch.arccos(2 * r / (1 + (1 + 4 * r.square()).sqrt()))
        first, second = steepest.clone(), steepest.clone()
        folded = self._slope(steepest, r)[0] < 0
        middle, radius = steepest[folded], r[folded]
        first[folded] = solve_monotone(self._slope, middle, torch.full_like(middle, -math.pi), radius)
        second[folded] = solve_monotone(self._slope, middle, torch.zeros_like(middle), radius)
        end = torch.full_like(r, math.pi)
        return torch.stack([-end, first, second, end], 1)

    def _sum_branches(self, r: Tensor, phi: Tensor) -> Tensor:
        """Log of (1/arms) sum over all roots psi of N(f) / |g'(psi)|."""
        ends = self._folds(r)
        spacing = 2 * math.pi / self.arms
        levels = ((self._winding(ends, r[:, None])[0] - phi[:, None]) / spacing).ceil()  # (N, 4)
        start = torch.minimum(levels[:, :-1], levels[:, 1:]).flatten()
        count = (levels[:, 1:] - levels[:, :-1]).abs().long().flatten()
        interval = torch.repeat_interleave(count)  # (roots,): index into N * 3
        order = torch.arange(len(interval)) - (count.cumsum(0) - count)[interval]
        row, part = interval // 3, interval % 3
        target = phi[row] + spacing * (start[interval] + order)
        falls = part == 1
        low, high = ends[row, part], ends[row, part + 1]
        low, high = torch.where(falls, high, low), torch.where(falls, low, high)

        def equation(psi: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
            value, slope = self._winding(psi, given[:, 0])
            return value - given[:, 1], slope

        radius = r[row]
        psi = solve_monotone(equation, low, high, torch.stack([radius, target], 1))
        # At a fold the density has an integrable pole; psi is known there to the root of the machine precision.
        slope = self._winding(psi, radius)[1].abs().clamp_min(1e-8)
        log_term = self._log_features(radius * psi.cos(), radius * psi.sin()) - slope.log()
        top = torch.full_like(r, -math.inf).scatter_reduce_(0, row, log_term, "amax")
        total = torch.zeros_like(r).index_add_(0, row, torch.exp(log_term - top[row]))
        return top + total.log() - math.log(self.arms)
