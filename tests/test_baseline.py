"""The Gaussian baseline against torch's multivariate normal, to 1e-10: both are float64, a few hundred operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from genzoo import DataSpec
from genzoo.baseline import Gaussian, GaussianConfig
from genzoo.data.splits import TensorSplit
from genzoo.errors import CapabilityError
from genzoo.spec import Batch

SPEC = DataSpec((1, 2, 2))
RIDGE = 1e-6


def points(n: int = 400) -> Tensor:
    torch.manual_seed(0)
    return (torch.randn(n, 4) @ torch.randn(4, 4) + 2).view(n, 1, 2, 2)


def trained(spec: DataSpec, split: TensorSplit, ridge: float = RIDGE) -> Gaussian:
    model = Gaussian(spec, GaussianConfig(ridge=ridge))
    learner = model.learner(model.default_training())
    learner.start(split)
    return learner.evaluated()


def oracle(x: Tensor, ridge: float = RIDGE) -> MultivariateNormal:
    flat = x.flatten(1).double()
    covariance = torch.cov(flat.T, correction=0)
    return MultivariateNormal(flat.mean(0), covariance + ridge * covariance.diagonal().mean() * torch.eye(4))


def test_log_likelihood_against_torch() -> None:
    x = points()
    said = trained(SPEC, TensorSplit(x)).log_likelihood(x)
    expected = oracle(x).log_prob(x.flatten(1).double())

    def agrees(value: Tensor) -> bool:
        return torch.allclose(said.lower, value, rtol=1e-10, atol=1e-10)

    assert agrees(expected)
    assert not agrees(1.01 * expected)
    assert said.kind == "exact"
    assert said.variance is not None
    assert not said.variance.any()


def test_samples_have_its_moments() -> None:
    """Means and covariances of 40,000 samples, whitened by the true law, lie within five standard errors of 0 and 1
    (deviation 1/sqrt(n) off the diagonal, sqrt(2/n) on it); a scale 5 % off does not."""
    x = points()
    law = oracle(x)
    drawn = trained(SPEC, TensorSplit(x)).sample(40_000, seed=1).flatten(1).double()

    def fits(samples: Tensor) -> bool:
        white = torch.linalg.solve_triangular(law.scale_tril, (samples - law.loc).T, upper=False)
        moments = torch.cat([white.mean(1), (white @ white.T / 40_000 - torch.eye(4)).flatten()])
        return bool((moments.abs() < 5 * (2 / 40_000) ** 0.5).all())

    assert fits(drawn)
    assert not fits(law.loc + 1.05 * (drawn - law.loc))


def test_one_gaussian_a_class() -> None:
    x = points()
    y = torch.arange(400) % 2
    x[y == 1] = 3 * x[y == 1] - 1
    model = trained(DataSpec((1, 2, 2), classes=2), TensorSplit(x, y), ridge=0.0)
    said = model.log_likelihood(x, condition=y).lower
    for label in (0, 1):
        expected = oracle(x[y == label], ridge=0.0).log_prob(x[y == label].flatten(1).double())
        torch.testing.assert_close(said[y == label], expected, rtol=1e-10, atol=1e-10)
    shifted = model.sample(2000, seed=0, condition=torch.ones(2000, dtype=torch.int64)).mean()
    assert float(shifted) == pytest.approx(float(x[y == 1].mean()), abs=0.5)


def test_learner() -> None:
    x = points()
    model = Gaussian(SPEC)
    learner = model.learner(model.default_training())
    learner.start(TensorSplit(x))
    metrics = learner.step(Batch(x, None), 0.0)
    assert learner.converged
    assert float(metrics["loss"]) == pytest.approx(-float(model.log_likelihood(x).lower.mean()))
    other = Gaussian(SPEC)
    restored = other.learner(other.default_training())
    restored.load_state_dict(learner.state_dict())
    assert torch.equal(other.log_likelihood(x).lower, model.log_likelihood(x).lower)


def test_a_constant_dimension_is_held_by_the_ridge() -> None:
    x = points()
    x[:, 0, 0, 0] = 1.0
    assert trained(SPEC, TensorSplit(x)).log_likelihood(x).lower.isfinite().all()


def test_discrete_data_is_refused() -> None:
    with pytest.raises(CapabilityError, match="dequantization=uniform"):
        Gaussian(DataSpec((4,), levels=4))
