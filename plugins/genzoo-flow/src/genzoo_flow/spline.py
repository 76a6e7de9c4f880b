"""The monotonic rational-quadratic spline (Durkan et al. 2019, arXiv:1906.04032, section 3.1), without boolean masks.

On [-b, b] there are K bins with knots (x_k, y_k), slopes d_k > 0 there, and s_k = h_k / w_k; outside, the identity.
With t = (x - x_k) / w_k and q = s_k + (d_{k+1} + d_k - 2 s_k) t (1 - t):

    y     = y_k + h_k (s_k t^2 + d_k t (1 - t)) / q
    dy/dx = s_k^2 (d_{k+1} t^2 + 2 s_k t (1 - t) + d_k (1 - t)^2) / q^2

The inverse solves the quadratic in t (equations 6 to 8 there) in the form that does not cancel. Parameters are those of
nflows 0.14, so that networks can be exchanged with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MINIMUM = 1e-3
"""Least bin width and height, as a share of [-b, b], and least slope: the defaults of nflows."""

UNIT_SLOPE = math.log(math.expm1(1 - MINIMUM))
"""Unnormalised slope whose softplus plus MINIMUM is 1: where the spline meets the identity."""


def parameters_of(bins: int) -> int:
    """Numbers that one spline takes: K widths, K heights, K - 1 inner slopes."""
    return 3 * bins - 1


def rational_quadratic(
    x: Tensor, raw: Tensor, bound: float, inverse: bool = False, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Spline of each number, or its inverse.

    Args:
        x: `(...)`.
        raw: `(3 K - 1, ...)` unnormalised widths, heights and inner slopes. They come first, so that every operation
            over bins runs along contiguous numbers: a softmax over a last dimension of 8 costs five times as much.
        bound: b; outside [-b, b] the map is the identity.
        inverse: solve for the argument instead.
        temperature: unnormalised widths and heights are divided by it.

    Returns:
        values `(...)` and log |d value / d x| `(...)`.
    """
    bins = (len(raw) + 1) // 3
    inside = x.abs() <= bound
    at = x.clamp(-bound, bound)
    # widths and heights go through one softmax: small tensors cost by the call
    sizes = raw[: 2 * bins].view(2, bins, *raw.shape[1:])  # (2, K, ...)
    sizes = torch.softmax(sizes if temperature == 1 else sizes / temperature, 1)
    sizes = 2 * bound * MINIMUM + (2 * bound * (1 - MINIMUM * bins)) * sizes
    knots = sizes.detach()[int(inverse), :-1].cumsum(0) - bound  # (K - 1, ...), the inner ones
    passed = at.detach() >= knots
    index = passed.sum(0, keepdim=True)  # (1, ...), which bin
    low = (sizes[:, :-1] * passed.to(sizes.dtype)).sum(1) - bound  # (2, ...), the lower knot of that bin
    size = sizes.gather(1, index.expand(2, *index.shape))[:, 0]  # (2, ...)
    inner = raw[2 * bins :]
    end = torch.full_like(inner[:1], UNIT_SLOPE)
    ends = torch.cat([end, inner, end])  # (K + 1, ...)
    slopes = F.softplus(ends.gather(0, torch.cat([index, index + 1]))) + MINIMUM  # (2, ...)
    (x_low, y_low), (width, height), (d_low, d_high) = low.unbind(), size.unbind(), slopes.unbind()
    s = height / width
    bend = d_low + d_high - 2 * s
    if inverse:
        rise = at - y_low
        c = s * rise
        b = height * d_low - rise * bend
        a = height * s - b
        # rounding may leave a discriminant of 0 just below it
        root = (b.square() + 4 * a * c).clamp(min=0).sqrt()
        t = (2 * c / (b + root)).clamp(0, 1)
    else:
        t = ((at - x_low) / width).clamp(0, 1)
    mix = t * (1 - t)
    q = s + bend * mix
    slope = s.square() * (d_low + t * (2 * (s - d_low) + t * bend)) / q.square()
    if inverse:
        value, log_slope = x_low + width * t, -slope.log()
    else:
        value, log_slope = y_low + height * (s * t.square() + d_low * mix) / q, slope.log()
    return torch.where(inside, value, x), log_slope * inside
