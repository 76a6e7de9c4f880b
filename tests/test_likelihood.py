"""LogLikelihood and WeightSums against direct sums. Tolerance 1e-12 relative: float64 sums of a hundred terms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genzoo.errors import InputError, NumericsError
from genzoo.likelihood import LogLikelihood, WeightSums, term_of

K, B = 100, 7


def log_weights() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(K, B, dtype=torch.float64) * 2 - 300


def test_weights_against_direct_formulas() -> None:
    log_w = log_weights()
    terms = {"a": log_w.mean(0) * 0.25, "b": log_w.mean(0) * 0.75}
    said = LogLikelihood.weights(log_w, terms=terms)
    w = (log_w + 300).exp()
    expected = w.mean(0).log() - 300

    def agrees(value: Tensor) -> bool:
        return torch.allclose(said.lower, value, rtol=1e-12, atol=0)

    assert agrees(expected)
    assert not agrees(1.01 * expected)
    assert (said.kind, said.num_samples) == ("weights", K)
    assert said.variance is not None
    left_out = torch.stack([(w.sum(0) - w[k]).log() for k in range(K)])
    torch.testing.assert_close(said.variance, (K - 1) ** 2 / K * left_out.var(0), rtol=1e-10, atol=0)
    ess = w.sum(0).square() / w.square().sum(0)
    torch.testing.assert_close(said.arrays["effective_sample_size"], ess, rtol=1e-10, atol=0)
    torch.testing.assert_close(sum(said.terms.values()), said.lower, rtol=1e-12, atol=0)
    assert bool((said.terms["importance_gain"] > 0).all())


def test_chunks_do_not_change_the_answer() -> None:
    log_w = log_weights()
    whole, sums = LogLikelihood.weights(log_w, terms={"a": log_w.mean(0)}), WeightSums()
    for part in log_w.split([1, 30, 69]):
        sums.add(part, {"a": part.mean(0)})
    chunked = sums.result()
    for name in ("lower", "variance"):
        torch.testing.assert_close(getattr(chunked, name), getattr(whole, name), rtol=1e-11, atol=1e-12)
    for name in whole.terms:
        torch.testing.assert_close(chunked.terms[name], whole.terms[name], rtol=1e-11, atol=1e-9)
    assert chunked.num_samples == K


def test_anatomy_is_averaged_over_draws_and_named_by_its_term() -> None:
    """Parts of a term are means over all draws, whatever the chunks, and sum to it; other arrays are no anatomy."""
    parts = torch.randn(K, B, 3, dtype=torch.float64)
    log_w, sums = parts.sum(2), WeightSums()
    for rows in torch.arange(K).split([1, 30, 69]):
        sums.add(log_w[rows], {"kl": log_w[rows].mean(0)}, {"kl_per_latent": parts[rows].mean(0)})
    said = sums.result()
    assert list(said.anatomy()) == ["kl_per_latent"]
    torch.testing.assert_close(said.anatomy()["kl_per_latent"], parts.mean(0), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(said.anatomy()["kl_per_latent"].sum(1), said.terms["kl"], rtol=1e-11, atol=1e-12)
    assert "effective_sample_size" in said.arrays
    assert (term_of("kl_per_latent"), term_of("steps"), term_of("log_det_per_layer")) == ("kl", "", "log_det")


def test_the_variance_is_that_of_repeats() -> None:
    """The claimed variance over the variance of 4,000 repeats is 1 within 0.1: a sample variance of 4,000 values has
    relative deviation 0.022, and the jackknife's own bias at K = 100, log-weight deviation 0.5, is below 0.02."""
    torch.manual_seed(1)
    said = LogLikelihood.weights(0.5 * torch.randn(100, 4000, dtype=torch.float64))
    assert said.variance is not None
    ratio = float(said.variance.mean() / said.lower.var())
    assert abs(ratio - 1) < 0.1
    assert not abs(ratio * 100 / 80 - 1) < 0.1  # as with K off by a fifth


def test_one_weight_knows_no_variance() -> None:
    said = LogLikelihood.weights(torch.zeros(1, 3), terms={"a": torch.zeros(3)})
    assert said.variance is None
    assert set(said.terms) == {"a"}
    assert said.lower.dtype == torch.float64


def test_weights_of_zero() -> None:
    log_w = torch.full((4, 2), -math.inf)
    log_w[:, 1] = 0
    said = LogLikelihood.weights(log_w)
    assert said.lower.tolist() == [-math.inf, 0.0]
    assert said.arrays["effective_sample_size"].isfinite().all()


def test_a_gain_below_zero_is_an_error() -> None:
    sums = WeightSums()
    sums.add(torch.zeros(3, 2), {})
    sums._sum = sums._sum + 1  # what a bug would do: the mean of log w above the log of the mean
    with pytest.raises(NumericsError, match="importance gain below zero"):
        sums.result()


def test_shifted_moves_both_ends_and_books_the_offset() -> None:
    offset = torch.tensor([1.0, -2.0])
    bracket = LogLikelihood.bracket(torch.tensor([-3.0, -4.0]), torch.tensor([-2.0, -3.0]), True).shifted(offset, "j")
    assert bracket.lower.tolist() == [-2.0, -6.0]
    assert bracket.upper is not None
    assert bracket.upper.tolist() == [-1.0, -5.0]
    assert bracket.certified
    assert bracket.terms == {}
    named = LogLikelihood.lower_bound(torch.tensor([-3.0, -4.0]), terms={"j": torch.tensor([-3.0, -4.0])})
    twice = named.shifted(offset, "j").shifted(offset, "k")
    torch.testing.assert_close(sum(twice.terms.values()), twice.lower)


def test_concat_joins_examples_and_does_not_add_shared_errors() -> None:
    shared = torch.tensor(0.04)
    a = LogLikelihood.exact(torch.zeros(2), shared_variance=shared, arrays={"t": torch.ones(2, 3)})
    b = LogLikelihood.exact(torch.ones(3), shared_variance=shared, arrays={"t": torch.zeros(3, 3)})
    joined = LogLikelihood.concat([a, b])
    assert joined.lower.tolist() == [0, 0, 1, 1, 1]
    assert float(joined.shared_variance) == pytest.approx(0.04)
    assert joined.arrays["t"].shape == (5, 3)
    known, unknown = LogLikelihood.weights(torch.zeros(1, 2)), LogLikelihood.weights(torch.zeros(1, 2))
    assert LogLikelihood.concat([known, unknown]).variance is None
    with pytest.raises(InputError, match="they differ"):
        LogLikelihood.concat([a, LogLikelihood.estimate(torch.zeros(2))])


def test_shapes_are_checked_with_both_sides_named() -> None:
    with pytest.raises(InputError, match=r"\(B,\), one an example; got \(2, 3\)"):
        LogLikelihood.exact(torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"variance of shape \(2,\) like lower; got \(3,\)"):
        LogLikelihood.exact(torch.zeros(2), variance=torch.zeros(3))
    with pytest.raises(InputError, match=r"shared_variance \(\); got \(2,\)"):
        LogLikelihood.exact(torch.zeros(2), shared_variance=torch.zeros(2))
    with pytest.raises(InputError, match=r"array 't' \(2, ...\); got \(3, 2\)"):
        LogLikelihood.estimate(torch.zeros(2), arrays={"t": torch.zeros(3, 2)})
    with pytest.raises(InputError, match=r"\(K, B\); got \(3,\)"):
        LogLikelihood.weights(torch.zeros(3))
    with pytest.raises(InputError, match="at least one importance weight"):
        WeightSums().result()


def test_answers_carry_no_gradient() -> None:
    value = torch.zeros(2, requires_grad=True) * 2
    said = LogLikelihood.lower_bound(value, terms={"a": value}, variance=value)
    assert not said.lower.requires_grad
    assert not said.terms["a"].requires_grad
    assert said.variance is not None
    assert not said.variance.requires_grad
