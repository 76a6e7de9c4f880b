"""GANs: the likelihood against quadrature and closed forms, the games against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from genzoo_gan.adversarial import AdversarialLearner
from genzoo_gan.cells import SIDE, CellLaw, Cells, midpoints
from genzoo_gan.gan import GAN, WGAN, GANConfig
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.spec import Batch, DataSpec, Split

PLANE = DataSpec((2,))
SMALL = GANConfig(width=16)


class Points(Split):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        return Batch(self.x[indices], None)

    @property
    def fingerprint(self) -> str:
        return "points"


class Identity(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z


def stirred(noise: float = 0.3, latents: int = 2) -> GAN:
    torch.manual_seed(0)
    model = GAN(PLANE, GANConfig(width=16, latents=latents)).eval()
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter.mul_(2.0)
        model.log_noise.fill_(math.log(noise))
    return model


def truth(model: GAN, x: Tensor) -> Tensor:
    """log p(x) by the midpoint rule over z in [-5, 5]^d at a pitch of 1/20, float64."""
    line = torch.linspace(-5, 5, 201)[:-1] + 0.025
    z = torch.cartesian_prod(*[line] * model.latents).view(-1, model.latents)
    with torch.no_grad():
        log_joint = model.log_joint(x, z[:, None].expand(-1, len(x), -1), None)
    return log_joint.logsumexp(0) + model.latents * math.log(0.05)


@pytest.mark.parametrize("latents", [1, 2])
def test_the_bound_is_below_the_truth_and_unbiased_in_its_weights(latents: int) -> None:
    """From the prior, and from cells: E exp(lower) = p(x), within four errors of 400 repeats; the mean bound is below
    the truth and tightens with draws."""
    model = stirred(latents=latents)
    x = model.sample(20, seed=1)
    log_p = truth(model, x)
    said = model.log_likelihood(x.repeat(400, 1), 20, seed=0).lower.view(400, 20)
    ratio = (said - log_p).exp().mean(1)  # of 400 repeats
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / 20
    few, many = (
        float((model.log_likelihood(x.repeat(50, 1), k, seed=2).lower.view(50, 20).mean(0) - log_p).mean())
        for k in (5, 100)
    )
    assert few < many < 0.01


def test_draws_from_cells_are_worth_half_as_many_from_the_posterior() -> None:
    """G(z) = z, s = 0.1, so x is N(0, 1.01 I). 100 draws: more than 50 effective ones, and so a mean bound within 0.02
    nats of the truth and four of its errors, where as many from the prior lie a nat below."""
    model = GAN(PLANE, SMALL)
    model.generator = Identity()
    model.log_noise.fill_(math.log(0.1))
    x = model.sample(50, seed=1)
    answer = model.log_likelihood(x, 100, seed=0)
    assert float(answer.arrays["effective_sample_size"].mean()) > 50
    log_p = Independent(Normal(torch.zeros(2), math.sqrt(1.01)), 1).log_prob(x)
    assert answer.variance is not None
    error = float(answer.variance.sum().sqrt()) / 50
    assert error < 0.03
    assert -0.02 - 4 * error < float((answer.lower - log_p).mean()) < 4 * error
    torch.manual_seed(0)
    log_w = Independent(Normal(torch.randn(100, 50, 2), 0.1), 1).log_prob(x)
    assert float((log_w.logsumexp(0) - math.log(100) - log_p).mean()) < -1


def test_draws_from_even_cells_are_the_prior() -> None:
    """Equal shares: the density of the prior, and z standard normal: moments within four errors of 64,000 numbers."""
    torch.manual_seed(0)
    law = CellLaw(torch.full((8, SIDE**2), 1 / SIDE**2, dtype=torch.float64))
    z = law.sample(torch.Size((4000,)))
    prior = Independent(Normal(torch.zeros(2).double(), 1.0), 1).log_prob(z)
    torch.testing.assert_close(law.log_prob(z), prior, atol=1e-12, rtol=0)
    assert z.shape == (4000, 8, 2)
    assert abs(float(z.mean())) < 4 / 253
    assert abs(float(z.square().mean()) - 1) < 4 * math.sqrt(2) / 253
    assert abs(float(z.pow(4).mean()) - 3) < 4 * math.sqrt(96) / 253
    assert abs(float((z[..., 0] * z[..., 1]).mean())) < 4 / 179


def test_the_law_of_cells_is_normalised_and_draws_from_its_density() -> None:
    """Uneven shares: the importance weights prior / q of its own draws have mean 1, and its draws its mean."""
    torch.manual_seed(0)
    share = (3 * torch.randn(2, SIDE**2, dtype=torch.float64)).softmax(1) * 0.9 + 0.1 / SIDE**2
    law = CellLaw(share)
    z = law.sample(torch.Size((40_000,)))
    ratio = (Independent(Normal(torch.zeros(2).double(), 1.0), 1).log_prob(z) - law.log_prob(z)).exp()
    assert bool(((ratio.mean(0) - 1).abs() < 4 * ratio.std(0) / 200).all())
    assert float(ratio.max()) <= 10.01
    assert bool(((z.mean(0) - law.mean).abs() < 4 * law.stddev / 200 + 0.02).all())


def test_the_cells_of_a_label_are_those_of_its_generator() -> None:
    """Squares against the plain difference, label by label; shares sum to one and none is below the prior's part."""
    torch.manual_seed(0)
    model = GAN(DataSpec((2,), None, 3), SMALL)
    x, y = torch.randn(7, 2), torch.tensor([2, 0, 2, 2, 0, 0, 2])
    z = midpoints(x.device)
    with torch.no_grad():
        cells = Cells(model.generate, z, y)
        plain = torch.stack(
            [(a - model.generate(z, b.expand(len(z)))).square().sum(1) for a, b in zip(x, y, strict=True)]
        )
    torch.testing.assert_close(cells.squares(x, y), plain.double(), atol=1e-5, rtol=1e-5)
    share = cells.shares(x, y, torch.tensor(0.1).log())
    torch.testing.assert_close(share.sum(1), torch.ones(7, dtype=torch.float64))
    assert float(share.min()) >= 0.1 / SIDE**2


def test_annealing_stays_below_the_truth() -> None:
    """With four chains the mean bound is at most three errors above the truth, and 0.3 nats below it."""
    model = stirred()
    x = model.sample(20, seed=1)
    log_p = truth(model, x)
    annealed = model.estimators()["ais"]()
    annealed.start(Points(x), 0)
    gap = annealed.log_likelihood(x, 4, seed=0).lower - log_p
    assert -0.3 < float(gap.mean()) < 3 * float(gap.std()) / math.sqrt(20)


def test_samples_and_their_latents_come_together() -> None:
    """x - G(z) is the noise: its standard deviation is s, to 3 % at 8,000 numbers (binomial error 0.8 %)."""
    model = stirred(0.5)
    torch.manual_seed(0)
    with torch.no_grad():
        x, z = model.sample_joint(4000, None)
        noise = x - model.generate(z, None)
    assert float(noise.std()) == pytest.approx(0.5, rel=0.03)
    assert float(z.std()) == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize("s", [0.2, 0.4, 0.9])
def test_the_noise_is_fitted_to_the_data(s: float) -> None:
    """G(z) = z and x from N(0, (1 + s^2) I): the likelihood is best at s^2 = mean x^2 - 1 in closed form. The values
    tried lie 3 % apart; what 200 draws leave of sampling error is allowed for by another 5 %."""
    model = GAN(PLANE, SMALL)
    model.generator = Identity()
    torch.manual_seed(0)
    x = torch.randn(500, 2)
    x = x / x.square().mean().sqrt() * math.sqrt(1 + s * s)
    with torch.no_grad():
        model.fit_noise(x, None)
    assert float(model.log_noise.exp()) == pytest.approx(s, rel=0.08)


def test_the_noise_is_fitted_by_draws_of_the_prior_outside_the_plane() -> None:
    """As above on a line, where 200 draws of the prior are many."""
    model = GAN(DataSpec((1,)), GANConfig(width=16, latents=1))
    model.generator = Identity()
    torch.manual_seed(0)
    x = torch.randn(500, 1)
    x = x / x.square().mean().sqrt() * math.sqrt(2.0)
    with torch.no_grad():
        model.fit_noise(x, None)
    assert float(model.log_noise.exp()) == pytest.approx(1.0, rel=0.08)


def test_the_gradient_penalty_is_that_of_a_linear_critic() -> None:
    """D(x) = w.x: the slope is w everywhere, so the loss is w.(fake - x) in the mean plus 0.1 (|w| - 1)^2."""
    model = WGAN(PLANE, SMALL)
    linear = nn.Linear(2, 1, bias=False)
    model.critic = linear
    learner = AdversarialLearner(model, TrainSettings())
    torch.manual_seed(0)
    x, fake = torch.randn(50, 2), torch.randn(50, 2)
    w = linear.weight[0]
    expected = ((fake - x) @ w).mean() + 0.1 * (w.norm() - 1).square()
    torch.testing.assert_close(learner._critic_loss(x, fake, None), expected)


def test_the_best_critic_of_equal_laws_is_undecided() -> None:
    """D = 1/2: the discriminator's loss is 2 log 2."""
    model = GAN(PLANE, SMALL)
    linear = nn.Linear(2, 1)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    model.critic = linear
    learner = AdversarialLearner(model, TrainSettings())
    loss = learner._critic_loss(torch.randn(9, 2), torch.randn(9, 2), None)
    assert float(loss.detach()) == pytest.approx(2 * math.log(2), abs=1e-6)


@pytest.mark.parametrize("game", [GAN, WGAN])
def test_training_moves_samples_to_the_data(game: type[GAN]) -> None:
    """A Gaussian at (2, -1) of scale 0.5: after 1000 steps the mean is within 0.4 of it, from over 2, and the bound
    beats that of the start by more than a nat."""
    torch.manual_seed(0)
    where = torch.tensor([2.0, -1.0])
    x = where + 0.5 * torch.randn(2000, 2)
    model = game(PLANE, GANConfig(width=32))
    learner = AdversarialLearner(model, TrainSettings(betas=(0.5, 0.9), ema=0.99))
    before = float(model.log_likelihood(x[:200], 200, seed=0).lower.mean())
    assert float((model.sample(500, seed=0).mean(0) - where).norm()) > 2
    for step in range(1000):
        learner.step(Batch(x[torch.randint(len(x), (128,))], None), step / 1000)
    learner.finish(Points(x), Points(x[:500]))
    trained = learner.evaluated()
    assert float((trained.sample(500, seed=0).mean(0) - where).norm()) < 0.4
    assert float(trained.log_likelihood(x[:200], 200, seed=0).lower.mean()) > before + 1


@pytest.mark.parametrize(
    "spec", [DataSpec((1, 8, 8)), DataSpec((3, 5, 6)), DataSpec((7,)), DataSpec((1, 4, 4), None, 3)]
)
def test_images_vectors_and_labels(spec: DataSpec) -> None:
    model = WGAN(spec, GANConfig(width=8, latents=4))
    y = None if spec.classes is None else torch.arange(5) % 3
    x = torch.randn(5, *spec.event_shape)
    assert model.sample(5, seed=0, condition=y).shape == x.shape
    assert bool(model.log_likelihood(x, 7, seed=0, condition=y).lower.isfinite().all())
    learner = AdversarialLearner(model, TrainSettings())
    assert bool(learner.step(Batch(x, y), 0.1)["loss"].isfinite())
    if y is not None:
        one = model.log_likelihood(x, 7, seed=0, condition=y).lower
        assert not torch.equal(one, model.log_likelihood(x, 7, seed=0, condition=(y + 1) % 3).lower)


def test_codes_are_refused() -> None:
    with pytest.raises(CapabilityError, match="gan takes real data"):
        GAN(DataSpec((2,), 2))
