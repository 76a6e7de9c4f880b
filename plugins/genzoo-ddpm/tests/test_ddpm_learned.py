"""The learned schedule and the bound that it is learned with, against closed forms and quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from genzoo_ddpm.ddpm import DDIM, DDPM
from genzoo_ddpm.diffusion import Diffusion
from genzoo_ddpm.learned import BINS, LearnedSchedule, continuous_loss
from genzoo_ddpm.terms import ContinuousTerms
from torch import Tensor

from genzoo.config import TrainSettings
from genzoo.data.splits import TensorSplit
from genzoo.errors import ConfigError
from genzoo.spec import Batch, DataSpec

HIGH, LOW = 9.0, -5.0
TIMES = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
LEARNED = {"schedule": "learned", "steps": 8, "width": 8, "blocks": 1}


def schedule(scale: float, low: float = LOW) -> LearnedSchedule:
    """With shares that differ: standard deviation `scale` of their logarithms."""
    made = LearnedSchedule(HIGH, low)
    torch.nn.init.normal_(made.logits, std=scale, generator=torch.Generator().manual_seed(0))
    return made


def nats(log_snr: Tensor) -> Tensor:
    """Some squared error in nats a unit of log-SNR, which changes a hundredfold."""
    return 0.1 + 10 * torch.sigmoid(log_snr - 3)


def closed_form(shares: Tensor) -> Tensor:
    """E h^2 = sum_b d^2 g_b / tau_b, g_b by Gauss-Legendre in each bin."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(8))
    width = (HIGH - LOW) / BINS
    log_snr = HIGH - width * (torch.arange(BINS)[:, None] + (nodes + 1) / 2)
    return (width**2 * (nats(log_snr).square() * weights / 2).sum(1) / shares).sum()


def test_it_falls_from_one_end_to_the_other_and_begins_linear() -> None:
    made = schedule(1.0)
    table = made.log_snr(100)
    assert (float(table[0]), float(table[-1])) == (HIGH, LOW)
    assert bool((table.diff() < 0).all())
    even = torch.linspace(HIGH, LOW, 100, dtype=torch.float64)
    torch.testing.assert_close(LearnedSchedule(HIGH, LOW).log_snr(100), even, atol=1e-6, rtol=0)
    assert float((table - even).abs().max()) > 0.3
    # the slope is that of the table
    middle = torch.linspace(0.1, 0.9, 50, dtype=torch.float64)
    slope = (made.at(middle - 1e-7).log_snr - made.at(middle + 1e-7).log_snr) / 2e-7
    torch.testing.assert_close(made.at(middle).slope, slope, rtol=1e-4, atol=0)


def test_the_mean_does_not_depend_on_the_shares_and_the_second_moment_does() -> None:
    """200,000 even times: the integral over log-SNR to 1e-4, the closed form of E h^2 to 1e-3."""
    over_log_snr = float(0.1 * (HIGH - LOW) + 10 * (math.log1p(math.exp(HIGH - 3)) - math.log1p(math.exp(LOW - 3))))
    for scale in (0.0, 1.0):
        place = schedule(scale).at(TIMES)
        h = place.slope * nats(place.log_snr)
        assert float(h.mean()) == pytest.approx(over_log_snr, rel=1e-4)
        assert float(h.square().mean()) == pytest.approx(float(closed_form(schedule(scale).shares.detach())), rel=1e-3)


def test_the_push_has_the_gradient_of_the_variance_and_no_value() -> None:
    """Of log E h^2 in the logits, by autograd of the closed form; to 1 % of its size."""
    made = schedule(0.5)
    place = made.at(TIMES)
    push = made.push(place.slope * nats(place.log_snr), place.bin)
    assert bool((push == 0).all())
    (gradient,) = torch.autograd.grad(push.mean(), made.logits)
    (expected,) = torch.autograd.grad(closed_form(made.shares).log(), made.logits)
    torch.testing.assert_close(gradient, expected, atol=0.01 * float(expected.abs().max()), rtol=0)


def test_it_learns_the_shares_of_least_variance() -> None:
    """From 64 draws a step: E h^2 ends within 2 % of the least, (sum d sqrt(g_b))^2; evenly it is 40 % above."""
    made = LearnedSchedule(HIGH, LOW)
    adam = torch.optim.Adam(made.parameters(), lr=0.03, betas=(0.9, 0.99))
    torch.manual_seed(0)
    for i in range(400):
        adam.param_groups[0]["lr"] = 0.03 * (1 - i / 400)
        place = made.at(torch.rand(64, dtype=torch.float64))
        adam.zero_grad()
        made.push(place.slope * nats(place.log_snr), place.bin).mean().backward()
        adam.step()
    even = torch.full((BINS,), 1 / BINS, dtype=torch.float64)
    with torch.no_grad():
        each = torch.autograd.functional.jacobian(closed_form, even) * -(even**2)  # d^2 g_b
        least = float(each.sqrt().sum() ** 2)
        assert float(closed_form(even)) > 1.4 * least
        assert least <= float(closed_form(made.shares)) < 1.02 * least


def test_the_loss_is_the_continuous_bound(exact_model: Callable[..., Diffusion]) -> None:
    """Of the exact network of a Gaussian, whose bound is log p(x): 40,000 draws each, whatever the shares, 4 standard
    errors, below 0.1 nats. One draw in four is the decoder's, and the prior is far from nothing."""
    loc, scale = torch.tensor([0.3], dtype=torch.float64), torch.tensor([[0.49]], dtype=torch.float64)
    model = exact_model("analytic", 4, loc, scale, 1.0, -1.0)
    torch.manual_seed(0)
    for x in (-1.0, 1.7):
        z = torch.full((40_000, 1), x, dtype=torch.float64)
        truth = -torch.distributions.Normal(0.3, 0.7).log_prob(z[0, 0])
        with torch.no_grad():
            loss = continuous_loss(model, schedule(0.3, -1.0), z, z[:, :0])
            assert float(model._prior(z[:1])) > 0.2
        error = float(loss.std()) / math.sqrt(len(loss))
        assert error < 0.1
        assert float(loss.mean()) == pytest.approx(float(truth), abs=4 * error)
        assert float(loss.mean()) != pytest.approx(float(truth) + 0.5, abs=4 * error)


def test_continuous_bound_of_independent_pixels_in_closed_form() -> None:
    """A pixel of three levels and its exact denoiser: the reverse process is the forward one's, so that

    prior + integral = KL(q(x_1 given x), p(x_1)) - KL(q(x_T given x), p(x_T)) + KL(q(x_T given x), N), p the data's

    All by quadrature, 1e-5 nats; the chain of many steps tends to it (T = 128, 256: the gap halves to 10 %)."""
    spec = DataSpec((1,), 3)
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(60))
    weights = weights / weights.sum()
    mass = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64)
    values = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)

    def model_of(steps: int) -> Diffusion:
        config = {"steps": steps, "width": 8, "blocks": 1, "variance": "small"}
        model = DDPM(spec, DDPM.Config.parse(config, "ddpm")).double().eval()  # type: ignore[arg-type]
        model.denoiser.mass.copy_(mass)  # type: ignore[operator, union-attr]
        return model

    def kl(signal: float, noise: float) -> Tensor:
        """KL(q(x_t given x), p(x_t)) `(3,)`."""
        gap = (signal * (values[:, None, None] - values) + noise * nodes[:, None]) / noise  # (x, node, k)
        log_p = (mass.log() - 0.5 * gap.square()).logsumexp(-1)
        return ((-0.5 * nodes.square() - log_p) * weights).sum(1)

    def quadrature(model: Diffusion, per: int, inside: bool) -> Tensor:
        """prior + sum of terms `(3,)`; over `per` places in each interval, or the steps themselves."""
        place, share = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(per))
        total = model._prior(values[:, None])
        x = values.repeat_interleave(60 * per)[:, None]
        eps = nodes.repeat_interleave(per).repeat(3)[:, None]
        p = ((place + 1) / 2).repeat(180)
        w = torch.outer(weights, share / 2).flatten()
        for t in range(1, len(model.chain)):
            index = torch.full((len(x),), t)
            with torch.no_grad():
                terms = (
                    ContinuousTerms(model)(x, index, p, eps, x[:, :0])
                    if inside
                    else model._terms(x, index, eps, x[:, :0])
                )
            total = total + (terms.view(3, -1) * w).sum(1)
        return total

    model = model_of(64)
    a, s = model.chain.signal, model.chain.noise
    expected = kl(float(a[0]), float(s[0])) - kl(float(a[-1]), float(s[-1])) + model._prior(values[:, None])
    limit = quadrature(model, 6, True)
    torch.testing.assert_close(limit, expected, atol=1e-5, rtol=0)
    assert float(expected.max() - expected.min()) > 0.5
    gaps = [quadrature(model_of(steps), 1, False) - limit for steps in (128, 256)]
    assert bool((gaps[1].abs() > 1e-3).all())
    torch.testing.assert_close(gaps[0] / gaps[1], torch.full_like(limit, 2.0), atol=0.2, rtol=0)


@pytest.mark.parametrize("spec", [DataSpec((2,)), DataSpec((1, 4, 4), 3)])
def test_a_trained_model_takes_its_schedule_along(spec: DataSpec) -> None:
    """The chain of the averaged weights follows the learned shares, in a fresh model too; ends stay; DDIM as well."""
    torch.manual_seed(0)
    codes = spec.levels is not None
    x = torch.randint(0, 3, (200, 1, 4, 4)).to(torch.uint8) if codes else torch.randn(200, 2)
    make = DDPM if codes else DDIM
    model = make(spec, make.Config.parse(LEARNED, "ddpm"))  # type: ignore[arg-type]
    assert not model.loss_in_nats
    split = TensorSplit(x)
    learner = model.learner(TrainSettings(learning_rate=0.05, ema=0.5))
    learner.start(split)
    before = model.chain.log_snr.clone()
    for i in range(5):
        learner.step(Batch(x, None), i / 5)
    learner.finish(split, split)
    trained = learner.evaluated()
    assert isinstance(trained, Diffusion)
    assert trained.schedule is not None
    torch.testing.assert_close(trained.chain.log_snr, trained.schedule.log_snr(8), rtol=0, atol=0)
    assert float((trained.chain.log_snr - before).abs().max()) > 0.05
    assert [float(trained.chain.log_snr[i]) for i in (0, -1)] == [float(before[i]) for i in (0, -1)]
    fresh = make(spec, make.Config.parse(LEARNED, "ddpm")).eval()  # type: ignore[arg-type]
    fresh.load_state_dict(trained.state_dict())
    for name, table in trained.named_buffers():
        assert torch.equal(fresh.get_buffer(name), table), name
    first, second = (m.log_likelihood(x[:4], 2, 0).lower for m in (trained, fresh))
    assert torch.equal(first, second)
    assert bool(fresh.estimators()["continuous"]().log_likelihood(x[:4], 2, 0).lower.isfinite().all())


def test_what_does_not_go_together() -> None:
    for wrong in ({"objective": "simple"}, {"variance": "learned"}):
        config = DDPM.Config.parse({"schedule": "learned", **wrong}, "ddpm")
        with pytest.raises(ConfigError, match="expected objective=vlb and variance other than learned"):
            DDPM(DataSpec((2,)), config)  # type: ignore[arg-type]
