"""Schedules, posteriors and decoders against direct computation."""

from __future__ import annotations

import math

import pytest
import torch
from genzoo_ddpm.ddpm import DDPM
from genzoo_ddpm.decoders import LevelsDecoder
from genzoo_ddpm.schedules import Chain, CosineSchedule, LinearSchedule, LogSNRSchedule, Schedule
from genzoo_ddpm.variances import Analytic, FixedLarge, FixedSmall

from genzoo.errors import ConfigError
from genzoo.spec import DataSpec

SCHEDULES = {
    "linear": LinearSchedule(200),
    "cosine": CosineSchedule(200),
    "log_snr": LogSNRSchedule(200, 9.0, -5.0),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_log_snr_falls_and_ends_in_noise(schedule: Schedule) -> None:
    log_snr = schedule.log_snr()
    assert log_snr.shape == (200,)
    assert log_snr.dtype == torch.float64
    assert bool((log_snr.diff() < 0).all())
    assert float(log_snr[-1]) <= -5.0


def test_end_points() -> None:
    log_snr = SCHEDULES["log_snr"].log_snr()
    assert (float(log_snr[0]), float(log_snr[-1])) == (9.0, -5.0)
    # linear at T = 1000 starts at beta = 1e-4: lam = log((1 - beta) / beta); at 200 the first beta is five times that
    for steps, beta in ((1000, 1e-4), (200, 5e-4)):
        assert float(LinearSchedule(steps).log_snr()[0]) == pytest.approx(math.log((1 - beta) / beta), abs=1e-9)
    # cosine: a^2 at T / 2 is f(T / 2) / f(0) by its definition
    f = [math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (0.0, 0.5)]
    assert float(torch.sigmoid(CosineSchedule(200).log_snr()[99])) == pytest.approx(f[1] / f[0], rel=1e-9)


def test_end_points_that_do_not_fall_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected log_snr_max > log_snr_min; got -6 and -5"):
        DDPM(DataSpec((2,)), DDPM.Config.parse({"log_snr_max": -6.0}, "ddpm"))


def conditioned(chain: Chain, t: int) -> tuple[float, float, float]:
    """(coefficient of x_t, of x_0, variance) of x_{t-1} given x_t and x_0, by conditioning the joint Gaussian.

    Given x_0: x_{t-1} = a_{t-1} x_0 + s_{t-1} e, x_t = r x_{t-1} + sqrt(beta) e', r = a_t / a_{t-1}.
    """
    before, after = chain.signal[t - 1], chain.signal[t]
    r = after / before
    covariance = r * chain.noise[t - 1] ** 2
    gain = covariance / chain.noise[t] ** 2
    return float(gain), float(before - gain * after), float(chain.noise[t - 1] ** 2 - gain * covariance)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_posterior_is_gaussian_conditioning(schedule: Schedule) -> None:
    # float64 on both sides; the oracle's own differences cancel to about 1e-11 of the noise
    chain = Chain(schedule)
    for t in (1, 57, 198):
        keep, pull, variance = conditioned(chain, t)
        assert float(chain.keep[t]) == pytest.approx(keep, rel=1e-8)
        assert float(chain.pull[t]) == pytest.approx(pull, rel=1e-6)
        assert float(chain.variance[t]) == pytest.approx(variance, rel=1e-6)
        # twin: "fixed large" in the posterior's place differs by at least 1 % at these steps and is seen
        assert float(chain.beta[t]) != pytest.approx(variance, rel=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_every_eta_keeps_the_marginals(eta: float) -> None:
    # x_t ~ N(a_t x_0, s_t^2) put through the posterior must give N(a_{t-1} x_0, s_{t-1}^2); float64 rounding
    chain = Chain(LogSNRSchedule(50, 9.0, -5.0), eta)
    mean = chain.keep * chain.signal + chain.pull
    variance = (chain.keep * chain.noise) ** 2 + chain.variance
    torch.testing.assert_close(mean[1:], chain.signal[:-1], rtol=1e-12, atol=0)
    torch.testing.assert_close(variance[1:], chain.noise[:-1] ** 2, rtol=1e-9, atol=0)
    wrong = (chain.keep * chain.noise) ** 2 * 1.01 + chain.variance
    assert float((wrong[1:] / chain.noise[:-1] ** 2 - 1).abs().max()) > 1e-3


def test_fixed_variances_are_their_tables() -> None:
    chain, step, cue = Chain(LogSNRSchedule(20)), torch.arange(1, 20), torch.ones(1)
    torch.testing.assert_close(FixedSmall(chain, 0.0).log_variance(step, cue)[:, 0].exp(), chain.variance[1:])
    torch.testing.assert_close(FixedLarge(chain, 0.0).log_variance(step, cue)[:, 0].exp(), chain.beta[1:])


def test_analytic_ratio_is_the_bounds_optimum() -> None:
    """Errors drawn as err^2 = 0.6 u z^2 give r = 0.6 within 4 sqrt(2 / n): n = 40,000; and r minimises the bound."""
    chain = Chain(LogSNRSchedule(6))
    step = torch.arange(1, 6).repeat_interleave(40_000)
    u = torch.rand(len(step), 1, dtype=torch.float64) * chain.log_snr[step, None].neg().exp()
    variance = Analytic(chain, 1.0)
    variance.fit(chain, step, [(0.6 * u * torch.randn_like(u).square(), u)])
    assert variance.ratio[1:].tolist() == pytest.approx([0.6] * 5, abs=0.6 * 4 * math.sqrt(2 * 9 / 5 / 40_000))
    assert float((variance.ratio[1:] * 1.1 - 0.6).abs().min()) > 0.03


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_decoder_sums_to_one(levels: int) -> None:
    chain = Chain(LogSNRSchedule(10, 13.6 - 2 * math.log(255 / (levels - 1)), -5.0))
    decoder = LevelsDecoder(chain, None, levels)
    mean = torch.tensor([-1.5, -1.0, -0.3, 0.0, 0.998, 3.0])
    # float32 log-softmax over at most 256 levels: 1e-5
    torch.testing.assert_close(decoder.log_probs(mean).exp().sum(-1), torch.ones(6), atol=1e-5, rtol=0)
    codes = torch.arange(levels)[None].to(torch.uint8)
    torch.testing.assert_close(decoder.decode(decoder.encode(codes)).round().to(torch.uint8), codes)
    every = decoder.log_prob(decoder.encode(codes.T), torch.full((levels, 1), 0.3)).exp().sum()
    assert float(every) == pytest.approx(1.0, abs=1e-5)
    # twin: one level counted 1 % too much
    probs = decoder.log_probs(torch.tensor(-1.0)).exp()
    assert float(probs.sum() + 0.01 * probs[0]) != pytest.approx(1.0, abs=1e-5)


def test_levels_decoder_costs_nothing_at_its_end_point() -> None:
    model = DDPM(DataSpec((784,), levels=256))
    z = model.decoder.encode(torch.randint(0, 256, (200, 784)).to(torch.uint8))
    bits = -model._decoder_draw(z).mean() / 784 / math.log(2)
    assert 0 < float(bits) < 0.004
