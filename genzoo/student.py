"""Student's t: two-sided p-values and quantiles for any real degrees of freedom, and the degrees of a sum. No torch.

p(t, v) = P(|T| > |t|) = I_x(v/2, 1/2),  x = v / (v + t^2)          (DLMF 8.17, Abramowitz and Stegun 26.7.1)
degrees of a sum of variances = (sum s_i)^2 / sum s_i^2 / v_i        (Satterthwaite 1946, Welch 1947)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

NORMAL = 1e6
"""Degrees of freedom from which the normal law is taken: its p-value is then within a relative t^4 / 4e6."""


def p_value(t: float, dof: float) -> float:
    """Two-sided p-value of `t`; `dof` > 0, infinite for the normal law."""
    if dof >= NORMAL:
        return math.erfc(abs(t) / math.sqrt(2))
    square = t * t
    if not math.isfinite(square):
        return 0.0
    return _incomplete_beta(dof / 2, 0.5, dof / (dof + square), square / (dof + square))


@functools.lru_cache(maxsize=1024)
def quantile(level: float, dof: float) -> float:
    """The t with P(|T| <= t) = `level`, in (0, 1): 1.96 for 0.95 and infinite degrees."""
    low, high = 0.0, 1.0
    while p_value(high, dof) > 1 - level:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle, dof) > 1 - level else (low, middle)
    return (low + high) / 2


def degrees(parts: Iterable[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent variances, from pairs (variance, degrees); infinite for no variance.

    A part that is known rather than estimated has infinite degrees.
    """
    pairs = [(variance, dof) for variance, dof in parts if variance > 0]
    total = math.fsum(variance for variance, _ in pairs)
    spread = math.fsum((variance / total) ** 2 / dof for variance, dof in pairs) if math.isfinite(total) else 0.0
    return 1 / spread if spread else math.inf


def _incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """Regularised I_x(a, b), y = 1 - x given apart so that neither loses digits."""
    if x <= 0 or y <= 0:
        return float(x > 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, y, x)
    log_front = a * math.log(x) + b * math.log(y) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_front) / (a * _continued_fraction(a, b, x))


def _continued_fraction(a: float, b: float, x: float) -> float:
    """1 + d_1 / (1 + d_2 / (1 + ...)) of DLMF 8.17.22, by Lentz's method."""
    value, c, d = 1.0, 1.0, 0.0
    for n in range(1, 10_000):
        m = n // 2
        if n % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d)
        c = 1 + term / c
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value
