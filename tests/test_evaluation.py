"""Evaluation against truth: KL by quadrature and by pairs, errors, floors, caps, bits, and what is not a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from genzoo import api
from genzoo.config import TrainSettings
from genzoo.errors import NumericsError, UnknownNameError
from genzoo.evaluation import anatomy, effort_of, evaluate, log_density_grid
from genzoo.interface import Estimator, GenerativeModel, Learner, ModelEstimator
from genzoo.likelihood import LogLikelihood
from genzoo.spec import Dataset, DataSpec, Density
from genzoo.training import evaluation_index

# NUMBERS section 5: KL(p, best Gaussian) in nats, to the digits printed there.
BEST_GAUSSIAN = {"8gaussians": 1.4234, "2spirals": 1.1018, "rings": 0.9641, "checkerboard": 1.028}
# Half a unit of the last digit printed (5e-4 for the checkerboard), and the fit: five parameters from 50,000 points
# cost d / 2n = 5e-5 nats on average.
TOLERANCE = 6e-4


class Oracle(GenerativeModel):
    """The truth itself, plus `offset` nats and Gaussian noise of scale `noise` that a seed decides."""

    def __init__(self, truth: Density, kind: str = "exact", offset: float = 0.0, noise: float = 0.0) -> None:
        super().__init__(DataSpec((2,)))
        self.truth, self.kind, self.offset, self.noise = truth, kind, offset, noise

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        value = self.truth.log_prob(x.to(torch.float64)) + self.offset
        draws = value + self.noise * torch.randn(num_samples, len(x), dtype=torch.float64)  # (K, B)
        if self.kind == "exact":
            return LogLikelihood.exact(value)
        variance = draws.var(0) / num_samples if num_samples > 1 else None
        make = LogLikelihood.lower_bound if self.kind == "lower_bound" else LogLikelihood.estimate
        return make(draws.mean(0), num_samples=num_samples, variance=variance)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        raise NotImplementedError

    def learner(self, settings: TrainSettings) -> Learner:
        raise NotImplementedError


class Constant(GenerativeModel):
    """The uniform mass over all codes, but for what `values` says of the first points."""

    def __init__(self, spec: DataSpec, values: tuple[float, ...] = ()) -> None:
        super().__init__(spec)
        self.values = values

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        lower = torch.full((len(x),), -self.spec.dims * math.log(self.spec.levels or 1), dtype=torch.float64)
        lower[: len(self.values)] = torch.tensor(self.values, dtype=torch.float64)
        return LogLikelihood.exact(lower)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        raise NotImplementedError

    def learner(self, settings: TrainSettings) -> Learner:
        raise NotImplementedError


@pytest.fixture(scope="module")
def rings() -> Dataset:
    return api.load_dataset("rings")


@pytest.fixture(scope="module")
def images() -> Dataset:
    codes = np.random.default_rng(0).integers(0, 256, (100, 1, 2, 2)).astype(np.uint8)
    return api.load_dataset(codes)


def truth_of(data: Dataset) -> Density:
    assert data.truth is not None
    return data.truth


@pytest.fixture(scope="module")
def fitted() -> dict[str, tuple[GenerativeModel, Dataset]]:
    made = {}
    for name in BEST_GAUSSIAN:
        data = api.load_dataset(name)
        model = api.build_model("gaussian", data.spec)
        api.fit(model, data, "1steps")
        made[name] = (model, data)
    return made


@pytest.mark.parametrize("name", BEST_GAUSSIAN)
def test_kl_of_the_best_gaussian(name: str, fitted: dict[str, tuple[GenerativeModel, Dataset]]) -> None:
    model, data = fitted[name]
    result = evaluate(model, data, points=4000)
    assert result.kl_quadrature == pytest.approx(BEST_GAUSSIAN[name], abs=TOLERANCE)
    # the mean of pairs is the same number, to four of its own standard errors (one in 16,000 by chance)
    assert result.kl is not None
    assert result.kl_stderr is not None
    assert abs(result.kl - result.kl_quadrature) < 4 * result.kl_stderr
    assert result.kl_stderr < 0.02
    # a Gaussian leaves the bounds of the truth: mass within them is below one
    assert result.mass is not None
    assert 0.5 < result.mass < 1.0
    assert not result.below_floor


@pytest.mark.parametrize("name", ["8gaussians", "rings", "checkerboard"])  # 2spirals costs a second and adds nothing
def test_weights_that_are_off_by_a_hundredth_would_be_seen(
    name: str, fitted: dict[str, tuple[GenerativeModel, Dataset]]
) -> None:
    """The twin of the test above."""
    model, data = fitted[name]
    truth = truth_of(data)

    class Wrong:
        entropy, bounds, log_prob = truth.entropy, truth.bounds, staticmethod(truth.log_prob)

        def quadrature(self) -> tuple[Tensor, Tensor]:
            nodes, weights = truth.quadrature()
            return nodes, 1.01 * weights

    result = evaluate(model, replace(data, truth=Wrong()), points=10)  # type: ignore[arg-type]
    assert result.kl_quadrature != pytest.approx(BEST_GAUSSIAN[name], abs=TOLERANCE)


def test_the_truth_is_at_distance_zero(rings: Dataset) -> None:
    result = evaluate(Oracle(truth_of(rings)), rings, points=1000)
    assert (result.kl, result.kl_stderr, result.below_floor) == (0.0, 0.0, False)
    # nodes go through float32, which moves log p by 1e-6 at most per node; the rule itself is good to 1e-5
    assert result.kl_quadrature == pytest.approx(0.0, abs=1e-5)
    assert result.mass == pytest.approx(1.0, abs=1e-5)
    # the entropy is what the NLL of the truth estimates
    assert abs(result.nll - truth_of(rings).entropy) < 4 * result.stderr


def test_kl_is_paired_on_the_points_that_were_evaluated(rings: Dataset) -> None:
    model = api.build_model("gaussian", rings.spec)
    api.fit(model, rings, "1steps")
    result = evaluate(model, rings, points=500)
    x, _ = rings.test.batch(evaluation_index(len(rings.test), 500), torch.Generator())
    log_p = truth_of(rings).log_prob(x.double())
    difference = log_p - model.log_likelihood(x).lower
    assert torch.equal(result.index, evaluation_index(100_000, 500))
    assert result.log_p is not None
    assert torch.equal(result.log_p, log_p)
    assert result.kl == pytest.approx(float(difference.mean()), abs=1e-12)
    assert result.kl_stderr == pytest.approx(float(difference.std()) / math.sqrt(500), rel=1e-12)
    unpaired = math.hypot(float(log_p.std()), float(model.log_likelihood(x).lower.std())) / math.sqrt(500)
    assert abs(result.kl_stderr - unpaired) > 0.01 * unpaired  # an unpaired error is another number


@pytest.mark.parametrize(
    ("kind", "offset", "noise", "flagged"),
    [
        ("exact", 0.0, 0.0, False),
        ("exact", 0.001, 0.0, True),
        ("lower_bound", 0.0, 1.0, False),
        ("lower_bound", 0.02, 1.0, False),  # two standard errors of 0.01: it may be chance
        ("lower_bound", 0.06, 1.0, True),  # six: it is not
        ("lower_bound", -0.06, 1.0, False),
        ("estimate", 0.06, 1.0, False),  # has no direction, so there is no floor
    ],
)
def test_a_bound_below_the_floor_is_flagged(
    kind: str, offset: float, noise: float, flagged: bool, rings: Dataset
) -> None:
    result = evaluate(Oracle(truth_of(rings), kind, offset, noise), rings, points=10_000)
    assert result.below_floor is flagged


def test_the_three_errors(rings: Dataset) -> None:
    """Noise of known scale: stderr_mc^2 = noise^2 / (K N); stderr^2 is data and Monte Carlo together."""
    n, k, noise = 10_000, 8, 2.0
    result = evaluate(Oracle(truth_of(rings), "lower_bound", 0.0, noise), rings, points=n, num_samples=k)
    # a mean of N variances from K draws each is off by sqrt(2 / ((K - 1) N)) = 0.5 %, its root by half of that
    assert result.stderr_mc == pytest.approx(noise / math.sqrt(k * n), rel=0.01)
    assert result.stderr_mc != pytest.approx(1.02 * noise / math.sqrt(k * n), rel=0.01)
    assert result.stderr_data is not None
    assert result.stderr == pytest.approx(math.hypot(result.stderr_data, result.stderr_mc), rel=1e-9)
    x, _ = rings.test.batch(evaluation_index(len(rings.test), n), torch.Generator())
    spread = float(truth_of(rings).log_prob(x.double()).std())
    # sampling error of the difference of two variances, about 1 % here
    assert result.stderr_data == pytest.approx(spread / math.sqrt(n), rel=0.03)
    one = evaluate(Oracle(truth_of(rings), "lower_bound", 0.0, noise), rings, points=100, num_samples=1)
    assert (one.stderr_data, one.stderr_mc) == (None, None)
    # K - 1 degrees an example; the v_i that are plugged in vary as chi-square of 7, which costs 2 / 7 of them
    assert result.dof == pytest.approx(n - 1)
    assert result.dof_mc == pytest.approx((k - 1) * n / (1 + 2 / (k - 1)), rel=0.05)


def test_a_standard_error_can_be_asked_for(rings: Dataset) -> None:
    model = Oracle(truth_of(rings), "lower_bound", 0.0, 2.0)
    result = evaluate(model, rings, points=1000, num_samples=4, until_se=0.01)
    assert result.num_samples == pytest.approx(40, abs=4)  # 2^2 / (1000 * 0.01^2), from a pilot that errs by 3 %
    assert result.stderr_mc == pytest.approx(0.01, rel=0.1)


def test_the_same_seed_gives_the_same_number(rings: Dataset) -> None:
    model = Oracle(truth_of(rings), "lower_bound", 0.0, 1.0)
    first, second, other = (evaluate(model, rings, points=2500, num_samples=2, seed=seed).nll for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_a_time_limit_stops_after_a_batch(rings: Dataset) -> None:
    model = Oracle(truth_of(rings))
    result = evaluate(model, rings, points=1000, batch_size=100, max_seconds=1e-9)
    assert (result.points, result.capped, len(result.index), len(result.result.lower)) == (100, True, 100, 100)
    whole = evaluate(model, rings, points=100, batch_size=100)
    assert not whole.capped
    assert (result.nll, result.kl) == (whole.nll, whole.kl)
    assert not evaluate(model, rings, points=1000, batch_size=100, max_seconds=1e9).capped


def test_default_points(rings: Dataset, images: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert evaluate(Oracle(truth_of(rings)), rings).points == 10_000
    assert evaluate(Constant(images.spec), images).points == 10  # all there are, of at most 2,000
    monkeypatch.setattr(ModelEstimator, "suggested_points", 7)
    assert evaluate(Oracle(truth_of(rings)), rings).points == 7
    assert evaluate(Oracle(truth_of(rings)), rings, points=20).points == 20


def test_bits_per_dim_of_uniform_bytes_are_eight(images: Dataset) -> None:
    result = evaluate(Constant(images.spec), images)
    assert result.bits_per_dim == pytest.approx(8.0, abs=1e-12)
    assert result.nll == pytest.approx(4 * 8 * math.log(2), abs=1e-12)
    assert (result.kl, result.kl_quadrature, result.entropy, result.log_p) == (None, None, None, None)


def test_minus_infinity_is_a_result(images: Dataset) -> None:
    result = evaluate(Constant(images.spec, (-math.inf, -math.inf)), images)
    assert (result.nll, result.infinite, result.stderr) == (math.inf, 2, math.inf)


def test_nan_and_plus_infinity_are_not(images: Dataset) -> None:
    with pytest.raises(NumericsError, match=r"log-likelihood of 10 points has 2 NaN and 1 \+inf"):
        evaluate(Constant(images.spec, (math.nan, math.inf, math.nan)), images)


@pytest.mark.parametrize("off", [0.0, 0.01])
def test_anatomy_must_sum_to_its_term(images: Dataset, off: float) -> None:
    lower = torch.linspace(-5, -3, 6, dtype=torch.float64)
    layers = torch.stack([0.25 * lower, 0.75 * lower + off, torch.zeros(6)], 1).float()
    answer = LogLikelihood.exact(lower, terms={"log_det": lower}, arrays={"log_det_per_layer": layers, "other": layers})
    if off:
        with pytest.raises(NumericsError, match=r"the parts log_det_per_layer sum to -3\.99 nats; their term is -4"):
            anatomy(answer)
    else:
        torch.testing.assert_close(anatomy(answer), {"log_det_per_layer": layers.double().mean(0)})


def test_the_test_split_is_not_the_validation_split(images: Dataset) -> None:
    valid = evaluate(Constant(images.spec), images, split="valid")
    assert valid.split == "valid"
    assert torch.equal(valid.index, evaluation_index(10, 10))


def test_an_estimator_knows_its_own_effort() -> None:
    """The card's effort is that of the default estimator: 500 annealed chains would be no default."""

    class Chains(ModelEstimator):
        suggested_samples = 16

    class Two(Constant):
        def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
            return {"iwae": lambda: ModelEstimator("iwae", self), "ais": lambda: Chains("ais", self)}

    model = Two(DataSpec((2,), 4))
    assert [effort_of(model, name, 500) for name in (None, "iwae", "iwae[K=3]", "ais", "ais[chains=16]")] == [
        500,
        500,
        500,
        16,
        16,
    ]


def test_unknown_estimators_are_answered_with_near_names(images: Dataset) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown estimator of Constant 'defalt': did you mean default\?"):
        evaluate(Constant(images.spec), images, estimator="defalt")


def test_grids_have_y_first() -> None:
    data = api.load_dataset("moons")  # its law is its own half turn, so not the corners that a half turn swaps
    truth = truth_of(data)
    grid = log_density_grid(Oracle(truth), truth, size=7)
    at = torch.stack([grid["grid_x"][2], grid["grid_y"][1]])[None]
    assert grid["grid_truth"][1, 2] == truth.log_prob(at)[0]
    assert grid["grid_truth"][2, 1] != grid["grid_truth"][1, 2]
    torch.testing.assert_close(grid["grid_model"], grid["grid_truth"], atol=1e-4, rtol=1e-4)  # float32 nodes
