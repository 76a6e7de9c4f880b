"""PyroModel and ExactPyroModel: log weights against closed forms and Pyro's own objectives, and what is refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from genzoo_pyro.model import ExactPyroModel, PyroModel
from genzoo_pyro.vae import PyroVAE, VAEConfig
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from genzoo.data.splits import TensorSplit
from genzoo.errors import CapabilityError, ConfigError, GenzooError
from genzoo.spec import Batch, DataSpec

PLANE = DataSpec((2,))


class Linear(PyroModule):
    """x ~ N(w z + b, s^2 I), z ~ N(0, 1): evidence N(b, w w' + s^2 I)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.8, -0.5]))
        self.b = nn.Parameter(torch.tensor([0.3, 0.1]))
        self.s = PyroParam(torch.tensor(0.6), constraints.positive)

    def forward(self, x: Tensor | None, n: int, condition: Tensor | None) -> Tensor:
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(self.w * z.unsqueeze(-1) + self.b, self.s).to_event(1), obs=x)

    def evidence(self, x: Tensor) -> Tensor:
        covariance = torch.outer(self.w, self.w) + self.s**2 * torch.eye(2)
        return torch.distributions.MultivariateNormal(self.b.double(), covariance.double()).log_prob(x.double())


class Posterior(PyroModule):
    """The exact posterior of Linear, its mean and scale times factors."""

    def __init__(self, model: Linear, mean: float = 1.0, scale: float = 1.0) -> None:
        super().__init__()
        w, b, s = model.w.detach(), model.b.detach(), model.s.detach()
        precision = 1 + (w @ w) / s**2
        self.gain = nn.Parameter(mean * w / s**2 / precision)
        self.bias = nn.Parameter(-mean * (w @ b) / s**2 / precision)
        self.scale = PyroParam(scale * precision.rsqrt(), constraints.positive)

    def forward(self, x: Tensor, n: int, condition: Tensor | None) -> None:
        with pyro.plate("data", n):
            pyro.sample("z", dist.Normal(x @ self.gain + self.bias, self.scale))


def linear(mean: float = 1.0, scale: float = 1.0) -> PyroModel:
    program = Linear()
    return PyroModel(PLANE, program, Posterior(program, mean, scale))


POINTS = torch.tensor([[0.2, 0.4], [1.5, -1.0], [-2.0, 0.3], [0.0, 2.0]])


def weights_spread(model: PyroModel) -> float:
    """Largest distance of any single log weight from the evidence."""
    with torch.no_grad():
        parts = model._log_weights(POINTS, 64, None)
        truth = model.model.evidence(POINTS)
    return float((sum(parts.values()) - truth).abs().max())


def test_exact_posterior_makes_every_weight_the_evidence() -> None:
    """log w does not depend on z under the exact posterior. Tolerance: float32 sums of values below 10, 5e-6."""
    torch.manual_seed(0)
    assert weights_spread(linear()) < 5e-6


@pytest.mark.parametrize("planted", [{"mean": 1.01}, {"scale": 1.01}])
def test_planted_guide_error_is_seen(planted: dict[str, float]) -> None:
    torch.manual_seed(0)
    assert weights_spread(linear(**planted)) > 5e-6


def evidence_error(model: PyroModel, factor: float) -> float:
    """Largest error of the estimate in its own standard errors, with the evidence's w times `factor`."""
    answer = model.log_likelihood(POINTS, 200_000, seed=1)
    with torch.no_grad():
        model.model.w.mul_(factor)
        truth = model.model.evidence(POINTS)
    assert answer.variance is not None
    return float(((answer.lower - truth).abs() / answer.variance.sqrt()).max())


def test_importance_weights_reach_the_evidence_with_a_wrong_guide() -> None:
    """A guide 10 % too wide with a shifted mean; four estimates, each within 4 of its standard errors (about 3e-4)."""
    assert evidence_error(linear(mean=0.9, scale=1.1), 1.0) < 4
    assert evidence_error(linear(mean=0.9, scale=1.1), 1.01) > 4


def covariance_error(factor: float) -> float:
    """Largest error of mean and covariance of a million draws, in standard errors; the covariance times `factor`."""
    model = linear()
    x = model.sample(1_000_000, seed=0).double()
    w, b, s = (t.detach().double() for t in (model.model.w, model.model.b, model.model.s))
    covariance = factor * (torch.outer(w, w) + s**2 * torch.eye(2))
    d = covariance.diagonal()
    mean_error = (x.mean(0) - b) / (d / len(x)).sqrt()
    error = (x.T.cov() - covariance) / ((covariance**2 + torch.outer(d, d)) / len(x)).sqrt()
    return max(float(mean_error.abs().max()), float(error.abs().max()))


def test_samples_have_the_evidences_mean_and_covariance() -> None:
    """Five moments within 4 standard errors (0.14 % of a variance)."""
    assert covariance_error(1.0) < 4
    assert covariance_error(1.01) > 4


def small_vae(seed: int = 0) -> PyroVAE:
    torch.manual_seed(seed)
    return PyroVAE(DataSpec((3,)), VAEConfig(latent=2, hidden=(8,)))


def draws_of(model: PyroModel, x: Tensor, k: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        return sum(model._log_weights(x, k, None).values())  # type: ignore[return-value]


def objective(objective_: Any, model: PyroModel, x: Tensor, seed: int) -> float:
    """Pyro's own loss, negated: one scalar a batch."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return -objective_.loss(model.model, model.guide, x, len(x), None)


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_pyros_trace_elbo(factor: float) -> None:
    """Same seed, same draws: the sum over examples of our mean log weight is Trace_ELBO. Tolerance 1e-5 relative,
    the rounding of float32 sums in another order; an observation off by 1 % fails it."""
    model, x = small_vae(), torch.randn(20, 3, generator=torch.Generator().manual_seed(3))
    ours = float(draws_of(model, factor * x, 50, 7).double().mean(0).sum())
    elbo = Trace_ELBO(num_particles=50, vectorize_particles=True, max_plate_nesting=1)
    theirs = objective(elbo, model, x, 7)
    assert (abs(ours / theirs - 1) < 1e-5) == (factor == 1.0)


def test_pyros_analytic_kl_elbo() -> None:
    """TraceMeanField_ELBO has the KL in closed form. The means agree within 4 combined standard errors of 20,000 draws
    each, below 0.3 % of the KL; a KL part off by 1 % does not."""
    model, x = small_vae(), torch.randn(1, 3, generator=torch.Generator().manual_seed(3))
    elbo = TraceMeanField_ELBO(num_particles=20_000, vectorize_particles=True, max_plate_nesting=1)
    theirs = objective(elbo, model, x, 5)
    torch.manual_seed(6)
    with torch.no_grad():
        parts = {name: part.double()[:, 0] for name, part in model._log_weights(x, 20_000, None).items()}
    reconstruction, kl = parts["reconstruction"], parts["kl"]
    stderr = math.sqrt(float((reconstruction + kl).var() + reconstruction.var()) / 20_000)
    assert abs(float((reconstruction + kl).mean()) - theirs) < 4 * stderr
    # the KL alone, against torch's closed form with the guide's own distribution: no noise of the reconstruction
    with torch.no_grad():
        loc, log_scale = model.guide.network(x).chunk(2, -1)
        q = torch.distributions.Normal(loc, (log_scale - 2.0).exp())
        closed = -float(torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum())
    stderr = float(kl.std()) / math.sqrt(20_000)
    assert abs(float(kl.mean()) - closed) < 4 * stderr
    assert abs(1.01 * float(kl.mean()) - closed) > 4 * stderr


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_pyros_renyi_bound_is_our_importance_weighted_bound(factor: float) -> None:
    """RenyiELBO(alpha=0) on one example (it sums over a batch before its log-mean-exp), same draws; tolerance 1e-5."""
    model, x = small_vae(), torch.tensor([[0.4, -1.0, 0.2]])
    torch.manual_seed(7)
    ours = model.log_likelihood(factor * x, 64).lower.item()
    elbo = RenyiELBO(alpha=0, num_particles=64, vectorize_particles=True, max_plate_nesting=1)
    theirs = objective(elbo, model, x, 7)
    assert (abs(ours / theirs - 1) < 1e-5) == (factor == 1.0)


def test_loss_is_the_negative_elbo_of_one_draw_with_its_gradient() -> None:
    """Against Pyro's differentiable loss with the same draw: value and every gradient, 1e-5 relative."""
    model, x = small_vae(), torch.randn(20, 3)
    torch.manual_seed(2)
    loss = model.loss(x).sum()
    mine = torch.autograd.grad(loss, list(model.parameters()))
    torch.manual_seed(2)
    elbo = Trace_ELBO(num_particles=1, vectorize_particles=True, max_plate_nesting=1)
    reference = elbo.differentiable_loss(model.model, model.guide, x, len(x), None)
    theirs = torch.autograd.grad(reference, list(model.parameters()))
    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=0)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_warm_up_scales_the_kl_alone() -> None:
    model, x = small_vae(), torch.randn(5, 3)
    torch.manual_seed(2)
    parts = model._log_weights(x, 1, None)
    torch.manual_seed(2)
    half = model.loss(x, progress=model.kl_warmup / 2)
    torch.testing.assert_close(half, -(parts["reconstruction"] + 0.5 * parts["kl"])[0])


class Nested(PyroModule):
    """Plates in both orders of dimensions: "data" at -2, pixels at -1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = PyroParam(torch.tensor(0.7), constraints.positive)

    def forward(self, x: Tensor | None, n: int, condition: Tensor | None) -> Tensor:
        with pyro.plate("data", n, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0))  # (..., n, 1)
            with pyro.plate("pixels", 2, dim=-1):
                return pyro.sample("x", dist.Normal(z, self.scale), obs=x)


class NestedGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.scale = PyroParam(torch.tensor(0.5), constraints.positive)

    def forward(self, x: Tensor, n: int, condition: Tensor | None) -> None:
        with pyro.plate("data", n, dim=-2):
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True), self.scale))


def test_inner_plates_are_summed() -> None:
    """Evidence N(0, 1 1' + 0.49 I); 4 standard errors, which are below 2e-3."""
    model = PyroModel(PLANE, Nested(), NestedGuide())
    assert (model.sites.nesting, model.sites.data_dim) == (2, -2)
    answer = model.log_likelihood(POINTS[:3], 100_000, seed=0)
    truth = torch.distributions.MultivariateNormal(torch.zeros(2), torch.ones(2, 2) + 0.49 * torch.eye(2))
    assert answer.variance is not None
    assert float(((answer.lower - truth.log_prob(POINTS[:3])).abs() / answer.variance.sqrt()).max()) < 4
    assert model.sample(5, seed=0).shape == (5, 2)


def train(model: PyroModel, x: Tensor, steps: int, seed: int) -> Any:
    learner = model.learner(model.default_training())
    torch.manual_seed(seed)
    learner.start(TensorSplit(x))
    for i in range(steps):
        learner.step(Batch(x, None), i / steps)
    learner.finish(TensorSplit(x), TensorSplit(x))
    return learner


def test_two_models_in_one_process_share_nothing() -> None:
    """Programs of the same class and names: training one leaves the other bit for bit, and the store stays empty."""
    x = torch.randn(32, 3)
    first, second = small_vae(0), small_vae(1)
    before = copy.deepcopy(second.state_dict())
    alone = train(small_vae(0), x, 3, 5).model.state_dict()
    train(second_copy := copy.deepcopy(second), x, 2, 9)
    together = train(first, x, 3, 5).model.state_dict()
    assert all(torch.equal(alone[key], together[key]) for key in alone)
    assert all(torch.equal(before[key], value) for key, value in second.state_dict().items())
    assert any(not torch.equal(before[key], value) for key, value in second_copy.state_dict().items())
    assert not list(pyro.get_param_store().keys())


def test_average_state_and_seed() -> None:
    """The averaged copy is a program of its own; its state makes the same model again; a seed fixes every draw."""
    x = torch.randn(32, 3)
    learner = train(small_vae(), x, 3, 5)
    average = learner.evaluated()
    assert average.model is not learner.model.model
    again = small_vae(4)
    again.load_state_dict(average.state_dict())
    a, b = (m.log_likelihood(x, 3, seed=1).lower for m in (average, again))
    assert torch.equal(a, b)
    assert not torch.equal(a, again.log_likelihood(x, 3, seed=2).lower)
    assert torch.equal(average.sample(4, seed=3), again.sample(4, seed=3))


# what is refused, by its words


class Program(PyroModule):
    """A program with a normal latent and observation, altered by `change` where a test says so."""

    def __init__(self, change: str = "") -> None:
        super().__init__()
        self.change = change
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor | None, n: int, condition: Tensor | None) -> Tensor:
        change = self.change
        if change == "global":
            pyro.sample("shared", dist.Normal(0.0, 1.0))
        if change == "store":
            pyro.param("stray", torch.zeros(2))
        kwargs = {"subsample_size": n - 1} if change == "subsample" else {}
        with pyro.plate("examples" if change == "plate" else "data", n, **kwargs):
            z = pyro.sample("z", dist.Bernoulli(0.5) if change == "discrete" else dist.Normal(0.0, 1.0))
            if change == "factor":
                pyro.factor("extra", z)
            loc = self.loc + z.unsqueeze(-1)
            law = dist.Normal(loc, 1.0)
            law = law.mask(False).to_event(1) if change == "mask" else law if change == "shape" else law.to_event(1)
            if change == "unobserved":
                return pyro.sample("x", law)
            if change == "wrong":
                raise KeyError("no such thing")
            drawn = pyro.sample("x", law, obs=torch.zeros(n, 2) if change == "constant" else x)
        return drawn[:, :1] if change == "returns" else drawn


class Guide(PyroModule):
    def __init__(self, change: str = "") -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor, n: int, condition: Tensor | None) -> None:
        with pyro.plate("data", n):
            name = "other" if self.change == "name" else "z"
            if self.change == "batch":
                pyro.sample(name, dist.Normal(x[:, 0] + torch.zeros(2, 1), 1.0))
            pyro.sample(name, dist.Bernoulli(0.5) if self.change == "discrete" else dist.Normal(x[:, 0], 1.0))


REFUSED: dict[str, tuple[type[GenzooError], str, Callable[[], Any]]] = {
    "no plate": (ConfigError, 'a plate named "data"', lambda: PyroModel(PLANE, Program("plate"), Guide())),
    "global": (
        CapabilityError,
        "'shared' stands outside the plate",
        lambda: PyroModel(PLANE, Program("global"), Guide()),
    ),
    "factor": (CapabilityError, "pyro.factor", lambda: PyroModel(PLANE, Program("factor"), Guide())),
    "mask": (CapabilityError, "scaled or masked", lambda: PyroModel(PLANE, Program("mask"), Guide())),
    "subsample": (
        ConfigError,
        "expected the program to return",
        lambda: PyroModel(PLANE, Program("subsample"), Guide()),
    ),
    "shape": (ConfigError, "fails on 3 of its own draws", lambda: PyroModel(PLANE, Program("shape"), Guide())),
    "store": (ConfigError, "global pyro.param", lambda: PyroModel(PLANE, Program("store"), Guide())),
    "unobserved": (ConfigError, "an observed site", lambda: PyroModel(PLANE, Program("unobserved"), Guide())),
    "constant": (ConfigError, "'x' to be drawn when x is None", lambda: PyroModel(PLANE, Program("constant"), Guide())),
    "returns": (ConfigError, r"to return the data \(3, 2\)", lambda: PyroModel(PLANE, Program("returns"), Guide())),
    "fails": (ConfigError, "KeyError: 'no such thing'", lambda: PyroModel(PLANE, Program("wrong"), Guide())),
    "no guide": (ConfigError, "'z' needs a guide", lambda: ExactPyroModel(PLANE, Program())),
    "guide name": (
        ConfigError,
        r"latents \['z'\]; got \['other'\]",
        lambda: PyroModel(PLANE, Program(), Guide("name")),
    ),
    "guide batch": (ConfigError, "fails on 3", lambda: PyroModel(PLANE, Program(), Guide("batch"))),
    "guide discrete": (
        CapabilityError,
        "not reparameterised",
        lambda: PyroModel(PLANE, Program("discrete"), Guide("discrete")),
    ),
    "function": (ConfigError, "a pyro.nn.PyroModule.*got function", lambda: ExactPyroModel(PLANE, lambda *a: None)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    error, words, make = REFUSED[case]
    with pytest.raises(error, match=words):
        make()
    assert not list(pyro.get_param_store().keys())


def test_made_without_module_local_params() -> None:
    with pyro.settings.context(module_local_params=False):
        program = Program()
    with pytest.raises(ConfigError, match=r"import genzoo_pyro\.program before"):
        ExactPyroModel(PLANE, program)


def test_validation_is_restored() -> None:
    """Runs go without Pyro's checks; the caller's own setting comes back."""
    with pyro.validation_enabled(True):
        linear().loss(POINTS)
        with pytest.raises(ValueError, match="Expected parameter scale"):
            dist.Normal(0.0, -1.0)
