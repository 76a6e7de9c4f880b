"""The likelihood of an ODE between data and noise, and its draws.

    dx / dt = v(x, t),   log p(x_start) = log p(x_end) + int_start^end div v dt

(Chen et al. 2018, arXiv:1806.07366, eq. 8), from the fine end of a path, `start`, to its noise, `end`. An example's
steps are its own (solver.py), never rounded to a grid. Some examples of each batch are solved a second time at a tenth
of the tolerance: the mean change is `solver_error`, and a large one is an error. The divergence is exact up to `EXACT`
dimensions, above it Hutchinson's with Rademacher probes, one for a whole flow.

The flow is a model of y = x_start / a_start = x_0 + sigma eps, which is what the fine end holds. Of real data y is the
data as it is. Codes are dequantised by the forward process and seen through the decoder,

    E_q [log p(y) + log p(x_0 given y) - log q(y given x_0)]

Solver and probes err in either direction: the answer is an estimate.

The probability flow of a denoiser along a variance-preserving path (Song et al. 2021, arXiv:2011.13456, eq. 13) is

    dx / dlam = a (x0_hat(x, lam) - a x) / 2

from lam_1 down to lam_T. It is another model than a chain or an SDE with the same denoiser.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genzoo.errors import NumericsError
from genzoo.likelihood import LogLikelihood
from genzoo_ddpm.decoders import LevelsDecoder
from genzoo_ddpm.solver import integrate

if TYPE_CHECKING:
    from genzoo_ddpm.denoising import Denoising
    from genzoo_ddpm.interpolants import Point

EXACT = 3
"""Dimensions up to which the divergence is taken one by one."""

TOLERANCE = 1e-5
"""Of a step: of the state, in units of data of scale 1, and of nats a dimension."""

CHECKED, CHANGE = 64, 1e-3
"""Examples of a batch solved again at TOLERANCE / 10, and the mean change allowed: of D nats, or of an answer itself
where it is larger."""


class Flow(ABC):
    """An ODE whose fine end is at time `start` and whose noise at `end`."""

    start: float
    end: float
    scale: float
    """a_start."""

    def time(self, share: float) -> float:
        """That share of the way from `start` to `end`."""
        return self.start + share * (self.end - self.start)

    @abstractmethod
    def at(self, time: Tensor, dtype: torch.dtype) -> Point:
        """a and s of the path at time `(R,)` float64."""

    @abstractmethod
    def drift(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """v(x, t) `(R, D)` at x `(R, D)` and time `(R,)` float64."""

    @abstractmethod
    def log_prior(self, x: Tensor) -> Tensor:
        """log p(x_end) `(R,)` float64 nats."""

    @abstractmethod
    def prior(self, n: int) -> Tensor:
        """Draws of x_end `(n, D)`."""


class ProbabilityFlow(Flow):
    """See the module's head."""

    def __init__(self, model: Denoising) -> None:
        self.model = model
        self.start, self.end = float(model.chain.log_snr[0]), float(model.chain.log_snr[-1])
        self.scale = float(model.chain.signal[0])

    def at(self, time: Tensor, dtype: torch.dtype) -> Point:
        """See Flow."""
        return self.model.interpolant.at(time, dtype)

    def drift(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """See Flow."""
        point = self.at(time, x.dtype)
        return 0.5 * point.signal * (self.model._predict_from(x, point, labels)[0] - point.signal * x)

    def log_prior(self, x: Tensor) -> Tensor:
        """See Flow; p(x_T) of the model."""
        signal, noise = self.model.chain.signal[-1], self.model.chain.noise[-1]
        variance = signal**2 * self.model.denoiser.variances.double() + noise**2
        shift = x.double() - signal * self.model.denoiser.loc.double()
        return -0.5 * (shift.square() / variance + (2 * math.pi * variance).log()).sum(1)

    def prior(self, n: int) -> Tensor:
        """See Flow."""
        return self.model._start(n)


def flow_name(model: Denoising, of: str) -> str:
    """What decides the number, for the estimator's name."""
    trace = "exact" if model.spec.dims <= EXACT else "hutchinson"
    ends = "codes dequantised by the forward process" if model.spec.levels is not None else of
    return f"{ends},trace={trace},dopri5,error={CHANGE:g}/dim"


def flow_likelihood(model: Denoising, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
    """Of kind `estimate`, the mean over `num_samples` dequantisations and probes; one does where there are none."""
    drawn = isinstance(model.decoder, LevelsDecoder) or z.shape[1] > EXACT
    k = num_samples if drawn else 1
    flow, size = model.flow(), model.network.rows
    many = torch.arange(len(z), device=z.device).repeat(k)
    pieces = [_likelihood(model, flow, z[rows], labels[rows]) for rows in torch.split(many, size)]
    parts = {name: torch.cat([piece[name] for piece in pieces]).view(k, -1) for name in pieces[0]}
    error = parts.pop("solver_error").mean(0)
    draws = torch.stack(list(parts.values())).sum(0)  # (K, B)
    variance = (draws.var(0) / k if k > 1 else None) if drawn else torch.zeros_like(error)
    return LogLikelihood.estimate(
        draws.mean(0),
        num_samples=k,
        variance=variance,
        terms={name: part.mean(0) for name, part in parts.items()},
        arrays={"solver_error": error},
    )


def flow_process(model: Denoising) -> tuple[Tensor, Tensor]:
    """a and s `(T,)` float64 of the path at T even times, as many as the chain has."""
    flow, count = model.flow(), len(model.chain)
    times = torch.tensor([flow.time((k + 1) / count) for k in range(count)], dtype=torch.float64)
    point = flow.at(times, torch.float64)
    return point.signal[:, 0], point.noise[:, 0]


def flow_frames(model: Denoising, labels: Tensor, times: Sequence[int]) -> list[Tensor]:
    """States `(n, D)` of the flow on its way from noise, one for each of `labels (n, classes)`, at `times` of
    `flow_process`, which fall; at 0 a draw of the flow's own model, in data units."""
    flow, count = model.flow(), len(model.chain)
    x = flow.prior(len(labels))
    state, here, frames = x.double(), flow.end, []

    def field(state: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        return flow.drift(state.to(x.dtype), time, labels[rows]).double()

    for t in times:
        there = flow.time(t / count)
        if there != here:
            state = integrate(field, state, here, there, TOLERANCE, _difference)
        here = there
        frames.append(state.to(x.dtype) if t else (state / flow.scale).to(x.dtype))
    if times[-1] == 0 and isinstance(model.decoder, LevelsDecoder):
        frames[-1] = model.decoder.sample(frames[-1])
    return frames


def _likelihood(model: Denoising, flow: Flow, z: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Parts `(R,)` float64 nats whose sum is the answer, and solver_error."""
    dims = z.shape[1]
    y, parts = z, {}
    if isinstance(model.decoder, LevelsDecoder):
        sigma = float((-0.5 * model.chain.log_snr[0]).exp())
        eps = torch.randn_like(z)
        y = z + sigma * eps
        log_q = -0.5 * eps.double().square().sum(1) - dims * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
        parts["decoder"] = model.decoder.log_prob(z, y).double().sum(1) - log_q
    probes = torch.randint_like(y, 2) * 2 - 1 if dims > EXACT else None
    prior, divergence = _solved(flow, y, labels, probes, TOLERANCE)
    some = slice(CHECKED)
    finer = _solved(flow, y[some], labels[some], None if probes is None else probes[some], TOLERANCE / 10).sum(0)
    error = (finer - (prior + divergence)[some]).abs().mean()
    allowed = CHANGE * float(finer.abs().clamp(min=dims).mean())
    if not float(error) <= allowed:
        raise NumericsError(
            f"the ODE has not settled: from tolerance {TOLERANCE:g} to a tenth of it its answer changes by "
            f"{float(error):.3g} nats; expected at most {allowed:.3g}"
        )
    return {**parts, "prior": prior, "divergence": divergence, "solver_error": error.expand(len(y))}


def _solved(flow: Flow, y: Tensor, labels: Tensor, probes: Tensor | None, tolerance: float) -> Tensor:
    """log p(x_end), and the integral of the divergence, with that of the scale: `(2, R)` float64."""

    def field(state: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        x = state[:, :-1].to(y.dtype)
        with torch.enable_grad():
            x.requires_grad_()
            drift = flow.drift(x, time, labels[rows])
            divergence = _divergence(drift, x, None if probes is None else probes[rows])
        return torch.cat([drift.detach().double(), divergence[:, None]], 1)

    volume = torch.full((len(y), 1), y.shape[1] * math.log(flow.scale), dtype=torch.float64, device=y.device)
    state = torch.cat([flow.scale * y.double(), volume], 1)
    state = integrate(field, state, flow.start, flow.end, tolerance, _difference_and_nats)
    return torch.stack([flow.log_prior(state[:, :-1]), state[:, -1]])


def _divergence(drift: Tensor, x: Tensor, probes: Tensor | None) -> Tensor:
    """`(R,)` float64, exact or seen by `probes`."""
    if probes is not None:
        return (torch.autograd.grad((drift * probes).sum(), x)[0] * probes).double().sum(1)
    columns = [
        torch.autograd.grad(drift[:, i].sum(), x, retain_graph=i < x.shape[1] - 1)[0][:, i] for i in range(x.shape[1])
    ]
    return torch.stack(columns).double().sum(0)


def _difference(difference: Tensor, state: Tensor) -> Tensor:
    """Root mean square of a difference `(R, D)`, relative to the state's where that is above 1."""
    return difference.square().mean(1).sqrt() / state.square().mean(1).sqrt().clamp(min=1)


def _difference_and_nats(difference: Tensor, state: Tensor) -> Tensor:
    """The same of all but the last column, and of that nats a dimension, or of |x|^2 / 8 nats where that is more."""
    square = state[:, :-1].square().mean(1)
    nats = difference[:, -1].abs() / (state.shape[1] - 1) / (square / 4).clamp(min=1)
    return torch.maximum(_difference(difference[:, :-1], state[:, :-1]), nats)
