"""The mean of a log-likelihood over test points, and its three errors.

Draws independent between examples, s the sample deviation of the per-example values, v_i their Monte Carlo variances:

    stderr^2      = s^2 / N + shared              (s already holds the Monte Carlo noise of each value)
    stderr_mc^2   = sum v_i / N^2 + shared
    stderr_data^2 = max(0, s^2 / N - sum v_i / N^2)

Where v_i is unknown the last two are None. Draws stratified over the examples, R >= 8 independent randomisations, each
with a value for every example; m_r the mean of one, s and v_i of the averages over R:

    stderr_mc^2   = (variance of the m_r) / R + shared
    v_i           = (variance of example i's R values) / R
    stderr_data^2 = max(0, s^2 / N - sum v_i / N^2)
    stderr^2      = stderr_data^2 + stderr_mc^2

Over S seeds, s_S the deviation of their means: stderr^2 = s_S^2 / S speaks of these points; for the population add
stderr_data^2. Intervals are Student's t with the degrees of Welch and Satterthwaite; `shared` counts as known.
NaN and +inf are failures; -inf is a result: the mean is -inf.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from genzoo import student
from genzoo.errors import InputError, NumericsError
from genzoo.likelihood import Extras, Kind, LogLikelihood

LEAST_RANDOMISATIONS = 8
"""Fewest randomisations of a stratified estimator; fewer make intervals wide (t of 7 degrees: 2.36)."""


@dataclass(frozen=True, kw_only=True)
class Errors:
    """The three standard errors of a mean, nats; see the module's head.

    Attributes:
        stderr: of the population's mean; stderr_data, stderr_mc: its parts, None where one draw cannot tell.
        dof, dof_mc: degrees of freedom of stderr and of stderr_mc; infinite for a variance that is known.
    """

    stderr: float
    stderr_data: float | None = None
    stderr_mc: float | None = None
    dof: float = math.inf
    dof_mc: float = math.inf


@dataclass(frozen=True, kw_only=True)
class MeanResult(Errors):
    """Mean of a bound over points, in nats, with its errors.

    Attributes:
        mean: over the points.
        kind: the kind of the values.
        values: `(B,)` float64, the per-example values.
        infinite: how many values are -inf.
        num_samples: draws an example; calls: network evaluations of one example, where the estimator counts them.
        result: the per-example answer itself.
        stratified: whether its draws are stratified over the examples, so that its variances are not independent.
    """

    mean: float
    kind: Kind
    values: Tensor
    infinite: int
    num_samples: int
    calls: int | None
    result: LogLikelihood
    stratified: bool = False

    @classmethod
    def of(cls, result: LogLikelihood, calls: int | None = None) -> MeanResult:
        """Reduce per-example answers whose draws are independent; NumericsError, with counts, on NaN or +inf."""
        return cls._of(result, errors(result.lower, result.variance, result.shared_variance, result.num_samples), calls)

    @classmethod
    def of_replicates(
        cls,
        values: Tensor,
        *,
        kind: Kind,
        num_samples: int,
        calls: int | None = None,
        **extras: Unpack[Extras],
    ) -> MeanResult:
        """Reduce R independent randomisations of an estimator whose draws are stratified over the examples.

        Args:
            values: `(R, B)` nats, one randomisation a row.
            kind: of the averages over R.
            num_samples: draws an example in all R together; calls: as in the attributes.
            extras: `shared_variance`, `terms` and `arrays` of the averages, as in LogLikelihood.

        Raises:
            InputError: fewer than 8 randomisations.
            NumericsError: NaN or +inf among the values, with the count of their points.
        """
        values = values.to(torch.float64)
        if values.ndim != 2 or len(values) < LEAST_RANDOMISATIONS:
            raise InputError(f"expected values (R, B) with R >= {LEAST_RANDOMISATIONS}; got {tuple(values.shape)}")
        extras["variance"] = values.var(0) / len(values)
        result = LogLikelihood(lower=values.mean(0), kind=kind, num_samples=num_samples, **extras)
        found = errors_of_replicates(values, result.shared_variance)
        return cls._of(result, found, calls, stratified=True)

    @classmethod
    def _of(cls, result: LogLikelihood, found: Errors, calls: int | None, stratified: bool = False) -> MeanResult:
        values = result.lower
        nan, plus = int(values.isnan().sum()), int((values == math.inf).sum())
        if nan or plus:
            wrong = [name for name, term in result.terms.items() if bool((term.isnan() | (term == math.inf)).any())]
            where = f", from {', '.join(wrong)}" if wrong else ""
            raise NumericsError(f"log-likelihood of {len(values)} points has {nan} NaN and {plus} +inf{where}")
        return cls(
            mean=float(values.mean()),
            kind=result.kind,
            values=values,
            infinite=int((values == -math.inf).sum()),
            num_samples=result.num_samples,
            calls=calls,
            result=result,
            stratified=stratified,
            **vars(found),
        )

    def interval(self, level: float = 0.95, *, these_points: bool = False) -> tuple[float, float]:
        """The interval that covers the population's mean at `level`, or that of these points alone, by Student's t.

        The mean is that of the values' own expectation: of the bound, where they are one. Infinite where unknown.
        """
        error, dof = (self.stderr_mc, self.dof_mc) if these_points else (self.stderr, self.dof)
        reach = math.inf if error is None else student.quantile(level, dof) * error
        return self.mean - reach, self.mean + reach

    def minus(self, other: Tensor) -> tuple[float, Errors]:
        """Mean of `values - other` and its errors; `other (B,)` has no noise, such as the truth's log-density."""
        difference, result = self.values - other, self.result
        if self.stratified and self.stderr_mc is not None:
            assert result.variance is not None
            return float(difference.mean()), _stratified(difference, result.variance, self.stderr_mc, self.dof_mc)
        found = errors(difference, result.variance, result.shared_variance, result.num_samples)
        return float(difference.mean()), found


def errors(values: Tensor, variance: Tensor | None, shared_variance: Tensor, num_samples: int = 1) -> Errors:
    """Errors of the mean of values `(N,)` with Monte Carlo variances `(N,)` from `num_samples` independent draws each.

    One point has no sample deviation: stderr is inf. With an infinite value the errors are inf and None.
    """
    n = len(values)
    if not bool(values.isfinite().all()):
        return Errors(stderr=math.inf)
    square, shared = _square(values), float(shared_variance)
    stderr, dof = math.sqrt(square + shared), student.degrees([(square, n - 1), (shared, math.inf)])
    if variance is None:
        return Errors(stderr=stderr, dof=dof)
    total, noise = float(variance.sum()), float(variance.sum()) / n**2
    # v_i are themselves uncertain, each with K - 1 degrees; plugged in, which errs on the careful side. A variance that
    # comes with one draw was not estimated from it.
    own = (num_samples - 1) * total**2 / float(variance.square().sum()) if num_samples > 1 and total else math.inf
    return Errors(
        stderr=stderr,
        stderr_data=math.sqrt(max(0.0, square - noise)),
        stderr_mc=math.sqrt(noise + shared),
        dof=dof,
        dof_mc=student.degrees([(noise, own), (shared, math.inf)]),
    )


def errors_of_replicates(values: Tensor, shared_variance: Tensor) -> Errors:
    """Errors of the mean of R independent randomisations `(R, N)` of draws that are stratified over the examples."""
    r = len(values)
    if not bool(values.isfinite().all()):
        return Errors(stderr=math.inf)
    between, shared = float(values.mean(1).var()) / r, float(shared_variance)
    dof_mc = student.degrees([(between, r - 1), (shared, math.inf)])
    return _stratified(values.mean(0), values.var(0) / r, math.sqrt(between + shared), dof_mc)


def _stratified(values: Tensor, variance: Tensor, stderr_mc: float, dof_mc: float) -> Errors:
    """Errors from averages over the randomisations `(N,)`, their variances, and the Monte Carlo error of the mean."""
    n = len(values)
    if not bool(values.isfinite().all()):
        return Errors(stderr=math.inf)
    square = _square(values)
    data, mc = max(0.0, square - float(variance.sum()) / n**2), stderr_mc**2
    # s^2 / N, not what is left of it after the noise, decides how uncertain the data part is. Where almost nothing is
    # left that would be one degree or none, and intervals would cover 98 %: it counts for no fewer than the noise does.
    least = min(n - 1.0, dof_mc)
    own = max(least, (n - 1) * (data / square) ** 2) if 0 < square < math.inf else math.inf
    return Errors(
        stderr=math.sqrt(data + mc),
        stderr_data=math.sqrt(data),
        stderr_mc=stderr_mc,
        dof=student.degrees([(data, own), (mc, dof_mc)]),
        dof_mc=dof_mc,
    )


def _square(values: Tensor) -> float:
    """s^2 / N; infinite for one value."""
    n = len(values)
    return float(values.var()) / n if n > 1 else math.inf
