"""Models in continuous time: a denoiser along a path, and the law of data that it makes. There are two:

SDE     the reverse of dx = -beta x / 2 dt + sqrt(beta) dw with the score (a x0_hat - x) / s^2, from p(x_T) to x_1, then
        the decoder. Its likelihood has a lower bound (Song et al. 2021, arXiv:2101.09258, theorem 3; ContinuousTerms).
        Draws solve it with a stochastic Heun scheme, each step exact where x0_hat stands still: the error of their law
        falls with the square of the step.
ODE     the flow with the same marginals (ode.py), whose likelihood is estimated, and whose draws are exact to the
        solver's tolerance.

With one denoiser they are two models. What `sample` draws from is what the default estimator speaks of; the other's
estimator says that it is of another model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from genzoo.interface import Estimator
from genzoo.likelihood import LogLikelihood
from genzoo.noising import GaussianProcess
from genzoo.spec import Split
from genzoo_ddpm.bound import drawn_bound, pilot
from genzoo_ddpm.denoising import Denoising
from genzoo_ddpm.estimators import DrawnBound, FlowLikelihood, ModelBound
from genzoo_ddpm.frames import traced
from genzoo_ddpm.interpolants import Interpolant
from genzoo_ddpm.ode import flow_frames, flow_likelihood, flow_name, flow_process
from genzoo_ddpm.schedules import Chain
from genzoo_ddpm.stratified import StratifiedBound
from genzoo_ddpm.terms import ContinuousTerms


class Continuous(Denoising):
    """A denoiser in continuous time; its leaves say how it is trained."""

    law: Law

    def _assemble_law(self, law: Law, chain: Chain, interpolant: Interpolant) -> None:
        """Make the parts, as `_assemble` does; the bound's draws are allocated to the intervals of `chain`."""
        self._assemble(chain, interpolant)
        self.law = law
        self.allocation = ContinuousTerms(self).allocation()

    def _calibrate(self, train: Split, valid: Split) -> None:
        """Fit decoder and allocation to training data: validation data then speak of what was chosen without them."""
        self._fit_decoder(train)
        self.allocation.load_state_dict(pilot(ContinuousTerms(self), train).state_dict())

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return self.law.log_likelihood(self, *self._encoded(x, condition), num_samples)

    def _draw(self, labels: Tensor) -> Tensor:
        return self.law.draw(self, labels).reshape(len(labels), *self.spec.event_shape)

    def traces(self, x: Tensor, n: int, seed: int) -> dict[str, Tensor]:
        """See `genzoo_ddpm.frames`; the draws of an ODE to the solver's tolerance."""
        process = GaussianProcess(*self.law.process(self), self.spec.levels)

        def reverse(labels: Tensor, times: Sequence[int]) -> list[Tensor]:
            frames = self.law.frames(self, labels, times)
            return [*(self.decoder.decode(frame) for frame in frames[:-1]), frames[-1].to(self.denoiser.loc.dtype)]

        return traced(self, process, reverse, self.denoiser.loc, x, n, seed)

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        """The law's own first, then of the other law."""
        return self.law.estimators(self)


class Law(ABC):
    """The distribution of data that a denoiser makes."""

    @abstractmethod
    def log_likelihood(self, model: Continuous, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
        """Of encoded data `(B, D)` with one-hot `labels (B, classes)`."""

    def draw(self, model: Continuous, labels: Tensor) -> Tensor:
        """`(n, D)` in data units."""
        return self.frames(model, labels, [0])[0]

    @abstractmethod
    def process(self, model: Continuous) -> tuple[Tensor, Tensor]:
        """a and s `(T,)` float64 of times 1..T of the path."""

    @abstractmethod
    def frames(self, model: Continuous, labels: Tensor, times: Sequence[int]) -> list[Tensor]:
        """States `(n, D)` on the way from noise, at `times` of `process`, which fall; at 0 the draw, in data units."""

    @abstractmethod
    def estimators(self, model: Continuous) -> Mapping[str, Callable[[], Estimator]]:
        """See GenerativeModel."""


class SDE(Law):
    """See the module's head."""

    def log_likelihood(self, model: Continuous, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
        """See Law; the bound."""
        return drawn_bound(ContinuousTerms(model), model.allocation, z, labels, num_samples)

    def process(self, model: Continuous) -> tuple[Tensor, Tensor]:
        """See Law; the sampler's steps."""
        return model.chain.signal, model.chain.noise

    def frames(self, model: Continuous, labels: Tensor, times: Sequence[int]) -> list[Tensor]:
        """See Law."""
        found, x = [], model._start(len(labels))
        for t in range(len(model.chain), 0, -1):
            if t in times:
                found.append(x)
            x = heun(model, x, t - 1, labels, torch.randn_like(x)) if t > 1 else model._last(x, labels)
        return [*found, x] if 0 in times else found

    def estimators(self, model: Continuous) -> Mapping[str, Callable[[], Estimator]]:
        """See Law."""
        flow = flow_name(model, "data with the noise of the fine end")
        terms, ends = ContinuousTerms(model), _ends(model)
        return {
            "bound": lambda: ModelBound(model, f"bound[{ends}]"),
            "stratified": lambda: StratifiedBound(terms, f"stratified[{ends}]"),
            "ode": lambda: FlowLikelihood(model, f"ode[another model: {flow}]", "ode", another=True),
        }


class ODE(Law):
    """See the module's head."""

    def log_likelihood(self, model: Continuous, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
        """See Law; an estimate."""
        return flow_likelihood(model, z, labels, num_samples)

    def process(self, model: Continuous) -> tuple[Tensor, Tensor]:
        """See Law; as many times as the chain has, even in the flow's own."""
        return flow_process(model)

    def frames(self, model: Continuous, labels: Tensor, times: Sequence[int]) -> list[Tensor]:
        """See Law."""
        return flow_frames(model, labels, times)

    def estimators(self, model: Continuous) -> Mapping[str, Callable[[], Estimator]]:
        """See Law."""
        name, ends = flow_name(model, "data as they are"), _ends(model)
        return {
            "ode": lambda: FlowLikelihood(model, f"ode[{name}]", "flow"),
            "bound": lambda: DrawnBound(ContinuousTerms(model), f"bound[another model: {ends}]"),
        }


def _ends(model: Continuous) -> str:
    first, last = (float(model.chain.log_snr[i]) for i in (0, -1))
    decoder = "fitted" if model.decoder.uses_network else "levels"
    return f"reverse SDE,log_snr={first:.3g}..{last:.3g},decoder={decoder}"


def heun(model: Continuous, x: Tensor, t: int, labels: Tensor, noise: Tensor) -> Tensor:
    """x_{t-1} `(n, D)` from x_t at index `t` >= 1, with standard normal `noise (n, D)`.

    With x0_hat held still the SDE's solution over a step is q(x_{t-1} given x_t, x_0 = x0_hat), ancestral sampling; it
    is taken twice, the second time with the mean of x0_hat at both ends. For noise that does not depend on the state
    that is of weak order two (Kloeden & Platen 1992, section 15.1).
    """
    chain = model.chain
    here, there = (chain.log_snr[i].expand(len(x)) for i in (t, t - 1))
    keep, pull, spread = float(chain.keep[t]), float(chain.pull[t]), math.sqrt(float(chain.variance[t]))
    denoised = model._predict_at(x, here, labels)[0]
    still = keep * x + spread * noise
    ahead = model._predict_at(still + pull * denoised, there, labels)[0]
    return still + pull / 2 * (denoised + ahead)
