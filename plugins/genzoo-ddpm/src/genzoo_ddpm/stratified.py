"""The mean of a bound over the examples, from draws spread evenly over examples, indices and noise together.

With the examples in an order in which neighbours are near each other, a draw is a point of the unit cube: its first
coordinate picks the example, its second the index by the CDF of q, two more the noise in two dimensions, through the
normal's quantiles. The points of one randomisation are a scrambled Sobol sequence (Owen 1995; Matousek 1998): each is
uniform, so that every value is unbiased, and together they are evener than independent draws.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genzoo.errors import InputError
from genzoo.likelihood import LogLikelihood
from genzoo.seeding import evaluating, seeded
from genzoo.spec import Split
from genzoo.stratified import StratifiedEstimator
from genzoo_ddpm.bound import answer, pilot, residuals
from genzoo_ddpm.terms import Terms

EVEN = 2
"""Dimensions of the noise that are drawn evenly, and of the data that order the examples."""

BITS = 16
"""Of a rank, where examples are ordered."""


class StratifiedBound(StratifiedEstimator):
    """The bound of `terms`, its allocation and control variate learned on validation data in a pilot."""

    suggested_samples = 4

    def __init__(self, terms: Terms, name: str) -> None:
        self.terms = terms
        self.name = name
        self.calls = 2
        self.allocation = terms.allocation()

    def start(self, valid: Split, seed: int) -> None:
        """The pilot, whose draws are discarded; without it indices are uniform, and the mean is noisier."""
        model = self.terms.model
        with torch.no_grad(), evaluating(model), seeded(seed, model.device):
            self.allocation = pilot(self.terms, valid)

    def draws(self, n: int, num_samples: int) -> int:
        """See StratifiedEstimator; the nearest power of two, where Sobol's sequence is evenest."""
        return int(2 ** round(math.log2(super().draws(n, num_samples))))

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """See StratifiedEstimator."""
        model = self.terms.model
        model._check(x, condition)
        model._need_noise()
        if num_samples < 1:
            raise InputError(f"expected num_samples >= 1; got {num_samples}")
        with torch.no_grad(), evaluating(model), seeded(seed, model.device):
            return self._answer(*model._encoded(x, condition), num_samples)

    def _answer(self, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
        n, dims = z.shape
        count = self.draws(n, num_samples)
        even = min(dims, EVEN)
        points = sobol(count, 2 + even).to(z.device)
        example = nearby(z)[(points[:, 0] * n).to(torch.int64).clamp(max=n - 1)]
        step, probability, place = self.allocation.at(points[:, 1])
        rows = z[example]
        noise = self.terms.noise(rows, points[:, 2:])
        residual = residuals(self.terms, self.allocation, rows, step, place, noise, labels[example])
        weighted = residual / probability * (n / count)
        base, first = self.allocation.baseline, step == 0

        def spread(values: Tensor, offset: Tensor) -> Tensor:
            return offset.expand(n).index_add(0, example, values)

        diffusion = spread(torch.where(first, 0.0, weighted), base[1:].sum())
        decoder = spread(torch.where(first, weighted, 0.0), base[0])
        return answer(self.terms, z, num_samples, diffusion, decoder, None, {})


def sobol(n: int, dims: int) -> Tensor:
    """`n` points of a scrambled Sobol sequence `(n, dims)` float64; the scrambling is drawn from the global RNG."""
    seed = int(torch.randint(2**31, ()))
    engine = torch.quasirandom.SobolEngine(dims, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    points: Tensor = engine.draw(n, dtype=torch.float64)
    return points


def nearby(z: Tensor) -> Tensor:
    """An order `(N,)` of examples `(N, D)` in which neighbours are near each other.

    Hilbert's curve (1891) over the ranks of the two dimensions of the plane, or of two principal components.
    """
    axes = z[:, :EVEN] if z.shape[1] <= EVEN or len(z) <= EVEN else torch.pca_lowrank(z, EVEN)[0]
    if axes.shape[1] == 1:
        return axes[:, 0].argsort()
    x, y = (axes.argsort(0).argsort(0) * (2**BITS - 1) // max(1, len(z) - 1)).unbind(1)
    code = torch.zeros_like(x)
    for bit in reversed(range(BITS)):
        right, upper = (x >> bit) & 1, (y >> bit) & 1
        code = 4 * code + (3 * right ^ upper)
        # the curve inside a quarter is the whole one turned: the lower quarters swap their axes, the right one mirrored
        lower, mirrored = upper == 0, (upper == 0) & (right == 1)
        x, y = torch.where(mirrored, ~x, x), torch.where(mirrored, ~y, y)
        x, y = torch.where(lower, y, x), torch.where(lower, x, y)
    return code.argsort()
