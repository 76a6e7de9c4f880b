"""Small problems whose every state or grid node can be visited: where the conformance kit trains and checks a model."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genzoo.data.splits import TensorSplit, fingerprints
from genzoo.spec import DataProtocol, Dataset, DataSpec, Density

TRAIN, HELD_OUT = 4000, 2000
DIMS = 9
"""Dimensions of the discrete problems: 512 states with two levels, 19,683 with three."""
COMMON = 3
"""Of them, those in which both templates of two levels agree, and one code holds nine tenths."""


@dataclass(frozen=True)
class Problem:
    """A data set small enough for the truth to be checked on it.

    Attributes:
        name: as it stands behind a check's name.
        load: makes the data set; cached.
    """

    name: str
    load: Callable[[], Dataset]


class GaussianMixture:
    """A mixture of isotropic Gaussians in the plane, in closed form; a `Density`.

    Args:
        means: `(C, 2)`. scale: standard deviation of each. The weights are equal.
    """

    def __init__(self, means: Tensor, scale: float) -> None:
        self.means = means.to(torch.float64)
        self.scale = scale
        reach = float(self.means.abs().max()) + 6 * scale
        self.bounds = ((-reach, reach), (-reach, reach))
        nodes, weights = self.quadrature()
        log_p = self.log_prob(nodes)
        self.entropy = -float((weights * log_p.exp() * log_p).sum())

    def log_prob(self, x: Tensor) -> Tensor:
        """See Density."""
        square = (x.to(torch.float64)[:, None] - self.means).square().sum(-1)  # (N, C)
        log_n = -0.5 * square / self.scale**2 - math.log(2 * math.pi * self.scale**2)
        return log_n.logsumexp(1) - math.log(len(self.means))

    def sample(self, n: int, seed: int) -> Tensor:
        """See Density."""
        generator = np.random.Generator(np.random.PCG64(seed))
        which = torch.from_numpy(generator.integers(len(self.means), size=n))
        noise = torch.from_numpy(generator.standard_normal((n, 2)))
        return (self.means[which] + self.scale * noise).to(torch.float32)

    def quadrature(self) -> tuple[Tensor, Tensor]:
        """See Density; the midpoint rule, whose error is far below 1e-5 at this spacing."""
        (low, high), _ = self.bounds
        return midpoint_grid(low, high, 400)


def midpoint_grid(low: float, high: float, size: int) -> tuple[Tensor, Tensor]:
    """Nodes `(size^2, 2)` and weights of the midpoint rule on the square [low, high]^2, float64."""
    step = (high - low) / size
    axis = low + step * (torch.arange(size, dtype=torch.float64) + 0.5)
    nodes = torch.cartesian_prod(axis, axis)
    return nodes, torch.full((size * size,), step * step, dtype=torch.float64)


@functools.cache
def all_states(spec: DataSpec) -> Tensor:
    """Every state of a discrete space, `(levels^dims, *event_shape)` uint8."""
    assert spec.levels is not None
    codes = list(itertools.product(range(spec.levels), repeat=spec.dims))
    return torch.tensor(codes, dtype=torch.uint8).view(-1, *spec.event_shape)


def _dataset(name: str, spec: DataSpec, parts: list[tuple[Tensor, Tensor | None]], truth: Density | None) -> Dataset:
    train, valid, test = (TensorSplit(x, y) for x, y in parts)
    protocol = DataProtocol(
        dataset=name,
        data_hash=fingerprints(train, valid),
        test_hash=test.fingerprint,
        split=f"{len(train)}/{len(valid)}/{len(test)} by seeds 0, 1, 2",
        target="p(x)" if spec.classes is None else "p(x given y)",
    )
    return Dataset(name=name, spec=spec, protocol=protocol, train=train, valid=valid, test=test, truth=truth)


@functools.cache
def _plane(name: str, means: tuple[tuple[float, float], ...], scale: float) -> Dataset:
    truth = GaussianMixture(torch.tensor(means), scale)
    sizes = (TRAIN, HELD_OUT, HELD_OUT)
    return _dataset(name, DataSpec((2,)), [(truth.sample(n, seed), None) for seed, n in enumerate(sizes)], truth)


@functools.cache
def _codes(name: str, event_shape: tuple[int, ...], levels: int, labelled: bool = False, common: int = 0) -> Dataset:
    """A mixture of two noisy templates: dimensions are dependent, so a model has something to learn. The label, where
    there is one, is the template. In the first `common` dimensions the templates agree, which makes their codes
    unequally frequent: two levels would else be even in every dimension, and independent ones have nothing to learn."""
    spec = DataSpec(event_shape, levels, 2 if labelled else None)
    template = np.arange(spec.dims) % 2 * (levels - 1)
    parts: list[tuple[Tensor, Tensor | None]] = []
    for seed, n in enumerate((TRAIN, HELD_OUT, HELD_OUT)):
        generator = np.random.Generator(np.random.PCG64(seed))
        label = generator.integers(2, size=n)
        turned = (label[:, None] == 0) & (np.arange(spec.dims) >= common)
        clean = np.where(turned, levels - 1 - template, template)
        noisy = np.where(generator.random((n, spec.dims)) < 0.2, generator.integers(levels, size=(n, spec.dims)), clean)
        x = torch.from_numpy(noisy.astype(np.uint8)).view(n, *event_shape)
        parts.append((x, torch.from_numpy(label) if labelled else None))
    return _dataset(name, spec, parts, None)


PROBLEMS = {
    problem.name: problem
    for problem in (
        # means off centre and unequal spread, so that a wrong mean, scale or Jacobian shows
        Problem("plane", lambda: _plane("plane", ((-1.5, 3.0), (2.5, 1.0), (0.5, -1.5)), 0.8)),
        Problem("gaussian", lambda: _plane("gaussian", ((3.0, -1.0),), 2.0)),
        Problem("binary", lambda: _codes("binary", (DIMS,), 2, common=COMMON)),
        Problem("levels", lambda: _codes("levels", (DIMS,), 3)),
        Problem("binary_image", lambda: _codes("binary_image", (1, 3, 3), 2, common=COMMON)),
        Problem("levels_image", lambda: _codes("levels_image", (1, 3, 3), 3)),
        Problem("labelled", lambda: _codes("labelled", (DIMS,), 2, labelled=True)),
    )
}
