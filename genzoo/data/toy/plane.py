"""A density over the plane whose truth is known: a law together with its entropy, its bounds and a quadrature rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from genzoo.data.toy.laws import Law, Parted
from genzoo.data.toy.rules import Rule
from genzoo.errors import InputError

CHUNK = 4096
"""Points evaluated at once: bounds the memory of `log_prob` to some tens of megabytes."""


@dataclass(eq=False)
class PlaneDensity:
    """A `genzoo.spec.Density`.

    Args:
        law: draws and the log-density.
        entropy: differential entropy in nats, to 1e-5.
        bounds: ((x_low, x_high), (y_low, y_high)) holding all but 1e-6 of the mass.
        rule: makes the nodes `(M, 2)` and weights `(M,)` of `quadrature`.
    """

    law: Law
    entropy: float
    bounds: tuple[tuple[float, float], tuple[float, float]]
    rule: Callable[[], Rule]

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """Normalised log-density `(N,)` float64 on the device of `x`, nats, of real `x (N, 2)`.

        Computed on the CPU in float64, in chunks. -inf outside the support and at infinity; NaN where `x` is NaN.
        """
        if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != 2 or not x.is_floating_point():
            got = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"expected points (N, 2) of a floating dtype; got {got}")
        points = x.to("cpu", torch.float64)
        finite = points.isfinite().all(1)
        result = points.new_full((len(points),), -math.inf).masked_fill_(points.isnan().any(1), math.nan)
        result[finite] = torch.cat([self.law.log_prob(part) for part in torch.split(points[finite], CHUNK)])
        return result.to(x.device)

    def sample(self, n: int, seed: int) -> Tensor:
        """`(n, 2)` float32, independent draws by numpy's PCG64 from `seed`."""
        return self.law.draw(np.random.Generator(np.random.PCG64(seed)), n).float()

    def sample_labelled(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """The points of `sample`, and the part of the law that each comes from, `(n,)` int64."""
        x, y = self._parted.draw_labelled(np.random.Generator(np.random.PCG64(seed)), n)
        return x.float(), y

    @cached_property
    def labelled(self) -> LabelledPlane:
        """With the part as label."""
        return LabelledPlane(self, [replace(self, law=part) for part in self._parted.parts])

    @property
    def _parted(self) -> Parted:
        assert isinstance(self.law, Parted)
        return self.law

    def quadrature(self) -> tuple[Tensor, Tensor]:
        """Nodes `(M, 2)` and weights `(M,)`, float64, over `bounds`; made once. p integrates to 1 within 1e-5."""
        return self._nodes

    @cached_property
    def _nodes(self) -> Rule:
        return self.rule()


class LabelledPlane:
    """A `genzoo.spec.LabelledDensity`: the parts of a density, all equally likely."""

    def __init__(self, whole: PlaneDensity, parts: list[PlaneDensity]) -> None:
        self.whole, self.parts = whole, parts
        self.log_prior = torch.full((len(parts),), -math.log(len(parts)), dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        """See LabelledDensity."""
        return torch.stack([part.log_prob(x) for part in self.parts], 1)

    @cached_property
    def entropy(self) -> float:
        """See LabelledDensity; by the whole density's quadrature."""
        nodes, weights = self.whole.quadrature()
        log_p = self.log_prob(nodes)
        return float((weights[:, None] * self.log_prior.exp() * torch.special.entr(log_p.exp())).sum())
