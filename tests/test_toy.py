"""The 2D densities against quadrature, against their own samplers and against closed forms.

Tolerances: 1e-5 for mass and entropy is what `Density` promises (the rules are better by an order or more). Samplers
are judged at five standard errors and at chi-square p-values of 1e-7: a false alarm is rarer than 1e-6 in each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from genzoo.data import toy
from genzoo.data.toy import DENSITIES, PlaneDensity, load
from genzoo.data.toy.catalogue import moons_curve, spirals_curve
from genzoo.data.toy.laws import Checkerboard, Lattice, NoisyCurve, Points, Rings
from genzoo.data.toy.noise import BoxGaussian, Gaussian
from genzoo.data.toy.pinwheel import Pinwheel
from genzoo.data.toy.rules import gauss_panels, midpoint, product
from genzoo.errors import ConfigError, InputError, UnknownNameError
from genzoo.spec import Dataset

NAMES = list(DENSITIES)
SMOOTH = [name for name in NAMES if name != "checkerboard"]
CURVES = ["moons", "2spirals", "swissroll"]
CELLS = 32  # cells of the chi-square test along each axis


@cache
def _reference(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Legendre panels over the bounds, independent of `quadrature`: nodes, weights, log p at the nodes."""
    density = DENSITIES[name]
    order = 14 if name == "diamond" else 8
    axes = [gauss_panels(torch.linspace(*pair, CELLS + 1, dtype=torch.float64), order) for pair in density.bounds]
    nodes, weights = product(*axes)
    return nodes, weights, density.log_prob(nodes)


def _mass_and_entropy(weights: Tensor, log_p: Tensor) -> tuple[float, float]:
    p = log_p.exp()
    return float(weights @ p), -float(weights @ torch.where(p > 0, p * log_p, 0))


def _cell(x: Tensor, bounds: tuple[tuple[float, float], tuple[float, float]]) -> Tensor:
    """Index `(N,)` of the cell of each point; CELLS^2 outside the bounds."""
    low, high = torch.tensor(bounds, dtype=torch.float64).T
    index = ((x.double() - low) / (high - low) * CELLS).floor().long()
    inside = ((index >= 0) & (index < CELLS)).all(1)
    return torch.where(inside, index[:, 0] * CELLS + index[:, 1], CELLS**2)


def _chi_square_p(name: str, x: Tensor) -> float:
    """p-value of the counts in cells, whose probabilities are the reference quadrature of the density."""
    nodes, weights, log_p = _reference(name)
    bounds = DENSITIES[name].bounds
    mass = torch.zeros(CELLS**2 + 1, dtype=torch.float64).index_add_(0, _cell(nodes, bounds), weights * log_p.exp())
    mass[-1] = 1 - mass[:-1].sum()
    expected = mass * len(x)
    counts = torch.bincount(_cell(x, bounds), minlength=CELLS**2 + 1).double()
    common = expected >= 10
    seen, meant = counts[common], expected[common]
    smallest = meant.argmin()  # takes in the rare cells and the outside
    seen[smallest] += counts[~common].sum()
    meant[smallest] += expected[~common].sum()
    statistic = ((seen - meant) ** 2 / meant).sum()
    return float(torch.special.gammaincc(torch.tensor((len(meant) - 1) / 2, dtype=torch.float64), statistic / 2))


def _errors_from_entropy(density: PlaneDensity, x: Tensor) -> float:
    """(mean of -log p - H) in standard errors."""
    log_p = density.log_prob(x)
    return float((-log_p.mean() - density.entropy) / (log_p.std() / math.sqrt(len(x))))


@pytest.mark.parametrize("name", NAMES)
def test_quadrature_integrates_to_one_and_gives_the_entropy(name: str) -> None:
    density = DENSITIES[name]
    nodes, weights = density.quadrature()
    assert nodes.shape == (len(weights), 2)
    assert nodes.dtype == weights.dtype == torch.float64
    assert len(weights) <= 300_000
    assert density.quadrature()[0] is nodes
    (x_low, x_high), (y_low, y_high) = density.bounds
    assert x_low <= nodes[:, 0].min()
    assert nodes[:, 0].max() <= x_high
    assert y_low <= nodes[:, 1].min()
    assert nodes[:, 1].max() <= y_high
    mass, entropy = _mass_and_entropy(weights, density.log_prob(nodes))
    assert mass == pytest.approx(1, abs=1e-5)
    assert entropy == pytest.approx(density.entropy, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_mass_and_entropy_by_an_independent_rule(name: str) -> None:
    density = DENSITIES[name]
    _, weights, log_p = _reference(name)
    mass, entropy = _mass_and_entropy(weights, log_p)
    assert mass == pytest.approx(1, abs=1e-6)  # so the bounds hold all but 1e-6 too
    assert entropy == pytest.approx(density.entropy, abs=1e-5)
    # Twin: a density 1 % too high.
    assert _mass_and_entropy(weights, log_p + 0.01)[0] != pytest.approx(1, abs=1e-5)


def test_entropies_agree_with_the_independent_table() -> None:
    """The design notes' values, found by trapezoid and Gauss-Hermite rules (five decimals)."""
    table = {"8gaussians": 2.83188, "2spirals": 2.64545, "rings": 2.62318, "checkerboard": math.log(32)}
    for name, entropy in table.items():
        assert DENSITIES[name].entropy == pytest.approx(entropy, abs=1e-5)
        assert DENSITIES[name].entropy != pytest.approx(entropy * 1.01, abs=1e-5)


def test_concentric_entropies_by_the_radial_integral() -> None:
    """H = -int p log p 2 pi r dr, with p along one ray."""
    for name in ("rings", "circles"):
        r, weights = gauss_panels(torch.linspace(0, 5, 201, dtype=torch.float64), 8)
        log_p = DENSITIES[name].log_prob(torch.stack([r * 0.6, r * 0.8], 1))
        mass, entropy = _mass_and_entropy(2 * math.pi * r * weights, log_p)
        assert (mass, entropy) == pytest.approx((1, DENSITIES[name].entropy), abs=1e-7)


def test_pinwheel_entropy_by_the_features() -> None:
    """H = E_f[-log p(x(f))] over one arm's features, where the branches play no part in the rule."""
    density = DENSITIES["pinwheel"]
    law = density.law
    assert isinstance(law, Pinwheel)
    f, weights = product(midpoint(1 - 2.1, 1 + 2.1, 0.04), midpoint(-0.7, 0.7, 0.014))
    normal = torch.exp(-((f - torch.tensor([1.0, 0.0])) / torch.tensor([0.3, 0.1])).square().sum(1) / 2)
    log_p = density.log_prob(law.turn(f, torch.zeros(len(f), dtype=torch.int64)))
    entropy = -float((weights * normal) @ log_p) / (2 * math.pi * 0.03)
    assert entropy == pytest.approx(density.entropy, abs=1e-6)


def _pinwheel_by_scan(law: Pinwheel, x: Tensor, steps: int) -> Tensor:
    """log p by the sign changes of g - phi - 2 pi j/arms on a fine grid of psi: slow, no folds, no Newton."""
    r, phi = x.norm(dim=1) / 2, torch.atan2(x[:, 1], x[:, 0])
    psi = torch.linspace(-math.pi, math.pi, steps + 1, dtype=torch.float64)
    level = (psi - law.rate * torch.exp(r[:, None] * psi.cos()) - phi[:, None]) / (2 * math.pi / law.arms)
    crossings = (level[:, 1:].floor() - level[:, :-1].floor()).abs()
    # Each crossing of a level: N / |g'| with 1/|g'| = dpsi/|dlevel| / (2 pi/arms), on the step that holds it.
    middle = (psi[1:] + psi[:-1]) / 2
    slope = level.diff(dim=1).abs() * (2 * math.pi / law.arms) / (2 * math.pi / steps)
    f0, f1 = r[:, None] * middle.cos(), r[:, None] * middle.sin()
    normal = torch.exp(-(((f0 - 1) / law.radial) ** 2) / 2 - (f1 / law.tangential) ** 2 / 2)
    normal = normal / (2 * math.pi * law.radial * law.tangential)
    return (crossings * normal / slope).sum(1).div(4 * law.arms).log()


def test_pinwheel_finds_all_branches() -> None:
    """Against a scan of 1e5 steps: its error is half a step times the slope of log N, up to 5e-3 where r < 3.

    Where two crossings share a step, next to a fold, the scan is blind; the seeded points hold no such case.
    """
    law = Pinwheel()
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(20, 2, generator=generator, dtype=torch.float64) * 8 - 4
    scan = _pinwheel_by_scan(law, x, 100_000)
    torch.testing.assert_close(law.log_prob(x), scan, atol=5e-3, rtol=0)
    # Twin: a winding rate off by 1 %.
    assert (replace(law, rate=0.2525).log_prob(x) - scan).abs().max() > 5e-3


def test_pinwheel_average_keeps_the_mass_of_each_circle() -> None:
    """Mean of p over the circle r = 2, by branches and by the far formula; 3,000 angles make it exact to 1e-6."""
    angle = torch.arange(3000, dtype=torch.float64) * (2 * math.pi / 3000)
    circle = 4 * torch.stack([angle.cos(), angle.sin()], 1)
    branches, average = (replace(Pinwheel(), far=far).log_prob(circle).exp().mean() for far in (6.0, 1.5))
    assert float(branches / average) == pytest.approx(1, abs=1e-6)


# Points for the mean test: enough that noise 1 % too wide shows at more than five standard errors.
DRAWS = {"2spirals": 160_000, "swissroll": 250_000, "moons": 250_000, "pinwheel": 100_000}


def _wider(law: object) -> Points | Rings | NoisyCurve | Lattice | Pinwheel:
    """The law with its noise 1 % wider."""
    match law:
        case Points(noise=Gaussian(scale)) as points:
            return replace(points, noise=Gaussian(scale * 1.01))
        case NoisyCurve(noise=Gaussian(scale)) as curve:
            return replace(curve, noise=Gaussian(scale * 1.01))
        case NoisyCurve(noise=BoxGaussian(scale, width)) as curve:
            return replace(curve, noise=BoxGaussian(scale * 1.01, width * 1.01))
        case Rings() as rings:
            return replace(rings, scale=rings.scale * 1.01)
        case Lattice(axis=Points(noise=Gaussian(scale))) as lattice:
            return replace(lattice, axis=replace(lattice.axis, noise=Gaussian(scale * 1.01)))
        case Pinwheel() as pinwheel:
            return replace(pinwheel, radial=pinwheel.radial * 1.01, tangential=pinwheel.tangential * 1.01)
    raise TypeError(type(law).__name__)


@pytest.mark.parametrize("name", SMOOTH)
def test_sampler_has_the_entropy_of_the_density(name: str) -> None:
    density, n = DENSITIES[name], DRAWS.get(name, 400_000)
    assert abs(_errors_from_entropy(density, density.sample(n, 11))) < 5
    # Twin: a sampler whose noise is 1 % too wide.
    assert _errors_from_entropy(density, replace(density, law=_wider(density.law)).sample(n, 11)) > 5


@pytest.mark.parametrize("name", NAMES)
def test_sampler_fills_the_cells_of_the_density(name: str) -> None:
    density = DENSITIES[name]
    x = density.sample(200_000, 12)
    assert _chi_square_p(name, x) > 1e-7
    # Twin: a sampler whose points lie 1 % too far out.
    assert _chi_square_p(name, x * 1.01) < 1e-7


def test_cells_notice_a_wrong_weight() -> None:
    """8gaussians with one centre at weight 1/9 instead of 1/8."""
    law = DENSITIES["8gaussians"].law
    assert isinstance(law, Points)
    wrong = replace(law, centres=torch.cat([law.centres, law.centres[:1]]))
    assert _chi_square_p("8gaussians", replace(DENSITIES["8gaussians"], law=wrong).sample(200_000, 12)) < 1e-7


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_densities_are_finite_far_away(name: str) -> None:
    x = torch.tensor([[0.0, 0.0], [30.0, 0.0], [-4.0, 50.0], [-900.0, -900.0], [1e5, 1e5]])
    log_p = DENSITIES[name].log_prob(x)
    assert log_p.isfinite().all()
    assert (log_p[1:].diff() < 0).all()


@pytest.mark.parametrize("name", CURVES)
def test_curves_are_integrated_to_the_end(name: str) -> None:
    """Three times the panels change log p by less than 1e-6 within the bounds, by less than 1e-3 of it far outside."""
    density = DENSITIES[name]
    law = density.law
    assert isinstance(law, NoisyCurve)
    edges = law.edges
    thirds = torch.cat([edges[:-1], edges[:-1] + edges.diff() / 3, edges[:-1] + edges.diff() * 2 / 3, edges[-1:]])
    fine = replace(law, edges=thirds.sort().values)
    near = density.quadrature()[0][::25]
    torch.testing.assert_close(law.log_prob(near), fine.log_prob(near), atol=1e-6, rtol=0)
    far = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 10
    torch.testing.assert_close(law.log_prob(far), fine.log_prob(far), atol=1e-6, rtol=1e-3)
    # Twin: a rule too coarse for the noise.
    coarse = replace(law, edges=torch.linspace(0, 1, 2, dtype=torch.float64))
    assert (coarse.log_prob(near) - fine.log_prob(near)).abs().max() > 1e-6


def test_box_noise_by_convolution() -> None:
    """The erfcx form is the Gaussian averaged over the box (a 40-point rule, exact to 1e-13), and finite far out."""
    x = torch.tensor([[0.0, 0.0], [0.05, -0.2], [0.3, 0.1], [-0.6, 0.4]], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    centre = torch.zeros(1, 2, dtype=torch.float64)

    def by_rule(width: float) -> Tensor:
        nodes, weights = product(*[gauss_panels(torch.tensor([-width, width], dtype=torch.float64), 40)] * 2)
        return Gaussian(0.1).log_mixture(x, nodes, (weights / (4 * width**2)).log())

    exact = BoxGaussian(0.1, 1 / 12).log_mixture(x, centre, zero)
    torch.testing.assert_close(exact, by_rule(1 / 12), atol=1e-11, rtol=0)
    assert not torch.allclose(exact, by_rule(1.01 / 12), atol=1e-4, rtol=0)


def test_checkerboard_edges_are_half_open() -> None:
    density = DENSITIES["checkerboard"]
    inside = torch.tensor(
        [[-4.0, -4.0], [-4.0, 0.0], [-2.0, -2.0], [-2.0, 2.0], [0.0, 0.0], [2.0, 2.0], [3.999, 3.999]]
    )
    outside = torch.tensor(
        [[-4.0, -2.0], [-2.0, 0.0], [0.0, 2.0], [4.0, 4.0], [2.0, 4.0], [-4.001, -3.0], [50.0, 50.0]]
    )
    assert (density.log_prob(inside) == -math.log(32)).all()
    assert (density.log_prob(outside) == -math.inf).all()
    x = density.sample(1_000_000, 3)
    assert (density.log_prob(x) == -math.log(32)).all()
    # Twin: a board 1 % larger.
    assert (density.log_prob(x * 1.01) == -math.inf).any()


def test_checkerboard_follows_its_public_definition() -> None:
    """x1 = 4U - 2, x2 = U - 2 Bern(1/2) + (floor(x1) mod 2), times 2: every such point lies inside."""
    generator = torch.Generator().manual_seed(0)
    u, v = torch.rand(2, 10_000, generator=generator, dtype=torch.float64)
    x1 = 4 * u - 2
    x2 = v - 2 * torch.randint(0, 2, (10_000,), generator=generator) + x1.floor() % 2
    assert (Checkerboard().log_prob(2 * torch.stack([x1, x2], 1)) == -math.log(32)).all()


def test_curves_follow_their_public_definitions() -> None:
    """End points of the moons and of the spirals (the latter without noise: the corner of the box is at +-1/12)."""
    ends = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    outer, inner = moons_curve(ends)
    torch.testing.assert_close(outer, torch.tensor([[1, -0.2], [-1, 1.8], [-3, -0.2]], dtype=torch.float64))
    torch.testing.assert_close(inner, torch.tensor([[-1, 0.8], [1, -1.2], [3, 0.8]], dtype=torch.float64))
    first, second = spirals_curve(ends)
    torch.testing.assert_close(first[2], torch.tensor([math.pi + 1 / 12, 1 / 12], dtype=torch.float64))
    torch.testing.assert_close(second, -first)


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_seeded_float32(name: str) -> None:
    density = DENSITIES[name]
    before = torch.random.get_rng_state()
    x = density.sample(500, 4)
    assert x.shape == (500, 2)
    assert x.dtype == torch.float32
    assert torch.equal(x, density.sample(500, 4))
    assert not torch.equal(x, density.sample(500, 5))
    assert torch.equal(before, torch.random.get_rng_state())
    log_p = density.log_prob(x)
    assert log_p.shape == (500,)
    assert log_p.dtype == torch.float64
    assert torch.equal(log_p, density.log_prob(x.double()))
    assert density.sample(0, 0).shape == (0, 2)
    assert density.log_prob(x[:0]).shape == (0,)


def test_chunks_do_not_show() -> None:
    density = DENSITIES["rings"]
    x = density.sample(10_000, 0)
    torch.testing.assert_close(density.log_prob(x)[5000:], density.log_prob(x[5000:]), atol=1e-12, rtol=0)


def test_log_prob_of_what_is_not_a_point() -> None:
    density = DENSITIES["pinwheel"]
    x = torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [1.0, 1.0]])
    log_p = density.log_prob(x)
    assert log_p[0].isnan()
    assert log_p[1] == -math.inf
    assert log_p[2].isfinite()
    with pytest.raises(InputError, match=r"expected points \(N, 2\) .* got \(3,\) torch.float32"):
        density.log_prob(torch.zeros(3))
    with pytest.raises(InputError, match=r"got .* torch\.int64"):
        density.log_prob(torch.zeros(3, 2, dtype=torch.int64))


LOADERS = {
    "moons": toy.load_moons,
    "8gaussians": toy.load_eight_gaussians,
    "2spirals": toy.load_two_spirals,
    "checkerboard": toy.load_checkerboard,
    "rings": toy.load_rings,
    "circles": toy.load_circles,
    "pinwheel": toy.load_pinwheel,
    "swissroll": toy.load_swissroll,
    "four_circles": toy.load_four_circles,
    "diamond": toy.load_diamond,
}


@pytest.mark.parametrize("name", NAMES)
def test_loaders_give_the_fixed_data_sets(name: str) -> None:
    loader: Callable[[], object] = LOADERS[name]
    start = time.process_time()
    data = loader()
    assert time.process_time() - start < 3  # 0.1 s: a guard against a slow sampler, with room for a busy machine
    assert isinstance(data, Dataset)
    assert (len(data.train), len(data.valid), len(data.test)) == (100_000, 10_000, 100_000)
    assert data.name == data.protocol.dataset == name
    assert data.spec.event_shape == (2,)
    assert data.truth is DENSITIES[name]
    assert data.protocol.split == "100000/10000/100000 i.i.d. by seeds 0, 1, 2"
    assert data.protocol.test_hash == data.test.fingerprint
    batch = data.valid.batch(torch.arange(10_000), torch.Generator())
    data.spec.check(*batch)
    assert torch.equal(batch.x, DENSITIES[name].sample(10_000, 1))


def test_fewer_points_are_another_protocol() -> None:
    small, full = load("moons", points=1000), load("moons")
    assert (len(small.train), len(small.valid), len(small.test)) == (1000, 100, 100_000)
    assert small.protocol.dataset == "moons[points=1000]"
    assert small.protocol.test_hash == full.protocol.test_hash
    assert small.protocol.data_hash != full.protocol.data_hash
    with pytest.raises(ConfigError, match="at least 10; got 9"):
        load("moons", points=9)
    with pytest.raises(UnknownNameError, match=r"unknown 2D data set 'moon': did you mean moons"):
        load("moon")
