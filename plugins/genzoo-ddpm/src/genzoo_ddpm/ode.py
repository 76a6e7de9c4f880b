"""The likelihood of the probability-flow ODE (Song et al. 2021, arXiv:2011.13456, eq. 39), in continuous log-SNR.

With y = x_lam / a_lam, whose noise is exp(-lam / 2), the flow with the same marginals as the forward process is

    dy / dlam = (x0_hat(a y, lam) - y) / 2,   d log p(y) / dlam = -1/2 (div_y x0_hat - D)

from lam_1 down to lam_T, where p is the chain's p(x_T). Classical Runge-Kutta of fourth order in lam, never rounded to
the chain's steps, with the number of steps doubled until the answer stays: the last change is `solver_error`. The
divergence is exact up to `EXACT` dimensions, above it Hutchinson's with Rademacher probes, one for a whole flow.

It is another model than the chain. Of real data it is the density of y at lam_1, the data with noise exp(-lam_1 / 2)
added. Codes are dequantised by the forward process and seen through the chain's decoder,

    E_q [log p(y_1) + log p(x_0 given x_1) - log q(y_1 given x_0)]

Neither is a bound of the chain's likelihood, and the solver and its probes err in either direction.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from genzoo.errors import NumericsError
from genzoo.likelihood import LogLikelihood
from genzoo_ddpm.decoders import LevelsDecoder
from genzoo_ddpm.paths import log_decoder

if TYPE_CHECKING:
    from genzoo_ddpm.diffusion import Diffusion

EXACT = 3
"""Dimensions up to which the divergence is taken one by one."""

STEPS, MOST_STEPS = 16, 1024
"""Runge-Kutta steps at first and at last, doubled in between."""

TOLERANCE = 1e-4
"""Nats a dimension: largest mean change of a batch when the number of steps is doubled."""


class Flow(NamedTuple):
    """Where flows end, y `(R, D)` at lam_T, and the integral of the divergence on the way `(R,)`, nats."""

    end: Tensor
    divergence: Tensor


def flow_name(model: Diffusion) -> str:
    """What decides the number, for the estimator's name."""
    trace = "exact" if model.spec.dims <= EXACT else "hutchinson"
    ends = "codes dequantised by the forward process" if model.spec.levels is not None else "data with the noise of t=1"
    return f"ode[another model: {ends},trace={trace},rk4,tolerance={TOLERANCE:g}]"


def flow_likelihood(model: Diffusion, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
    """Of kind `estimate`, the mean over `num_samples` dequantisations and probes; one does where there are none."""
    codes, dims = isinstance(model.decoder, LevelsDecoder), z.shape[1]
    k = num_samples if codes or dims > EXACT else 1
    rows = [torch.split(part, model.network.rows) for part in (z.repeat(k, 1), labels.repeat(k, 1))]
    pieces = [_likelihood(model, x, label) for x, label in zip(*rows, strict=True)]
    parts = {name: torch.cat([piece[name] for piece in pieces]).view(k, -1) for name in pieces[0]}
    error = parts.pop("solver_error").mean(0)
    draws = torch.stack(list(parts.values())).sum(0)  # (K, B)
    drawn = codes or dims > EXACT
    variance = (draws.var(0) / k if k > 1 else None) if drawn else torch.zeros_like(error)
    return LogLikelihood.estimate(
        draws.mean(0),
        num_samples=k,
        variance=variance,
        terms={name: part.mean(0) for name, part in parts.items()},
        arrays={"solver_error": error},
    )


def _likelihood(model: Diffusion, z: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Parts `(R,)` float64 nats whose sum is the answer, and solver_error."""
    chain, dims = model.chain, z.shape[1]
    sigma = float((-0.5 * chain.log_snr[0]).exp())
    y, parts = z, {}
    if isinstance(model.decoder, LevelsDecoder):
        eps = torch.randn_like(z)
        y = z + sigma * eps
        log_q = -0.5 * eps.double().square().sum(1) - dims * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
        parts["decoder"] = log_decoder(model, z, float(chain.signal[0]) * y, labels) - log_q
    probes = torch.randint_like(y, 2) * 2 - 1 if dims > EXACT else None
    steps = STEPS
    coarse = _solve(model, y, labels, probes, steps)
    while True:
        steps *= 2
        fine = _solve(model, y, labels, probes, steps)
        values = [_log_end(model, flow.end) + flow.divergence for flow in (coarse, fine)]
        error = (values[1] - values[0]).abs()
        if float(error.mean()) <= TOLERANCE * dims:
            break
        if steps >= MOST_STEPS or not bool(error.isfinite().all()):
            raise NumericsError(
                f"the probability-flow ODE has not settled: its answer changes by {float(error.mean()):.3g} nats "
                f"from {steps // 2} to {steps} steps; expected at most {TOLERANCE * dims:g}"
            )
        coarse = fine
    return {**parts, "prior": _log_end(model, fine.end), "divergence": fine.divergence, "solver_error": error}


def _log_end(model: Diffusion, y: Tensor) -> Tensor:
    """log p(y_T) `(R,)` float64 of y_T = x_T / a_T."""
    variance = model.denoiser.variances.double() + (-model.chain.log_snr[-1]).exp()
    shift = (y - model.denoiser.loc).double()
    return -0.5 * (shift.square() / variance + (2 * math.pi * variance).log()).sum(1)


def _solve(model: Diffusion, y: Tensor, labels: Tensor, probes: Tensor | None, steps: int) -> Flow:
    """From lam_1 to lam_T in `steps` steps of RK4."""
    first, last = float(model.chain.log_snr[0]), float(model.chain.log_snr[-1])
    width = (last - first) / steps
    total = torch.zeros(len(y), dtype=torch.float64, device=y.device)
    for i in range(steps):
        at = first + i * width
        k1, d1 = _drift(model, y, at, labels, probes)
        k2, d2 = _drift(model, y + width / 2 * k1, at + width / 2, labels, probes)
        k3, d3 = _drift(model, y + width / 2 * k2, at + width / 2, labels, probes)
        k4, d4 = _drift(model, y + width * k3, at + width, labels, probes)
        y = y + width / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        total = total + width / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return Flow(y, total)


def _drift(model: Diffusion, y: Tensor, log_snr: float, labels: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
    """dy / dlam `(R, D)` and its divergence `(R,)` float64, exact or seen by `probes`."""
    lam = torch.full((len(y),), log_snr, dtype=torch.float64, device=y.device)
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        drift = 0.5 * (model._predict_at(torch.sigmoid(lam).sqrt().to(y.dtype)[:, None] * y, lam, labels)[0] - y)
        if probes is None:
            columns = [
                torch.autograd.grad(drift[:, i].sum(), y, retain_graph=i < y.shape[1] - 1)[0][:, i]
                for i in range(y.shape[1])
            ]
            divergence = torch.stack(columns).double().sum(0)
        else:
            divergence = (torch.autograd.grad((drift * probes).sum(), y)[0] * probes).double().sum(1)
    return drift.detach(), divergence
