"""score_sde and flow_matching against closed forms: the ODE's density, the SDE's bound, and what both draw."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from genzoo_ddpm import ode
from genzoo_ddpm.continuous import Continuous, heun
from genzoo_ddpm.flow_matching import FlowMatching
from genzoo_ddpm.networks import Denoised
from genzoo_ddpm.ode import flow_frames, flow_likelihood
from genzoo_ddpm.score_sde import ScoreSDE, ScoreSDEConfig, log_snr
from genzoo_ddpm.terms import ContinuousTerms
from torch import Tensor, nn

from genzoo.config import Config, TrainSettings
from genzoo.data.splits import TensorSplit
from genzoo.data.toy import DENSITIES
from genzoo.errors import CapabilityError, ConfigError, NumericsError
from genzoo.spec import Batch, DataSpec
from genzoo.testing.problems import midpoint_grid

MODELS: dict[str, type[ScoreSDE] | type[FlowMatching]] = {"score_sde": ScoreSDE, "flow_matching": FlowMatching}
FAR: dict[str, dict[str, float]] = {"score_sde": {"beta_max": 39.0}, "flow_matching": {}}
"""p(x_T) of the SDE leaves correlation out, 5e-5 nats times a chi-square at its usual end: here it reaches further."""
LOC = torch.tensor([0.3, -0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.49, 0.2], [0.2, 0.8]], dtype=torch.float64)


def make(name: str, spec: DataSpec, **options: object) -> Continuous:
    cls = MODELS[name]
    config: Config = cls.Config.parse({"width": 8, "blocks": 1, **options}, name)
    return cls(spec, config).eval()  # type: ignore[arg-type]


def gaussian(name: str, dims: int, dtype: torch.dtype = torch.float64, **options: object) -> Continuous:
    """The exact denoiser of N(LOC, COVARIANCE); the network is still zero."""
    model = make(name, DataSpec((dims,)), **options)
    model = model.double() if dtype == torch.float64 else model
    spectrum, basis = torch.linalg.eigh(COVARIANCE[:dims, :dims])
    for buffer, value in (("loc", LOC[:dims]), ("basis", basis), ("spectrum", spectrum)):
        getattr(model.denoiser, buffer).copy_(value)
    return model


class MixtureDenoiser(nn.Module):
    """E[x_0 given x_t] of a mixture of two Gaussians in the plane, of standard deviation 0.4."""

    sides, prior_ratio, scale = 0, 0.0, 0.4
    means = torch.tensor([[-1.0, 0.5], [0.7, -0.3]], dtype=torch.float64)
    loc = means.mean(0)
    variances = means.var(0, correction=0) + scale**2

    def forward(self, x: Tensor, signal: Tensor, noise: Tensor) -> Denoised:
        signal, noise = signal[:, None], noise[:, None]  # (R, 1, 1)
        shift = x[:, None] - signal * self.means  # (R, 2, D)
        spread = signal.square() * self.scale**2 + noise.square()
        weight = (-0.5 * shift.square() / spread).sum(2).softmax(1)[..., None]
        each = self.means + signal * self.scale**2 / spread * shift
        return Denoised((weight * each).sum(1), noise[:, 0], torch.ones_like(noise[:, 0]), x[:, :0])

    def log_prob(self, x: Tensor, sigma: float) -> Tensor:
        """Of data with noise `sigma`."""
        square = self.scale**2 + sigma**2
        parts = -0.5 * (x[:, None] - self.means).square().sum(2) / square - math.log(2 * math.pi * square)
        return parts.logsumexp(1) - math.log(2)

    def sample(self, n: int) -> Tensor:
        return self.means[torch.randint(2, (n,))] + self.scale * torch.randn(n, 2, dtype=torch.float64)


def mixture(name: str) -> tuple[Continuous, MixtureDenoiser, float]:
    """The exact model of that mixture, its denoiser, and the noise at the fine end."""
    model, denoiser = make(name, DataSpec((2,)), **FAR[name]).double(), MixtureDenoiser()
    model.denoiser = denoiser  # type: ignore[assignment]
    return model, denoiser, math.exp(-0.5 * float(model.chain.log_snr[0]))


def log_normal(x: Tensor, loc: Tensor, covariance: Tensor) -> Tensor:
    return torch.distributions.MultivariateNormal(loc, covariance).log_prob(x)


def density(model: Continuous, x: Tensor) -> Tensor:
    """The ODE's log-density `(N,)`, nats."""
    return flow_likelihood(model, x, x[:, :0], 1).lower


# the ODE


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_the_ode_of_a_gaussian_is_that_gaussian(name: str, dims: int) -> None:
    """Within 1e-4 nats, from the middle to four deviations; a variance 1 % off is seen."""
    model = gaussian(name, dims, **FAR[name])
    sigma = math.exp(-0.5 * float(model.chain.log_snr[0]))
    noisy = COVARIANCE[:dims, :dims] + sigma**2 * torch.eye(dims, dtype=torch.float64)
    x = LOC[:dims] + torch.linspace(-3, 3, 20, dtype=torch.float64)[:, None] * torch.ones(dims, dtype=torch.float64)
    result = flow_likelihood(model, x, x[:, :0], 1)
    assert result.kind == "estimate"
    torch.testing.assert_close(result.lower, log_normal(x, LOC[:dims], noisy), atol=1e-4, rtol=1e-5)
    assert float((result.lower - log_normal(x, LOC[:dims], 1.01 * noisy)).abs().max()) > 4e-3
    torch.testing.assert_close(sum(result.terms.values()), result.lower)


@pytest.mark.parametrize("name", MODELS)
def test_the_ode_of_a_mixture_is_that_mixture(name: str) -> None:
    """The exact marginals of two Gaussians: densities to 2e-4, a mass of 1 and a KL >= 0 by quadrature."""
    model, denoiser, sigma = mixture(name)
    nodes, weights = midpoint_grid(-3.2, 3.2, 40)
    log_q = density(model, nodes)
    truth = denoiser.log_prob(nodes, sigma)
    near = truth > truth.max() - 9
    torch.testing.assert_close(log_q[near], truth[near], atol=2e-4, rtol=1e-5)
    assert float((weights * log_q.exp()).sum()) == pytest.approx(1, abs=1e-3)
    log_p = denoiser.log_prob(nodes, 0.0)
    kl = float((weights * log_p.exp() * (log_p - log_q)).sum())
    # of the data from their noisy version, in closed form by the same quadrature
    expected = float((weights * log_p.exp() * (log_p - truth)).sum())
    assert kl == pytest.approx(expected, abs=1e-4)
    assert kl > -1e-4


class Bent(nn.Module):
    """A network of no sense, smooth enough for a grid: what a trained one does to a density, with structure that 250
    steps would leave far finer than a grid."""

    rows = 4096

    def forward(self, x: Tensor, side: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        turned = x @ torch.tensor([[1.3, 0.8], [-0.9, 1.1]], dtype=x.dtype)
        return 0.8 * torch.tanh(turned) + 0.5 * torch.sin(2 * x.flip(1)) * torch.cos(time / 3)[:, None]


@pytest.mark.parametrize("name", MODELS)
def test_whatever_the_network_the_ode_is_a_density(name: str) -> None:
    """Its mass by quadrature is 1 within 1e-3, in float32, and it is far from the Gaussian that it starts from."""
    model = make(name, DataSpec((2,)))
    model.network = Bent()  # type: ignore[assignment]
    nodes, weights = midpoint_grid(-6, 6, 90)
    log_q = density(model, nodes.float())
    assert float((weights * log_q.exp()).sum()) == pytest.approx(1, abs=1e-3)
    plain = log_normal(nodes, torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    assert float((weights * log_q.exp() * (log_q - plain)).sum()) > 0.05


@pytest.mark.parametrize("name", MODELS)
def test_a_finer_tolerance_changes_less_than_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it, against what a tenth of it changed, within the share of that which is left at a half."""
    model, denoiser, _ = mixture(name)
    torch.manual_seed(0)
    x = denoiser.sample(40)
    result = flow_likelihood(model, x, x[:, :0], 1)
    monkeypatch.setattr(ode, "TOLERANCE", ode.TOLERANCE / 2)
    change = float((density(model, x) - result.lower).abs().mean())
    stated = float(result.arrays["solver_error"][0])
    assert 0 < change < 1.5 * stated
    assert stated < ode.CHANGE * 2 / 10
    monkeypatch.setattr(ode, "CHANGE", 1e-12)
    with pytest.raises(NumericsError, match="has not settled: from tolerance 5e-06 to a tenth"):
        density(model, x)


@pytest.mark.parametrize("name", MODELS)
def test_probes_see_the_divergence_without_bias(name: str) -> None:
    """Five correlated dimensions, 64 probes: within 4 standard errors, which are below 0.06 nats."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    covariance, loc = root @ root.T / 5 + 0.3 * torch.eye(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    model = make(name, DataSpec((5,))).double()
    spectrum, basis = torch.linalg.eigh(covariance)
    model.denoiser.basis.copy_(basis)  # type: ignore[union-attr]
    model.denoiser.spectrum.copy_(spectrum)  # type: ignore[union-attr]
    x = torch.randn(10, 5, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    result = flow_likelihood(model, x, x[:, :0], 64)
    noise = math.exp(-float(model.chain.log_snr[0])) * torch.eye(5, dtype=torch.float64)
    assert result.variance is not None
    stderr = float(result.variance.sum().sqrt()) / len(x)
    assert 1e-4 < stderr < 0.06
    truth = log_normal(x, loc, covariance + noise)
    assert float(result.lower.mean()) == pytest.approx(float(truth.mean()), abs=4 * stderr + 1e-3)
    assert flow_likelihood(model, x, x[:, :0], 1).variance is None


@pytest.mark.parametrize("name", MODELS)
def test_draws_of_the_ode_follow_its_density(name: str) -> None:
    """Of the mixture: the mean log-density of draws is minus the entropy, and means and variances are the mixture's,
    each within 4 standard errors."""
    model, denoiser, sigma = mixture(name)
    model.denoiser.loc = denoiser.loc
    torch.manual_seed(0)
    n = 3000
    with torch.no_grad():
        y = flow_frames(model, torch.zeros(n, 0, dtype=torch.float64), [0])[0]
    torch.manual_seed(1)
    x = denoiser.sample(n) + sigma * torch.randn(n, 2, dtype=torch.float64)
    for statistic in (lambda v: denoiser.log_prob(v, sigma), lambda v: v[:, 0], lambda v: v[:, 0] * v[:, 1]):
        drawn, true = statistic(y), statistic(x)
        assert abs(float(drawn.mean() - true.mean())) < 4 * math.hypot(float(drawn.std()), float(true.std())) / n**0.5


# the SDE


def test_the_sampler_is_of_second_order() -> None:
    """With the exact denoiser of a Gaussian the steps are linear, and so the variance of what they draw is known:
    its error falls fourfold when steps are halved, to 0.6 % of it at the default, a KL of 7e-6 nats."""
    errors = []
    for steps in (32, 64, 128):
        model = gaussian("score_sde", 1, steps=steps)
        signal, noise = model.chain.signal, model.chain.noise
        variance = float(signal[-1] ** 2 * COVARIANCE[0, 0] + noise[-1] ** 2)
        for t in range(steps - 1, 0, -1):
            x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64) + signal[t] * LOC[0]
            z = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
            zero, along, noisy = (heun(model, x, t, x[:, :0], z) - signal[t - 1] * LOC[0])[:, 0].tolist()
            assert abs(zero) < 1e-12
            variance = (along - zero) ** 2 * variance + (noisy - zero) ** 2
        errors.append(variance / float(signal[0] ** 2 * COVARIANCE[0, 0] + noise[0] ** 2) - 1)
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.3)
    assert abs(errors[2]) < 6e-3


class Linear(nn.Module):
    """A network that answers `slope` times x: wrong, and its SDE is a Gaussian all the same."""

    rows = 4096

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor, side: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        return self.slope * x


def by_quadrature(model: Continuous, x: Tensor) -> Tensor:
    """The bound `(B,)` of x `(B, 1)`: E over eps by Gauss-Hermite, over the place by Gauss-Legendre."""
    terms, total = ContinuousTerms(model), model._prior(x)
    eps, weight = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(4))
    place, share = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(4))
    pairs = torch.cartesian_prod(torch.arange(len(x)), torch.arange(4), torch.arange(4)).unbind(1)
    w = (weight / weight.sum())[pairs[1]] * (share / 2)[pairs[2]]
    for t in range(terms.first, terms.count):
        index = torch.full_like(pairs[0], t)
        noise = eps[pairs[1]][:, None].to(x.dtype)
        values = terms(x[pairs[0]], index, ((place + 1) / 2)[pairs[2]], noise, x[pairs[0], :0])
        total = total + (w * values).view(len(x), -1).sum(1)
    return -total


def law_of_the_sde(model: Continuous) -> tuple[float, float]:
    """Mean and variance of what the reverse SDE of a linear denoiser of one dimension draws, by steps of Heun's."""
    x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    z = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    last = len(model.chain) - 1
    mean = float(model.chain.signal[last] * model.denoiser.loc)
    variance = float(model.chain.signal[last] ** 2 * model.denoiser.variances + model.chain.noise[last] ** 2)
    for t in range(last, 0, -1):
        zero, along, noisy = heun(model, x, t, x[:, :0], z)[:, 0].tolist()
        mean, variance = zero + (along - zero) * mean, (along - zero) ** 2 * variance + (noisy - zero) ** 2
    zero, along, _ = model._decoder_mean(x, x[:, :0])[:, 0].tolist()
    return zero + (along - zero) * mean, (along - zero) ** 2 * variance + float(model.decoder.log_variance.exp())


@pytest.mark.parametrize("slope", [0.0, 0.1, -0.2])
def test_the_bound_is_below_the_likelihood_of_the_sde(slope: float) -> None:
    """Whose law is known where the denoiser is linear: equal within 1e-3 where it is the exact one, strictly below it
    at every point where it is not."""
    model = gaussian("score_sde", 1, steps=512)
    model.network = Linear(slope)  # type: ignore[assignment]
    signal, noise = model.chain.signal[0] ** 2, model.chain.noise[0] ** 2
    model.decoder.fit(COVARIANCE[0, 0] * noise / (signal * COVARIANCE[0, 0] + noise))
    with torch.no_grad():
        x = LOC[:1] + torch.linspace(-1.2, 1.2, 7, dtype=torch.float64)[:, None]
        bound = by_quadrature(model, x)
        mean, variance = law_of_the_sde(model)
    truth = -0.5 * ((x[:, 0] - mean) ** 2 / variance + math.log(2 * math.pi * variance))
    gap = truth - bound
    if slope == 0:
        assert variance == pytest.approx(float(COVARIANCE[0, 0]), rel=1e-3)
        assert float(gap.abs().max()) < 1e-3
    else:
        assert variance != pytest.approx(float(COVARIANCE[0, 0]), rel=1e-2)
        assert float(gap.min()) > 1e-3


def test_the_bound_is_the_papers_integral_over_time() -> None:
    """1/2 int beta E |score_hat - grad log q|^2 dt of arXiv:2101.09258, with a wrong network, by quadrature in t."""
    model = gaussian("score_sde", 1)
    model.network = Linear(0.3)  # type: ignore[assignment]
    config = ScoreSDEConfig()
    x = torch.tensor([[0.9]], dtype=torch.float64)
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(200))
    # lam_1 of 9 is at t = 0.0011; the substitution t = exp(u) resolves both ends
    first = next(t for t in np.geomspace(1e-3, 1.2e-3, 100_001) if log_snr(t, config) <= float(model.chain.log_snr[0]))
    u = math.log(first) * (1 - nodes) / 2
    t = u.exp()
    beta = config.beta_min + t * (config.beta_max - config.beta_min)
    integral = t * config.beta_min + t**2 / 2 * (config.beta_max - config.beta_min)
    signal, noise = (-integral / 2).exp()[:, None], (-torch.expm1(-integral)).sqrt()[:, None]
    eps, share = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(4))
    total = torch.zeros(len(t), dtype=torch.float64)
    with torch.no_grad():
        for e, w in zip(eps, share / share.sum(), strict=True):
            noised = signal * x + noise * e
            denoised = model._predict_at(noised, (signal / noise).square().log()[:, 0], noised[:, :0])[0]
            score, target = (signal * denoised - noised) / noise**2, -e / noise
            total += w * 0.5 * beta * (score - target).square()[:, 0]
        expected = float((weights * total * t).sum()) * -math.log(first) / 2
        ends = -float(model._prior(x))
        # at index 0 the decoder: E over eps of a quadratic, by its three nodes
        decoder = sum(
            float(w)
            * float(model._decoder_nats(model._errors_at(x, model.chain.log_snr[:1], e.view(1, 1), x[:, :0])[0]))
            for e, w in zip(eps, share / share.sum(), strict=True)
        )
        bound = float(by_quadrature(model, x))
    assert ends - decoder - bound == pytest.approx(expected, rel=1e-4)
    assert expected > 0.1


def test_drawn_steps_are_without_bias() -> None:
    """20,000 draws an example against quadrature, standard errors below 0.03 nats; the loss as well."""
    model = gaussian("score_sde", 1, torch.float32, steps=32)
    model.network = Linear(0.3)  # type: ignore[assignment]
    torch.manual_seed(0)
    split = TensorSplit((LOC[:1] + COVARIANCE[0, 0].sqrt() * torch.randn(4000, 1)).float())
    x = torch.linspace(-1, 1.5, 6)[:, None]
    with torch.no_grad():
        model._calibrate(split, split)
        truth = by_quadrature(model, x)
        result = model._log_likelihood(x, 20_000, None)
        losses = torch.stack([model._loss(x.repeat(500, 1), 1.0, None).double() for _ in range(200)])
    assert (result.kind, result.num_samples) == ("lower_bound", 20_000)
    assert result.variance is not None
    assert float(result.variance.sqrt().max()) < 0.03
    assert bool(((result.lower - truth).abs() < 4 * result.variance.sqrt() + 1e-3).all())
    error = float(losses.mean(1).std()) / len(losses) ** 0.5
    assert error < 0.03
    assert float(losses.mean()) == pytest.approx(-float(truth.mean()), abs=4 * error)


def test_the_loss_of_codes_is_the_bound() -> None:
    """Of three levels, whose prior and decoder are far from nothing here: the loss is the bound within 4
    standard errors, below 0.02 nats, and 0.01 for the bound's own 20,000 draws."""
    torch.manual_seed(0)
    model = make("score_sde", DataSpec((2,), 3), steps=16, beta_max=1.0, epsilon=0.5)
    x = torch.tensor([[0, 2], [1, 1], [2, 0]]).to(torch.uint8)
    with torch.no_grad():
        losses = torch.stack([model._loss(x.repeat(300, 1), 1.0, None).double().mean() for _ in range(100)])
        result = model._log_likelihood(x, 20_000, None)
        # the decoder's draws in a bound are two
        decoder = torch.stack([model._decoder_draw(model._encoded(x, None)[0]) for _ in range(20_000)]).mean(0)
    for term in ("prior", "decoder"):
        assert float(result.terms[term].mean()) < -0.1
    bound = float((result.terms["prior"] + result.terms["diffusion"] + decoder).mean())
    error = float(losses.std()) / len(losses) ** 0.5
    assert error < 0.02
    assert float(losses.mean()) == pytest.approx(-bound, abs=4 * error + 0.01)


# flow matching


def test_the_loss_of_flow_matching_is_lipmans() -> None:
    """|v(x_t) - (x - (1 - sigma) eps)|^2 with the flow's own v, at the same draws."""
    model = make("flow_matching", DataSpec((2,)), sigma_min=0.05)
    assert isinstance(model, FlowMatching)
    nn.init.normal_(model.network.body.last.weight)  # type: ignore[union-attr, arg-type]
    x = torch.randn(64, 2)
    torch.manual_seed(3)
    loss = model._loss(x, 0.0, None)
    torch.manual_seed(3)
    t = (torch.rand(()) + torch.arange(64) / 64) % 1
    eps = torch.randn(64, 2)
    moved = t[:, None] * x + (1 - 0.95 * t[:, None]) * eps
    velocity = model.flow().drift(moved, t.double(), x[:, :0])
    torch.testing.assert_close(loss, (velocity - (x - 0.95 * eps)).square().mean(1), rtol=1e-3, atol=1e-4)
    assert not model.loss_in_nats


# trained


Trained = tuple[Continuous, Tensor, Tensor]


@pytest.fixture(scope="module")
def trained() -> Callable[[str], Trained]:
    """A small model of 8gaussians, test points and their true log-densities, in standardised units."""
    made: dict[str, Trained] = {}

    def get(name: str) -> Trained:
        if name not in made:
            truth = DENSITIES["8gaussians"]
            x, test = truth.sample(20_000, 0), truth.sample(400, 1)
            scale = x.std()
            torch.manual_seed(0)
            model = make(name, DataSpec((2,)), width=48)
            learner = model.learner(TrainSettings(learning_rate=3e-3, betas=(0.9, 0.99), ema=0.98))
            split = TensorSplit(x / scale)
            learner.start(split)
            for i in range(250):
                learner.step(Batch(split.x[torch.randint(0, len(x), (256,))], None), i / 250)
            learner.finish(split, split)
            model = learner.evaluated()  # type: ignore[assignment]
            made[name] = model, test / scale, truth.log_prob(test) + 2 * math.log(float(scale))
        return made[name]

    return get


@pytest.mark.parametrize("name", MODELS)
def test_a_trained_ode_is_no_better_than_the_truth(name: str, trained: Callable[[str], Trained]) -> None:
    """Its KL is not below 0 by 4 standard errors, nor near the Gaussian's 1.42; the SDE's bound is none either."""
    model, test, truth = trained(name)
    result = model.estimators()["ode"]().mean(test, seed=0)
    gap = truth - result.values
    assert (result.kind, result.stderr_mc) == ("estimate", 0.0)
    assert -4 * float(gap.std()) / len(gap) ** 0.5 < float(gap.mean()) < 1.3
    # a bound of the SDE with the same denoiser, another model for one of the two
    bound = model.estimators()["bound"]()
    bound.start(TensorSplit(test), 0)
    said = bound.mean(test, 16, seed=0)
    assert said.kind == "lower_bound"
    gap = truth - said.values
    assert -4 * float(gap.std()) / len(gap) ** 0.5 < float(gap.mean()) < 2.0


@pytest.mark.parametrize(
    ("name", "options", "default", "spec"),
    [
        ("score_sde", {"steps": 4}, "bound", DataSpec((2,))),
        ("score_sde", {"steps": 4}, "bound", DataSpec((1, 4, 4), 3, 2)),
        ("score_sde", {"steps": 4, "law": "ode"}, "ode", DataSpec((2,), None, 2)),
        ("score_sde", {"steps": 4, "law": "ode"}, "ode", DataSpec((3,), 4)),
        ("flow_matching", {}, "ode", DataSpec((2,))),
        ("flow_matching", {}, "ode", DataSpec((1, 4, 4), None, 2)),
    ],
)
def test_the_default_is_of_what_is_drawn(name: str, options: dict[str, object], default: str, spec: DataSpec) -> None:
    """Estimators say which are of another model; the default is `log_likelihood`; data of every kind are drawn."""
    torch.manual_seed(0)
    model = make(name, spec, **options)
    made = {key: maker() for key, maker in model.estimators().items()}
    assert next(iter(made)) == default
    assert {key for key, one in made.items() if one.another} == {"ode", "bound"} - {default}
    labels = None if spec.classes is None else torch.tensor([0, 1, 1])
    x = model.sample(3, 0, labels)
    assert (x.shape, x.dtype) == ((3, *spec.event_shape), spec.dtype)
    said, again = model.log_likelihood(x, 2, 0, labels), made[default].log_likelihood(x, 2, 0, labels)
    assert torch.equal(said.lower, again.lower)
    assert said.kind == again.kind == ("estimate" if default == "ode" else "lower_bound")
    assert bool(said.lower.isfinite().all())


def test_ends_of_the_sde() -> None:
    """Log-SNR falls from 9 to -10.05 as beta says; what leaves no noise is refused."""
    model = make("score_sde", DataSpec((2,)))
    assert float(model.chain.log_snr[-1]) == pytest.approx(-math.log(math.expm1(10.05)))
    assert log_snr(1e-3, ScoreSDEConfig()) == pytest.approx(9.11, abs=0.01)
    early = make("score_sde", DataSpec((2,)), epsilon=1e-5)
    assert float(early.chain.log_snr[0]) == pytest.approx(13.8, abs=0.05)
    with pytest.raises(ConfigError, match="to leave noise at t = 1"):
        make("score_sde", DataSpec((2,)), beta_min=1e-6, beta_max=1e-5)


def test_flow_matching_declines_codes() -> None:
    with pytest.raises(CapabilityError, match="of real data; score_sde takes codes as they are"):
        make("flow_matching", DataSpec((3,), 4))


LAWS: list[tuple[str, dict[str, object]]] = [
    ("score_sde", {"steps": 64}),
    ("score_sde", {"law": "ode"}),
    ("flow_matching", {}),
]


@pytest.mark.parametrize(("name", "options"), LAWS)
def test_frames_on_the_way_to_draws_have_the_law_of_the_path(name: str, options: dict[str, object]) -> None:
    """With the exact denoiser a state at time t is N(a m, a^2 C + s^2): mean and covariance of 3,000, within 5 standard
    errors of a Gaussian's, and the Heun scheme's own error, below 0.01 with 64 steps."""
    torch.manual_seed(0)
    model, n = gaussian(name, 2, **options), 3000
    signal, noise = model.law.process(model)
    count = len(signal)
    times = [count, 3 * count // 4, count // 2, count // 4]
    frames = model.law.frames(model, torch.zeros(n, 0, dtype=torch.float64), times)
    for t, states in zip(times, frames, strict=True):
        a, s = float(signal[t - 1]), float(noise[t - 1])
        covariance = a**2 * COVARIANCE + s**2 * torch.eye(2)
        spread = covariance.diagonal()
        error = 5 * (spread / n).sqrt() + 0.01
        assert bool(((states.mean(0) - a * LOC).abs() < error).all())
        allowed = 5 * ((spread[:, None] * spread + covariance**2) / n).sqrt() + 0.01
        assert bool(((states.T.cov() - covariance).abs() < allowed).all())


@pytest.mark.parametrize(("name", "options"), LAWS)
def test_traces_run_from_data_to_noise_and_from_noise_to_the_samples(name: str, options: dict[str, object]) -> None:
    spec = DataSpec((1, 4, 4), 5 if name == "score_sde" else None)
    model = make(name, spec, **options)
    torch.manual_seed(1)
    x = torch.randint(0, 5, (3, 1, 4, 4)).to(spec.dtype)
    traces = model.traces(x, 3, 0)
    assert traces["forward"].shape == traces["reverse"].shape == (3, 9, 1, 4, 4)
    assert traces["forward_at"].tolist() == traces["reverse_at"].tolist()[::-1]
    torch.testing.assert_close(traces["forward"][:, 0], x.float())
    drawn = model.sample(3, seed=0).float()
    torch.testing.assert_close(traces["reverse"][:, -1], drawn, atol=2e-3, rtol=1e-3)
    # noise of the first frame is half as many codes, or one unit, wide
    assert float(traces["reverse"][:, 0].std()) == pytest.approx(2.0 if spec.levels else 1.0, rel=0.35)


def test_flow_matching_goes_through_its_own_times() -> None:
    model = make("flow_matching", DataSpec((2,)))
    signal, noise = model.law.process(model)
    t = torch.arange(len(signal) - 1, -1, -1) / len(signal)
    torch.testing.assert_close(signal, t.double())
    torch.testing.assert_close(noise, 1 - 0.999 * t.double())
