"""The bound against a closed form, its estimate against the full sum, training against the truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from genzoo_ddpm.allocation import Allocation, strata, stratified_variance
from genzoo_ddpm.ddpm import DDIM, DDPM
from genzoo_ddpm.diffusion import Diffusion
from genzoo_ddpm.variances import FixedLarge, FixedSmall
from torch import Tensor

from genzoo.errors import CapabilityError
from genzoo.likelihood import LogLikelihood
from genzoo.spec import DataSpec

LOC, SCALE = 0.3, 0.7


@pytest.fixture
def exact(exact_model: Callable[..., Diffusion]) -> Callable[..., Diffusion]:
    """variance, steps -> the exact model of N(LOC, SCALE^2)."""

    def make(variance: str, steps: int = 64) -> Diffusion:
        return exact_model(
            variance, steps, *(torch.tensor(part, dtype=torch.float64) for part in ([LOC], [[SCALE**2]]))
        )

    return make


def full_sum(
    model: Diffusion, x: Tensor, num_samples: int, seed: int = 0, condition: Tensor | None = None
) -> LogLikelihood:
    """The sum over all T."""
    return model.estimators()["full"]().log_likelihood(x, num_samples, seed, condition)


def optimal_error(model: Diffusion) -> Tensor:
    """Var(x_0 given x_t) of the Gaussian, every t."""
    signal, noise = model.chain.signal, model.chain.noise
    return SCALE**2 * noise**2 / (signal**2 * SCALE**2 + noise**2)


def bound_by_quadrature(model: Diffusion, x: Tensor, skip: int | None = None) -> Tensor:
    """Minus the bound `(B,)` of x `(B, 1)`: each E over eps by 8 Gauss-Hermite nodes, exact for quadratics."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(8))
    total = model._prior(x)
    for t in range(len(model.chain)):
        if t == skip:
            continue
        many, eps = x.repeat_interleave(8, 0), nodes.repeat(len(x))[:, None]
        with torch.no_grad():
            values = model._terms(many, torch.full((len(many),), t), eps, many[:, :0])
        total = total + (values.view(-1, 8) * weights).sum(1) / weights.sum()
    return total


def test_bound_of_a_gaussian_is_its_log_density(exact: Callable[..., Diffusion]) -> None:
    """With exact network and optimal variances p is the forward process reversed: the bound is log p(x), for each x.

    float64 with log-SNR end points of 9 and -5: 1e-9.
    """
    model = exact("analytic")
    x = torch.tensor([[-1.0], [0.3], [1.7]], dtype=torch.float64)
    truth = (0.5 * ((x - LOC) / SCALE).square() + 0.5 * math.log(2 * math.pi * SCALE**2))[:, 0]
    torch.testing.assert_close(bound_by_quadrature(model, x), truth, atol=1e-9, rtol=0)
    # twins: variances off by 1 %, a dropped step
    assert float((bound_by_quadrature(model, x, skip=20) - truth).abs().min()) > 1e-3
    model.variance.ratio.mul_(1.01)
    assert float((bound_by_quadrature(model, x) - truth).abs().min()) > 1e-4


@pytest.mark.parametrize("variance", ["small", "large"])
def test_gap_of_fixed_variances_in_closed_form(variance: str, exact: Callable[..., Diffusion]) -> None:
    """E_x of the bound exceeds the entropy by sum_t 1/2 [v*/v - 1 - log v*/v], v* the optimum: 1e-9 in float64."""
    model = exact(variance)
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(8))
    mean = (bound_by_quadrature(model, LOC + SCALE * nodes[:, None]) * weights).sum() / weights.sum()
    used = model.variance.log_variance(torch.arange(1, len(model.chain)), torch.ones(1))[:, 0].exp()
    ratio = (model.chain.variance + model.chain.pull**2 * optimal_error(model))[1:] / used
    entropy = 0.5 * math.log(2 * math.pi * math.e * SCALE**2)
    gap = 0.5 * (ratio - 1 - ratio.log()).sum()
    assert float(gap) > 1e-3
    assert float(mean) == pytest.approx(entropy + float(gap), abs=1e-9)
    assert float(mean) != pytest.approx(entropy + 1.01 * float(gap), abs=1e-9)


def test_samples_of_the_exact_chain_have_the_datas_moments(exact: Callable[..., Diffusion]) -> None:
    """5,000 draws: mean within 4 s / sqrt(n), deviation within 4 s / sqrt(2 n)."""
    model = exact("analytic").float()
    x = model.sample(5_000, seed=0)
    assert float(x.mean()) == pytest.approx(LOC, abs=4 * SCALE / math.sqrt(5_000))
    tolerance = 4 * SCALE / math.sqrt(10_000)
    assert float(x.std()) == pytest.approx(SCALE, abs=tolerance)
    model.decoder.log_variance.add_(2 * math.log(100))  # the last step's noise belongs to the model
    assert float(model.sample(5_000, seed=0).std()) != pytest.approx(SCALE, abs=tolerance)


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_stratified_estimate_and_its_variance_are_unbiased(k: int) -> None:
    """40,000 replicates of a noisy sum over 12 steps: the mean within 4 standard errors, the variance within 5 %."""
    torch.manual_seed(0)
    allocation = Allocation(12, 1, 0)
    height = torch.linspace(0, 3, 12, dtype=torch.float64).square()
    pilot = height[:, None] * (1 + torch.randn(12, 50, dtype=torch.float64))
    index = torch.arange(1, 12).repeat_interleave(50)
    allocation.fit(index, pilot[1:].flatten(), torch.randn(550, dtype=torch.float64), 2)
    step, probability, _ = allocation.draw(k, 40_000)
    noise = torch.randn_like(probability)
    values = height[step] * (1 + 0.3 * noise)
    excess = torch.randn_like(probability)
    weighted = allocation.residual(values, excess, step) / probability
    total = allocation.baseline.sum() + weighted.mean(0)
    true, tolerance = float(height[1:].sum()), 4 * float(total.std()) / 200
    assert float(total.mean()) == pytest.approx(true, abs=tolerance)
    # twin: an estimate that is 1 % too large
    assert 1.01 * float(total.mean()) != pytest.approx(true, abs=tolerance)
    variance = stratified_variance(weighted)
    if k == 1:
        assert variance is None
    else:
        assert variance is not None
        assert float(variance.mean()) == pytest.approx(float(total.var()), rel=0.05)


def test_strata_hold_two_draws() -> None:
    assert strata(5, torch.device("cpu")).tolist() == [0, 0, 1, 1, 1]
    assert strata(1, torch.device("cpu")).tolist() == [0]
    allocation = Allocation(10, 0, 1)
    step, _, place = allocation.draw(20, 1000)
    # uniform q over 10 steps and 10 strata: each step is drawn exactly twice
    assert bool((step.sort(0).values == torch.arange(10).repeat_interleave(2)[:, None]).all())
    # and inside its step a draw is uniform: Kolmogorov-Smirnov over 20,000 draws, 1e-4 quantile 2.23 / sqrt(n)
    even = torch.arange(1, 20_001) / 20_000
    assert float((place.flatten().sort().values - even).abs().max()) < 2.23 / math.sqrt(20_000)


def test_kl_to_the_truth_is_positive_and_below_the_gaussians(trained: tuple[Diffusion, Tensor, Tensor]) -> None:
    """The Gaussian's KL is 1.42 (NUMBERS section 5); a bound must not be above the truth beyond 4 standard errors."""
    model, test, truth = trained
    difference = truth - model.log_likelihood(test, 16, seed=0).lower
    mean, stderr = float(difference.mean()), float(difference.std()) / math.sqrt(len(test))
    assert mean + 4 * stderr > 0
    assert mean + 4 * stderr < 0.9


def test_drawn_steps_agree_with_the_full_sum(trained: tuple[Diffusion, Tensor, Tensor]) -> None:
    """Within 4 joint Monte Carlo standard errors, which are below 0.02 nats; so is each named term."""
    model, test, _ = trained
    drawn, full = model.log_likelihood(test, 64, seed=0), full_sum(model, test, 8, seed=1)
    assert drawn.kind == full.kind == "lower_bound"
    assert drawn.variance is not None
    assert full.variance is not None
    stderr = float((drawn.variance.sum() + full.variance.sum()).sqrt()) / len(test)
    assert stderr < 0.02
    assert float(drawn.lower.mean()) == pytest.approx(float(full.lower.mean()), abs=4 * stderr)
    assert set(drawn.terms) == {"prior", "diffusion", "decoder"}
    for result in (drawn, full):
        torch.testing.assert_close(sum(result.terms.values(), torch.zeros(len(test))).double(), result.lower)
    assert full.arrays["diffusion_per_step"].shape == (len(test), 63)
    torch.testing.assert_close(full.anatomy()["diffusion_per_step"].sum(1), full.terms["diffusion"])
    # step by step too: 63 differences in their errors, a false alarm in 2,000; shifted by eight steps they fail
    steps = [result.anatomy()["diffusion_per_step"].double() for result in (drawn, full)]
    torch.testing.assert_close(steps[0].sum(1), drawn.terms["diffusion"], rtol=1e-5, atol=1e-4)
    error = (sum(each.var(0) for each in steps) / len(test)).sqrt()
    z = (steps[0].mean(0) - steps[1].mean(0)) / error
    assert float(z.abs().max()) < 4.5
    assert float(((steps[0].roll(8, 1) - steps[1]).mean(0) / error).abs().max()) > 4.5
    # twin: the diffusion terms 1 % too large (about -5 nats)
    wrong = drawn.lower + 0.01 * drawn.terms["diffusion"]
    assert abs(float(wrong.mean() - full.lower.mean())) > 0.02


def test_calls_variances_and_schedule_are_told(trained: tuple[Diffusion, Tensor, Tensor]) -> None:
    model, test, _ = trained
    estimators = {name: make() for name, make in model.estimators().items()}
    assert list(estimators)[:4] == ["vlb", "full", "weights", "stratified"]
    for part in ("variance=analytic", "decoder=fitted", "schedule=log_snr", "steps=64"):
        assert part in estimators["vlb"].name
    assert estimators["vlb"].mean(test[:100], 6).calls == 100 * 6 * 2
    assert estimators["full"].mean(test[:100], 1).calls == 100 * 64


def test_analytic_variance_is_the_best_of_the_tables(trained: tuple[Diffusion, Tensor, Tensor]) -> None:
    model, test, _ = trained
    best = float(full_sum(model, test, 1, seed=0).lower.mean())
    fitted = model.variance
    for other in (FixedSmall, FixedLarge):
        model.variance = other(model.chain, 0.0)
        assert float(full_sum(model, test, 1, seed=0).lower.mean()) < best
    model.variance = fitted


@pytest.mark.parametrize("options", [{}, {"variance": "learned"}, {"variance": "learned", "objective": "simple"}])
def test_labels_are_used(options: dict[str, str], train: Callable[..., Diffusion]) -> None:
    torch.manual_seed(0)
    y = torch.randint(0, 2, (2000,))
    x = 0.5 * torch.randn(2000, 1) + 2.0 * y[:, None] - 1.0
    config = DDPM.Config.parse({"steps": 32, "width": 32, "blocks": 1, **options}, "ddpm")
    model = train(DDPM(DataSpec((1,), classes=2), config), x, y, 150)
    right = model.log_likelihood(x, 8, 0, y).lower.mean()
    assert float(right - model.log_likelihood(x, 8, 0, 1 - y).lower.mean()) > 1.0
    means = [float(model.sample(500, 0, torch.full((500,), c)).mean()) for c in (0, 1)]
    assert means[1] - means[0] > 1.0


@pytest.mark.parametrize(
    "spec", [DataSpec((1, 8, 8), 17), DataSpec((3, 8, 8), 256, 4), DataSpec((1, 7, 7), 2), DataSpec((5,), 4)]
)
def test_codes_and_images(spec: DataSpec, train: Callable[..., Diffusion]) -> None:
    """Drawn steps agree with the full sum within 4 joint standard errors; traces run both ways."""
    torch.manual_seed(0)
    assert spec.levels is not None
    x = (torch.rand(64, *spec.event_shape) ** 3 * spec.levels).to(torch.uint8)
    y = None if spec.classes is None else torch.randint(0, spec.classes, (64,))
    model = train(DDPM(spec, DDPM.Config.parse({"steps": 16, "width": 16}, "ddpm")), x, y, 3, 16)
    drawn, full = model.log_likelihood(x, 16, 0, y), full_sum(model, x, 4, 1, y)
    assert drawn.variance is not None
    assert full.variance is not None
    stderr = float((drawn.variance.sum() + full.variance.sum()).sqrt()) / len(x)
    assert float(drawn.lower.mean()) == pytest.approx(float(full.lower.mean()), abs=4 * stderr)
    samples = model.sample(3, 0, None if y is None else y[:3])
    assert samples.dtype == torch.uint8
    traces = model.traces(x, 3, 0)
    assert {name: traces[name].shape[:2] for name in ("forward", "reverse")} == {"forward": (3, 9), "reverse": (3, 9)}
    assert traces["forward_at"].tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert traces["reverse_at"].tolist() == traces["forward_at"].tolist()[::-1]
    torch.testing.assert_close(traces["forward"][:, 0], x[:3].float(), atol=1e-3, rtol=0)
    last = traces["reverse"][:, -1]
    assert torch.equal(last, last.round() if y is not None else model.sample(3, 0).to(last.dtype))


def test_ddim_at_eta_zero_samples_and_has_no_likelihood() -> None:
    model = DDIM(DataSpec((2,)), DDIM.Config.parse({"eta": 0.0, "steps": 8}, "ddim"))
    assert model.sample(5, seed=0).shape == (5, 2)
    with pytest.raises(CapabilityError, match="expected eta > 0 for a likelihood"):
        model.log_likelihood(torch.zeros(1, 2))
    # the path from one x_T is deterministic, even where a fit would grant the steps a variance
    model.variance.ratio.fill_(1.0)
    labels = torch.zeros(4, 0)
    with torch.no_grad():
        paths = []
        for seed in (1, 2):
            torch.manual_seed(0)
            path = model._trajectory(labels)
            first = next(path)
            torch.manual_seed(seed)
            paths.append((first, list(path)[-1]))
    torch.testing.assert_close(paths[0][0], paths[1][0], rtol=0, atol=0)
    torch.testing.assert_close(paths[0][1], paths[1][1], rtol=0, atol=0)


def test_ddim_at_eta_one_is_ddpm_and_less_noise_costs_bits() -> None:
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    config = {"steps": 32, "variance": "small", "width": 16}
    values = {}
    for eta in (0.3, 1.0):
        model = DDIM(DataSpec((2,)), DDIM.Config.parse({"eta": eta, **config}, "ddim"))
        values[eta] = float(full_sum(model, x, 1, seed=0).lower.mean())
    ddpm = DDPM(DataSpec((2,)), DDPM.Config.parse(config, "ddpm"))
    assert values[1.0] == float(full_sum(ddpm, x, 1, seed=0).lower.mean())
    assert values[0.3] < values[1.0] - 0.1
