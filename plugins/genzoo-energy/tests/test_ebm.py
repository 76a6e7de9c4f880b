"""The energy-based model of the plane: its mass by another rule, its objectives against closed forms, its samples."""

from __future__ import annotations

import math

import pytest
import torch
from genzoo_energy.ebm import EBM
from genzoo_energy.field import EBMConfig
from genzoo_energy.plane import PlaneField
from torch import Tensor

from genzoo.config import TrainSettings
from genzoo.errors import NumericsError
from genzoo.spec import Batch, DataSpec

PLANE = DataSpec((2,))


def plane(model: EBM) -> PlaneField:
    assert isinstance(model.field, PlaneField)
    return model.field


def stirred(strength: float = 0.2, **options: object) -> EBM:
    """A field with structure, and its Z."""
    torch.manual_seed(0)
    model = EBM(PLANE, EBMConfig.parse({"width": 16, "blocks": 1, **options}, "test")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(strength * torch.randn_like(parameter))
        model._calibrate(None, None)  # type: ignore[arg-type]
    return model


def test_the_density_integrates_to_one_by_another_rule() -> None:
    """Trapezoid nodes at a pitch of 0.02, not the model's midpoints; the bar is the mass left out, below 1e-5."""
    line = torch.arange(-9.0, 9.01, 0.02)
    nodes = torch.cartesian_prod(line, line)
    p = stirred().log_likelihood(nodes).lower.exp()
    assert float(p.sum()) * 0.02**2 == pytest.approx(1.0, abs=1e-5)


def test_a_field_that_reaches_beyond_its_grid_is_refused() -> None:
    with pytest.raises(NumericsError, match="the outermost cells of the grid hold"):
        stirred(1.0, objective="score")


def test_the_terms_are_those_of_the_field() -> None:
    model = stirred()
    said = model.log_likelihood(torch.randn(5, 2))
    torch.testing.assert_close(sum(said.terms.values()), said.lower)
    assert set(said.terms) == {"energy", "base", "log_z"}


def test_samples_follow_the_density() -> None:
    """Counts over an 8 x 8 lattice against masses by quadrature: chi-square over the cells with 5 expected or more; its
    1e-6 quantile for 64 degrees is 127. A field without its tilt, the Gaussian alone, fails."""
    model = stirred()
    fine = torch.linspace(-6, 6, 641)[:-1] + 12 / 1280
    nodes = torch.cartesian_prod(fine, fine)
    p = model.log_likelihood(nodes).lower.exp() * (12 / 640) ** 2

    def lattice(x: Tensor) -> Tensor:
        place = ((x + 6) / 1.5).floor().clamp(0, 7).long()
        return place[:, 0] * 8 + place[:, 1]

    def distance(x: Tensor) -> float:
        mass = torch.zeros(64, dtype=torch.float64).index_add(0, lattice(nodes), p)
        mass = mass / mass.sum()
        counts = torch.bincount(lattice(x[(x.abs() < 6).all(1)]), minlength=64).double()
        expected = counts.sum() * mass
        usable = expected >= 5
        return float(((counts - expected).square() / expected)[usable].sum())

    assert distance(model.sample(20_000, seed=0)) < 127
    torch.manual_seed(0)
    assert distance(plane(model)._base(20_000)) > 127


def test_the_training_mass_is_that_of_the_fine_grid() -> None:
    """At 64 nodes a side a smooth field's Z is right to 1e-3, wherever the jitter puts them."""
    model = stirred()
    with torch.no_grad():
        found = torch.stack([plane(model)._train_log_z(None, 1) for _ in range(20)])
    assert float((found - plane(model).log_z[0]).abs().max()) < 1e-3


def test_sliced_score_matching_is_unbiased_for_its_closed_form() -> None:
    """On g = 0, log f is that of N(0, s^2 I): v.H v + (v.x)^2 / 2 s^4 has mean -2 / s^2 + |x|^2 / 2 s^4 over v."""
    model = EBM(PLANE, EBMConfig(objective="score", scale=1.5, width=8, blocks=1))
    x = torch.tensor([[1.0, -2.0]]).repeat(10_000, 1)
    torch.manual_seed(0)
    loss = model.loss(x).detach()
    expected = -2 / 1.5**2 + 5 / (2 * 1.5**4)
    assert float(loss.mean()) == pytest.approx(expected, abs=4 * float(loss.std()) / 100)


def test_nce_at_the_truth_is_two_logarithms_of_two() -> None:
    """Data from the Gaussian itself: g = 0 is the optimum, where the loss is 2 log 2; its gradient there is zero in the
    mean, so training does not leave it by more than noise."""
    model = EBM(PLANE, EBMConfig(objective="nce"))
    assert float(model.loss(torch.randn(100, 2)).mean().detach()) == pytest.approx(2 * math.log(2), abs=1e-6)


def test_langevin_chains_keep_the_gaussian() -> None:
    """g = 0: after 100 small steps from N(0, s^2 I) the variance is still s^2 but for the discretisation, of order
    size^2 / 4 s^2, and the binomial error of 4,000 chains, 2.2 %."""
    model = EBM(PLANE, EBMConfig(objective="pcd", langevin_steps=100, langevin_size=0.2, scale=1.0, width=8, blocks=1))
    torch.manual_seed(0)
    x = plane(model)._langevin(torch.randn(4000, 2), None)
    assert float(x.var()) == pytest.approx(1.0, abs=0.07)


@pytest.mark.parametrize("objective", ["likelihood", "nce", "score", "pcd"])
def test_every_objective_learns_two_clusters(objective: str) -> None:
    """Two Gaussians at (-1, 0) and (1, 0), deviation 0.4: the KL to the truth, over 0.3 nats at the start (the Gaussian
    of scale 1), falls below 0.12 in 300 steps."""
    torch.manual_seed(0)
    centres = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])

    def draw(n: int) -> Tensor:
        return centres[torch.randint(2, (n,))] + 0.4 * torch.randn(n, 2)

    def log_p(x: Tensor) -> Tensor:
        squares = (x[:, None] - centres).square().sum(2).double()
        return (-squares / (2 * 0.16)).logsumexp(1) - math.log(2 * 2 * math.pi * 0.16)

    config = {"objective": objective, "width": 32, "blocks": 1, "scale": 1.0, "grid": 200, "train_grid": 32}
    model = EBM(PLANE, EBMConfig.parse({**config, "langevin_size": 0.1, "chains": 512}, "test"))
    learner = model.learner(TrainSettings(learning_rate=5e-3, batch_size=256, ema=0.9))
    with torch.no_grad():
        model._initialise(None)  # type: ignore[arg-type]
    for step in range(300):
        learner.step(Batch(draw(256), None), step / 300)
    learner.finish(None, None)  # type: ignore[arg-type]
    trained = learner.evaluated()
    x = draw(4000)
    kl = float((log_p(x) - trained.log_likelihood(x).lower).mean())
    assert -0.02 < kl < 0.12
    start = EBM(PLANE, EBMConfig(scale=1.0)).log_likelihood(x).lower
    assert float((log_p(x) - start).mean()) > 0.3


def test_labels_have_fields_of_their_own() -> None:
    torch.manual_seed(0)
    model = EBM(DataSpec((2,), None, 2), EBMConfig(width=16, blocks=1, grid=200)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        model._calibrate(None, None)  # type: ignore[arg-type]
    line = torch.arange(-8.0, 8.01, 0.05)
    nodes = torch.cartesian_prod(line, line)
    for k in (0, 1):
        p = model.log_likelihood(nodes, condition=torch.full((len(nodes),), k)).lower.exp()
        assert float(p.sum()) * 0.05**2 == pytest.approx(1.0, abs=1e-4)
    assert float((plane(model).log_z[0] - plane(model).log_z[1]).abs()) > 1e-3
    assert model.sample(7, seed=0, condition=torch.arange(7) % 2).shape == (7, 2)
    assert model.loss(torch.randn(4, 2), condition=torch.tensor([0, 1, 1, 0])).shape == (4,)


def test_chains_keep_their_label() -> None:
    """N((+-1, 0), 0.5^2) by the sign: pcd comes within 0.25 nats of the entropy given the label, where chains that were
    run under any label drifted away (2.4 nats after as many steps, 8 after three times as many)."""
    torch.manual_seed(0)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        y = torch.randint(2, (n,))
        return torch.stack([2.0 * y - 1, torch.zeros(n)], 1) + 0.5 * torch.randn(n, 2), y

    config = {"objective": "pcd", "width": 32, "blocks": 1, "grid": 200, "chains": 500, "langevin_size": 0.1}
    model = EBM(DataSpec((2,), None, 2), EBMConfig.parse(config, "test"))
    learner = model.learner(TrainSettings(learning_rate=3e-3, batch_size=256, ema=0.9))
    with torch.no_grad():
        model._initialise(None)  # type: ignore[arg-type]
    for step in range(400):
        x, y = draw(256)
        learner.step(Batch(x, y), step / 400)
    learner.finish(None, None)  # type: ignore[arg-type]
    x, y = draw(2000)
    nll = -float(learner.evaluated().log_likelihood(x, condition=y).lower.mean())
    assert nll < math.log(2 * math.pi * math.e * 0.25) + 0.25


def test_eight_gaussians_are_told_apart() -> None:
    """Maximum likelihood leaves the ring behind, whose KL is 0.43, within 150 steps."""
    from genzoo import build_model, evaluate, fit, load_dataset

    data = load_dataset("8gaussians[points=20000]")
    model = build_model("ebm", data.spec, seed=0, width=64, blocks=2)
    fit(model, data, budget="150steps", seed=0)
    kl = evaluate(model, data, points=1000).kl
    assert kl is not None
    assert -0.01 < kl < 0.15
