"""The mean of a log-likelihood over test points, and its three errors.

Draws independent between examples, s the sample deviation of the per-example values, v_i their Monte Carlo variances:

    stderr^2      = s^2 / N + shared              (s already holds the Monte Carlo noise of each value)
    stderr_mc^2   = sum v_i / N^2 + shared
    stderr_data^2 = max(0, s^2 / N - sum v_i / N^2)

Where v_i is unknown the last two are None. NaN and +inf are failures; -inf is a result: the mean is -inf.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from genzoo.errors import NumericsError
from genzoo.likelihood import Kind, LogLikelihood


@dataclass(frozen=True, kw_only=True)
class MeanResult:
    """Mean of a bound over points, in nats.

    Attributes:
        mean, stderr, stderr_data, stderr_mc: see the module's head; the last two None where one draw cannot tell.
        kind: the kind of the values.
        values: `(B,)` float64, the per-example values.
        infinite: how many values are -inf.
        num_samples: draws an example; calls: network evaluations of one example, where the estimator counts them.
        result: the per-example answer itself.
    """

    mean: float
    stderr: float
    stderr_data: float | None
    stderr_mc: float | None
    kind: Kind
    values: Tensor
    infinite: int
    num_samples: int
    calls: int | None
    result: LogLikelihood

    @classmethod
    def of(cls, result: LogLikelihood, calls: int | None = None) -> MeanResult:
        """Reduce per-example answers; NumericsError, with counts, on NaN or +inf."""
        values = result.lower
        nan, plus = int(values.isnan().sum()), int((values == math.inf).sum())
        if nan or plus:
            raise NumericsError(f"log-likelihood of {len(values)} points has {nan} NaN and {plus} +inf")
        infinite = int((values == -math.inf).sum())
        mean, stderr, data, mc = mean_and_errors(values, result.variance, result.shared_variance)
        return cls(
            mean=mean,
            stderr=stderr,
            stderr_data=data,
            stderr_mc=mc,
            kind=result.kind,
            values=values,
            infinite=infinite,
            num_samples=result.num_samples,
            calls=calls,
            result=result,
        )


def mean_and_errors(
    values: Tensor, variance: Tensor | None, shared_variance: Tensor
) -> tuple[float, float, float | None, float | None]:
    """(mean, stderr, stderr_data, stderr_mc) of values `(N,)` with Monte Carlo variances `(N,)`; see the module's head.

    One point has no sample deviation: stderr is inf. With an infinite value the mean is -inf and the errors inf.
    """
    n = len(values)
    if not bool(values.isfinite().all()):
        return float(values.mean()), math.inf, None, None
    shared = float(shared_variance)
    square = float(values.var()) / n if n > 1 else math.inf
    stderr = math.sqrt(square + shared)
    if variance is None:
        return float(values.mean()), stderr, None, None
    noise = float(variance.sum()) / n**2
    return float(values.mean()), stderr, math.sqrt(max(0.0, square - noise)), math.sqrt(noise + shared)
