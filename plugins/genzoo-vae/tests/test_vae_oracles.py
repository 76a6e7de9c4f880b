"""The vae's bounds against truth: a linear-Gaussian model in closed form, Pyro, and total mass one.

All networks here are float64, so deterministic identities hold to rounding; Monte Carlo checks state their errors. Each
has a twin in which an error of 1 % (0.01 nats, or 1 % of the quantity) makes the same check fail.
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from genzoo_vae.posterior import GaussianPosterior
from genzoo_vae.prior import GaussianMixture, StandardNormal
from genzoo_vae.vae import ELBO, VAE, VAEConfig
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from genzoo.heads import GaussianHead
from genzoo.spec import DataSpec

MASS = 0.01 / 6
"""Largest standard error of a total mass, which is 1."""


def close_in_errors(value: float, truth: float, stderr: float, largest: float) -> None:
    """Within three standard errors (the seeds are fixed), an error of at most `largest`, a sixth of what must be seen:
    so that a planted error of that size fails whichever way the draws fell."""
    assert stderr < largest
    assert abs(value - truth) < 3 * stderr


class Linear:
    """x = W z + b + s e in closed form, z in two dimensions and x in three, and a VAE whose networks are that model.

    Evidence N(b, W W^T + s^2 I); posterior covariance C = (I + W^T W / s^2)^-1, mean C W^T (x - b) / s^2.
    `off` shifts the encoder's mean and widens its scale, so that q is not the posterior.
    """

    def __init__(self, off: float = 0.0) -> None:
        torch.manual_seed(0)
        self.model = VAE(
            DataSpec((3,)), VAEConfig(latents=2, hidden=(), kl_warmup=0.0, prior="normal", head="gaussian", skip=False)
        ).double()
        w, self.b, s = torch.randn(3, 2).double(), torch.randn(3).double(), 0.7
        assert isinstance(self.model.head, GaussianHead)
        covariance = torch.linalg.inv(torch.eye(2) + w.T @ w / s**2)
        gain = covariance @ w.T / s**2
        lower = torch.linalg.cholesky(covariance)
        self.evidence = MultivariateNormal(self.b, w @ w.T + s**2 * torch.eye(3))
        encoder, decoder = self.model.encoder[0], self.model.decoder.net[0]
        with torch.no_grad():
            self.model.head.log_scale.fill_(math.log(s))
            decoder.weight.copy_(w)
            decoder.bias.copy_(self.b)
            encoder.weight.zero_()
            encoder.weight[:2] = gain
            encoder.bias[:2] = -gain @ self.b + off
            encoder.bias[2:4] = lower.diagonal().log() + off
            encoder.bias[4] = lower[1, 0]
        self.x = self.evidence.sample((6,)).float()
        self.log_p = self.evidence.log_prob(self.x.double())
        self.posterior = MultivariateNormal((self.x.double() - self.b) @ gain.T, scale_tril=lower)
        self.q = MultivariateNormal(
            self.posterior.mean + off, scale_tril=lower.tril(-1) + torch.diag(lower.diagonal() * math.exp(off))
        )


def test_weights_of_the_exact_posterior_are_the_evidence() -> None:
    # Each draw of p(x, z) / p(z given x) is p(x): float64 rounding only, so far inside 1e-5.
    linear = Linear()
    parts = linear.model._log_weights(linear.x, 5, None)
    log_w = (parts["reconstruction"] + parts["kl_per_latent"].sum(2)).detach()
    torch.testing.assert_close(log_w, linear.log_p.expand(5, -1), atol=1e-5, rtol=0)
    linear.model.encoder[0].bias.data[2:4] += math.log(1.01)  # posterior scale 1 % too wide
    parts = linear.model._log_weights(linear.x, 5, None)
    log_w = (parts["reconstruction"] + parts["kl_per_latent"].sum(2)).detach()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(log_w, linear.log_p.expand(5, -1), atol=1e-5, rtol=0)


def elbo_by_cubature(linear: Linear) -> Tensor:
    """E_q log p(x given z) - KL, the expectation by the 2d points m +- sqrt(d) L_i, exact for quadratics."""
    with torch.no_grad():
        q = linear.model.encode(linear.x, None)
        points = math.sqrt(2) * torch.cat([torch.eye(2), -torch.eye(2)]).double()  # (4, 2)
        assert q.lower is not None
        factor = q.lower + torch.diag_embed(q.log_diagonal.exp())
        z = q.loc + torch.einsum("bij,kj->kbi", factor, points)
        return linear.model.head.log_prob(linear.model.decode(z, None), linear.x).mean(
            0
        ) - q.kl_from_standard_normal().sum(1)


@pytest.mark.parametrize("off", [0.0, 0.3])
def test_elbo_is_the_evidence_minus_the_divergence(off: float) -> None:
    # exact cubature: rounding only. off = 0: the ELBO equals the evidence
    linear = Linear(off)
    truth = linear.log_p - kl_divergence(linear.q, linear.posterior)
    torch.testing.assert_close(elbo_by_cubature(linear), truth, atol=1e-5, rtol=0)
    linear.model.encoder[0].weight.data.mul_(1.01)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(elbo_by_cubature(linear), truth, atol=1e-5, rtol=0)


def test_elbo_estimator_is_unbiased() -> None:
    # 60,000 draws: standard error of the mean of six examples 0.004 nats
    linear = Linear(0.3)
    truth = float((linear.log_p - kl_divergence(linear.q, linear.posterior)).mean())
    result = linear.model.estimators()["elbo"]().mean(linear.x, 60_000, seed=3)
    assert result.stderr_mc is not None
    close_in_errors(result.mean, truth, result.stderr_mc, abs(truth) / 600)
    with pytest.raises(AssertionError):
        close_in_errors(1.01 * result.mean, truth, result.stderr_mc, abs(truth) / 600)


def test_importance_weights_are_unbiased() -> None:
    # mean of exp(log w) over p(x), 200,000 draws an example; six examples averaged
    linear = Linear(0.3)
    result = linear.model.log_likelihood(linear.x, 200_000, seed=0)
    ratio = (result.lower - linear.log_p).exp()
    assert result.variance is not None
    stderr = float(result.variance.sum().sqrt()) / len(ratio)
    close_in_errors(float(ratio.mean()), 1.0, stderr, MASS)
    with pytest.raises(AssertionError):
        close_in_errors(1.01 * float(ratio.mean()), 1.0, stderr, MASS)


def test_samples_have_the_moments_of_the_evidence() -> None:
    # 200,000 draws; standard errors of means and covariances below 0.01, four of them allowed: 0.04
    linear = Linear()
    x = linear.model.sample(200_000, seed=0).double()
    torch.testing.assert_close(x.mean(0), linear.b, atol=0.03, rtol=0)
    torch.testing.assert_close(x.T.cov(), linear.evidence.covariance_matrix, atol=0.04, rtol=0)
    with pytest.raises(AssertionError):  # covariances here reach 4: 1 % on the scale is 2 % of that
        torch.testing.assert_close((1.01 * x).T.cov(), linear.evidence.covariance_matrix, atol=0.04, rtol=0)


@pytest.mark.parametrize("full", [False, True])
def test_posterior_equals_torch(full: bool) -> None:
    # float64: rounding of sums of a dozen terms
    torch.manual_seed(0)
    outputs = torch.randn(7, GaussianPosterior.outputs_for(4, full), dtype=torch.float64)
    q = GaussianPosterior(outputs, 4, full)
    lower = torch.diag_embed(q.log_diagonal.exp()) + (0 if q.lower is None else q.lower)
    law = MultivariateNormal(q.loc, scale_tril=lower)
    prior = MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double())
    z, eps = q.draw(3)
    torch.testing.assert_close(q.log_prob(eps), law.log_prob(z), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(StandardNormal(4).log_prob(z), prior.log_prob(z), atol=1e-10, rtol=1e-10)
    divergence = kl_divergence(law, prior)
    torch.testing.assert_close(q.kl_from_standard_normal().sum(1), divergence, atol=1e-10, rtol=1e-10)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(1.01 * q.kl_from_standard_normal().sum(1), divergence, atol=1e-10, rtol=1e-10)


def random_mixture() -> GaussianMixture:
    """Five components in the plane, of unequal weights and scales."""
    torch.manual_seed(2)
    prior = GaussianMixture(2, 5).double()
    with torch.no_grad():
        prior.logits.normal_()
        prior.log_scale.normal_(-0.7, 0.3)
    return prior


def torch_law(prior: GaussianMixture) -> MixtureSameFamily:
    components = Independent(Normal(prior.loc, prior.log_scale.exp()), 1)
    return MixtureSameFamily(Categorical(logits=prior.logits), components)


def test_mixture_prior_equals_torch() -> None:
    # float64: rounding of sums of five terms
    prior, z = random_mixture(), torch.randn(3, 7, 2).double()
    torch.testing.assert_close(prior.log_prob(z), torch_law(prior).log_prob(z), atol=1e-10, rtol=1e-10)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(prior.log_prob(z), torch_law(prior).log_prob(1.01 * z), atol=1e-10, rtol=1e-10)


def test_divergence_per_latent_is_that_of_the_conditionals() -> None:
    """Two latents: log p(z_1) is the mixture of the first coordinates, built by torch; the rest is log p(z) less it.
    q's parts are held against torch's triangular Gaussian, whose first coordinate is marginally N(m_1, L_11^2)."""
    torch.manual_seed(0)
    prior = GaussianMixture(2, 5)
    torch.nn.init.normal_(prior.logits)
    z = torch.randn(7, 3, 2)
    mixture = torch.distributions.Categorical(logits=prior.logits.double())
    component = torch.distributions.Normal(prior.loc[:, 0].double(), prior.log_scale[:, 0].double().exp())
    first = torch.distributions.MixtureSameFamily(mixture, component).log_prob(z[..., 0].double())
    with torch.no_grad():
        parts = prior.log_prob_per_latent(z)
        torch.testing.assert_close(parts[..., 0], first.detach(), atol=1e-5, rtol=0)
        torch.testing.assert_close(parts.sum(-1), prior.log_prob(z), atol=1e-5, rtol=0)
        normal = StandardNormal(2)
        torch.testing.assert_close(normal.log_prob_per_latent(z).sum(-1), normal.log_prob(z))
        q = GaussianPosterior(torch.randn(3, GaussianPosterior.outputs_for(2, True)), 2, True)
        draws, eps = q.draw(7)
        of_q = q.log_prob_per_latent(eps)
        marginal = torch.distributions.Normal(q.loc[:, 0].double(), q.log_diagonal[:, 0].double().exp())
        torch.testing.assert_close(of_q[..., 0], marginal.log_prob(draws[..., 0].double()), atol=1e-5, rtol=0)
        torch.testing.assert_close(of_q.sum(-1), q.log_prob(eps))


def test_mixture_prior_draws_from_itself() -> None:
    """E log p(z) over 400,000 draws against the midpoint rule (spacing 0.02, scales above 0.2: error below 1e-9)."""
    prior = random_mixture()
    axis = torch.arange(-5, 5, 0.02, dtype=torch.float64)
    with torch.no_grad():
        log_p = prior.log_prob(torch.cartesian_prod(axis, axis))
        truth = float((log_p.exp() * log_p).sum()) * 0.02**2
        values = prior.log_prob(prior.draw(400_000, prior.loc))
    stderr, largest = float(values.std()) / math.sqrt(len(values)), abs(truth) / 600
    close_in_errors(float(values.mean()), truth, stderr, largest)
    with pytest.raises(AssertionError):
        close_in_errors(1.01 * float(values.mean()), truth, stderr, largest)


def test_evidence_under_a_mixture_prior() -> None:
    """Linear decoder, mixture prior: p(x) = sum_j pi_j N(W m_j + b, W S_j W^T + s^2 I), and the mean weight is p(x)."""
    linear, prior = Linear(), random_mixture()
    head, decoder = linear.model.head, linear.model.decoder.net[0]
    assert isinstance(head, GaussianHead)
    with torch.no_grad():
        w, s = decoder.weight, head.log_scale.exp()
        covariance = w @ torch.diag_embed((2 * prior.log_scale).exp()) @ w.T + torch.diag(s**2)
        law = MixtureSameFamily(
            Categorical(logits=prior.logits), MultivariateNormal(prior.loc @ w.T + decoder.bias, covariance)
        )
        x = law.sample((6,)).float()
        linear.model.prior = prior
        linear.model.encoder[0].bias[2:4] += (
            0.2  # wider than the posterior of a standard normal, so the weights have a variance
        )
    result = linear.model.log_likelihood(x, 200_000, seed=0)
    ratio = (result.lower - law.log_prob(x.double())).exp()
    assert result.variance is not None
    stderr = float(result.variance.sum().sqrt()) / len(ratio)
    close_in_errors(float(ratio.mean()), 1.0, stderr, MASS)
    with pytest.raises(AssertionError):
        close_in_errors(1.01 * float(ratio.mean()), 1.0, stderr, MASS)
    # the ELBO's divergence is sampled, on the same draws as its reconstruction: it is the mean log weight
    elbo = ELBO(linear.model).log_likelihood(x, 50, seed=4)
    assert set(elbo.terms) == {"reconstruction", "kl_sampled"}
    terms = linear.model.log_likelihood(x, 50, seed=4).terms
    torch.testing.assert_close(elbo.lower, terms["reconstruction"] + terms["kl"], atol=1e-9, rtol=1e-9)


def random_vae(spec: DataSpec, **keys: Any) -> VAE:
    """Nonlinear and not trained; its encoder is near the prior, so that no weight is large."""
    torch.manual_seed(1)
    classic = {"prior": "normal", "head": "gaussian" if spec.levels is None else "auto", "skip": False}
    model = VAE(spec, VAEConfig(latents=2, hidden=(16,), **(classic | keys))).double()
    with torch.no_grad():
        model.encoder[2].weight.mul_(0.2)
        if isinstance(model.head, GaussianHead):
            model.head.log_scale.fill_(0.0)
    return model


def total_mass(model: VAE, x: Tensor, cell: float, k: int, condition: Tensor | None = None) -> tuple[float, float]:
    """Sum of exp(lower) cell over `x`, the mean weight being unbiased, and its standard error (independent draws)."""
    result = model.log_likelihood(x, k, seed=0, condition=condition)
    assert result.variance is not None
    mass = result.lower.exp() * cell
    return float(mass.sum()), float((mass**2 * result.variance).sum().sqrt())


def test_weights_integrate_to_one_over_the_plane() -> None:
    # midpoint rule at 0.6 of the decoder's scale 1: error exp(-2 pi^2 / 0.36); cut off five scales out
    axis = torch.arange(-6.6, 6.9, 0.6)
    mass, stderr = total_mass(random_vae(DataSpec((2,))), torch.cartesian_prod(axis, axis), 0.6**2, 4000)
    close_in_errors(mass, 1.0, stderr, MASS)
    with pytest.raises(AssertionError):
        close_in_errors(1.01 * mass, 1.0, stderr, MASS)


@pytest.mark.parametrize("head", ["categoricals", "logistics"])
def test_weights_sum_to_one_over_the_codes_given_a_label(head: str) -> None:
    axis = torch.arange(9, dtype=torch.uint8)
    x = torch.cartesian_prod(axis, axis)
    model = random_vae(DataSpec((2,), 9, classes=3), head=head, components=2)
    y = torch.ones(len(x), dtype=torch.long)
    mass, stderr = total_mass(model, x, 1.0, 40_000 if head == "categoricals" else 12_000, y)
    close_in_errors(mass, 1.0, stderr, MASS)
    with pytest.raises(AssertionError):
        close_in_errors(1.01 * mass, 1.0, stderr, MASS)
    pair = [model.log_likelihood(x, 100, seed=0, condition=label).lower for label in (y, 0 * y)]
    assert float((pair[0] - pair[1]).abs().max()) > 0.01  # the label matters


class PyroTwin:
    """The same networks as a Pyro model and guide."""

    def __init__(self, vae: VAE) -> None:
        self.vae = vae

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2).double(), 1).to_event(1))
            params = self.vae.decode(z, None)
            assert isinstance(self.vae.head, GaussianHead)
            law = dist.Normal(params[..., 0, :], self.vae.head.log_scale.exp()).to_event(1)
            pyro.sample("x", law, obs=x.double())

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            q = self.vae.encode(x, None)
            pyro.sample("z", dist.Normal(q.loc, q.log_diagonal.exp()).to_event(1))

    def log_weights(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) - log q(z given x), `(B,)`, from Pyro's own traces at a given z."""
        sites = []
        for program in (self.model, self.guide):
            trace = poutine.trace(poutine.condition(program, {"z": z})).get_trace(x)
            trace.compute_log_prob()
            sites.append(sum(s["log_prob"] for n, s in trace.nodes.items() if s["type"] == "sample" and n in "xz"))
        return sites[0] - sites[1]


@pytest.fixture
def twin() -> tuple[VAE, PyroTwin, Tensor]:
    vae = random_vae(DataSpec((2,)), posterior="diagonal", train_samples=1)
    return vae, PyroTwin(vae), vae.sample(5, seed=0)


def test_log_weights_equal_those_of_pyro(twin: tuple[VAE, PyroTwin, Tensor]) -> None:
    # The same z in both: float64 rounding.
    vae, pyro_twin, x = twin
    with torch.no_grad():
        q = vae.encode(x, None)
        z, eps = q.draw(1)
        ours = vae.head.log_prob(vae.decode(z, None), x) + vae.log_ratio(q, z, eps)
        torch.testing.assert_close(ours[0], pyro_twin.log_weights(x, z[0]), atol=1e-9, rtol=1e-9)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(ours[0], pyro_twin.log_weights(x, 1.01 * z[0]), atol=1e-9, rtol=1e-9)


def pyro_mean(objective: Any, twin: PyroTwin, x: Tensor, repeats: int) -> tuple[float, float]:
    """Mean of minus Pyro's loss an example, and its standard error, over independent calls."""
    torch.manual_seed(0)
    values = -torch.tensor([objective.loss(twin.model, twin.guide, x) for _ in range(repeats)]).double() / len(x)
    return float(values.mean()), float(values.std()) / math.sqrt(repeats)


@pytest.mark.parametrize("objective", [Trace_ELBO, TraceMeanField_ELBO])
def test_elbo_equals_that_of_pyro(objective: Any, twin: tuple[VAE, PyroTwin, Tensor]) -> None:
    # Two independent Monte Carlo means: three standard errors of their difference, a sixth of 1 %.
    vae, pyro_twin, x = twin
    many = x.repeat(400, 1)
    theirs, their_error = pyro_mean(objective(), pyro_twin, many, 20)
    ours = ELBO(vae).mean(x, 10_000, seed=1)
    assert ours.stderr_mc is not None
    stderr = math.hypot(their_error, ours.stderr_mc)
    largest = 0.01 * abs(theirs) / 6
    close_in_errors(ours.mean, theirs, stderr, largest)
    with pytest.raises(AssertionError):
        close_in_errors(1.01 * ours.mean, theirs, stderr, largest)


def test_iwae_equals_that_of_pyro(twin: tuple[VAE, PyroTwin, Tensor]) -> None:
    # RenyiELBO with alpha = 0 is IWAE (Li & Turner 2016) for one example at a time; K = 50, repeated.
    vae, pyro_twin, x = twin
    one, k = x[:1], 50
    theirs, their_error = pyro_mean(
        RenyiELBO(alpha=0, num_particles=k, vectorize_particles=True, max_plate_nesting=1), pyro_twin, one, 300
    )
    ours = vae.log_likelihood(one.expand(10_000, -1), k, seed=1).lower
    stderr = math.hypot(their_error, float(ours.std()) / math.sqrt(len(ours)))
    largest = 0.01 * abs(theirs) / 6
    close_in_errors(float(ours.mean()), theirs, stderr, largest)
    with pytest.raises(AssertionError):
        close_in_errors(1.01 * float(ours.mean()), theirs, stderr, largest)
