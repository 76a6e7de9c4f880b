"""The vae as a zoo model: shapes, losses, estimators, conditions, and no posterior collapse."""

from __future__ import annotations

import math

import pytest
import torch
from genzoo_vae.prior import GaussianMixture, StandardNormal
from genzoo_vae.vae import ELBO, VAE, VAEConfig
from torch import Tensor

from genzoo.config import Config
from genzoo.data.splits import TensorSplit
from genzoo.data.toy.catalogue import DENSITIES
from genzoo.errors import CapabilityError, ConfigError, InputError
from genzoo.nn import MLP
from genzoo.spec import Batch, DataSpec

SPECS = {
    "plane": DataSpec((2,)),
    "real image": DataSpec((1, 8, 8)),
    "digits": DataSpec((1, 8, 8), 17),
    "colour": DataSpec((3, 8, 8), 256),
    "colour given labels": DataSpec((3, 8, 8), 256, classes=4),
    "binary": DataSpec((1, 28, 28), 2),
    "mnist given labels": DataSpec((1, 28, 28), 256, classes=10),
    "line": DataSpec((1,)),
}


def batch_of(spec: DataSpec, n: int) -> Batch:
    torch.manual_seed(0)
    shape = (n, *spec.event_shape)
    x = torch.randn(shape) if spec.levels is None else torch.randint(0, spec.levels, shape, dtype=torch.uint8)
    return Batch(x, None if spec.classes is None else torch.arange(n) % spec.classes)


@pytest.mark.parametrize("name", SPECS)
def test_trains_answers_and_samples_on_every_kind_of_data(name: str) -> None:
    spec = SPECS[name]
    x, y = batch_of(spec, 12)
    model = VAE(spec, VAEConfig(hidden=(32, 24)))
    learner = model.learner(model.default_training())
    learner.start(TensorSplit(x, y))
    for step in range(3):
        assert bool(learner.step(Batch(x, y), step / 3)["loss"].isfinite())
    model = learner.evaluated()  # type: ignore[assignment]
    result = model.log_likelihood(x, 7, seed=0, condition=y)
    assert result.kind == "weights"
    assert set(result.terms) == {"reconstruction", "kl", "importance_gain"}
    total = torch.stack(list(result.terms.values())).sum(0)
    torch.testing.assert_close(total, result.lower, atol=1e-9, rtol=1e-9)  # float64 sums
    assert model.sample(5, seed=0, condition=None if y is None else y[:5]).shape == (5, *spec.event_shape)
    assert len(model.sample(0, condition=None if y is None else y[:0])) == 0


def test_draws_come_in_chunks_and_a_seed_repeats_them() -> None:
    model = VAE(DataSpec((2,)))
    x = torch.randn(3, 2)
    first, again = (model.log_likelihood(x, 5000, seed=4).lower for _ in range(2))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert not torch.equal(first, model.log_likelihood(x, 5000, seed=5).lower)


@pytest.mark.parametrize("k", [1, 8])
def test_loss_is_the_negative_bound_in_nats(k: int) -> None:
    """At progress 1 the loss is minus the very bound that is evaluated, on the same draws; float32 sums: 1e-5."""
    model = VAE(DataSpec((2,)), VAEConfig(train_samples=k))
    assert model.loss_in_nats
    x = torch.randn(50, 2)
    torch.manual_seed(3)
    loss = model.loss(x, 1.0).detach()
    bound = (model if k > 1 else ELBO(model)).log_likelihood(x, k, seed=3).lower
    torch.testing.assert_close(loss, -bound, atol=1e-5, rtol=1e-5)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(1.01 * loss, -bound, atol=1e-5, rtol=1e-5)


def test_warm_up_weights_the_divergence_alone() -> None:
    model = VAE(DataSpec((2,)), VAEConfig(train_samples=1, kl_warmup=0.5, prior="normal"))
    x = torch.randn(50, 2)

    def loss(progress: float) -> Tensor:
        torch.manual_seed(3)
        return model.loss(x, progress).detach()

    kl = model.encode(x, None).kl_from_standard_normal().sum(1).detach()
    torch.testing.assert_close(loss(0.25) - loss(0.0), 0.5 * kl, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss(0.5) - loss(0.0), kl, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss(1.0), loss(0.5))


def test_elbo_names_its_parts() -> None:
    x, _ = batch_of(SPECS["binary"], 6)
    model = VAE(SPECS["binary"], VAEConfig(hidden=(32,), latents=5))
    assert list(model.estimators()) == ["iwae", "elbo", "refined", "ais"]
    result = model.estimators()["elbo"]().log_likelihood(x, 1, seed=0)
    assert result.kind == "lower_bound"
    assert result.variance is None
    torch.testing.assert_close(result.lower, result.terms["reconstruction"] + result.terms["kl"])
    torch.testing.assert_close(result.arrays["kl_per_latent"].sum(1), result.terms["kl"])
    assert result.arrays["kl_per_latent"].shape == (6, 5)
    # its variance is that of the mean of K draws: 200 repeats know a variance to 10 %, six examples averaged to 4 %
    repeats = [ELBO(model).log_likelihood(x, 5, seed=s) for s in range(200)]
    said = torch.stack([r.variance for r in repeats if r.variance is not None]).mean(0)
    assert float((torch.stack([r.lower for r in repeats]).var(0) / said).mean()) == pytest.approx(1, abs=0.16)


def test_training_starts_at_independent_dimensions() -> None:
    """At the start the decoder gives the marginals: reconstruction within 5 % of their entropy on skewed bits."""
    torch.manual_seed(0)
    share = torch.rand(1, 8, 8)
    x = (torch.rand(4000, 1, 8, 8) < share).to(torch.uint8)
    model = VAE(DataSpec((1, 8, 8), 2))
    learner = model.learner(model.default_training())
    before = model.loss(x[:500], 0.0).mean()
    learner.start(TensorSplit(x))
    after = float(model.loss(x[:500], 0.0).mean().detach())
    entropy = float(-(share * share.log() + (1 - share) * (1 - share).log()).sum())
    assert after == pytest.approx(entropy, rel=0.05)
    assert float(before.detach()) > 1.15 * entropy


def test_conditional_models_use_their_labels() -> None:
    spec = DataSpec((2,), classes=2)
    model = VAE(spec)
    x = torch.randn(8, 2)
    ones, zeros = torch.ones(8, dtype=torch.long), torch.zeros(8, dtype=torch.long)
    with pytest.raises(InputError, match="this model is conditional"):
        model.log_likelihood(x)
    with pytest.raises(InputError, match="this model is conditional"):
        ELBO(model).log_likelihood(x)
    pair = [model.log_likelihood(x, 10, seed=0, condition=y).lower for y in (zeros, ones)]
    assert not torch.equal(*pair)
    assert model.traces(x, 2, 0) == {}


def test_reconstructions() -> None:
    x, _ = batch_of(SPECS["digits"], 9)
    traces = VAE(SPECS["digits"]).traces(x, 4, seed=0)
    assert traces["reconstructions"].shape == (4, 2, 1, 8, 8)
    torch.testing.assert_close(traces["reconstructions"][:, 0], x[:4].float())
    assert "interpolation" not in VAE(SPECS["plane"]).traces(batch_of(SPECS["plane"], 9)[0], 4, seed=0)


def test_interpolation_ends_are_reconstructions() -> None:
    x, _ = batch_of(SPECS["digits"], 9)
    traces = VAE(SPECS["digits"]).traces(x, 4, seed=0)
    way, made = traces["interpolation"], traces["reconstructions"][:, 1]
    assert way.shape == (4, 8, 1, 8, 8)
    assert traces["interpolation_at"].tolist() == torch.linspace(0, 1, 8).tolist()
    # other batch shapes in the same matrix products: float32 rounding, of codes up to 16
    torch.testing.assert_close(way[:, 0], made, rtol=0, atol=1e-4)
    torch.testing.assert_close(way[:, -1], made.roll(-1, 0), rtol=0, atol=1e-4)
    assert float((way[:, 4] - made).abs().max()) > 1e-3


def test_bad_input_is_named() -> None:
    with pytest.raises(CapabilityError, match="expected head gaussian or full_gaussian for real data"):
        VAE(DataSpec((2,)), VAEConfig(head="bernoulli"))
    with pytest.raises(ConfigError, match="latents"):
        VAEConfig.parse({"latents": 0}, "vae")
    with pytest.raises(ConfigError, match="expected a config of type VAEConfig"):
        VAE(DataSpec((2,)), Config())  # type: ignore[arg-type]


def test_the_classic_model_by_config_and_for_images() -> None:
    classic = VAE(DataSpec((2,)), VAEConfig(prior="normal", train_samples=1, skip=False, head="gaussian"))
    for model in (classic, VAE(SPECS["binary"]), VAE(SPECS["mnist given labels"]), VAE(DataSpec((9,)))):
        assert isinstance(model.prior, StandardNormal)
        assert isinstance(model.encoder, MLP)
        assert isinstance(model.decoder.net, MLP)
    assert classic.train_samples == 1
    few = VAE(DataSpec((2,)))
    assert isinstance(few.prior, GaussianMixture)
    assert (few.rows, classic.rows, VAE(SPECS["mnist given labels"]).rows) == (4096, 4096, 512)


def test_training_starts_near_the_identity_and_the_mixture_on_examples() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 2)
    model = VAE(DataSpec((2,)), VAEConfig(prior_components=16))
    learner = model.learner(model.default_training())
    learner.start(TensorSplit(x))
    with torch.no_grad():
        z = model.encode(x, None).loc
        assert float((model.head.mean(model.decode(z, None)) - x).square().mean().sqrt()) < 0.5
        assert isinstance(model.prior, GaussianMixture)
        assert (
            float((model.prior.loc[:, None] - z).norm(dim=-1).amin(1).max()) < 1e-5
        )  # each mean is an encoded example


def collapsed(model: VAE, x: Tensor) -> bool:
    """Whether the latent carries less than half a nat: eight separate modes take log 8 = 2.08 nats and more."""
    result = ELBO(model).log_likelihood(x, 1, seed=0)
    return -float(result.terms["kl"].mean()) < 0.5


def test_posterior_does_not_collapse() -> None:
    """After 200 steps of the classic model on 8gaussians (about 2 s): the latent is used, and the bound is far
    better than a Gaussian's
    (1.42 nats from the truth, NUMBERS section 5)."""
    density = DENSITIES["8gaussians"]
    x, test = density.sample(20_000, 0), density.sample(400, 2)
    loc, scale = x.mean(0), x.std(0)
    torch.manual_seed(0)
    model = VAE(DataSpec((2,)), VAEConfig(prior="normal", head="gaussian", skip=False))
    learner = model.learner(model.default_training())
    split, generator, steps = TensorSplit((x - loc) / scale), torch.Generator().manual_seed(0), 200
    learner.start(split)
    for step in range(steps):
        indices = torch.randint(0, len(split), (128,), generator=generator)
        learner.step(split.batch(indices, generator), step / steps)
    trained = learner.evaluated()
    assert isinstance(trained, VAE)
    y = (test - loc) / scale
    assert not collapsed(trained, y)
    log_q = trained.log_likelihood(y, 100, seed=0).lower - float(scale.log().sum())
    assert float((density.log_prob(test) - log_q).mean()) < 0.7
    with torch.no_grad():  # the twin: an encoder that ignores x
        trained.encoder[-1].weight.zero_()
        trained.encoder[-1].bias.zero_()
    assert collapsed(trained, y)
    assert math.isfinite(float(trained.log_likelihood(y, 10, seed=0).lower.mean()))
