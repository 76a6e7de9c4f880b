"""The autoencoder: its likelihood against closed forms of linear networks, what is fitted against its optimum."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from genzoo_autoencoder.autoencoder import Autoencoder, AutoencoderConfig
from genzoo_autoencoder.calibration import fit_noise_and_width
from genzoo_autoencoder.density import CodeDensity
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

import genzoo
from genzoo.baseline import Gaussian
from genzoo.config import TrainSettings
from genzoo.spec import Batch, DataSpec, Split

DIMS, LATENTS = 4, 2


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


def linear_map(network: nn.Module) -> nn.Linear:
    return cast(nn.Linear, cast(nn.Sequential, network)[0])


def linear(components: int = 1, noise: float = 0.5, share: float = 0.0) -> Autoencoder:
    """Linear networks of random weights; a density of random components."""
    torch.manual_seed(0)
    config = AutoencoderConfig(latents=LATENTS, hidden=(), components=components, prior_share=share)
    model = Autoencoder(DataSpec((DIMS,)), config).eval()
    with torch.no_grad():
        for parameter in [*model.encoder.parameters(), *model.decoder.parameters()]:
            parameter.normal_(0, 0.7)
        model.log_noise.fill_(math.log(noise))
        model.density.loc.normal_(0, 1)
        model.density.factor += 0.5 * torch.randn(components, LATENTS, LATENTS, dtype=torch.float64).tril(-1)
        model.density.log_weights.copy_(torch.randn(1, components).log_softmax(1))
    return model


def decoder_of(model: Autoencoder) -> tuple[Tensor, Tensor]:
    """W `(D, d)` and b `(D,)` of a linear decoder, float64."""
    layer = linear_map(model.decoder.net)
    return layer.weight.detach().double(), (layer.bias + model.decoder.bias[0]).detach().double()


def marginal(model: Autoencoder, x: Tensor) -> Tensor:
    """log p(x) of a linear decoder: each component becomes N(W m + b, W C W^T + t^2 I)."""
    weight, bias = decoder_of(model)
    factor, used = weight @ model.density.factor, model.density.used()
    covariance = factor @ factor.mT + (2 * model.log_noise.double()).exp() * torch.eye(DIMS, dtype=torch.float64)
    laws = MultivariateNormal(model.density.loc @ weight.T + bias, covariance)
    return (laws.log_prob(x.double()[:, None]) + model.density.log_weights[0])[:, :used].logsumexp(1)


def make_exact(model: Autoencoder) -> Tensor:
    """Give e the mean of the posterior of a linear decoder under one Gaussian; its covariance `(d, d)`."""
    weight, bias = decoder_of(model)
    precision = (-2 * model.log_noise.double()).exp()
    prior = torch.linalg.inv(model.density.factor[0] @ model.density.factor[0].T)
    covariance = torch.linalg.inv(prior + precision * weight.T @ weight)
    gain = precision * covariance @ weight.T
    encoder = linear_map(model.encoder)
    with torch.no_grad():
        encoder.weight.copy_(gain)
        encoder.bias.copy_(covariance @ prior @ model.density.loc[0] - gain @ bias)
    return covariance


def test_with_the_exact_posterior_every_draw_is_log_p() -> None:
    """Linear and Gaussian: log w is log p(x) whatever is drawn, to float32; a width 1 % off does not have that."""
    model = linear()
    covariance = make_exact(model)
    x = 2 * torch.randn(50, DIMS)
    with torch.no_grad():
        model.width.copy_(torch.linalg.cholesky(covariance))
    for seed in range(3):
        torch.testing.assert_close(model.log_likelihood(x, 1, seed).lower, marginal(model, x), rtol=0, atol=2e-4)
    with torch.no_grad():
        model.width.mul_(1.01)
    assert float((model.log_likelihood(x, 1, 0).lower - marginal(model, x)).abs().max()) > 5e-3


@pytest.mark.parametrize(("components", "share"), [(1, 0.0), (3, 0.0), (3, 0.2)])
def test_the_bound_is_below_log_p_and_tends_to_it(components: int, share: float) -> None:
    """Any encoder, any width: the weights' mean is p(x) within five errors; the gap shrinks with draws."""
    model = linear(components, 1.0, share)
    with torch.no_grad():
        model.density.loc.mul_(0.4)
        make_exact(model)  # the mean under one of the components: near, not exact
        model.width.copy_(torch.tensor([[1.3, 0.0], [-0.2, 1.4]]))
    x = model.sample(40, seed=1)
    log_p = marginal(model, x)
    many = model.log_likelihood(x, 20_000, seed=0)
    assert many.kind == "weights"
    assert many.variance is not None
    error = many.variance.sqrt()
    assert float(error.max()) < 0.2
    assert bool(((many.lower - log_p).abs() < 5 * error).all())
    said = [*(model.log_likelihood(x, k, seed=2) for k in (1, 10)), many]
    gaps = [float((log_p - answer.lower).mean()) for answer in said]
    assert float(many.variance.sum().sqrt()) / len(x) < 0.01 / 4
    assert gaps[0] > gaps[1] > gaps[2]
    assert abs(gaps[2]) < 0.01


@pytest.mark.parametrize("components", [1, 3])
def test_samples_are_of_the_marginal(components: int) -> None:
    """Draws' mean log p is that of the closed form's own draws, minus its entropy: mean and covariance within five
    errors of 20,000 draws."""
    model = linear(components)
    x = model.sample(20_000, seed=0).double()
    weight, bias = decoder_of(model)
    share = model.density.log_weights[0].exp()
    mean = share @ model.density.loc
    spread = (
        model.density.factor @ model.density.factor.mT
        + (model.density.loc - mean)[:, :, None] * (model.density.loc - mean)[:, None, :]
    )
    noise = (2 * model.log_noise.double()).exp() * torch.eye(DIMS, dtype=torch.float64)
    covariance = weight @ (share[:, None, None] * spread).sum(0) @ weight.T + noise
    deviation = covariance.diagonal().sqrt()
    assert bool(((x.mean(0) - (weight @ mean + bias)).abs() < 5 * deviation / math.sqrt(20_000)).all())
    gap = (x.T.cov() - covariance) / (deviation[:, None] * deviation)
    assert float(gap.abs().max()) < 5 * math.sqrt(2 / 20_000)


def test_a_trained_linear_autoencoder_is_nearly_probabilistic_pca() -> None:
    """Tipping and Bishop (1999): the best mean log p of the training data is
    -1/2 (sum of the log of d eigenvalues + (D - d) log of the mean s^2 of the others + D log 2 pi + D).
    Reconstruction finds the plane, the density of codes (one Gaussian) its law, and the noise fitted is s; what is
    missing is that codes have the noise in the plane added twice."""
    torch.manual_seed(0)
    mixing = torch.tensor([[1.0, 0.5], [0.8, -0.6], [0.2, 1.0], [-0.7, 0.3]])
    x = torch.randn(4000, LATENTS) @ mixing.T + 0.2 * torch.randn(4000, DIMS)
    values = torch.linalg.eigvalsh((x - x.mean(0)).double().T @ (x - x.mean(0)).double() / len(x)).flip(0)
    rest = values[LATENTS:].mean()
    best = -0.5 * float(values[:LATENTS].log().sum() + LATENTS * rest.log() + DIMS * (math.log(2 * math.pi) + 1))
    model = Autoencoder(DataSpec((DIMS,)), AutoencoderConfig(latents=LATENTS, hidden=(), components=1))
    learner = model.learner(TrainSettings(learning_rate=0.02, ema=0.9))
    learner.start(Points(x))
    for step in range(400):
        learner.step(Batch(x[torch.randint(len(x), (100,))], None), step / 400)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learner.finish(Points(x), Points(x))
    trained = learner.evaluated()
    assert isinstance(trained, Autoencoder)
    reached = float(marginal(trained, x).mean())
    assert best - 0.05 < reached <= best + 1e-6
    assert float(trained.log_noise.exp()) == pytest.approx(float(rest.sqrt()), rel=0.1)
    bound = trained.log_likelihood(x[:500], 200, seed=0).lower
    gap = float((marginal(trained, x[:500]) - bound).mean())
    assert -0.005 < gap < 0.01


def test_the_width_is_fitted_to_the_posterior() -> None:
    """Around the posterior's mean the best q is the posterior, whatever the number of draws; t stays where it is best
    for data of the model itself."""
    model = linear(noise=0.5)
    covariance = make_exact(model)
    x = model.sample(2000, seed=3)
    torch.manual_seed(1)
    with torch.no_grad():
        fit_noise_and_width(model, Batch(x, None), model.encode(x, None))
    found = model.width.double() @ model.width.double().T
    assert float((found - covariance).norm() / covariance.norm()) < 0.25
    assert float(model.log_noise.exp()) == pytest.approx(0.5, rel=0.1)


def test_the_noise_of_codes_is_a_temperature() -> None:
    """A decoder that does not look at z and is five times too sure of pixels that are on three times in ten: t = 5."""
    torch.manual_seed(0)
    model = Autoencoder(DataSpec((6,), 2), AutoencoderConfig(latents=1, hidden=())).eval()
    x = torch.bernoulli(torch.full((1000, 6), 0.3)).to(torch.uint8)
    logit = (x.float().mean()).logit()
    with torch.no_grad():
        linear_map(model.decoder.net).weight.zero_()
        linear_map(model.decoder.net).bias.zero_()
        model.decoder.bias.fill_(5 * float(logit))
        fit_noise_and_width(model, Batch(x, None), model.encode(x, None))
    assert float(model.log_noise.exp()) == pytest.approx(5.0, rel=0.1)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_proposal_is_normalised_and_has_the_moments_it_states(share: float) -> None:
    """Summed over a grid of 0.05 in the plane of codes; 20,000 draws, five errors; a ratio of at most 1 / share."""
    model = linear(3, share=share)
    q = model.proposal(torch.randn(2, DIMS), None)
    with torch.no_grad():
        line = torch.arange(-10, 10, 0.05, dtype=torch.float64)
        grid = torch.cartesian_prod(line, line)[:, None].expand(-1, 2, -1)
        torch.testing.assert_close(q.log_prob(grid).exp().sum(0) * 0.05**2, torch.ones(2).double(), atol=1e-3, rtol=0)
        torch.manual_seed(0)
        z = q.sample(torch.Size((20_000,)))
        assert bool(((z.mean(0) - q.mean).abs() < 5 * q.stddev / math.sqrt(20_000)).all())
        torch.testing.assert_close(z.std(0), q.stddev, rtol=0.03, atol=0)
        torch.testing.assert_close(q.log_ratio(z), model.density.log_prob(z, None) - q.log_prob(z))
        if share:
            assert float(q.log_ratio(grid).max()) <= -math.log(share) + 1e-9


def test_the_loss_is_reconstruction_alone() -> None:
    """|x - g(e(x))|^2 / 2 and a constant, whatever noise and width have been fitted."""
    model = linear(noise=0.1)
    x = torch.randn(7, DIMS)
    weight, bias = decoder_of(model)
    code = model.encode(x, None).detach().double()
    expected = 0.5 * (x - code @ weight.T - bias).square().sum(1) + 0.5 * DIMS * math.log(2 * math.pi)
    torch.testing.assert_close(model.loss(x).detach(), expected, rtol=1e-5, atol=1e-5)
    assert not model.loss_in_nats


def test_one_gaussian_of_codes_is_their_moments() -> None:
    torch.manual_seed(0)
    z = torch.randn(500, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64) + 1
    density = CodeDensity(3, 1, 1)
    density.fit(z, None, z, None)
    law = MultivariateNormal(z.mean(0), (z - z.mean(0)).T @ (z - z.mean(0)) / len(z))
    torch.testing.assert_close(density.log_prob(z, None), law.log_prob(z), rtol=1e-4, atol=1e-4)
    assert density.count() == 3 + 6


def test_the_number_of_components_is_chosen_on_held_out_codes() -> None:
    """One Gaussian where codes are Gaussian; four where they lie in four heaps, and then within 0.05 nats of the
    truth."""
    torch.manual_seed(0)
    heaps = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0], [6.0, 6.0]])
    density = CodeDensity(2, 4, 1)
    density.fit(torch.randn(400, 2), None, torch.randn(400, 2), None)
    assert density.used() == 1
    z, held = (heaps[torch.randint(4, (2000,))] + torch.randn(2000, 2) for _ in range(2))
    density.fit(z, None, held, None)
    assert density.used() == 4
    assert density.count() == 3 + 4 * (2 + 3)
    truth = Normal(heaps, 1.0).log_prob(held[:, None]).sum(2).logsumexp(1) - math.log(4)
    assert float((truth - density.log_prob(held, None)).mean()) < 0.05
    drawn = density.draw(8000, None)
    nearest = torch.cdist(drawn, heaps.double()).argmin(1)
    assert bool(((torch.bincount(nearest, minlength=4) / 8000 - 0.25).abs() < 0.03).all())


def test_labels_have_weights_of_their_own() -> None:
    torch.manual_seed(0)
    y = torch.randint(2, (2000,))
    z = 6.0 * (y[:, None] == 1) + torch.randn(2000, 2)
    density = CodeDensity(2, 4, 2)
    assert density.count() == 2 * 3 + 4 * (2 + 3)
    density.fit(z, y, z, y)
    truth = Normal(6.0 * (y[:, None] == 1), 1.0).log_prob(z).sum(1)
    assert abs(float((truth - density.log_prob(z, y)).mean())) < 0.03
    assert float((truth - density.log_prob(z, 1 - y)).mean()) > 5
    assert float(density.draw(500, torch.ones(500, dtype=torch.int64)).mean()) == pytest.approx(6.0, abs=0.3)


@pytest.mark.parametrize(
    "spec",
    [
        DataSpec((7,)),
        DataSpec((1,)),
        DataSpec((1, 4, 4)),
        DataSpec((1, 4, 4), 2),
        DataSpec((3, 3, 4), 256),
        DataSpec((5,), 3, 2),
    ],
)
def test_vectors_images_codes_and_labels(spec: DataSpec) -> None:
    torch.manual_seed(0)
    model = Autoencoder(spec, AutoencoderConfig(hidden=(16,), components=4))
    shape = (64, *spec.event_shape)
    x = torch.randn(shape) if spec.levels is None else torch.randint(spec.levels, shape).to(spec.dtype)
    y = None if spec.classes is None else torch.arange(64) % 2
    learner = model.learner(TrainSettings())
    learner.start(Points(x, y))
    learner.step(Batch(x, y), 0.1)
    learner.finish(Points(x, y), Points(x, y))
    trained = learner.evaluated()
    assert bool(trained.log_likelihood(x, 3, 0, y).lower.isfinite().all())
    assert trained.sample(64, 0, y).shape == x.shape
    frames = trained.traces(x, 3, 0)
    assert (frames["reconstructions"].shape == (3, 2, *spec.event_shape)) if y is None else not frames


def test_moons_are_learned_better_than_by_one_gaussian() -> None:
    """A thousand steps of small networks, with one code a point: significantly, whatever the bound leaves out."""
    data = genzoo.load_dataset("moons")
    model = genzoo.build_model("autoencoder", data.spec, seed=0, hidden=(32, 32), components=16)
    genzoo.fit(model, data, budget="1000steps", seed=0)
    x = data.test.batch(torch.arange(1000), torch.Generator()).x
    gaussian = Gaussian(data.spec)
    gaussian.fit(data.train.batch(torch.arange(20_000), torch.Generator()).x, None)
    gain = model.log_likelihood(x, 100, seed=0).lower - gaussian.log_likelihood(x).lower
    assert float(gain.mean()) > 4 * float(gain.std()) / math.sqrt(1000)
