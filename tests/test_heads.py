"""Heads: normalised over the codes, equal to the field's formulas, finite at extremes, and sampled as they say."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, MultivariateNormal, Normal

from genzoo.errors import CapabilityError
from genzoo.heads import (
    BernoulliHead,
    CategoricalMixtureHead,
    FullGaussianHead,
    GaussianHead,
    Head,
    LogisticMixtureHead,
    head_for,
)
from genzoo.spec import DataSpec

PLAIN = DataSpec((3,))

DISCRETE: dict[str, Callable[[], Head]] = {
    "bernoulli": lambda: BernoulliHead(DataSpec((3,), 2)),
    "logistics-17": lambda: LogisticMixtureHead(DataSpec((3,), 17), 4),
    "logistics-256": lambda: LogisticMixtureHead(DataSpec((3,), 256), 4),
    "categoricals-17": lambda: CategoricalMixtureHead(DataSpec((3,), 17), 5),
    "categoricals-256": lambda: CategoricalMixtureHead(DataSpec((3,), 256), 12),
}


def levels(head: Head) -> int:
    assert head.spec.levels is not None
    return head.spec.levels


def random_params(head: Head, n: int = 50, scale: float = 2.0) -> Tensor:
    torch.manual_seed(0)
    shape = (n, head.parameters_per_dim, head.spec.dims)
    return scale * torch.randn(shape, dtype=torch.float64)


def masses(head: Head, params: Tensor) -> Tensor:
    """P(code) of the first dimension, `(B, levels)`, from log_prob_per_dim."""
    codes = torch.arange(levels(head), dtype=torch.uint8)[:, None].expand(-1, head.spec.dims)
    columns = [head.log_prob_per_dim(params, code.expand(len(params), -1))[:, 0] for code in codes]
    return torch.stack(columns, 1).exp()


@pytest.mark.parametrize("name", DISCRETE)
def test_codes_have_total_mass_one(name: str) -> None:
    # float64 parameters: 256 sums of rounding 1e-16; the float32 tables and cell widths carry 1e-7, so 1e-6.
    head = DISCRETE[name]()
    total = masses(head, random_params(head)).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(1.01 * total, torch.ones_like(total), atol=1e-6, rtol=0)


def test_closed_edges_would_lose_mass() -> None:
    """The twin of the above on the formula itself: the cells of the ends closed, as in a plain discretisation."""
    head = LogisticMixtureHead(DataSpec((1,), 17), 1)
    # location at the top of the axis, scale 0.2: half of the mass lies above the axis
    params = torch.tensor([[[0.0], [1.0], [math.log(0.2)]]], dtype=torch.float64)
    inside = (torch.tensor([1.0, -1.0]).double() * (1 + 1 / 16) - 1.0) / 0.2
    closed = inside.sigmoid()[0] - inside.sigmoid()[1]
    assert float(masses(head, params).sum()) == pytest.approx(1, abs=1e-9)
    assert float(closed) < 0.6


@pytest.mark.parametrize("many", [17, 256])
def test_logistics_equal_differences_of_distribution_functions(many: int) -> None:
    # Salimans et al. eq. 2 in float64; scales above exp(-2), where the plain difference loses at most 1e-12.
    head = LogisticMixtureHead(DataSpec((1,), many), 3)
    params = random_params(head, 20, 1.0)
    logits, loc, log_scale = params[..., 0].chunk(3, dim=1)
    log_scale.clamp_(min=-2)
    edges = (torch.arange(1, many).double() - 0.5) * 2 / (many - 1) - 1
    inner = ((edges - loc[..., None]) / log_scale.exp()[..., None]).sigmoid()  # (B, C, levels - 1)
    ends = torch.zeros_like(inner[..., :1])
    cells = torch.cat([ends, inner, ends + 1], -1).diff(dim=-1)
    expected = (logits.softmax(1)[..., None] * cells).sum(1)
    torch.testing.assert_close(masses(head, params), expected, atol=1e-10, rtol=1e-8)
    params[:, 6:] += math.log(1.01)  # scales 1 % wider
    with pytest.raises(AssertionError):
        torch.testing.assert_close(masses(head, params), expected, atol=1e-10, rtol=1e-8)


def test_gaussian_and_bernoulli_equal_torch() -> None:
    # float64 throughout: rounding of a few 1e-16 on sums of three terms of order ten
    torch.manual_seed(0)
    x = torch.randn(9, 3)
    gaussian = GaussianHead(DataSpec((3,)), "output").double()
    params = random_params(gaussian, 9, 0.5)
    scale = 0.15 * params[:, 1].exp()
    expected = Normal(params[:, 0], scale).log_prob(x.double()).sum(1)
    torch.testing.assert_close(gaussian.log_prob(params, x), expected, atol=1e-6, rtol=1e-6)  # log 0.15 is float32
    wrong = Normal(params[:, 0], 1.01 * scale).log_prob(x.double()).sum(1)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(gaussian.log_prob(params, x), wrong, atol=1e-6, rtol=1e-6)

    bernoulli = BernoulliHead(DataSpec((3,), 2))
    params, codes = random_params(bernoulli, 9), (x > 0).to(torch.uint8)
    expected = Bernoulli(logits=params[:, 0]).log_prob(codes.double()).sum(1)
    torch.testing.assert_close(bernoulli.log_prob(params, codes), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 4])
def test_full_gaussian_equals_torch(dims: int) -> None:
    # float64, rounding only: forward substitution here, a triangular solve there
    head = FullGaussianHead(DataSpec((dims,)))
    params, x = random_params(head, 9, 0.5), torch.randn(9, dims)
    lower = params[:, 1:].mT.tril(-1) + torch.diag_embed(0.15 * params[:, 1:].diagonal(dim1=1, dim2=2).exp())
    expected = MultivariateNormal(params[:, 0], scale_tril=lower).log_prob(x.double())
    torch.testing.assert_close(head.log_prob(params, x), expected, atol=1e-9, rtol=1e-9)
    wrong = MultivariateNormal(params[:, 0], scale_tril=1.01 * lower).log_prob(x.double())
    with pytest.raises(AssertionError):
        torch.testing.assert_close(head.log_prob(params, x), wrong, atol=1e-9, rtol=1e-9)


def test_full_gaussian_samples_have_its_covariance() -> None:
    # 400,000 draws know an entry of a covariance C to 1.6e-3 max(C) (sqrt(2/n), four deviations: 0.9 %)
    head = FullGaussianHead(DataSpec((3,)), initial=1.0)
    params = random_params(head, 1, 0.4)
    lower = params[0, 1:].mT.tril(-1) + torch.diag(params[0, 1:].diagonal().exp())
    covariance = lower @ lower.T
    torch.manual_seed(3)
    x = head.sample_per_dim(params.expand(400_000, -1, -1))
    largest = float(covariance.max())
    torch.testing.assert_close(x.T.cov(), covariance, atol=0.009 * largest, rtol=0)
    torch.testing.assert_close(x.mean(0), params[0, 0], atol=0.01 * math.sqrt(largest), rtol=0)
    with pytest.raises(AssertionError):  # a scale 1 % too wide is 2 % of a variance
        torch.testing.assert_close((1.01 * x).T.cov(), covariance, atol=0.009 * largest, rtol=0)


def test_gaussian_scale_is_shared_and_integrates_to_one() -> None:
    head = GaussianHead(DataSpec((1,)), initial=0.2).double()
    grid = torch.linspace(-3, 3, 6001)[:, None]
    params = torch.full((len(grid), 1, 1), 0.3, dtype=torch.float64)
    # trapezoid rule, spectrally exact; the float32 grid's spacing is rounded to 1e-7 of 1e-3
    assert float(head.log_prob(params, grid).detach().exp().sum()) * 1e-3 == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("size", [50.0, 1e4])
@pytest.mark.parametrize("name", [*DISCRETE, "gaussian", "full_gaussian"])
def test_values_and_gradients_are_finite_at_extremes(name: str, size: float) -> None:
    real: dict[str, Callable[[], Head]] = {
        "gaussian": lambda: GaussianHead(DataSpec((3,)), "output"),
        "full_gaussian": lambda: FullGaussianHead(PLAIN),
    }
    head = (DISCRETE | real)[name]()
    params = random_params(head, 200).sign().float().mul(size).requires_grad_()
    if head.spec.levels is None:
        x = torch.tensor([0.0, -1e3, 1e3]).repeat(200, 1)
    else:
        x = torch.tensor([0, 1, levels(head) - 1], dtype=torch.uint8).repeat(200, 1)
    value = head.log_prob(params, x)
    value.sum().backward()  # type: ignore[no-untyped-call]
    assert bool(value.isfinite().all())
    assert params.grad is not None
    assert bool(params.grad.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in head.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", DISCRETE)
def test_samples_follow_the_masses(name: str) -> None:
    """Pearson's statistic over the codes, 60,000 draws: below its mean plus six deviations (probability about 1e-7)."""
    head, n = DISCRETE[name](), 60_000
    params = random_params(head, 1, 1.0).float()
    torch.manual_seed(1)
    drawn = head.sample(params.expand(n, -1, -1))
    assert drawn.dtype == torch.uint8
    expected = masses(head, params)[0].detach().double()
    counts = torch.bincount(drawn[:, 0].long(), minlength=levels(head)).double()

    def check(law: Tensor) -> None:
        common = law * n >= 5  # rarer codes are pooled
        seen = torch.cat([counts[common], counts[~common].sum()[None]])
        due = n * torch.cat([law[common], law[~common].sum()[None] + 1e-12])
        due, seen = due[due > 1], seen[due > 1]
        freedom = max(len(due) - 1, 1)
        assert float(((seen - due) ** 2 / due).sum()) < freedom + 6 * math.sqrt(2 * freedom)

    check(expected)
    # one hundredth of all draws moved from the commonest code to its neighbour
    wrong, top = expected.clone(), int(expected.argmax())
    wrong[top] -= 0.01
    wrong[top - 1 if top else 1] += 0.01
    with pytest.raises(AssertionError):
        check(wrong)


@pytest.mark.parametrize("name", ["bernoulli", "categoricals-17", "categoricals-256"])
def test_mean_is_the_mean_of_the_masses(name: str) -> None:
    # float32 tables: 255 times 1e-7
    head = DISCRETE[name]().double()
    params = random_params(head)
    expected = masses(head, params) @ torch.arange(levels(head)).double()
    torch.testing.assert_close(head.mean(params)[:, 0], expected, atol=1e-4, rtol=0)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(1.01 * head.mean(params)[:, 0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", DISCRETE)
def test_marginal_parameters_give_the_marginals(name: str) -> None:
    """On data with 80 % zeros the fitted marginals lie within 0.3 nats of the empirical entropy (256 levels, smooth
    tables); uniform codes are 2 nats off."""
    head = DISCRETE[name]()
    torch.manual_seed(0)
    x = torch.randint(0, levels(head), (5000, 3), dtype=torch.uint8) * (torch.rand(5000, 3) > 0.8)
    value = -head.log_prob(head.marginal_parameters(x).expand(5000, -1, -1), x).detach().mean() / 3
    share = torch.bincount(x.flatten().long(), minlength=levels(head)) / x.numel()
    entropy = -(share * share.clamp(min=1e-9).log()).sum()
    assert float(entropy) - 0.01 < float(value) < float(entropy) + 0.3


def test_leading_dimensions_and_event_shapes() -> None:
    head = head_for(DataSpec((3, 2, 2), 17))
    params = torch.randn(4, 5, head.parameters_per_dim, 12)
    x = torch.randint(0, 17, (5, 3, 2, 2), dtype=torch.uint8)
    log_p = head.log_prob(params, x)
    assert log_p.shape == (4, 5)
    assert log_p.dtype == torch.float64
    torch.testing.assert_close(log_p[2], head.log_prob(params[2], x))
    assert head.sample(params).shape == (4, 5, 3, 2, 2)
    assert head.mean(params[0]).shape == (5, 3, 2, 2)


def test_factory_picks_by_the_data_and_refuses_the_rest() -> None:
    assert isinstance(head_for(DataSpec((2,))), GaussianHead)
    assert isinstance(head_for(DataSpec((2,), 2)), BernoulliHead)
    assert isinstance(head_for(DataSpec((2,), 256)), CategoricalMixtureHead)
    assert isinstance(head_for(DataSpec((2,), 256), "logistics"), LogisticMixtureHead)
    with pytest.raises(CapabilityError, match="expected head gaussian or full_gaussian for real data; got logistics"):
        head_for(DataSpec((2,)), "logistics")
    assert isinstance(head_for(DataSpec((2,)), "full_gaussian"), FullGaussianHead)
    with pytest.raises(CapabilityError, match="expected at most 8 dimensions for FullGaussianHead; got 9"):
        head_for(DataSpec((9,)), "full_gaussian")
    with pytest.raises(CapabilityError, match="expected discrete data for LogisticMixtureHead"):
        LogisticMixtureHead(DataSpec((2,)))
