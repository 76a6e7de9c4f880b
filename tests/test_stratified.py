"""The mean of an estimator whose draws are spread over the examples, by one that is simple enough to know."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genzoo.likelihood import LogLikelihood
from genzoo.means import LEAST_RANDOMISATIONS
from genzoo.seeding import seeded
from genzoo.stratified import StratifiedEstimator


class Systematic(StratifiedEstimator):
    """Values x_i + noise, each seen with probability draws / n: every (n / draws)-th example from a random start."""

    name = "systematic"
    calls = 3

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        n, count = len(x), self.draws(len(x), num_samples)
        with seeded(seed, x.device):
            at = ((torch.arange(count) + torch.rand(())) * (n / count)).to(torch.int64).clamp(max=n - 1)
            seen = x[at, 0].double() + torch.randn(count, dtype=torch.float64)
        value = torch.zeros(n, dtype=torch.float64).index_add(0, at, seen * (n / count))
        return LogLikelihood.lower_bound(value, num_samples=num_samples, terms={"all": value})


X = torch.linspace(-3, 5, 4096)[:, None]


def test_mean_error_and_calls() -> None:
    """100 means of 4,096 points: unbiased within 4 standard errors, and their spread is what each states, 28 %."""
    results = [Systematic().mean(X, 2, seed=seed) for seed in range(100)]
    means = torch.tensor([result.mean for result in results], dtype=torch.float64)
    spread = float(means.std())
    assert float(means.mean()) == pytest.approx(float(X.double().mean()), abs=4 * spread / 10)
    assert 1.02 * float(means.mean()) != pytest.approx(float(X.double().mean()), abs=4 * spread / 10)
    stated = math.sqrt(sum((result.stderr_mc or 0) ** 2 for result in results) / 100)
    assert spread == pytest.approx(stated, rel=0.28)
    first = results[0]
    assert (first.kind, first.num_samples, first.stratified) == ("lower_bound", 2, True)
    assert first.calls == 3 * 2 * 4096
    assert float(first.result.terms["all"].mean()) == pytest.approx(first.mean, abs=1e-12)
    assert Systematic().mean(X, 2, seed=0).mean == first.mean


def test_blocks_have_draws_of_their_own() -> None:
    whole, blocks = Systematic().mean(X, 8, seed=0), Systematic().mean(X, 8, seed=0, batch_size=1000)
    assert blocks.values.shape == whole.values.shape == (4096,)
    assert blocks.calls == 3 * LEAST_RANDOMISATIONS * (4 * 1000 + 96)
    assert blocks.mean != whole.mean
    assert blocks.mean == pytest.approx(whole.mean, abs=6 * math.hypot(blocks.stderr_mc or 0, whole.stderr_mc or 0))
    short = Systematic().mean(X, 8, seed=0, batch_size=1000, max_seconds=0.0)
    torch.testing.assert_close(short.values, blocks.values[:1000], rtol=0, atol=1e-12)  # float64 sums


def test_stops_at_the_error_that_is_asked_for() -> None:
    """The noise of one draw is 1: an error of 0.008 needs 15,625 draws, four an example; a pilot of eight errors knows
    that to a factor of two."""
    results = [Systematic().mean(X, 1, seed=seed, until_se=0.008) for seed in range(40)]
    draws = torch.tensor([result.num_samples for result in results]).double()
    assert 3.0 < float(draws.mean()) < 6.0
    stated = math.sqrt(sum((result.stderr_mc or 0) ** 2 for result in results) / 40)
    assert stated < 1.25 * 0.008


def test_few_examples_have_a_draw() -> None:
    assert Systematic().draws(3, 1) == 1
    assert Systematic().mean(X[:3], 1, seed=0).values.shape == (3,)
