"""Autoregressive models: causality by autograd, conditionals against their formulas, sampling against enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from genzoo_autoregressive.conditionals import CategoricalHead, GaussianMixtureHead, inputs
from genzoo_autoregressive.models import (
    MADE,
    NADE,
    Autoregressive,
    MADEConfig,
    NADEConfig,
    NaiveBayes,
    PixelCNN,
    PixelCNNConfig,
    Transformer,
    TransformerConfig,
)
from genzoo_autoregressive.networks import Shared
from torch.distributions import Categorical, MixtureSameFamily, Normal

from genzoo.errors import CapabilityError
from genzoo.spec import DataSpec

IMAGE = DataSpec((1, 4, 5), 2)


def stirred(model: Autoregressive) -> Autoregressive:
    """Weights large enough that everything depends on all that it may."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def models(spec: DataSpec) -> dict[str, Autoregressive]:
    torch.manual_seed(0)
    made = {
        "nade": NADE(spec, NADEConfig(hidden=16)),
        "made": MADE(spec, MADEConfig(hidden=(40, 40))),
        "made of 3 orders": MADE(spec, MADEConfig(hidden=(40, 40), orders=3)),
        "transformer": Transformer(spec, TransformerConfig(width=16, depth=2, heads=2)),
    }
    if len(spec.event_shape) == 3:
        made["pixelcnn"] = PixelCNN(spec, PixelCNNConfig(width=8, depth=3, kernel=3))
    return {name: stirred(model) for name, model in made.items()}


@pytest.mark.parametrize("name", ["nade", "made", "made of 3 orders", "transformer", "pixelcnn"])
@pytest.mark.parametrize("labelled", [False, True])
def test_a_conditional_depends_on_all_earlier_dimensions_and_on_no_other(name: str, labelled: bool) -> None:
    """The Jacobian of every output by autograd is zero, exactly, from a dimension on; before it no dimension is without
    influence on any later output (but for MADE, whose masks may keep some apart at this width)."""
    spec = DataSpec((1, 4, 5), 2, 3 if labelled else None)
    model, dims = models(spec)[name], 20
    label = torch.nn.functional.one_hot(torch.tensor([1]), 3).float() if labelled else torch.zeros(1, 0)
    for m, order in enumerate(model.network.orders):
        x = torch.randn(1, 1, dims, dtype=torch.float32)
        jacobian = torch.autograd.functional.jacobian(lambda v, m=m: model.network(v, label, m).sum(1)[0], x)[:, 0, 0]
        jacobian = jacobian[order][:, order]  # (D, D) in the order: strictly lower triangular
        assert bool((jacobian.triu() == 0).all())
        below = jacobian.tril(-1) != 0
        reached = int(below.sum()) / (dims * (dims - 1) / 2)
        assert reached > (0.9 if name.startswith("made") else 0.999)


@pytest.mark.parametrize("dims", [1, 2, 4, 5, 9, 12])
def test_nade_follows_its_equations(dims: int) -> None:
    """Whether or not the dimensions fill the blocks in which they are summed."""
    torch.manual_seed(0)
    network = Shared(dims, 2, 2, 0, 7)
    x = torch.randn(3, 2, dims)
    c = network.start(torch.ones(1, 1))[0]
    for i in range(dims):
        hidden = torch.nn.functional.silu(c + sum((x[:, :, j] @ network.into[j] for j in range(i)), torch.zeros(3, 7)))
        torch.testing.assert_close(network(x, torch.zeros(3, 0))[:, :, i], hidden @ network.out[i].T)


@pytest.mark.parametrize("name", ["nade", "made", "made of 3 orders", "transformer"])
def test_probabilities_of_all_states_sum_to_one(name: str) -> None:
    spec = DataSpec((5,), 3)
    states = torch.cartesian_prod(*[torch.arange(3)] * 5).to(torch.uint8)
    total = models(spec)[name].log_likelihood(states).lower.exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-5)  # float32 logits


def test_an_ensemble_averages_likelihoods_not_logits() -> None:
    model = models(DataSpec((5,), 2))["made of 3 orders"]
    x = torch.cartesian_prod(*[torch.arange(2)] * 5).to(torch.uint8)
    with torch.no_grad():
        each = torch.stack([model._log_prob(x, None, m) for m in range(3)])
    said = model.log_likelihood(x).lower
    torch.testing.assert_close(said, each.exp().mean(0).log(), rtol=1e-6, atol=1e-6)
    assert float((said - each.mean(0)).abs().max()) > 0.05  # averaging the logarithms is something else


def test_naive_bayes_is_independent_given_the_label() -> None:
    torch.manual_seed(0)
    spec = DataSpec((3,), 4, 2)
    model = stirred(NaiveBayes(spec))
    x = torch.cartesian_prod(*[torch.arange(4)] * 3).to(torch.uint8)
    for y in (0, 1):
        p = model.log_likelihood(x, condition=torch.full((64,), y)).lower.exp().view(4, 4, 4)
        first, second, third = p.sum((1, 2)), p.sum((0, 2)), p.sum((0, 1))
        torch.testing.assert_close(p, torch.einsum("i,j,k->ijk", first, second, third), rtol=1e-5, atol=1e-7)


def test_heads_equal_torch() -> None:
    torch.manual_seed(0)
    real, codes = DataSpec((4,)), DataSpec((4,), 7)
    head = GaussianMixtureHead(real, 3)
    params, x = torch.randn(2, 9, 4), torch.randn(2, 4)
    logits, loc, log_scale = (part.transpose(1, 2) for part in params.chunk(3, 1))
    oracle = MixtureSameFamily(Categorical(logits=logits), Normal(loc, log_scale.exp()))
    torch.testing.assert_close(head.log_prob_per_dim(params, x), oracle.log_prob(x))
    torch.testing.assert_close(head.mean_per_dim(params), oracle.mean)
    drawn = head.sample_per_dim(params.expand(20_000, 2, 9, 4))
    assert bool(((drawn.mean(0) - oracle.mean).abs() < 5 * oracle.stddev / math.sqrt(20_000)).all())
    table, y = torch.randn(2, 7, 4), torch.randint(0, 7, (2, 4))
    assert CategoricalHead(codes).parameters_per_dim == 7
    torch.testing.assert_close(
        CategoricalHead(codes).log_prob_per_dim(table, y), Categorical(logits=table.transpose(1, 2)).log_prob(y)
    )
    counts = torch.randint(0, 7, (500, 4))
    marginal = CategoricalHead(codes).marginal_parameters(counts).softmax(0)
    share = torch.nn.functional.one_hot(counts, 7).float().mean(0).T
    torch.testing.assert_close(marginal, (500 * share + 1) / 507)


def test_a_mixture_starts_at_the_marginals() -> None:
    """Each dimension is U(-2, 3) or so: the start is within 0.2 nats of the uniform law, log 5 a dimension."""
    torch.manual_seed(0)
    x = 5 * torch.rand(4000, 2) - 2
    head = GaussianMixtureHead(DataSpec((2,)), 16)
    said = head.log_prob(head.marginal_parameters(x).expand(len(x), -1, -1), x)
    assert float(said.mean()) == pytest.approx(-2 * math.log(5), abs=0.4)


@pytest.mark.parametrize("name", ["nade", "made of 3 orders", "transformer", "pixelcnn"])
def test_one_dimension_at_a_time_computes_what_the_whole_network_does(name: str) -> None:
    """Outputs for dimensions that are filled in as the steps go on, against those for the whole at once; images higher
    and wider than what a layer sees."""
    torch.manual_seed(0)
    spec = DataSpec((1, 7, 6), 5, 2)
    network, dims = models(spec)[name].network, 42
    flat, label = torch.randint(0, 5, (3, dims)).float(), torch.eye(2)[[0, 1, 1]]
    for m, order in enumerate(network.orders.tolist()):
        now = torch.zeros(3, dims)
        with torch.no_grad():
            whole = network(inputs(spec, flat), label, m)
            step = network.stepper(lambda some, now=now: inputs(spec, now[:, some]), label, m)
            for i in order:
                torch.testing.assert_close(step(i), whole[:, :, i], rtol=1e-4, atol=1e-4)
                now[:, i] = flat[:, i]


@pytest.mark.parametrize("name", ["nade", "made of 3 orders", "transformer", "pixelcnn"])
def test_samples_follow_the_probabilities(name: str) -> None:
    """All 64 states of 2 x 3 binary pixels: chi-square of 8,000 draws, whose null law has 63 degrees; the limit is its
    1e-6 quantile, 126."""
    spec = DataSpec((1, 2, 3), 2)
    model = models(spec)[name]
    states = torch.cartesian_prod(*[torch.arange(2)] * 6).to(torch.uint8).view(-1, 1, 2, 3)
    p = model.log_likelihood(states).lower.exp()
    code = (model.sample(8000, seed=0).flatten(1).long() * 2 ** torch.arange(5, -1, -1)).sum(1)
    counts = torch.bincount(code, minlength=64).double()
    assert float(((counts - 8000 * p).square() / (8000 * p)).sum()) < 126


@pytest.mark.parametrize(
    ("name", "seen", "limit"),
    [
        ("transformer", (0, 1), 0.02),  # first in the order: exact, binomial error of 4,000 draws 0.008
        ("pixelcnn", (0, 1), 0.02),
        ("transformer", (3, 5), 0.06),  # otherwise by 16 particles, whose bias is of order 1/16
        ("pixelcnn", (2, 4), 0.06),
        ("made of 3 orders", (0, 4), 0.06),
    ],
)
def test_in_painting_against_enumeration(name: str, seen: tuple[int, int], limit: float) -> None:
    spec = DataSpec((1, 2, 3), 2)
    model = models(spec)[name]
    mask = torch.zeros(6, dtype=torch.bool)
    mask[list(seen)] = True
    states = torch.cartesian_prod(*[torch.arange(2)] * 6).to(torch.uint8)
    given = torch.tensor([1, 0, 0, 1, 1, 1], dtype=torch.uint8)
    fits = (states[:, mask] == given[mask]).all(1)
    expected = model.log_likelihood(states[fits].view(-1, 1, 2, 3)).lower.softmax(0)
    x = given.view(1, 1, 2, 3).repeat(4000, 1, 1, 1)
    drawn = model.sample_given(x, mask.view(1, 2, 3), seed=0).flatten(1)
    assert bool((drawn[:, mask] == given[mask]).all())
    power = 2 ** torch.arange(5, -1, -1)
    found = torch.bincount((drawn.long() * power).sum(1), minlength=64)[(states[fits].long() * power).sum(1)] / 4000
    assert float((found - expected).abs().max()) < limit


def test_in_painting_of_real_data_follows_the_exact_conditional() -> None:
    """x_2 given x_1 of a transformer whose factors are mixtures of Gaussians: the distribution function at five places,
    by quadrature of the joint density, against 20,000 draws; a binomial error is at most 0.0035, four are granted."""
    torch.manual_seed(0)
    model = stirred(Transformer(DataSpec((2,)), TransformerConfig(width=16, depth=1, heads=2, components=3)))
    grid = torch.linspace(-100, 100, 40_001)  # some components are wide
    joint = model.log_likelihood(torch.stack([torch.full_like(grid, 0.7), grid], 1)).lower.exp()
    cdf = joint.cumsum(0) / joint.sum()
    x = torch.tensor([[0.7, 99.0]]).repeat(20_000, 1)
    drawn = model.sample_given(x, torch.tensor([True, False]), seed=0)
    assert bool((drawn[:, 0] == 0.7).all())
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        at = grid[int((cdf < share).sum())]
        assert abs(float((drawn[:, 1] <= at).double().mean()) - share) < 0.014


def test_in_painting_goes_by_the_label() -> None:
    """The last of three codes given the first two and the label, by enumeration; 8,000 draws, binomial error 0.006."""
    torch.manual_seed(0)
    spec = DataSpec((3,), 4, 2)
    model = stirred(Transformer(spec, TransformerConfig(width=16, depth=1, heads=2)))
    states = torch.tensor([[2, 1, k] for k in range(4)], dtype=torch.uint8)
    mask = torch.tensor([True, True, False])
    for y in (0, 1):
        expected = model.log_likelihood(states, condition=torch.full((4,), y)).lower.softmax(0)
        drawn = model.sample_given(states[:1].repeat(8000, 1), mask, seed=y, condition=torch.full((8000,), y))
        found = torch.bincount(drawn[:, 2].long(), minlength=4) / 8000
        assert float((found - expected).abs().max()) < 0.025


def test_what_they_cannot_do_is_named() -> None:
    with pytest.raises(CapabilityError, match="pixelcnn takes discrete images of one channel"):
        PixelCNN(DataSpec((3, 4, 4), 2))
    with pytest.raises(CapabilityError, match="odd kernel"):
        PixelCNN(IMAGE, PixelCNNConfig(kernel=4))
    with pytest.raises(CapabilityError, match="heads that divide the width"):
        Transformer(IMAGE, TransformerConfig(width=16, heads=3))
    model = models(DataSpec((2,)))["made"]
    with pytest.raises(CapabilityError, match="does not denoise"):
        model.sample_given(torch.zeros(1, 2), torch.tensor([True, True]), noise=0.5)


def test_orders_are_permutations_and_the_first_is_natural() -> None:
    orders = models(DataSpec((7,), 2))["made of 3 orders"].network.orders
    assert torch.equal(orders[0], torch.arange(7))
    assert all(sorted(order.tolist()) == list(range(7)) for order in orders)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(orders, 2))


@pytest.mark.parametrize("orders", [3, 10])
def test_orders_weigh_alike_in_painting_too(orders: int) -> None:
    """With nothing observed the draw is one of the mixture: chi-square over 16 states, 15 degrees, whose 1e-6 quantile
    is 58. Particles that go round the orders unevenly gave 595 and more at ten times as many draws."""
    torch.manual_seed(0)
    model = stirred(MADE(DataSpec((4,), 2), MADEConfig(hidden=(16,), orders=orders)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    states = torch.cartesian_prod(*[torch.arange(2)] * 4).to(torch.uint8)
    p = model.log_likelihood(states).lower.exp()
    drawn = model.sample_given(torch.zeros(40_000, 4, dtype=torch.uint8), torch.zeros(4, dtype=torch.bool), seed=0)
    counts = torch.bincount((drawn.long() * 2 ** torch.arange(3, -1, -1)).sum(1), minlength=16).double()
    usable = p > 1e-4
    assert float(((counts - 40_000 * p).square() / (40_000 * p))[usable].sum()) < 58
