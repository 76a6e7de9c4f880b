"""Adapters around models that answer in each kind, against closed forms.

One dimension, four levels, N(LOC, SCALE^2) inside: the mass of a cell is a difference of normal distribution functions,
and the mean of the log-density over a cell is that of a quadratic. Monte Carlo numbers hold to five standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from genzoo import adapters
from genzoo.adapters import AdaptedSplit, MappedLearner, adapt
from genzoo.baseline import Gaussian, GaussianConfig
from genzoo.config import AdapterConfig, Config, TrainSettings
from genzoo.data.splits import TensorSplit
from genzoo.errors import ConfigError
from genzoo.interface import (
    Estimator,
    GenerativeModel,
    GradientModel,
    LatentVariableModel,
    Learner,
    ModelEstimator,
)
from genzoo.likelihood import LogLikelihood
from genzoo.spec import Batch, DataSpec, Split
from genzoo.wrapping import WrappedEstimator

LOC, SCALE = 1.3, 1.1
SPEC = DataSpec((1,), levels=4)
CODES = torch.arange(4, dtype=torch.uint8)[:, None]
UNIFORM = AdapterConfig(dequantization="uniform")
SHARED = 0.04
LAW = torch.distributions.Normal(torch.tensor(LOC, dtype=torch.float64), SCALE)


def cell_log_mass() -> Tensor:
    return LAW.cdf(torch.arange(5, dtype=torch.float64)).diff().log()


def cell_mean_log_density() -> Tensor:
    """E_u log N(x + u): the variance of u is 1/12."""
    x = CODES[:, 0].double()
    return -0.5 * (((x + 0.5 - LOC).square() + 1 / 12) / SCALE**2 + math.log(2 * math.pi * SCALE**2))


class Stub(GenerativeModel):
    """N(LOC, SCALE^2) that answers in the kind it is told to; `log_weight` is the latent part of `weights`."""

    kind = "exact"

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        log_p = LAW.log_prob(x[:, 0].double())
        if self.kind == "exact":
            return LogLikelihood.exact(log_p)
        if self.kind == "weights":
            s = 0.5
            ratio = s * torch.randn(num_samples, len(x), dtype=torch.float64) - s * s / 2  # E exp = 1
            terms = {"density": log_p, "ratio": ratio.mean(0)}
            halves = {"ratio_per_half": ratio.mean(0)[:, None].expand(-1, 2) / 2}
            return LogLikelihood.weights(log_p + ratio, terms=terms, arrays=halves)
        shared = torch.tensor(SHARED)
        if self.kind == "lower_bound":
            return LogLikelihood.lower_bound(log_p, num_samples=num_samples, terms={"density": log_p})
        if self.kind == "bracket":
            return LogLikelihood.bracket(log_p, log_p + 1, certified=True)
        return LogLikelihood.estimate(log_p, shared_variance=shared, arrays={"path": log_p[:, None].expand(-1, 3)})

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return LAW.sample((n, 1)).float()

    def learner(self, settings: TrainSettings) -> Learner:
        return Still(self, settings)

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        return {"default": lambda: ModelEstimator("default", self), "tuned": lambda: Tuned(self)}

    def traces(self, x: Tensor, n: int, seed: int) -> dict[str, Tensor]:
        return {"still": x[:n, None].repeat(1, 2, *[1] * (x.ndim - 1)), "still_at": torch.tensor([0, 7])}


class Still(Learner):
    """Learns nothing and says so after its first step."""

    loss_in_nats = True

    def __init__(self, model: Stub, settings: TrainSettings) -> None:
        self.model, self.settings = model, settings

    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        self.converged = True
        return {"loss": -LAW.log_prob(batch.x[:, 0].double()).mean()}

    def evaluated(self) -> Stub:
        return self.model

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


class Tuned(Estimator):
    name = "tuned"
    batch_size = 3
    calls = 2

    def __init__(self, model: Stub) -> None:
        self.model = model

    def start(self, valid: Split, seed: int) -> None:
        self.seen = valid.batch(torch.arange(len(valid)), torch.Generator()).x

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        return self.model.log_likelihood(x, num_samples, seed, condition)


def stub(kind: str, config: AdapterConfig = UNIFORM, spec: DataSpec = SPEC) -> adapters.Adapted:
    model = adapt(Stub, spec, config)
    assert isinstance(model, adapters.Adapted)
    model.inner.kind = kind
    return model


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def within(said: LogLikelihood, truth: Tensor) -> bool:
    assert said.variance is not None
    return bool(((said.lower - truth).abs() < 5 * said.variance.sqrt()).all())


@pytest.mark.parametrize("kind", ["exact", "weights"])
def test_weights_are_averaged_before_the_logarithm(kind: str) -> None:
    said = stub(kind).log_likelihood(CODES, 20_000, seed=1)
    assert (said.kind, said.num_samples) == ("weights", 20_000)
    assert within(said, cell_log_mass())
    assert not within(said, cell_mean_log_density())
    assert not within(said, 1.05 * cell_log_mass())
    assert float(said.variance.sqrt().max()) < 0.006  # which makes the planted errors visible


def test_exact_agrees_within_one_percent() -> None:
    """With 200,000 draws the error of a cell's mass is below 0.1 %, so one per cent is seen."""
    said = stub("exact").log_likelihood(CODES, 200_000, seed=1)
    assert within(said, cell_log_mass())
    assert not within(said, cell_log_mass() + 0.01)


@pytest.mark.parametrize(("kind", "answer"), [("lower_bound",) * 2, ("bracket", "lower_bound"), ("estimate",) * 2])
def test_other_kinds_are_averaged_in_nats(kind: str, answer: str) -> None:
    said = stub(kind).log_likelihood(CODES, 20_000, seed=1)
    assert (said.kind, said.num_samples, said.upper) == (answer, 20_000, None)
    assert within(said, cell_mean_log_density())
    assert not within(said, cell_mean_log_density() + 0.02)
    assert not within(said, cell_log_mass())
    assert float(said.shared_variance) == pytest.approx(SHARED if kind == "estimate" else 0)
    if kind == "lower_bound":
        torch.testing.assert_close(said.terms["density"], said.lower)
    if kind == "estimate":
        assert said.arrays["path"].shape == (4, 3)
        torch.testing.assert_close(said.arrays["path"][:, 0], said.lower)
    assert stub(kind).log_likelihood(CODES, 1, seed=1).variance is None


def test_variance_of_averaged_answers_is_that_of_repeats() -> None:
    """5,000 copies of a code, 8 draws each; the ratio has deviation 0.02 and a tenth is five of them."""
    x = torch.full((5000, 1), 2, dtype=torch.uint8)
    said = stub("lower_bound").log_likelihood(x, 8, seed=0)
    assert said.variance is not None
    ratio = float(said.variance.mean() / said.lower.var())
    assert abs(ratio - 1) < 0.1
    assert not abs(ratio * 8 / 7 - 1) < 0.1


@pytest.mark.parametrize("draws", [1, 8])
def test_terms_add_up(draws: int) -> None:
    config = AdapterConfig(dequantization="uniform", logit=0.01, standardize=True)
    said = stub("weights", config).log_likelihood(CODES, draws, seed=1)
    assert set(said.terms) == {"density", "ratio", "log_jacobian"} | ({"importance_gain"} if draws > 1 else set())
    torch.testing.assert_close(sum(said.terms.values()), said.lower, rtol=1e-12, atol=1e-12)
    assert bool((said.terms["log_jacobian"] != 0).all())
    assert list(said.anatomy()) == ["ratio_per_half"]
    torch.testing.assert_close(said.anatomy()["ratio_per_half"].sum(1), said.terms["ratio"], rtol=1e-12, atol=1e-12)


def test_chunks_do_not_change_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """exp(lower) is unbiased for the cell's mass however the draws are cut; 2,000 copies, five standard errors."""
    x, truth = torch.full((2000, 1), 2, dtype=torch.uint8), cell_log_mass()[2].exp()
    deviations = []
    for rows in (2000, 6000, 10**6):
        monkeypatch.setattr(adapters, "_rows", lambda spec, rows=rows: rows)
        said = stub("weights").log_likelihood(x, 7, seed=rows)
        mass = said.lower.exp()
        error = float(mass.std()) / math.sqrt(2000)
        assert said.num_samples == 7
        assert abs(float(mass.mean() - truth)) < 5 * error
        assert not abs(1.1 * float(mass.mean()) - float(truth)) < 5 * error
        deviations.append(float(mass.std()))
        ess = said.arrays["effective_sample_size"]
        assert 1 <= float(ess.min()) <= float(ess.max()) <= 7
    assert max(deviations) < 1.15 * min(deviations)


@pytest.mark.parametrize("kind", ["exact", "weights", "lower_bound", "bracket", "estimate"])
def test_a_deterministic_map_keeps_the_kind(kind: str) -> None:
    spec = DataSpec((1,))
    model = stub(kind, AdapterConfig(standardize=True), spec)
    x = 5 * torch.randn(200, 1) + 2
    model.fit_transforms(TensorSplit(x))
    loc, scale = x.double().mean(), x.double().std(correction=0)
    said = model.log_likelihood(x, 1, seed=0)
    assert said.kind == kind
    expected = LAW.log_prob(((x.double() - loc) / scale).float().double()[:, 0]) - scale.log()
    if kind != "weights":
        torch.testing.assert_close(said.lower, expected, rtol=1e-9, atol=1e-9)
    if kind == "bracket":
        torch.testing.assert_close(said.upper, expected + 1, rtol=1e-9, atol=1e-9)
        assert said.certified
    if kind == "estimate":
        assert float(said.shared_variance) == pytest.approx(SHARED)


def test_a_gaussian_behind_standardize_is_the_gaussian() -> None:
    """The maximum-likelihood Gaussian is equivariant; 2e-5 nats is float32 rounding of the data."""
    x = torch.randn(300, 2) @ torch.tensor([[3.0, 1.0], [0.0, 0.2]]) + 7
    split, spec = TensorSplit(x), DataSpec((2,))

    def fitted(config: AdapterConfig) -> Tensor:
        model = adapt(lambda inner: Gaussian(inner, GaussianConfig(ridge=0.0)), spec, config)
        learner = model.learner(model.default_training())
        learner.start(split)
        loss = learner.step(Batch(x, None), 0.0)["loss"]
        lower = learner.evaluated().log_likelihood(x).lower
        assert float(loss) == pytest.approx(-float(lower.mean()), abs=1e-6)
        return lower

    direct, behind = fitted(AdapterConfig()), fitted(AdapterConfig(standardize=True))
    assert float((direct - behind).abs().max()) < 2e-5
    assert not float((direct - 1.01 * behind).abs().max()) < 2e-5


class Latent(LatentVariableModel):
    """z ~ N(0, 1), x | z ~ N(LOC + A z, S^2), proposals from the prior: evidence N(LOC, A^2 + S^2 = SCALE^2)."""

    A = 0.8
    S = math.sqrt(SCALE**2 - 0.8**2)

    def _log_weights(self, x: Tensor, num_samples: int, condition: Tensor | None) -> Mapping[str, Tensor]:
        z = torch.randn(num_samples, len(x), dtype=torch.float64)
        return {"reconstruction": torch.distributions.Normal(LOC + self.A * z, self.S).log_prob(x[:, 0].double())}

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return -self._log_weights(x, 1, condition)["reconstruction"][0]

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return LOC + SCALE * torch.randn(n, 1)


def test_noise_and_latent_are_drawn_together() -> None:
    model = adapt(Latent, SPEC, UNIFORM)
    said = model.log_likelihood(CODES, 20_000, seed=0)
    assert within(said, cell_log_mass())
    assert not within(said, cell_log_mass() + 0.1)


class Bell(GradientModel):
    """A trainable N(loc, scale^2)."""

    in_nats = True

    def __init__(self, spec: DataSpec, config: Config | None = None) -> None:
        super().__init__(spec, config)
        self.loc, self.log_scale = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    @property
    def loss_in_nats(self) -> bool:
        return self.in_nats

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.distributions.Normal(self.loc, self.log_scale.exp()).log_prob(x).flatten(1).sum(1)

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return -self.log_prob(x)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return LogLikelihood.exact(self.log_prob(x))

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return self.loc + self.log_scale.exp() * torch.randn(n, *self.spec.event_shape)


class Weighted(Bell):
    in_nats = False


def test_trained_noise_beats_uniform_noise_where_it_must() -> None:
    """All data one code: uniform noise costs a Gaussian log sqrt(2 pi e / 12) = 0.1765 nats and no less; noise that
    is learned can be the Gaussian itself, and costs nothing."""
    x = torch.full((512, 1), 2, dtype=torch.uint8)
    cost = 0.5 * math.log(2 * math.pi * math.e / 12)

    def trained(noise: str) -> float:
        torch.manual_seed(0)
        model = adapt(Bell, SPEC, AdapterConfig.parse({"dequantization": noise, "standardize": True}, "bell"))
        learner = model.learner(TrainSettings(learning_rate=0.03, ema=0.9))
        learner.start(TensorSplit(x))
        for step in range(150):
            metrics = learner.step(Batch(x, None), step / 150)
            assert metrics["loss"].ndim == 0
        said = learner.evaluated().log_likelihood(x.repeat(20, 1), 1, seed=0)
        return -float(said.lower.mean())

    uniform, variational = trained("uniform"), trained("variational")
    assert uniform == pytest.approx(cost, abs=0.01)
    assert 1.1 * uniform != pytest.approx(cost, abs=0.01)
    assert -0.005 < variational < 0.25 * cost


def test_a_loss_that_is_not_in_nats_gets_no_jacobian() -> None:
    x, config = 3 * torch.randn(100, 1) + 1, AdapterConfig(standardize=True)
    losses = []
    for make in (Bell, Weighted):
        model = adapt(make, DataSpec((1,)), config)
        assert isinstance(model, adapters.AdaptedGradient)
        model._initialise(TensorSplit(x))
        losses.append(model.loss(x).mean().detach())
    assert float(losses[0] - losses[1]) == pytest.approx(float(x.std(correction=0).log()), abs=1e-5)


def test_samples_are_codes_and_traces_are_mapped_back() -> None:
    model = stub("exact", AdapterConfig(dequantization="uniform", standardize=True))
    model.fit_transforms(TensorSplit(CODES.repeat(100, 1)))
    x = model.sample(500, seed=0)
    assert x.dtype == torch.uint8
    assert int(x.max()) <= 3
    traces = model.traces(CODES, 4, 0)
    frames = traces["still"]
    assert frames.shape == (4, 2, 1)
    assert traces["still_at"].tolist() == [0, 7]  # time steps are no data
    assert torch.equal(frames[:, 1], CODES)
    real = stub("exact", AdapterConfig(standardize=True), DataSpec((1,)))
    points = torch.randn(50, 1) * 4
    real.fit_transforms(TensorSplit(points))
    torch.testing.assert_close(real.traces(points, 3, 0)["still"][:, 0], points[:3], rtol=1e-5, atol=1e-5)


def test_estimators_work_on_mapped_data() -> None:
    model = stub("exact", AdapterConfig(dequantization="uniform", standardize=True))
    split = TensorSplit(CODES.repeat(100, 1))
    model.fit_transforms(split)
    makers = model.estimators()
    assert list(makers) == ["default", "tuned"]
    tuned = makers["tuned"]()
    assert (tuned.name, tuned.batch_size) == ("tuned", 3)
    tuned.start(split, 0)
    assert isinstance(tuned, WrappedEstimator)
    seen = tuned.inner.seen
    assert seen.dtype == torch.float32
    assert abs(float(seen.mean())) < 0.1
    edges = (torch.arange(5, dtype=torch.float64) - model.transforms[1].loc) / model.transforms[1].scale
    mean = tuned.mean(CODES, 20_000, seed=0)
    assert mean.calls == 4 * 20_000 * 2
    said = mean.result
    assert within(said, LAW.cdf(edges).diff().log())
    assert not within(said, LAW.cdf(edges).diff().log() + 0.05)
    direct = makers["default"]().log_likelihood(CODES, 3, 5)
    assert torch.equal(direct.lower, model.log_likelihood(CODES, 3, 5).lower)


def test_mapped_learner_converges_and_can_be_told_otherwise() -> None:
    model = stub("exact", AdapterConfig(dequantization="uniform", standardize=True))
    learner = model.learner(TrainSettings())
    assert isinstance(learner, MappedLearner)
    split = TensorSplit(CODES.repeat(10, 1))
    learner.start(split)
    loss = learner.step(split.batch(torch.arange(40), torch.Generator()), 0.0)["loss"]
    assert learner.converged
    learner.converged = False
    assert not learner.inner.converged
    jacobian = -float(model.transforms[1].scale.log())
    mapped = AdaptedSplit(model, split)
    y = mapped.batch(torch.arange(40), torch.Generator()).x
    assert float(loss) == pytest.approx(-float(LAW.log_prob(y.double()).mean()) - jacobian, abs=0.2)
    assert mapped.fingerprint == split.fingerprint
    assert len(mapped) == 40


@pytest.mark.parametrize(
    ("options", "spec", "message"),
    [
        ({"logit": 0.01}, SPEC, "needs dequantization as well"),
        ({"standardize": True}, SPEC, "needs dequantization as well"),
        ({"dequantization": "uniform"}, DataSpec((1,)), "this data set is real"),
        ({"dequantization": "variational"}, SPEC, "this model is not: use uniform"),
        ({"class_mixture": "joint"}, SPEC, "labels=true"),
    ],
)
def test_adapters_that_do_not_fit(options: dict[str, object], spec: DataSpec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapt(Stub, spec, AdapterConfig.parse(options, "stub"))


def test_variational_noise_needs_a_loss_in_nats() -> None:
    with pytest.raises(ConfigError, match="loss is in nats"):
        adapt(Weighted, SPEC, AdapterConfig(dequantization="variational"))


def test_no_adapter_is_the_model_itself() -> None:
    assert isinstance(adapt(Stub, DataSpec((1,)), AdapterConfig()), Stub)
