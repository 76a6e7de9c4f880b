"""Annealed importance sampling: normalising constants, and the likelihoods of decoders and energies, in nats.

A path f_b, 0 <= b <= 1, joins a normalised start f_0, which can be drawn, to an unnormalised target f = f_1 of mass Z.
Along 0 = b_0 < ... < b_T = 1 a transition T_t leaves f_{b_t} invariant; C chains an example, B examples, z (C, B, ...).

    forward  z_0 ~ f_0,  z_t ~ T_t(z_{t-1}),  log w = sum_t log f_{b_t}(z_{t-1}) - log f_{b_{t-1}}(z_{t-1})
             E w = Z, hence E log w <= log Z                                    (Neal 2001, arXiv:physics/9803008)
    reverse  z_T ~ f / Z, the same chain run back, the same sum
             E 1/w = 1/Z, hence E log w >= log Z; only if z_T is exact          (Grosse et al. 2015, arXiv:1511.02543)
    RAISE    log f(v) - log w, log w by reverse from v
             unbiased for the density at v of the annealed sampler z_T          (Burda et al. 2015, arXiv:1412.8566)

Both expectations hold for any transition that leaves its f_b invariant, however badly it mixes: poor transitions cost
tightness, never direction. C chains under one log-mean-exp keep the direction and are tighter.

Which end is optimistic depends on what Z is:

    decoder  Z = p(x), f = p(x, z)   (Wu et al. 2017, arXiv:1611.04273)
        forward: a lower bound, conservative, kind `weights`.
        reverse from z of a simulated pair (x, z): an upper bound; with forward a certified bracket (BDMC).
        reverse from anything else: no direction; alone of kind `estimate`, with forward an indicative bracket.
    energy   log p(x) = log f(x) - log Z
        forward: log Z too small, so log p(x) too large: OPTIMISTIC, so kind `estimate`, never ranked.
        reverse from exact draws of the model: log Z too large, log p(x) too small: conservative.
        reverse from a Markov chain: a chain stuck in one mode sees one mode's Z and loses the direction, so both ends
        together are an indicative bracket.
        RAISE: a lower bound, kind `weights`, for the annealed sampler, a model with a density of its own: in the mean
        over the energy's own draws it lies below log p by KL(p, sampler); point by point it may lie above.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from genzoo.errors import InputError
from genzoo.likelihood import LogLikelihood
from genzoo.signs import alive


class Point(Protocol):
    """A state of the chains together with what is known about it, so that nothing is evaluated twice."""

    @property
    def z(self) -> Tensor:
        """`(C, B, *event)`."""
        ...

    def log_prob(self, beta: float) -> Tensor:
        """log f_beta(z), `(C, B)` float64; normalised at beta = 0."""
        ...


P = TypeVar("P", bound=Point)
P_co = TypeVar("P_co", bound=Point, covariant=True)


class Path(Protocol[P_co]):
    """The distributions from start to target, for B examples at once (an energy has one Z: B = 1)."""

    def draw(self, chains: int) -> P_co:
        """Independent exact draws of the start."""
        ...

    def at(self, z: Tensor) -> P_co:
        """The point of a given state `(C, B, *event)`."""
        ...


class Transition(Protocol[P]):
    """A move that leaves f_beta invariant: `genzoo.hmc.HMC`, or a model's own kernel, such as Gibbs sweeps.

    RAISE, and only it, also needs detailed balance with respect to f_beta (Metropolis moves and v -> h -> v have it).
    """

    def __call__(self, point: P, beta: float) -> P: ...


def linear(distributions: int) -> list[float]:
    """T + 1 equally spaced inverse temperatures."""
    return [t / _positive(distributions) for t in range(distributions + 1)]


def sigmoidal(distributions: int, steepness: float = 4.0) -> list[float]:
    """T + 1 inverse temperatures, close together at both ends (Wu et al. 2017, arXiv:1611.04273, appendix).

    b_t = (s(u_t) - s(u_0)) / (s(u_T) - s(u_0)), u_t = steepness (2 t / T - 1), s logistic.
    """
    rise = [math.tanh(0.5 * steepness * (2 * t / _positive(distributions) - 1)) for t in range(distributions + 1)]
    return [0.0, *((r - rise[0]) / (rise[-1] - rise[0]) for r in rise[1:-1]), 1.0]


def forward(
    path: Path[P], transition: Transition[P], betas: Sequence[float], chains: int, at_once: int | None = None
) -> tuple[Tensor, Tensor]:
    """Anneal from the start to the target.

    Args:
        path, transition: for B examples.
        betas: T + 1 inverse temperatures, rising from 0 to 1.
        chains: C.
        at_once: chains run together; bounds memory. None for all.

    Returns:
        log w `(C, B)` float64, E w = Z, and the ends z_T `(C, B, *event)`, draws of the annealed sampler: near the
        target, but not from it.

    Raises:
        InputError: betas that do not rise from 0 to 1.
    """
    _check(betas)
    parts = []
    with torch.no_grad():
        for count in _sizes(chains, at_once):
            point = path.draw(count)
            log_w = torch.zeros(point.z.shape[:2], dtype=torch.float64, device=point.z.device)
            for before, after in pairwise(betas):
                alive()
                log_w = log_w + _log_ratio(point, before, after)
                point = transition(point, after)
            parts.append((log_w, point.z))
    return torch.cat([log_w for log_w, _ in parts]), torch.cat([z for _, z in parts])


def reverse(
    path: Path[P], transition: Transition[P], betas: Sequence[float], z: Tensor, at_once: int | None = None
) -> Tensor:
    """Anneal back from draws of the target: the mirror image of `forward`.

    Args:
        path, transition, betas, at_once: as in `forward`.
        z: `(C, B, *event)`. Chains of one example may share one draw: each 1/w stays unbiased for 1/Z.

    Returns:
        log w `(C, B)` float64; E 1/w = 1/Z where z is an exact draw of the target, nothing otherwise.
    """
    _check(betas)
    parts = []
    with torch.no_grad():
        for some in torch.split(z, at_once or len(z)):
            point = path.at(some)
            log_w = torch.zeros(some.shape[:2], dtype=torch.float64, device=z.device)
            for after, before in pairwise(reversed(betas)):
                alive()
                point = transition(point, after)
                log_w = log_w + _log_ratio(point, before, after)
            parts.append(log_w)
    return torch.cat(parts)


def annealed_log_weights(
    path: Path[P], transition: Transition[P], betas: Sequence[float], v: Tensor, chains: int, at_once: int | None = None
) -> Tensor:
    """RAISE (Burda et al. 2015, arXiv:1412.8566): log weights of v under the annealed sampler.

    Args:
        path, transition, betas, at_once: as in `forward`; the transition must have detailed balance.
        v: examples `(B, *event)`, states of the path.
        chains: C.

    Returns:
        `(C, B)` float64. The mean of their exponential is unbiased for the probability (density) at v of the law of
        `forward`'s z_T, so that `LogLikelihood.weights` of them is a lower bound for that sampler.
    """
    with torch.no_grad():
        log_f = path.at(v[None]).log_prob(1.0)  # (1, B)
    return log_f - reverse(path, transition, betas, v.expand(chains, *v.shape), at_once)


def log_mean_inverse(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """The upper end -log (1/C) sum_c 1/w_c of reverse `log_w (C, B)`, and its variance `(B,)`; infinite from one chain,
    which cannot tell."""
    inverse = LogLikelihood.weights(-log_w)
    return -inverse.lower, _variance(inverse)


def sandwich(forward_log_w: Tensor, reverse_log_w: Tensor, certified: bool) -> LogLikelihood:
    """Both ends for a decoder's log p(x), `(C, B)` each (bidirectional Monte Carlo).

    Args:
        certified: True only if each reverse chain began at an exact posterior draw, which is at hand for a simulated
            pair (x, z) alone; any other start gives an indicative bracket.

    Returns:
        A bracket; `variance` is that of its lower end, arrays `upper_variance` and `effective_sample_size`.
    """
    lower = LogLikelihood.weights(forward_log_w)
    upper, upper_variance = log_mean_inverse(reverse_log_w)
    return LogLikelihood.bracket(
        lower.lower,
        upper,
        certified,
        num_samples=len(forward_log_w),
        variance=lower.variance,
        arrays={**lower.arrays, "upper_variance": upper_variance},
    )


def energy_estimate(log_f: Tensor, forward_log_w: Tensor) -> LogLikelihood:
    """log f(x) - log Z from forward chains `(C, 1)` alone: log Z too small in the mean, so an OPTIMISTIC number, which
    is of kind `estimate` and never ranked. `log_f (N,)`; the variance of log Z is shared."""
    log_z = LogLikelihood.weights(forward_log_w)
    return LogLikelihood.estimate(
        log_f - log_z.lower, num_samples=len(forward_log_w), shared_variance=_variance(log_z).squeeze(0)
    )


def energy_bracket(log_f: Tensor, forward_log_w: Tensor, reverse_log_w: Tensor, exact_draws: bool) -> LogLikelihood:
    """log f(x) - log Z with log Z from both sides.

    Args:
        log_f: `(N,)` nats, unnormalised.
        forward_log_w: `(C, 1)`; its log Z is too small: the upper, optimistic end.
        reverse_log_w: `(C, 1)`; its log Z is too large where its chains began at exact draws: the lower end.
        exact_draws: whether they did (by enumeration, say); draws of a Markov chain make the bracket indicative, and if
            it is stuck in one mode the lower end may lie above the truth.

    Returns:
        A bracket; `shared_variance` is that of its lower end.
    """
    largest, variance = log_mean_inverse(reverse_log_w)
    smallest = LogLikelihood.weights(forward_log_w).lower
    return LogLikelihood.bracket(
        log_f - largest,
        log_f - smallest,
        exact_draws,
        num_samples=len(reverse_log_w),
        shared_variance=variance.squeeze(0),
    )


def _log_ratio(point: Point, before: float, after: float) -> Tensor:
    """log f_after - log f_before, -inf (no weight, for good) where the target is zero."""
    log_after = point.log_prob(after)
    return torch.where(log_after == -math.inf, log_after, log_after - point.log_prob(before))


def _variance(weights: LogLikelihood) -> Tensor:
    return torch.full_like(weights.lower, math.inf) if weights.variance is None else weights.variance


def _sizes(chains: int, at_once: int | None) -> Iterator[int]:
    step = at_once or chains
    yield from (min(step, chains - at) for at in range(0, chains, step))


def _positive(distributions: int) -> int:
    if distributions < 1:
        raise InputError(f"expected at least 1 distribution after the start; got {distributions}")
    return distributions


def _check(betas: Sequence[float]) -> None:
    rises = all(before < after for before, after in pairwise(betas))
    if len(betas) < 2 or betas[0] != 0.0 or betas[-1] != 1.0 or not rises:
        raise InputError("expected inverse temperatures that rise from 0.0 to 1.0, at least two of them; see `linear`")
