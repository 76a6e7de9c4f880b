"""Transforms against autograd, closed forms and quadrature.

Jacobians hold to 1e-10 (float64 rounding of a 4 x 4 determinant). Monte Carlo sums hold to five of their own standard
errors; quadrature of the noise to 1e-5, since its trapezoid rule has 4,001 smooth nodes.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from genzoo.data.splits import TensorSplit
from genzoo.errors import CapabilityError, InputError
from genzoo.spec import DataSpec
from genzoo.transforms import Dequantize, Logit, Standardize, Transform, UniformNoise, VariationalNoise

IMAGE = DataSpec((1, 2, 2), levels=17)
PLANE = DataSpec((2,), levels=4)


def random_standardize(spec: DataSpec) -> Standardize:
    torch.manual_seed(3)
    transform = Standardize(spec)
    transform.loc.copy_(torch.randn_like(transform.loc))
    transform.scale.copy_(torch.rand_like(transform.scale) + 0.3)
    return transform


def centred_standardize() -> Standardize:
    """Puts most, not all, of the law below inside the range of the logit."""
    transform = Standardize(PLANE)
    transform.loc.fill_(-1.5)
    transform.scale.fill_(1.0)
    return transform


MAPS = {
    "logit-17": lambda: (Logit(IMAGE, 0.05), IMAGE),
    "logit-tiny": lambda: (Logit(IMAGE, 1e-6), IMAGE),
    "logit-real": lambda: (Logit(DataSpec((4,)), 0.05), DataSpec((4,))),
    "standardize-image": lambda: (random_standardize(IMAGE), IMAGE),
    "standardize-vector": lambda: (random_standardize(DataSpec((4,))), DataSpec((4,))),
}


@pytest.mark.parametrize("name", MAPS)
def test_ladj_against_autograd(name: str) -> None:
    transform, spec = MAPS[name]()
    torch.manual_seed(0)
    x = torch.rand(3, *spec.event_shape, dtype=torch.float64) * (spec.levels or 1)
    y, ladj = transform(x)
    assert y.dtype == ladj.dtype == torch.float64
    for row, claimed in zip(x, ladj, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: transform(v[None])[0][0], row).reshape(4, 4)
        truth = jacobian.slogdet().logabsdet

        def agrees(value: Tensor, truth: Tensor = truth) -> bool:
            return bool(torch.isclose(value, truth, rtol=1e-10, atol=1e-10))

        assert agrees(claimed)
        assert not agrees(1.01 * claimed)
    torch.testing.assert_close(transform.inverse(y), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("levels", [1, 17])
def test_logit_is_the_published_formula(levels: int) -> None:
    """y = logit(l + (1 - 2l) x / levels), its Jacobian log((1 - 2l)/levels) - log s - log(1 - s) (NUMBERS.md)."""
    spec = DataSpec((2,), levels=None if levels == 1 else levels)
    margin, x = 0.01, [0.3 * levels, 0.98 * levels]
    y, ladj = Logit(spec, margin)(torch.tensor([x], dtype=torch.float64))
    s = [margin + (1 - 2 * margin) * v / levels for v in x]
    assert y[0].tolist() == pytest.approx([math.log(v / (1 - v)) for v in s], rel=1e-12)
    expected = sum(math.log((1 - 2 * margin) / levels) - math.log(v) - math.log(1 - v) for v in s)
    assert float(ladj) == pytest.approx(expected, rel=1e-12)
    assert 1.01 * float(ladj) != pytest.approx(expected, rel=1e-12)


def test_logit_edges() -> None:
    logit = Logit(PLANE, 1e-6)
    y, ladj = logit(torch.tensor([[0.0, 4.0]], dtype=torch.float64))
    assert y.isfinite().all()
    assert ladj.isfinite().all()
    with pytest.raises(InputError, match=r"data in \[0, 4\] for the logit; got 0..4.5"):
        logit(torch.tensor([[0.0, 4.5]]))


def trained_noise(spec: DataSpec) -> VariationalNoise:
    """Noise far from uniform: its last layer drawn, as after training."""
    torch.manual_seed(5)
    noise = VariationalNoise(spec, hidden=8)
    for parameter in noise.parameters():
        nn.init.normal_(parameter, std=0.2)
    return noise


def test_noise_density_integrates_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataSpec((1,), levels=4)
    eps = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    monkeypatch.setattr(torch, "randn_like", lambda like: eps)
    for noise in (VariationalNoise(spec), trained_noise(spec)):
        for code in range(4):
            with torch.no_grad():
                u, log_q = noise(torch.full((4001, 1), code, dtype=torch.uint8))

            def integrates(log_q: Tensor, u: Tensor = u) -> bool:
                return abs(float(torch.trapezoid(log_q.exp(), u[:, 0])) - 1) < 1e-5

            assert integrates(log_q)
            assert not integrates(log_q + 0.01)


@pytest.mark.parametrize("spec", [IMAGE, DataSpec((4,), levels=17), DataSpec((3, 2, 2), levels=256)])
def test_noise_density_against_autograd(spec: DataSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """log q(u) = log N(eps) - log |du/deps|, the determinant by autograd."""
    noise, dims = trained_noise(spec), spec.dims
    x = torch.randint(0, spec.levels or 0, (1, *spec.event_shape), dtype=torch.uint8)
    eps = torch.randn(1, *spec.event_shape, dtype=torch.float64)
    monkeypatch.setattr(torch, "randn_like", lambda like: given)

    def u_of(value: Tensor) -> Tensor:
        nonlocal given
        given = value
        return noise(x)[0]

    given = eps
    u, log_q = noise(x)
    assert bool(((u >= 0) & (u <= 1)).all())
    jacobian = torch.autograd.functional.jacobian(u_of, eps).reshape(dims, dims)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(eps).sum() - jacobian.slogdet().logabsdet
    assert float(log_q.detach()) == pytest.approx(float(expected), rel=1e-9)
    assert 1.01 * float(log_q.detach()) != pytest.approx(float(expected), rel=1e-9)


def test_untrained_noise_is_nearly_uniform() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        _, log_q = VariationalNoise(DataSpec((1,), levels=4))(torch.zeros(5000, 1, dtype=torch.uint8))
    assert 0 <= float(log_q.mean()) < 0.02  # KL to the uniform, nats


# a Gaussian behind dequantization: what the states add up to, and what samples do

LOC, SCALE = torch.tensor([1.2, 3.1], dtype=torch.float64), torch.tensor([1.5, 0.7], dtype=torch.float64)
STATES = torch.tensor(list(itertools.product(range(4), repeat=2)), dtype=torch.uint8)
CHAINS = {
    "uniform": lambda: [Dequantize(PLANE, UniformNoise())],
    "variational": lambda: [Dequantize(PLANE, trained_noise(PLANE))],
    "standardized": lambda: [Dequantize(PLANE, UniformNoise()), random_standardize(PLANE)],
    "logit": lambda: [Dequantize(PLANE, UniformNoise()), Logit(PLANE, 0.02), centred_standardize()],
}


def boundaries(chain: list[Transform]) -> Tensor:
    """Where the edges of the codes lie in model space, `(5, 2)`."""
    y = torch.arange(5, dtype=torch.float64)[:, None].expand(5, 2)
    for transform in chain[1:]:
        y, _ = transform(y)
    return y


@pytest.mark.parametrize("name", CHAINS)
def test_states_add_up_to_the_mass_inside(name: str) -> None:
    """40,000 draws a state put five errors of the sum below 0.7 %, so that 1 % is seen."""
    chain, draws = CHAINS[name](), 40_000
    torch.manual_seed(0)
    y, total = STATES.repeat(draws, 1), torch.zeros(16 * draws, dtype=torch.float64)
    with torch.no_grad():
        for transform in chain:
            y, ladj = transform(y)
            total = total + ladj
    law = torch.distributions.Normal(LOC, SCALE)
    weights = (law.log_prob(y).sum(1) + total).exp().view(draws, 16)
    edges = law.cdf(boundaries(chain))
    cells = edges.diff(dim=0)  # (4, 2)
    truth = cells[:, None, 0] * cells[None, :, 1]
    error = weights.var(0).div(draws).sqrt()
    assert bool(((weights.mean(0) - truth.flatten()).abs() < 5 * error + 1e-9).all())
    inside = float((edges[-1] - edges[0]).prod())

    def adds_up(scale: float) -> bool:
        return abs(scale * float(weights.mean(0).sum()) - inside) < 5 * float(error.square().sum().sqrt())

    assert adds_up(1.0)
    assert not adds_up(1.01)


@pytest.mark.parametrize("name", CHAINS)
def test_samples_fall_into_cells_as_their_masses_say(name: str) -> None:
    """Counts of 400,000 samples against the masses with open edges, which sum to one; five deviations. With closed
    edges (the twin) they do not fit."""
    chain, n = CHAINS[name](), 400_000
    law = torch.distributions.Normal(LOC, SCALE)
    torch.manual_seed(0)
    y = law.sample((n,))
    for transform in reversed(chain):
        y = transform.inverse(y)
    counts = torch.bincount((y.long() * torch.tensor([4, 1])).sum(1), minlength=16).double()

    def fits(edges: Tensor) -> bool:
        cells = edges.diff(dim=0)
        mass = (cells[:, None, 0] * cells[None, :, 1]).flatten()
        return bool(((counts / n - mass).abs() < 5 * (mass / n).sqrt() + 1e-4).all())

    closed = law.cdf(boundaries(chain))
    opened = torch.cat([torch.zeros(1, 2), closed[1:-1], torch.ones(1, 2)])
    assert fits(opened)
    assert not fits(closed)


def test_standardize_statistics() -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(1000, 2) + torch.tensor([5.0, -1.0])
    vector = Standardize(DataSpec((2,)))
    vector.fit(x)
    y, ladj = vector(x)
    assert bool((y.mean(0).abs() < 1e-12).all())
    assert bool(((y.std(0, correction=0) - 1).abs() < 1e-12).all())
    assert float(ladj[0]) == pytest.approx(-float(x.double().std(0, correction=0).log().sum()), rel=1e-12)
    image = Standardize(DataSpec((1, 1, 2)))
    image.fit(x.view(-1, 1, 1, 2))
    assert image.loc.shape == ()
    assert float(image.loc) == pytest.approx(float(x.double().mean()), rel=1e-12)
    assert float(image.scale) == pytest.approx(float(x.double().std(correction=0)), rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
def test_a_constant_dimension_keeps_scale_one(value: float) -> None:
    x = torch.full((999, 2), value, dtype=torch.float64)
    x[:, 1] = torch.arange(999)
    transform = Standardize(DataSpec((2,)))
    transform.fit(x)
    assert float(transform.scale[0]) == 1.0
    assert float(transform.scale[1]) > 100


def test_wide_offsets_are_not_constants() -> None:
    x = 1e6 + torch.randn(1000, 1, dtype=torch.float64)
    transform = Standardize(DataSpec((1,)))
    transform.fit(x)
    assert float(transform.scale) == pytest.approx(float(x.std()), rel=1e-2)


def test_real_data_is_not_dequantised() -> None:
    for make in (lambda s: Dequantize(s, UniformNoise()), VariationalNoise):
        with pytest.raises(CapabilityError, match="this data set is real"):
            make(DataSpec((2,)))


def test_uniform_noise_fills_its_cell() -> None:
    torch.manual_seed(0)
    x = TensorSplit(STATES).x
    y, ladj = Dequantize(PLANE, UniformNoise())(x)
    assert torch.equal(y.floor().to(torch.uint8), x)
    assert not ladj.any()
