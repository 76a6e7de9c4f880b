"""Double sampling (Neyman 1938): a cheap bound on all n points, a dear one on a random m of them.

a_i the cheap values, b_j the dear ones with Monte Carlo variances w_j, d_j = b_j - a_j, from draws of their own:

    mean          = mean a + mean d                     (unbiased for the mean of the dear bound over all n points)
    stderr^2      = s_a^2 / n + 2 s_ad / n + s_d^2 / m + shared
    stderr_mc^2   = s_d^2 (1/m - 1/n) + mean w / n + shared
    stderr_data^2 = (s_a^2 + 2 s_ad + s_d^2 - mean w) / n

s_a over all points, s_d and the covariance s_ad over the m; `shared` is that of the dear bound, since the offset of the
cheap one cancels. What the choice of the m points adds counts as Monte Carlo: with the same n points, it varies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genzoo import student
from genzoo.errors import InputError
from genzoo.means import Errors, MeanResult


@dataclass(frozen=True, kw_only=True)
class TwoPhase(Errors):
    """The mean of the dear bound, nats, with its errors.

    Attributes:
        mean: see the module's head. Where the dear values are bounds in mean, so is this.
        first: the cheap bound on all points; second: the dear one on some.
        subset: `(m,)` int64, which of the first's points those are.
        gain, gain_stderr: mean of d, and its standard error s_d / sqrt(m).
    """

    mean: float
    first: MeanResult
    second: MeanResult
    subset: Tensor
    gain: float
    gain_stderr: float

    @classmethod
    def of(cls, first: MeanResult, second: MeanResult, subset: Tensor) -> TwoPhase:
        """Both phases joined; InputError for fewer than two points in the second."""
        if len(subset) < 2 or len(subset) != len(second.values) or len(subset) > len(first.values):
            known = f"{len(second.values)} values at {len(subset)} of {len(first.values)} points"
            raise InputError(f"expected a second phase on 2 or more of the points of the first; got {known}")
        difference = second.values - first.values[subset]
        mean, found = _joined(first.values, second, subset)
        spread = float(difference.std()) / math.sqrt(len(subset)) if math.isfinite(mean) else math.inf
        gain = float(difference.mean()) if math.isfinite(mean) else math.nan
        return cls(mean=mean, first=first, second=second, subset=subset, gain=gain, gain_stderr=spread, **vars(found))

    @property
    def calls(self) -> int | None:
        """Network evaluations of both phases, where they are counted."""
        counted = self.first.calls, self.second.calls
        return None if counted[0] is None or counted[1] is None else counted[0] + counted[1]

    def minus(self, other: Tensor) -> tuple[float, Errors]:
        """Mean of the dear bound less `other (n,)`, paired over the points, and its errors."""
        return _joined(self.first.values - other, self.second, self.subset, other)

    def __str__(self) -> str:
        parts = f"{self.first.num_samples} draws on {len(self.first.values):,} points"
        gain = f"{self.gain:.4f} +- {self.gain_stderr:.4f} from {self.second.num_samples} draws"
        return f"{-self.first.mean:.4f} +- {self.first.stderr:.4f} with {parts}, less {gain} on {len(self.subset):,}"


def subset_of(n: int, m: int, seed: int) -> Tensor:
    """`m` of `n` positions `(m,)` in order, a simple random sample without replacement."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n, generator=generator)[:m].sort().values


def _joined(a: Tensor, second: MeanResult, subset: Tensor, other: Tensor | None = None) -> tuple[float, Errors]:
    """(mean, errors) of the dear bound from cheap values `a (n,)`, both less `other (n,)`."""
    b = second.values if other is None else second.values - other[subset]
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return -math.inf, Errors(stderr=math.inf)
    n, m, shared = len(a), len(subset), float(second.result.shared_variance)
    d = b - a[subset]
    pair = torch.stack([a[subset], d]).cov()
    chosen, whole = float(d.var()), max(0.0, float(a.var()) + 2 * float(pair[0, 1]) + float(d.var()))
    mean, selection = float(a.mean() + d.mean()), chosen * (1 / m - 1 / n)
    # both variances lean on the m points, and so do their degrees
    parts = [(whole / n, m - 1.0), (selection, m - 1.0), (shared, math.inf)]
    stderr = math.sqrt(whole / n + selection + shared)
    if second.result.variance is None:
        return mean, Errors(stderr=stderr, dof=student.degrees(parts))
    noise = float(second.result.variance.mean()) / n
    return mean, Errors(
        stderr=stderr,
        stderr_data=math.sqrt(max(0.0, whole / n - noise)),
        stderr_mc=math.sqrt(selection + noise + shared),
        dof=student.degrees(parts),
        dof_mc=student.degrees([(selection, m - 1.0), (noise + shared, math.inf)]),
    )
