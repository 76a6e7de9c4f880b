"""Hamiltonian moves: they leave a path's distributions alone, and are tuned before they count."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from genzoo.ais import forward, linear
from genzoo.errors import InputError
from genzoo.hmc import (
    ACCEPTANCE,
    HMC,
    GeometricPath,
    SmoothPoint,
    StepSizes,
    StoredSteps,
    trajectory,
    tune,
)

SCALES = torch.tensor([0.05, 1.0, 4.0], dtype=torch.float64)


def normal(n: int, scale: float | Tensor = 1.0, dims: int = 3) -> Independent:
    loc = torch.zeros(n, dims, dtype=torch.float64)
    return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)


def crooked(z: Tensor) -> Tensor:
    """log of a density in the plane that is no Gaussian: z_1 ~ N(0, 1), z_2 ~ N(z_1^2, 1/4)."""
    return -0.5 * z[..., 0] ** 2 - 2 * (z[..., 1] - z[..., 0] ** 2) ** 2


def crooked_draws(n: int) -> Tensor:
    first = torch.randn(1, n, dtype=torch.float64)
    return torch.stack([first, first**2 + 0.5 * torch.randn_like(first)], -1)


@pytest.mark.parametrize(("step", "leapfrog"), [(0.1, 3), (0.5, 3), (0.9, 2)])
def test_moves_leave_the_target_invariant(step: float, leapfrog: int) -> None:
    """Exact draws, three trajectories, 100,000 chains: moments of a crooked density stay within 3.5 standard errors."""
    torch.manual_seed(0)
    n = 100_000
    path = GeometricPath(normal(n, dims=2), crooked)

    def deviations(draws: Tensor) -> Tensor:
        """Of E z_1^2 = 1, E z_2 = 1, E z_2^2 = 3 + 1/4, E z_1^2 z_2 = 3, in standard errors."""
        a, b = draws[0].T
        moments = torch.stack([a**2 - 1, b - 1, b**2 - 3.25, a**2 * b - 3])
        return (moments.mean(1) / (moments.std(1) / math.sqrt(n))).abs()

    point = path.at(crooked_draws(n))
    start = point
    for _ in range(3):
        point, _ = trajectory(path, point, 1.0, step, leapfrog)
    assert float((point.z - start.z).abs().mean()) > 0.1  # they moved
    assert bool((deviations(point.z) < 3.5).all())
    unadjusted = start.z
    for _ in range(3):  # one leapfrog step each, all accepted
        score = path.at(unadjusted).target_score
        unadjusted = unadjusted + step * torch.randn_like(unadjusted) + 0.5 * step**2 * score
    if step > 0.1:
        assert not bool((deviations(unadjusted) < 3.5).all())


def test_points_hold_values_and_gradients_of_both_ends() -> None:
    torch.manual_seed(0)
    path = GeometricPath(normal(4, SCALES), lambda z: -(z**4).sum(-1))
    point = path.draw(5)
    assert isinstance(point, SmoothPoint)
    z = point.z
    assert z.shape == (5, 4, 3)
    torch.testing.assert_close(point.start_score, -z / SCALES**2)
    torch.testing.assert_close(point.target_score, -4 * z**3)
    torch.testing.assert_close(point.log_prob(0.3), 0.7 * normal(4, SCALES).log_prob(z) - 0.3 * (z**4).sum(-1))
    torch.testing.assert_close(point.score(0.3), -0.7 * z / SCALES**2 - 1.2 * z**3)
    torch.testing.assert_close(point.log_prob(0.0), point.start, atol=0, rtol=0)
    torch.testing.assert_close(point.log_prob(1.0), point.target, atol=0, rtol=0)


def test_a_flat_end_has_no_gradient() -> None:
    path = GeometricPath(normal(2), lambda z: torch.zeros(z.shape[:2]))
    assert float(path.draw(3).target_score.abs().max()) == 0


def test_scale_is_a_change_of_units() -> None:
    """A target stretched by s, moved with scale s, is the unit target moved with scale 1: the same draws, float64."""
    unit = GeometricPath(normal(6), lambda z: -0.5 * (z**2).sum(-1))
    stretched = GeometricPath(normal(6, SCALES), lambda z: -0.5 * ((z / SCALES) ** 2).sum(-1))
    results = []
    for path, scale in ((unit, torch.ones(3).double()), (stretched, SCALES)):
        torch.manual_seed(0)
        point, acceptance = trajectory(path, path.draw(4), 0.5, 1.2, 3, scale)
        results.append((point.z / scale, acceptance))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-12, rtol=1e-9)


def test_tuned_steps_are_accepted_as_often_as_wanted() -> None:
    """A target a fifth as wide as the start: the steps fall along the path, and fresh chains accept 0.65 +- 0.1."""
    torch.manual_seed(0)

    def path(n: int) -> GeometricPath:
        return GeometricPath(normal(n, dims=10), lambda z: -12.5 * (z**2).sum(-1))

    betas = linear(200)
    steps = tune(path(16), betas, 4)
    assert len(steps.sizes) == 20
    assert steps.sizes[0] > 2.5 * steps.sizes[-1]
    fresh = path(500)
    point = fresh.draw(1)
    rates = []
    for beta in betas[1:]:
        point, acceptance = trajectory(fresh, point, beta, steps(beta), 4)
        rates.append(float(acceptance.mean()))
    for band in torch.tensor(rates).view(20, 10).mean(1).tolist():
        assert band == pytest.approx(ACCEPTANCE, abs=0.1)


def test_steps_stay_as_they_are_during_the_estimate() -> None:
    torch.manual_seed(0)
    path = GeometricPath(normal(3), lambda z: -(z**2).sum(-1))
    steps = tune(path, linear(10), 2)
    before = list(steps.sizes)
    forward(path, HMC(path, steps, 2), linear(10), 3)
    assert list(steps.sizes) == before


def test_few_temperatures_have_few_bands() -> None:
    torch.manual_seed(0)
    steps = tune(GeometricPath(normal(3), lambda z: -(z**2).sum(-1)), linear(3), 2, bands=20)
    assert list(steps.edges) == linear(3)[1:]


def test_stored_steps_are_those_that_were_tuned() -> None:
    """Even before they are tuned; afterwards as `tune` finds them, and they travel with the state of a model."""
    stored, path = StoredSteps(4, 0.3), GeometricPath(normal(3), lambda z: -(z**2).sum(-1))
    assert [stored()(beta) for beta in (0.0, 0.5, 1.0)] == [0.3, 0.3, 0.3]
    torch.manual_seed(0)
    stored.tune(path, linear(8), 2, 1.0, chains=2, moves=6)
    torch.manual_seed(0)
    found = tune(path, linear(8), 2, chains=2, bands=4, moves=6)
    assert (list(stored().edges), list(stored().sizes)) == (list(found.edges), list(found.sizes))
    other = StoredSteps(4)
    other.load_state_dict(stored.state_dict())
    assert other() == StepSizes(stored().edges, stored().sizes)


def test_what_leaves_the_finite_numbers_is_rejected() -> None:
    """A target that is NaN beyond 2, and steps that leap there."""
    torch.manual_seed(0)
    path = GeometricPath(normal(500), lambda z: torch.where(z.abs().amax(-1) < 2, -0.5 * (z**2).sum(-1), math.nan))
    point = path.at(torch.zeros(1, 500, 3).double())
    end, acceptance = trajectory(path, point, 1.0, 30.0, 3)
    assert bool((acceptance == 0).any())
    assert bool(end.z.isfinite().all() and end.target.isfinite().all())


def test_step_sizes_by_band() -> None:
    steps = StepSizes([0.1, 0.5, 1.0], [3.0, 2.0, 1.0])
    assert [steps(beta) for beta in (0.05, 0.1, 0.11, 0.5, 0.9, 1.0)] == [3.0, 3.0, 2.0, 2.0, 1.0, 1.0]
    for edges, sizes in (([0.5], [1.0]), ([0.5, 1.0], [1.0]), ([1.0, 0.5], [1.0, 1.0]), ([1.0], [0.0]), ([], [])):
        with pytest.raises(InputError, match="as many sizes as edges"):
            StepSizes(edges, sizes)
    with pytest.raises(InputError, match="at least 1 leapfrog step; got 0"):
        HMC(GeometricPath(normal(1), lambda z: z.sum(-1)), steps, 0)
