"""The hierarchical VAE: its divergences against torch's, its bound against its loss, its shapes on every image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from genzoo_vae.hierarchical import HierarchicalConfig, HierarchicalVAE, bounded, residual_draw
from genzoo_vae.interpolation import way_to_next
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.seeding import seeded
from genzoo.spec import Batch, DataSpec
from genzoo.testing import checks

SMALL = HierarchicalConfig(width=8, top=3, coarse=2, fine=2)
BINARY = DataSpec((1, 8, 8), 2)


@pytest.mark.parametrize("check", checks("hvae", width=8, top=3))
def test_conformance(check: Callable[[], None]) -> None:
    check()


def stirred(spec: DataSpec, config: HierarchicalConfig = SMALL) -> HierarchicalVAE:
    """A model whose layers that start at zero are random too, so that no divergence is zero."""
    torch.manual_seed(0)
    model = HierarchicalVAE(spec, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not bool(parameter.any()):
                parameter.normal_(0, 0.1)
    return model


def images(spec: DataSpec, n: int) -> Tensor:
    torch.manual_seed(1)
    if spec.levels is None:
        return torch.randn(n, *spec.event_shape)
    return torch.randint(0, spec.levels, (n, *spec.event_shape)).to(torch.uint8)


def test_residual_posteriors_equal_torch() -> None:
    """N(m + s a, (s r)^2) against N(m, s^2): the KL does not depend on m and s, and the log-ratio is that of the
    densities at the draw. float32 inside: 1e-5 relative."""
    torch.manual_seed(0)
    outputs = 0.5 * torch.randn(50, 6)
    shift, log_ratio = outputs.chunk(2, 1)
    loc, scale = torch.randn(50, 3).double(), (0.5 * torch.randn(50, 3)).exp().double()
    prior = Normal(loc, scale)
    posterior = Normal(loc + scale * shift.double(), scale * bounded(log_ratio).exp().double())
    _, closed = residual_draw(outputs, closed=True)
    torch.testing.assert_close(-closed.double(), kl_divergence(posterior, prior).sum(1), rtol=1e-5, atol=1e-6)
    w, ratio = residual_draw(outputs, closed=False)
    z = loc + scale * w.double()
    expected = (prior.log_prob(z) - posterior.log_prob(z)).sum(1)
    torch.testing.assert_close(ratio.double(), expected, rtol=1e-4, atol=1e-5)


def test_the_bound_is_the_mean_of_the_log_weights_and_of_the_loss() -> None:
    """One ELBO, three ways: mean log-weight, minus the loss with its KLs in closed form, the sum of the terms. Within
    four standard errors of 400 draws an image; the KL is not small beside them."""
    model, x = stirred(BINARY), images(BINARY, 4)
    torch.manual_seed(2)
    with torch.no_grad():
        parts = {name: value.double() for name, value in model._log_weights(x, 400, None).items()}
        log_w = parts["reconstruction"] + parts["kl_per_layer"].sum(2)
        losses = -torch.stack([model.loss(x, 1.0).double() for _ in range(400)])
    error = (log_w.var(0) / 400 + losses.var(0) / 400).sqrt()
    difference = (log_w.mean(0) - losses.mean(0)).abs()
    assert bool((difference < 4 * error).all())
    assert float(parts["kl_per_layer"].mean((0, 1)).sum()) < -8 * float(error.max())
    said = model.log_likelihood(x, 3, seed=0)
    assert said.anatomy()["kl_per_layer"].shape == (4, 4)  # a vector, two coarse maps, a fine one
    torch.testing.assert_close(said.anatomy()["kl_per_layer"].sum(1), said.terms["kl"])
    torch.testing.assert_close(sum(said.terms.values()), said.lower)


@pytest.mark.parametrize(
    "spec",
    [
        DataSpec((1, 8, 8), 2),
        DataSpec((1, 6, 10), 17),
        DataSpec((3, 5, 5), 4),
        DataSpec((2, 4, 4)),
        DataSpec((1, 7, 4), 2, 3),
    ],
    ids=["binary", "17 levels", "odd sides", "real", "labelled"],
)
def test_every_image_has_a_bound_and_samples(spec: DataSpec) -> None:
    model, x = stirred(spec), images(spec, 5)
    y = None if spec.classes is None else torch.arange(5) % spec.classes
    said = model.log_likelihood(x, 4, seed=0, condition=y)
    assert said.kind == "weights"
    assert bool(said.lower.isfinite().all())
    assert model.sample(5, seed=0, condition=y).shape == x.shape
    if y is not None:
        other = model.log_likelihood(x, 4, seed=0, condition=(y + 1) % 3)
        assert bool((other.lower - said.lower).abs().min() > 1e-3)
    else:
        traces = model.traces(x, 3, 0)
        assert traces["reconstructions"].shape == (3, 2, *spec.event_shape)
        way = traces["interpolation"]
        assert way.shape == (3, 8, *spec.event_shape)
        assert torch.equal(way[:, 0], traces["reconstructions"][:, 1])  # it begins where the reconstruction is
        assert bool((way[:, -1] != way[:, 0]).any())


def test_interpolation_ends_at_the_codes_of_the_next_example() -> None:
    """Given the draws of a descent, another is the same, group by group; between two codes lies their middle."""
    model, x = stirred(BINARY), images(BINARY, 4)
    with torch.no_grad(), seeded(0, model.device):
        h, _, latents = model._descend(4, model.encode(model._planes(x), None), None, closed=True)
        again, ratios, same = model._descend(4, None, None, closed=True, given=latents)
        ways = [way_to_next(w) for w in latents]
        last = model._descend(4, None, None, closed=True, given=[way[-1] for way in ways])[0]
    assert torch.equal(again, h)
    assert all(map(torch.equal, same, latents))
    assert float(ratios.abs().max()) == 0
    assert torch.equal(last, model._descend(4, None, None, closed=True, given=[w.roll(-1, 0) for w in latents])[0])
    torch.testing.assert_close((ways[0][3] + ways[0][4]) / 2, (latents[0] + latents[0].roll(-1, 0)) / 2)


def test_training_uses_the_latents() -> None:
    """Two kinds of image, all dark or all bright but for noise: 60 steps put the choice into the latents, so the
    divergence is near log 2 or above and the bound beats the best independent pixels, 64 log 2 nats."""
    torch.manual_seed(0)
    bright = torch.rand(512, 1, 1, 1) < 0.5
    x = (torch.rand(512, 1, 8, 8) < torch.where(bright, 0.95, 0.05)).to(torch.uint8)
    model = HierarchicalVAE(BINARY, SMALL)
    learner = model.learner(TrainSettings(learning_rate=1e-2, batch_size=64, clip=None))
    for step in range(60):
        learner.step(Batch(x[torch.randint(512, (64,))], None), step / 60)
    said = model.log_likelihood(x[:100], 8, seed=0)
    assert float(said.lower.mean()) > -0.75 * 64 * 0.6931
    assert float(said.terms["kl"].mean()) < -0.5


def test_what_it_cannot_take_is_named() -> None:
    with pytest.raises(CapabilityError, match=r"expected images \(C, H, W\) for hvae; got events \(9,\)"):
        HierarchicalVAE(DataSpec((9,), 2))
