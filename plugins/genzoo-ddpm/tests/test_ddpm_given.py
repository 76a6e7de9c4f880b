"""In-painting and denoising against exact conditionals. The network is an oracle, the exact denoiser of the data less
the model's own closed form, so that what is tested is the sampler and not the training.

Draws are put through the exact conditional distribution function of their own observation; the result is uniform. The
limit of the Kolmogorov distance is its asymptotic quantile sqrt(-log(alpha / 2) / 2 n) at a false alarm of 1e-4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from genzoo_ddpm.ddpm import DDIM, DDPM
from torch import Tensor, nn

from genzoo.adapters import adapt
from genzoo.config import AdapterConfig
from genzoo.data.splits import TensorSplit
from genzoo.interface import ConditionalSampler
from genzoo.spec import DataSpec

N, STEPS = 600, 40
LIMIT = math.sqrt(-math.log(1e-4 / 2) / (2 * N))
SCALE = 0.18
ANGLE = torch.arange(8, dtype=torch.float64) * (math.pi / 4) + 0.2
MEANS = 1.4 * torch.stack([ANGLE.cos(), ANGLE.sin()], 1)
"""Eight Gaussians, turned so that no two share a coordinate."""
ONE = torch.tensor([True, False])


@pytest.fixture(autouse=True)
def _small_pilot(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("genzoo_ddpm.diffusion.PILOT_ROWS", 1 << 13)


class MixtureOracle(nn.Module):
    """(E[x_0 given x_t] - a x_t) / s for the mixture: what the network adds to an unfitted Gaussian denoiser."""

    rows = 1 << 15

    def forward(self, x: Tensor, side: Tensor, log_snr: Tensor, condition: Tensor) -> Tensor:
        a, s = (torch.sigmoid(sign * log_snr[:, None]).sqrt() for sign in (1, -1))
        means = MEANS.to(x.dtype)
        variance = (a * SCALE).square() + s.square()
        square = (x[:, None] - a[:, :, None] * means).square().sum(2)  # (R, 8)
        weights = (-0.5 * square / variance).softmax(1)
        nearest = weights @ means
        mean = nearest + a * SCALE**2 / variance * (x - a * nearest)
        return (mean - a * x) / s


def draw(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    k = torch.randint(len(MEANS), (n,), generator=generator)
    return (MEANS[k] + SCALE * torch.randn(n, 2, generator=generator, dtype=torch.float64)).float()


def mixture_model(make: type[DDPM] | type[DDIM] = DDPM, **config: Any) -> DDPM | DDIM:
    torch.manual_seed(0)
    model = make(DataSpec((2,)), make.Config.parse({"steps": STEPS, "particles": 8, **config}, "ddpm")).eval()  # type: ignore[arg-type]
    model.network = MixtureOracle()  # type: ignore[assignment]
    split = TensorSplit(draw(5000, 0))
    with torch.no_grad():
        model._calibrate(split, split)
    return model


def uniform(drawn: Tensor, y: Tensor, seen: Tensor, noise: Tensor, dimension: int) -> Tensor:
    """F(x_0 of `dimension` given y) at the draws: components weigh p(y given k), and are Gaussian given y and k."""
    drawn, y = drawn.double(), y.double()
    total = SCALE**2 + noise.square()
    log_w = torch.where(seen, -0.5 * (y[:, None] - MEANS).square() / total, 0.0).sum(2)  # (N, 8)
    gain = torch.where(seen, SCALE**2 / total, 0.0)[dimension]
    loc = MEANS[:, dimension] + gain * (y[:, dimension, None] - MEANS[:, dimension])
    z = (drawn[:, dimension, None] - loc) / (SCALE * (1 - gain).sqrt())
    return (log_w.softmax(1) * torch.special.ndtr(z)).sum(1)


def distance(u: Tensor) -> float:
    """Kolmogorov's, of a sample to the uniform law on [0, 1]."""
    u, n = u.sort().values, len(u)
    above = torch.arange(1, n + 1, dtype=u.dtype) / n - u
    return float(torch.maximum(above, 1 / n - above).max())


def given(model: ConditionalSampler, seen: Tensor, noise: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Observations of fresh points, and a draw for each."""
    generator = torch.Generator().manual_seed(9)
    y = draw(N, 1) + noise.float() * torch.randn(N, 2, generator=generator)
    return y, model.sample_given(y, seen, noise, seed)


CASES: dict[str, tuple[Tensor, list[float], int]] = {
    "in-painting": (ONE, [0.0, 0.0], 1),
    "noisy coordinate, itself": (ONE, [0.3, 0.3], 0),
    "noisy coordinate, the other": (ONE, [0.15, 0.15], 1),
    "unequal noise": (torch.tensor([True, True]), [0.2, 0.6], 1),
    "denoising": (torch.tensor([True, True]), [0.5, 0.5], 0),
    "much noise": (torch.tensor([True, True]), [15.0, 15.0], 1),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_draws_follow_the_exact_conditional(case: tuple[Tensor, list[float], int]) -> None:
    seen, scales, dimension = case
    noise = torch.tensor(scales, dtype=torch.float64)
    y, drawn = given(mixture_model(), seen, noise)
    assert distance(uniform(drawn, y, seen, noise, dimension)) < LIMIT
    kept = seen & (noise == 0)
    assert torch.equal(drawn[:, kept], y[:, kept])
    # twin: the same draws as answers to other observations
    if scales[0] < 1:
        assert distance(uniform(drawn, y.roll(1, 0), seen, noise, dimension)) > LIMIT


def test_particles_pay() -> None:
    """One particle is a reverse chain whose observed part is pulled to y, and misses the exact conditional; of 16, 600
    draws see nothing."""
    noise = torch.zeros(2, dtype=torch.float64)
    found = []
    for particles in (1, 3, 16):
        y, drawn = given(mixture_model(particles=particles), ONE, noise)
        found.append(distance(uniform(drawn, y, ONE, noise, 1)))
    assert found[0] > LIMIT > found[2]
    assert found[0] > found[1]


@pytest.mark.parametrize("config", [{"variance": "small"}, {"variance": "large"}], ids=str)
def test_every_reverse_variance_will_do(config: dict[str, Any]) -> None:
    noise = torch.zeros(2, dtype=torch.float64)
    y, drawn = given(mixture_model(**config), ONE, noise)
    assert distance(uniform(drawn, y, ONE, noise, 1)) < LIMIT


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_has_the_same_conditionals(eta: float) -> None:
    """At eta = 0 its own chain would answer each noisy y with one point."""
    model = mixture_model(DDIM, eta=eta)
    for seen, level, dimension in ((ONE, 0.0, 1), (torch.tensor([True, True]), 0.3, 0)):
        noise = torch.full((2,), level, dtype=torch.float64)
        y, drawn = given(model, seen, noise)
        assert distance(uniform(drawn, y, seen, noise, dimension)) < LIMIT


@pytest.mark.parametrize("rho", [0.0, 0.9])
@pytest.mark.parametrize("standardize", [False, True])
def test_gaussian_data(rho: float, standardize: bool) -> None:
    """The denoiser in closed form is exact, and the conditional is N(rho y, 1 - rho^2) up to the scales of the data."""
    torch.manual_seed(0)
    eps = torch.randn(20_000, 2)
    scale = torch.tensor([1.0, 1.0] if not standardize else [3.0, 0.5])
    x = scale * torch.stack([eps[:, 0], rho * eps[:, 0] + math.sqrt(1 - rho**2) * eps[:, 1]], 1)
    adapters = AdapterConfig.parse({"standardize": standardize}, "ddpm")
    config = DDPM.Config.parse({"steps": STEPS, "particles": 8}, "ddpm")

    def make(spec: DataSpec) -> DDPM:
        model = DDPM(spec, config)  # type: ignore[arg-type]
        model.network = Nothing()  # type: ignore[assignment]
        return model

    model = adapt(make, DataSpec((2,)), adapters)
    learner = model.learner(model.default_training())
    learner.start(TensorSplit(x))
    learner.finish(TensorSplit(x), TensorSplit(x))
    evaluated = learner.evaluated()
    assert isinstance(evaluated, ConditionalSampler)
    drawn = evaluated.sample_given(x[:N], ONE, seed=1)
    assert torch.equal(drawn[:, 0], x[:N, 0])
    y, other = (drawn / scale).double().unbind(1)
    deviation = math.sqrt(1 - rho**2)
    assert distance(torch.special.ndtr((other - rho * y) / deviation)) < LIMIT
    # twins: half a correlation off, or where there is none, a deviation twice as large
    wrong = torch.special.ndtr((other - (rho - 0.5) * y) / deviation if rho else other / 2)
    assert distance(wrong) > LIMIT


TABLE = torch.tensor([[4.0, 1, 1, 0.5], [0.5, 3, 1, 1], [1, 0.5, 5, 1], [3, 1, 0.5, 2]], dtype=torch.float64)


class Nothing(nn.Module):
    """Leaves the denoiser as it is."""

    rows = 1 << 15

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return self.factor * x


class TableOracle(nn.Module):
    """The exact denoiser of two pixels of four levels with joint mass TABLE, less that of independent pixels."""

    rows = 1 << 15

    def __init__(self, independent: Callable[..., Any]) -> None:
        super().__init__()
        self.independent = independent
        levels = torch.arange(4) * (2 / 3) - 1
        self.states = torch.cartesian_prod(levels, levels)  # (16, 2)

    def forward(self, x: Tensor, side: Tensor, log_snr: Tensor, condition: Tensor) -> Tensor:
        a, s = (torch.sigmoid(sign * log_snr[:, None]).sqrt() for sign in (1, -1))
        square = (x[:, None] - a[:, :, None] * self.states).square().sum(2)
        mean = (TABLE.flatten().log() - 0.5 * square / s.square()).softmax(1).float() @ self.states
        alone = self.independent(x, a, s)
        return (mean - alone.mean) / alone.scale.clamp(min=1e-6)


def table_model() -> DDPM:
    torch.manual_seed(0)
    model = DDPM(DataSpec((2,), levels=4), DDPM.Config.parse({"steps": 128, "particles": 16}, "ddpm")).eval()  # type: ignore[arg-type]
    which = torch.multinomial(TABLE.flatten(), 5000, replacement=True)
    split = TensorSplit(torch.stack([which // 4, which % 4], 1).to(torch.uint8))
    model._initialise(split)
    model.network = TableOracle(model.denoiser)  # type: ignore[assignment]
    with torch.no_grad():
        model._calibrate(split, split)
    return model


@pytest.mark.parametrize("noise", [0.0, 0.8])
def test_codes(noise: float) -> None:
    """Both pixels given the first, 500 draws: chi-square with 3 or 15 degrees below its 1e-4 quantile (21.1, 44.3)."""
    model, y = table_model(), 1.0 if noise == 0 else 1.4
    given = torch.full((500, 2), y)
    x = given.to(torch.uint8) if noise == 0 else given
    drawn = model.sample_given(x, ONE, noise, seed=0).long()
    levels = torch.arange(4, dtype=torch.float64)
    seen = (levels == y).double() if noise == 0 else (-0.5 * ((y - levels) / noise) ** 2).exp()
    mass = (TABLE * seen[:, None]).flatten()
    counts = torch.bincount(4 * drawn[:, 0] + drawn[:, 1], minlength=16).double()
    expected, possible = 500 * mass / mass.sum(), mass > 0
    limit = 21.1 if noise == 0 else 44.3

    def statistic(expected: Tensor) -> float:
        return float(((counts - expected).square() / expected)[possible].sum())

    assert int(counts[~possible].sum()) == 0
    assert statistic(expected) < limit
    blind = TABLE.sum(1)[:, None] * seen[:, None] * TABLE.sum(0)
    assert statistic(500 * blind.flatten() / blind.sum()) > limit


def test_a_seed_is_obeyed_and_masks_are_by_example() -> None:
    model = mixture_model(particles=4)
    x, mask = draw(6, 3), torch.tensor([[True, True], [True, False], [False, False]]).repeat(2, 1)
    before = torch.get_rng_state()
    first, second = (model.sample_given(x, mask, seed=4) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first[mask], x[mask])
    assert not bool((first[~mask] == x[~mask]).any())
    assert not model.exact_given
