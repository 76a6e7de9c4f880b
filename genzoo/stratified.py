"""Estimators whose draws are stratified over the examples: only the mean is wanted, so each example needs few draws.

Draws that are spread evenly over examples, and not for each example alone, are not independent between them. So the
mean is taken R times with independent randomisations, whose spread is its Monte Carlo error (means.py).
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod

import torch
from torch import Tensor

from genzoo.interface import Estimator
from genzoo.likelihood import LogLikelihood
from genzoo.means import LEAST_RANDOMISATIONS, MeanResult
from genzoo.seeding import derive_seed


class StratifiedEstimator(Estimator):
    """An estimator of the mean over the examples, from independent randomisations of draws spread over all of them."""

    batch_size = 1 << 14
    """Examples over which draws are spread; the more, the evener."""

    @abstractmethod
    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """One randomisation: `draws` draws, spread over `x`.

        Each value is unbiased, and noisy: an example without a draw has what is expected of it. `variance` is None,
        since the values are not independent. Arguments as in `GenerativeModel.log_likelihood`.
        """

    def draws(self, n: int, num_samples: int) -> int:
        """Draws of one randomisation over `n` examples, about an eighth of `n * num_samples`.

        As many randomisations are made as have about `num_samples` draws an example together, eight at least.
        """
        return max(1, n * num_samples // LEAST_RANDOMISATIONS)

    def mean(
        self,
        x: Tensor,
        num_samples: int = 1,
        seed: int = 0,
        condition: Tensor | None = None,
        *,
        until_se: float | None = None,
        batch_size: int | None = None,
        max_seconds: float | None = None,
    ) -> MeanResult:
        """As in Estimator, with `num_samples` draws an example in all randomisations together."""
        if until_se is not None:
            pilot = self.mean(x, num_samples, seed + 1, condition, batch_size=batch_size)
            assert pilot.stderr_mc is not None
            num_samples = max(1, math.ceil(num_samples * (pilot.stderr_mc / until_se) ** 2))
        size, start = batch_size or self.batch_size, time.monotonic()
        batches: list[list[LogLikelihood]] = []
        n = min(size, len(x))
        repeats = max(LEAST_RANDOMISATIONS, round(n * num_samples / self.draws(n, num_samples)))
        drawn = 0
        for at in range(0, len(x), size):
            part, y = x[at : at + size], None if condition is None else condition[at : at + size]
            seeds = [derive_seed(seed, at // size, r) for r in range(repeats)]
            batches.append([self.log_likelihood(part, num_samples, s, y) for s in seeds])
            drawn += repeats * self.draws(len(part), num_samples)
            if max_seconds is not None and time.monotonic() - start > max_seconds:
                break
        values = torch.cat([torch.stack([answer.lower for answer in batch]) for batch in batches], 1)  # (R, B)
        terms = {
            name: torch.cat([torch.stack([answer.terms[name] for answer in batch]).mean(0) for batch in batches])
            for name in batches[0][0].terms
        }
        calls = None if self.calls is None else drawn * self.calls
        return MeanResult.of_replicates(
            values, kind=batches[0][0].kind, num_samples=num_samples, calls=calls, terms=terms
        )
