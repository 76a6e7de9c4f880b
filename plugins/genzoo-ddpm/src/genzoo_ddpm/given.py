"""Draws of x_0 given y_i = x_0,i + s_i eps at observed dimensions i: in-painting and denoising.

In-painting is sequential Monte Carlo over the reverse chain (Trippe et al. 2023, arXiv:2206.04119; Wu et al. 2023,
arXiv:2306.17775): K particles an example, weighted by a guess of p(y given x_t) that is right at t = 1,

    psi_t = prod_i N(y_i; x0_hat_i(x_t), r_t,i + s_i^2),   psi_1 = p(y given x_1) of the decoder

and moved by the reverse step with x_0 given x_t and y in the place of x_0 given x_t,

    N(x0_hat + g (y - x0_hat), (1 - g) r),   g = r / (r + s^2)

so that for s = 0 the observed dimensions follow q(x_{t-1} given x_t, x_0 = y). The weights make up for what the move
and psi miss: as K grows, the law of a draw tends to the conditional of the model's own chain.

Denoising, where all dimensions are observed with one s, starts the chain where its noise is s: y is x / a of the
forward process at log-SNR -2 log s. That is exact where the denoiser is, and needs no particles. The first step goes
from there to the next index below: the noise is not rounded to the grid.

The chain is that of eta = 1 for DDIM too, whose own steps spread less than x_0 given x_t does: at eta = 0 one y would
have one answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genzoo_ddpm.schedules import Chain, Subsequence

if TYPE_CHECKING:
    from genzoo_ddpm.diffusion import Diffusion

VECTOR_PARTICLES, IMAGE_PARTICLES = 64, 8
LEAST_SHARE = 0.5
"""Particles are drawn anew where their effective number falls below this share of them (Liu & Chen 1995)."""


def draw_given(model: Diffusion, y: Tensor, seen: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
    """One draw an example, `(B, D)` in data units.

    Args:
        y: observation `(B, D)` on the chain's scale; seen: where it is one, bool `(B, D)`.
        noise: its standard deviation `(D,)` float64, in data units.
        labels: one-hot `(B, classes)`.
    """
    noise = noise * model.decoder.unit
    level = float(noise[0])
    whole = seen.all(1) if bool((noise == level).all()) else torch.zeros_like(seen[:, 0])
    particles = model.options.particles or (IMAGE_PARTICLES if len(model.spec.event_shape) == 3 else VECTOR_PARTICLES)
    drawn = torch.zeros_like(y)
    for some in _parts(whole, model.network.rows):
        drawn[some] = _denoised(model, y[some], level, labels[some]).to(y.dtype)
    for some in _parts(~whole, model.network.rows // particles):
        drawn[some] = _filled(model, y[some], seen[some], noise, labels[some], particles).to(y.dtype)
    return drawn


def _parts(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Indices where `rows (B,)` is True, `size` at a time."""
    return (part for part in torch.split(rows.nonzero()[:, 0], max(1, size)) if len(part))


def _chain(log_snr: Tensor) -> Chain:
    """The chain through `log_snr (T,)` whose steps are those of the forward process, eta = 1."""
    return Chain(Subsequence(len(log_snr), tuple(log_snr.tolist())), 1.0).to(log_snr.device)


def _denoised(model: Diffusion, y: Tensor, level: float, labels: Tensor) -> Tensor:
    """x_0 given y with noise of scale `level` in every dimension: the chain from where its noise is that."""
    log_snr = model.chain.log_snr
    sigma = (-0.5 * log_snr).exp()  # s_t / a_t, rising in t
    below = int(torch.searchsorted(sigma, level, right=True))
    if below == len(sigma):
        chain, x = _chain(log_snr), _end(model, y, level)
    elif below == 0:
        # finer than the decoder's noise, to which it is raised
        extra = float((sigma[0].square() - level**2).sqrt())
        chain, x = _chain(log_snr[:1]), float(model.chain.signal[0]) * (y + extra * torch.randn_like(y))
    else:
        chain = _chain(torch.cat([log_snr[:below], log_snr.new_tensor([-2 * math.log(level)])]))
        x = float(chain.signal[-1]) * y
    for t in range(len(chain) - 1, 0, -1):
        denoised, error = _reverse(model, x, t, chain.log_snr[t], labels)
        variance = float(chain.variance[t]) + float(chain.pull[t]) ** 2 * error
        x = float(chain.keep[t]) * x + float(chain.pull[t]) * denoised + variance.sqrt() * torch.randn_like(x)
        x = x.to(y.dtype)
    noise = torch.full((y.shape[1],), level, dtype=torch.float64, device=y.device)
    return model.decoder.sample_given(model._decoder_mean(x, labels), y, noise)


def _reverse(model: Diffusion, x: Tensor, t: int, log_snr: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """x0_hat `(R, D)` at x with `log_snr ()`, and the error that v_t grants it, (v_t - b_t) / C_t^2 `(R, 1 or D)`."""
    chain = model.chain
    denoised, cue = model._predict_at(x, log_snr.expand(len(x)), labels)
    variance = model._log_variance(torch.full((len(x),), t, device=x.device), cue).double().exp()
    error = (variance - chain.variance[t]) / chain.pull[t].square()
    return denoised, error.clamp(min=0)


def _end(model: Diffusion, y: Tensor, level: float) -> Tensor:
    """x_T given y noisier than it: of independent Gaussian dimensions, as the chain's own p(x_T)."""
    signal, noise = float(model.chain.signal[-1]), float(model.chain.noise[-1])
    loc, variance = model.denoiser.loc, model.denoiser.variances
    gain = variance / (variance + level**2)
    scale = (signal**2 * (1 - gain) * variance + noise**2).sqrt()
    return signal * (loc + gain * (y - loc)) + scale * torch.randn_like(y)


def _filled(model: Diffusion, y: Tensor, seen: Tensor, noise: Tensor, labels: Tensor, particles: int) -> Tensor:
    """One draw an example from `particles` of it."""
    chain, n = _chain(model.chain.log_snr), len(y)
    labels = labels.repeat_interleave(particles, 0)
    y, seen = y[:, None].double(), seen[:, None]  # (B, 1, D)
    square = torch.where(seen, noise.square(), math.inf)
    x = model._start(n * particles).view(n, particles, -1)
    least = float(model.decoder.log_variance.exp())
    log_w = torch.zeros(n, particles, dtype=torch.float64, device=y.device)
    for t in range(len(chain) - 1, 0, -1):
        flat = _reverse(model, x.flatten(0, 1), t, chain.log_snr[t], labels)
        denoised, error = (part.view(n, particles, -1).double() for part in flat)
        b, pull = float(chain.variance[t]), float(chain.pull[t])
        v = b + pull**2 * error
        # for psi: where v_t grants no error that of unit data, s_t^2; at least the decoder's
        error = torch.where(error > 0, error, float(chain.noise[t]) ** 2).clamp(min=least)
        psi = _sum(_log_normal(y - denoised, error + square), seen)
        log_w, rows = _resampled(log_w + psi)
        x, denoised, v, error, psi = (_take(part, rows) for part in (x, denoised, v, error, psi[..., None]))
        gain = error / (error + square)
        tight = v - gain * (v - b)
        move, step = pull * gain * (y - denoised), tight.sqrt() * torch.randn_like(x, dtype=torch.float64)
        log_w = log_w - psi[..., 0] + _sum(_log_normal(move + step, v) - _log_normal(step, tight), seen)
        x = (float(chain.keep[t]) * x + pull * denoised + move + step).to(x.dtype)
    mean = model._decoder_mean(x.flatten(0, 1), labels).view_as(x)
    log_w = log_w + _sum(model.decoder.log_given(mean, y, noise), seen)
    mean = _take(mean, torch.multinomial(log_w.softmax(1), 1))[:, 0]
    given = model.decoder.sample_given(mean, y[:, 0].to(mean.dtype), noise)
    return torch.where(seen[:, 0], given, model.decoder.sample(mean))


def _log_normal(gap: Tensor, variance: Tensor) -> Tensor:
    """log N(gap; 0, variance) up to the constant."""
    return -0.5 * (gap.square() / variance + variance.log())


def _sum(values: Tensor, seen: Tensor) -> Tensor:
    """Over the observed dimensions: `(B, K, D)` to `(B, K)`."""
    return torch.where(seen, values, 0.0).sum(2)


def _take(x: Tensor, rows: Tensor) -> Tensor:
    """Particles `rows (B, J)` of `x (B, K, *)`."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[2]))


def _resampled(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Log-weights `(B, K)` and which particles go on, systematically drawn where the effective number is small."""
    n, k = log_w.shape
    weights = log_w.softmax(1)
    few = 1 / weights.square().sum(1, keepdim=True) < LEAST_SHARE * k
    same = torch.arange(k, device=weights.device)
    place = (torch.rand(n, 1, dtype=weights.dtype, device=weights.device) + same) / k
    drawn = torch.searchsorted(weights.cumsum(1), place).clamp(max=k - 1)
    return torch.where(few, 0.0, log_w), torch.where(few, drawn, same)
