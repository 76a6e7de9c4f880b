"""Mixtures against scikit-learn (1e-6, as both are float64), against enumeration, and EM against its promises."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from genzoo_mixture.em import EMLearner, cluster
from genzoo_mixture.factors import FactorAnalysers
from genzoo_mixture.gaussians import Gaussians
from genzoo_mixture.models import (
    BernoulliMixture,
    CategoricalMixture,
    GaussianMixture,
    GaussianMixtureConfig,
    Mixture,
    ProductMixtureConfig,
)
from genzoo_mixture.products import Bernoullis, Categoricals
from sklearn import mixture
from sklearn.naive_bayes import BernoulliNB, CategoricalNB
from torch import Tensor

from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.spec import Batch, DataSpec, Split

PLANE = DataSpec((2,))
SKLEARN = {"full": "full", "diagonal": "diag", "tied": "tied"}


class Points(Split):
    def __init__(self, x: Tensor, y: Tensor | None = None) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        return Batch(self.x[indices], None if self.y is None else self.y[indices])

    @property
    def fingerprint(self) -> str:
        return "points"


def blobs(n: int, dims: int = 2) -> Tensor:
    torch.manual_seed(0)
    centres = 3 * torch.randn(4, dims)
    return centres[torch.randint(4, (n,))] + torch.randn(n, dims) @ (0.5 * torch.randn(dims, dims))


def trained(model: Mixture, x: Tensor, steps: int, y: Tensor | None = None, batch: int | None = None) -> EMLearner:
    learner = EMLearner(model, TrainSettings(batch_size=batch))
    learner.start(Points(x, y))
    for _ in range(steps):
        rows = torch.arange(len(x)) if batch is None else torch.randint(len(x), (batch,))
        learner.step(Batch(x[rows], None if y is None else y[rows]), 0.0)
    return learner


@pytest.mark.parametrize("covariance", ["full", "diagonal", "tied"])
def test_em_and_densities_equal_those_of_scikit_learn(covariance: Any) -> None:
    """From the same parameters, ten rounds of both lead to the same parameters, densities and likelihood."""
    x = blobs(500, 3)
    config = GaussianMixtureConfig(components=4, covariance=covariance, ridge=0.0, restarts=1, tolerance=0.0)
    model = GaussianMixture(DataSpec((3,)), config)
    learner = EMLearner(model, TrainSettings(batch_size=None))
    learner.start(Points(x))
    parts = model.components
    assert isinstance(parts, Gaussians)
    covariances = parts.covariances().numpy()
    precisions = {
        "full": lambda: np.linalg.inv(covariances),
        "diagonal": lambda: 1 / parts.noise.numpy(),
        "tied": lambda: np.linalg.inv(covariances[0]),
    }[covariance]()
    oracle = mixture.GaussianMixture(
        4,
        covariance_type=SKLEARN[covariance],
        weights_init=model.log_weights[0].exp().numpy(),
        means_init=parts.loc.numpy(),
        precisions_init=precisions,
        reg_covar=0.0,
        max_iter=10,
        tol=0.0,
    )
    with pytest.warns(match="did not converge"):
        oracle.fit(x.double().numpy())
    for _ in range(10):
        learner.step(Batch(x, None), 0.0)
    said = model.log_likelihood(x).lower.numpy()
    np.testing.assert_allclose(said, oracle.score_samples(x.double().numpy()), atol=1e-6)
    np.testing.assert_allclose(parts.loc.numpy(), oracle.means_, atol=1e-6)
    np.testing.assert_allclose(model.log_weights[0].exp().numpy(), oracle.weights_, atol=1e-6)


@pytest.mark.parametrize("covariance", ["full", "diagonal", "tied", "factors"])
def test_a_round_never_lowers_the_likelihood(covariance: Any) -> None:
    x = blobs(400, 4)
    config = GaussianMixtureConfig(components=5, covariance=covariance, rank=2, ridge=0.0, tolerance=0.0)
    learner = EMLearner(GaussianMixture(DataSpec((4,)), config), TrainSettings(batch_size=None))
    learner.start(Points(x))
    parts = learner.model.components
    assert isinstance(parts, Gaussians | FactorAnalysers)
    parts.loc.copy_(x[:5])  # away from the good start
    losses = [float(learner.step(Batch(x, None), 0.0)["loss"]) for _ in range(40)]
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(losses))
    assert losses[-1] < losses[0] - 1e-4


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_factor_analysers_have_the_density_of_their_covariance(offset: float) -> None:
    """Of all dimensions and of some, far from the origin too, with variances from 1e-4 on: torch's multivariate normal,
    to 1e-6 nats; draws have its covariance."""
    torch.manual_seed(0)
    parts = FactorAnalysers(3, 7, 2, 0.0)
    parts.loc.copy_(offset + torch.randn(3, 7))
    parts.loadings.copy_(torch.randn(3, 7, 2))
    parts.noise.copy_(torch.logspace(-4, 0, 7))
    x = offset + torch.randn(50, 7, dtype=torch.float64)
    seen = torch.tensor([True, False, True, True, False, True, False])
    for k in range(3):
        c = parts.covariance(k)
        whole = torch.distributions.MultivariateNormal(parts.loc[k], c)
        torch.testing.assert_close(parts.log_prob(x)[:, k], whole.log_prob(x), rtol=1e-9, atol=1e-6)
        some = torch.distributions.MultivariateNormal(parts.loc[k, seen], c[seen][:, seen])
        torch.testing.assert_close(parts.log_prob(x, seen)[:, k], some.log_prob(x[:, seen]), rtol=1e-9, atol=1e-6)
        drawn = parts.sample(torch.full((20_000,), k))
        error = 5 * (2 / 20_000) ** 0.5 * c.diagonal().max()
        torch.testing.assert_close(drawn.T.cov(), c, rtol=0, atol=float(error))


def test_factor_analysers_of_images_are_small_and_keep_few_numbers() -> None:
    """What is stored is linear in the dimensions: a covariance of 784 would be 78 times as much."""
    model = GaussianMixture(DataSpec((1, 28, 28)), GaussianMixtureConfig(components=4))
    assert isinstance(model.components, FactorAnalysers)
    stored = sum(value.numel() for value in model.components.state_dict().values())
    assert stored == 4 * 784 * (8 + 2) + 1
    assert model.components.free() == 4 * 784 * (8 + 2)


def test_factor_analysers_reach_the_maximum_likelihood_of_scikit_learn() -> None:
    """One component is factor analysis: its likelihood after EM is that of sklearn's FactorAnalysis, to 1e-3 nats, the
    latter being converged to 1e-8; a covariance of that rank is reached, not a full one."""
    from sklearn.decomposition import FactorAnalysis

    torch.manual_seed(0)
    scales = torch.tensor([[2.0], [1.5], [0.5]])  # the third, weak, factor is beyond rank 2
    x = torch.randn(600, 3) @ (scales * torch.randn(3, 6)) + torch.randn(600, 6) * (0.5 + 0.5 * torch.rand(6))
    config = GaussianMixtureConfig(components=1, covariance="factors", rank=2, ridge=0.0, restarts=1, tolerance=0.0)
    learner = trained(GaussianMixture(DataSpec((6,)), config), x, 400)
    oracle = FactorAnalysis(2, tol=1e-6, max_iter=5_000, svd_method="lapack").fit(x.double().numpy())
    assert float(learner.model.log_likelihood(x).lower.mean()) == pytest.approx(
        oracle.score(x.double().numpy()), abs=1e-3
    )
    free = GaussianMixtureConfig(components=1, covariance="full", ridge=0.0, restarts=1)
    full = trained(GaussianMixture(DataSpec((6,)), free), x, 2).model.log_likelihood(x).lower.mean()
    assert float(full) > oracle.score(x.double().numpy()) + 5e-3


def test_products_sum_to_one_and_equal_direct_formulas() -> None:
    torch.manual_seed(0)
    states = torch.cartesian_prod(*[torch.arange(3)] * 4).to(torch.uint8)
    model = CategoricalMixture(DataSpec((4,), 3), ProductMixtureConfig(components=3))
    trained(model, states[torch.randint(len(states), (200,))], 5)
    said = model.log_likelihood(states).lower
    assert float(said.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    tables = model.components.log_table.view(4, 3, 3)  # type: ignore[union-attr, operator]
    direct = torch.stack([tables[i, states[:, i].long()] for i in range(4)]).sum(0) + model.log_weights[0]
    torch.testing.assert_close(said, direct.logsumexp(1))
    binary = torch.cartesian_prod(*[torch.arange(2)] * 6).to(torch.uint8)
    bernoulli = BernoulliMixture(DataSpec((6,), 2), ProductMixtureConfig(components=3))
    x = binary[torch.randint(len(binary), (100,))]
    trained(bernoulli, x, 5)
    assert float(bernoulli.log_likelihood(binary).lower.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    # the same model by both: the same starts, smoothing and rounds
    twin = CategoricalMixture(DataSpec((6,), 2), ProductMixtureConfig(components=3))
    trained(twin, x, 5)
    torch.testing.assert_close(twin.log_likelihood(binary).lower, bernoulli.log_likelihood(binary).lower)


@pytest.mark.parametrize("levels", [2, 5])
def test_a_round_with_known_classes_is_scikit_learns_naive_bayes(levels: int) -> None:
    """With responsibilities of 0 and 1 the M-step is that of BernoulliNB or CategoricalNB, whose pseudo-counts are of
    each level: log p(x, k) is theirs to 1e-6, and is not with another smoothing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(levels, (300, 6), generator=generator).double()
    k = torch.randint(3, (300,), generator=generator)
    x[:, 0] = k % levels
    responsibility = torch.nn.functional.one_hot(k, 3).double()
    for smoothing, same in ((1.0, True), (1.5, False)):
        components = Bernoullis(3, 6, smoothing) if levels == 2 else Categoricals(3, 6, levels, smoothing)
        components.maximise(components.statistics(x, responsibility) | {"one_example": torch.tensor(1.0)})
        joint = components.log_prob(x) + responsibility.mean(0).log()
        oracle = BernoulliNB(alpha=0.5) if levels == 2 else CategoricalNB(alpha=1 / levels, min_categories=levels)
        theirs = torch.from_numpy(oracle.fit(x.numpy(), k.numpy()).predict_joint_log_proba(x.numpy()))
        assert torch.allclose(joint, theirs, rtol=0, atol=1e-6) == same


def test_em_recovers_a_mixture_of_bernoullis() -> None:
    """Two well separated components of equal weight in 20 dimensions: after 20 rounds on 4,000 draws the mean
    log-likelihood of fresh data is within 0.02 nats of the truth's (42 parameters cost 42 / 8,000 = 0.005)."""
    torch.manual_seed(0)
    truth = torch.where(torch.rand(2, 20) < 0.5, 0.1, 0.9)

    def draw(n: int) -> Tensor:
        return torch.bernoulli(truth[torch.randint(2, (n,))]).to(torch.uint8)

    model = BernoulliMixture(DataSpec((20,), 2), ProductMixtureConfig(components=2))
    trained(model, draw(4000), 20)
    x = draw(4000).double()
    log_p = (x @ truth.double().log().T + (1 - x) @ (1 - truth.double()).log().T).logsumexp(1) - math.log(2)
    difference = log_p - model.log_likelihood(x.to(torch.uint8)).lower
    assert abs(float(difference.mean())) < 0.02


def test_small_batches_come_near_the_full_batch() -> None:
    x = blobs(5000)
    config = GaussianMixtureConfig(components=4)
    full = trained(GaussianMixture(PLANE, config), x, 30).model.log_likelihood(x).lower.mean()
    small = trained(GaussianMixture(PLANE, config), x, 200, batch=500).model.log_likelihood(x).lower.mean()
    assert float(small) == pytest.approx(float(full), abs=0.02)


def test_labels_weigh_the_components() -> None:
    torch.manual_seed(0)
    y = torch.arange(600) % 3
    x = torch.randn(600, 2) * 0.2 + torch.stack([y.float(), -y.float()], 1)
    model = GaussianMixture(DataSpec((2,), None, 3), GaussianMixtureConfig(components=3))
    trained(model, x, 20, y)
    assert bool((model.log_weights.exp().max(1).values > 0.95).all())
    right = model.log_likelihood(x, condition=y).lower
    wrong = model.log_likelihood(x, condition=(y + 1) % 3).lower
    assert float((right - wrong).mean()) > 3
    drawn = model.sample(300, seed=0, condition=torch.full((300,), 2))
    assert float((drawn.mean(0) - torch.tensor([2.0, -2.0])).abs().max()) < 0.1


def test_in_painting_follows_the_exact_conditional() -> None:
    """x_2 given x_1 = 1 under two correlated Gaussians: the distribution function at five places, by quadrature of the
    joint density, against 20,000 draws; a binomial error is at most 0.0035, and four are granted."""
    model = GaussianMixture(PLANE, GaussianMixtureConfig(components=2))
    parts = model.components
    assert isinstance(parts, Gaussians)
    parts.loc.copy_(torch.tensor([[0.0, 0.0], [2.0, 1.5]]))
    parts.factor.copy_(torch.tensor([[[1.0, 0.0], [0.8, 0.6]], [[0.7, 0.0], [-0.5, 0.4]]]))
    model.log_weights.copy_(torch.tensor([[0.3, 0.7]]).log())
    grid = torch.linspace(-6, 7, 4001)
    joint = model.log_likelihood(torch.stack([torch.ones_like(grid), grid], 1)).lower.exp()
    cdf = joint.cumsum(0) / joint.sum()
    x = torch.tensor([[1.0, 99.0]]).repeat(20_000, 1)
    drawn = model.sample_given(x, torch.tensor([True, False]), seed=0)
    assert bool((drawn[:, 0] == 1).all())
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        at = grid[int((cdf < share).sum())]
        assert abs(float((drawn[:, 1] <= at).double().mean()) - share) < 0.014
    with pytest.raises(CapabilityError, match="does not denoise"):
        model.sample_given(x[:2], torch.tensor([True, True]), noise=0.1)


@pytest.mark.parametrize("covariance", ["full", "diagonal", "tied", "factors"])
def test_in_painting_by_every_covariance(covariance: str) -> None:
    """x_2 of three dimensions given the others, between them: as above, of a mixture fitted to skewed points."""
    torch.manual_seed(0)
    x = torch.randn(400, 3) @ torch.tensor([[1.0, 0.5, -0.3], [0.0, 0.8, 0.6], [0.0, 0.0, 0.5]])
    x = torch.cat([x, x.flip(1) + 1.5])
    config = GaussianMixtureConfig.parse({"components": 3, "covariance": covariance, "rank": 1}, "test")
    model = GaussianMixture(DataSpec((3,)), config)
    trained(model, x, 10)
    grid = torch.linspace(-8, 8, 4001)
    seen = torch.tensor([0.4, 0.0, 1.1])
    points = seen.repeat(len(grid), 1)
    points[:, 1] = grid
    joint = model.log_likelihood(points).lower.exp()
    cdf = joint.cumsum(0) / joint.sum()
    drawn = model.sample_given(seen.repeat(20_000, 1), torch.tensor([True, False, True]), seed=0)
    assert bool((drawn[:, [0, 2]] == seen[[0, 2]]).all())
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        at = grid[int((cdf < share).sum())]
        assert abs(float((drawn[:, 1] <= at).double().mean()) - share) < 0.014


def test_in_painting_of_codes_follows_enumeration() -> None:
    """p(x_3 given x_1, x_2) of a trained mixture over 3 codes by enumeration, against 20,000 draws."""
    torch.manual_seed(0)
    states = torch.cartesian_prod(*[torch.arange(3)] * 3).to(torch.uint8)
    model = CategoricalMixture(DataSpec((3,), 3), ProductMixtureConfig(components=2))
    trained(model, states[torch.multinomial(torch.rand(27), 300, replacement=True)], 8)
    given = states[(states[:, 0] == 1) & (states[:, 1] == 2)]
    expected = model.log_likelihood(given).lower.softmax(0)
    drawn = model.sample_given(given[:1].repeat(20_000, 1), torch.tensor([True, True, False]), seed=0)
    found = torch.bincount(drawn[:, 2].long(), minlength=3) / len(drawn)
    assert float((found - expected).abs().max()) < 0.014


def test_starts_survive_repeated_and_constant_points() -> None:
    same = torch.ones(50, 2)
    torch.manual_seed(0)
    assert int(cluster(same.double(), 4).max()) <= 3
    model = GaussianMixture(PLANE, GaussianMixtureConfig(components=4))
    trained(model, same, 3)
    assert bool(model.log_likelihood(same).lower.isfinite().all())


def test_training_ends_when_nothing_changes() -> None:
    learner = trained(GaussianMixture(PLANE, GaussianMixtureConfig(components=1)), blobs(200), 3)
    assert learner.converged


@pytest.mark.parametrize(
    ("model", "spec", "message"),
    [
        (GaussianMixture, DataSpec((4,), 2), "gmm takes real data"),
        (BernoulliMixture, DataSpec((4,), 3), "bernoulli_mixture takes binary data"),
        (CategoricalMixture, DataSpec((4,)), "categorical_mixture takes discrete data"),
    ],
)
def test_what_they_cannot_take_is_named(model: type[Mixture], spec: DataSpec, message: str) -> None:
    with pytest.raises(CapabilityError, match=message):
        model(spec)  # type: ignore[call-arg]


def test_free_parameters_are_counted() -> None:
    """Eight Gaussians of the plane: 7 weights, 16 means, 24 covariances; Bernoullis and tables likewise."""
    assert GaussianMixture(PLANE, GaussianMixtureConfig(components=8)).count_parameters() == 47
    assert BernoulliMixture(DataSpec((5,), 2), ProductMixtureConfig(components=3)).count_parameters() == 2 + 15
    assert CategoricalMixture(DataSpec((5,), 4), ProductMixtureConfig(components=3)).count_parameters() == 2 + 45


def test_a_constant_dimension_without_a_ridge() -> None:
    x = torch.cat([blobs(300), torch.full((300, 1), 7.0)], 1)
    config = GaussianMixtureConfig(components=3, covariance="diagonal", ridge=0.0)
    model = GaussianMixture(DataSpec((3,)), config)
    trained(model, x, 5)
    assert bool(model.log_likelihood(x).lower.isfinite().all())
