"""The jackknife variance of a log-mean-exp (Efron and Stein 1981), from weights that come chunk by chunk.

With q_k = w_k / sum w, leaving draw k out moves log mean w by l_k = log(1 - q_k) and a constant:

    variance = (K - 1) / K * sum_k (l_k - mean l)^2

The delta method, var(w) / (K mean(w)^2), is its first order in q. Where few weights hold most of the sum that is far
too small (it never exceeds one): for log-weights of deviation 2 and K = 50 it reports 0.54 of the truth, this 1.07.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST, BUFFER = 64, 512
"""The largest weights are kept one by one, so that each of the others is at most 1/65 of the sum, and log(1 - q)^2 is
q^2 + q^3 within a relative 3e-4. Up to BUFFER draws nothing is approximated."""


class Jackknife:
    """Weights of one batch: `add` them, then ask for the `variance`."""

    def __init__(self) -> None:
        self.count = 0
        self._held: list[Tensor] = []
        self._others: Tensor | None = None  # (3, B): log of the sums of w, w^2, w^3 over the weights not held

    def add(self, log_w: Tensor) -> None:
        """Add log weights `(K, B)`, float64."""
        for part in torch.split(log_w, BUFFER):
            self._held.append(part)
            self.count += len(part)
            if sum(map(len, self._held)) > BUFFER:
                self._thin()

    def _thin(self) -> None:
        held = torch.cat(self._held)
        self._held = [(largest := held.topk(LARGEST, dim=0)).values]
        others = held.scatter(0, largest.indices, -torch.inf)
        top = others.amax(0).nan_to_num(neginf=0.0)
        share = (others - top).exp()  # one exponential for all three sums
        powers = (share, share.square(), share**3)
        sums = torch.stack([p * top + power.sum(0).log() for p, power in enumerate(powers, start=1)])
        self._others = sums if self._others is None else torch.logaddexp(self._others, sums)

    def variance(self, log_sum: Tensor) -> Tensor:
        """`(B,)`, given the log of the sum of the weights; not finite where a single weight is all there is."""
        held, k = torch.cat(self._held), self.count  # (H, B)
        moved = torch.log1p(-(held - log_sum).exp())
        # of the largest, 1 - q may have lost its digits: from the sum of all others instead
        largest = held.argmax(0, keepdim=True)
        remaining = held.scatter(0, largest, -torch.inf).logsumexp(0)
        if self._others is not None:
            remaining = torch.logaddexp(remaining, self._others[0])
        moved = moved.scatter(0, largest, (remaining - log_sum)[None])
        total, squares = moved.sum(0), moved.square().sum(0)
        if self._others is not None:
            first, second, third = ((self._others[p - 1] - p * log_sum).exp() for p in (1, 2, 3))
            total = total - (first + second / 2 + third / 3)
            squares = squares + second + third
        return ((k - 1) / k * (squares - total.square() / k)).clamp(min=0.0)
