"""Observation heads p(x given parameters): what a decoder ends in, and what a generator needs for a likelihood.

A head turns parameters `(*S, B, P, D)` into a normalised distribution over x `(B, *event_shape)`, with P its
`parameters_per_dim` and D `spec.dims`. `*S` are any leading dimensions, such as draws of a latent. Dimensions are
independent given the parameters, channels of an image among them: the latent couples them. All values are in nats.

    GaussianHead                real data      N(x; m, s^2)
    FullGaussianHead            few dimensions N(x; m, L L^T), L lower triangular: the one head that couples dimensions
    BernoulliHead               two levels     x log p + (1 - x) log(1 - p)
    LogisticMixtureHead         more levels    sum_c w_c [F((x + 1/2 - m_c)/s_c) - F((x - 1/2 - m_c)/s_c)], F logistic
    CategoricalMixtureHead      more levels    sum_c w_c T_c(x), tables T shared by all dimensions and learned
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from genzoo.errors import CapabilityError
from genzoo.spec import DataSpec

HeadName = Literal["auto", "gaussian", "full_gaussian", "bernoulli", "logistics", "categoricals"]

FULL_DIMS = 8
"""Most dimensions of a FullGaussianHead."""

LARGEST = 10.0
"""Largest entry of its L below the diagonal, ten scales of the data: eps grows by L_ij / L_ii a dimension, and its
square must stay finite in float32."""


class Head(nn.Module, ABC):
    """A distribution of x given parameters `(*S, B, P, D)`."""

    parameters_per_dim: int

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.spec = spec

    @abstractmethod
    def log_prob_per_dim(self, params: Tensor, x: Tensor) -> Tensor:
        """log p of each dimension, `(*S, B, D)` nats, for `x (B, D)` in the spec's dtype."""

    @abstractmethod
    def sample_per_dim(self, params: Tensor) -> Tensor:
        """One draw `(*S, B, D)`, not yet in the spec's dtype."""

    @abstractmethod
    def mean_per_dim(self, params: Tensor) -> Tensor:
        """Means `(*S, B, D)` float, in data units."""

    @abstractmethod
    def marginal_parameters(self, x: Tensor) -> Tensor:
        """Parameters `(P, D)` under which each dimension has about the marginal that it has in `x (N, *event_shape)`:
        a bias that starts a decoder at independent dimensions."""

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x given params), `(*S, B)` float64 nats: 784 terms summed in float32 would lose 1e-4 nats.

        Args:
            params: `(*S, B, P, D)`.
            x: `(B, *event_shape)` in the spec's dtype.
        """
        return self.log_prob_per_dim(params, x.flatten(1)).sum(-1, dtype=torch.float64)

    def sample(self, params: Tensor) -> Tensor:
        """One draw `(*S, B, *event_shape)` in the spec's dtype."""
        return self._shaped(self.sample_per_dim(params)).to(self.spec.dtype)

    def mean(self, params: Tensor) -> Tensor:
        """E[x given params], `(*S, B, *event_shape)` float, in data units (codes, for discrete data)."""
        return self._shaped(self.mean_per_dim(params))

    def _shaped(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], *self.spec.event_shape)


class GaussianHead(Head):
    """Independent Gaussians with a learned scale, for data whose scale is about 1 (standardised).

    Args:
        scale: "shared", one scale a dimension, a parameter of the head, or "output", from the parameters (P = 2).
        initial: the scale at the start. Well below 1: a decoder that starts with the scale of the data explains
            everything as noise and its latent collapses.
        floor: least scale, which keeps the density of degenerate data finite.
    """

    def __init__(
        self, spec: DataSpec, scale: Literal["shared", "output"] = "shared", initial: float = 0.15, floor: float = 1e-3
    ) -> None:
        super().__init__(spec)
        self.parameters_per_dim = 1 if scale == "shared" else 2
        self.floor = math.log(floor)
        self.log_scale = nn.Parameter(torch.full((spec.dims,), math.log(initial)))

    def _loc_log_scale(self, params: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = self.log_scale if self.parameters_per_dim == 1 else self.log_scale + params[..., 1, :]
        return params[..., 0, :], log_scale.clamp(self.floor, -self.floor)

    def log_prob_per_dim(self, params: Tensor, x: Tensor) -> Tensor:
        """See Head."""
        loc, log_scale = self._loc_log_scale(params)
        return -0.5 * ((x - loc) * (-log_scale).exp()) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)

    def sample_per_dim(self, params: Tensor) -> Tensor:
        """See Head."""
        loc, log_scale = self._loc_log_scale(params)
        return loc + log_scale.exp() * torch.randn_like(loc)

    def mean_per_dim(self, params: Tensor) -> Tensor:
        """See Head."""
        return params[..., 0, :]

    def marginal_parameters(self, x: Tensor) -> Tensor:
        """The mean of each dimension; the scale stays at its start, on purpose: see the class."""
        params = x.new_zeros(self.parameters_per_dim, self.spec.dims)
        params[0] = x.flatten(1).mean(0)
        return params


class FullGaussianHead(Head):
    """Gaussian with a covariance of its own at every z: x = m + L eps, for data whose scale is about 1.

    An elongated Gaussian lies along a curve, where one of a shared scale is as wide as the curve is sharp. P = 1 + D:
    m, then the rows of L: entry `[1 + j, i]` is L_ij for j < i, log L_ii (shifted by log `initial`) for j = i, and
    unused for j > i. Dimension i of `log_prob_per_dim` is log p(x_i given x_<i).

    Args:
        initial, floor: as in GaussianHead; the floor is of L_ii, the scale of x_i given x_<i.

    Raises:
        CapabilityError: more than 8 dimensions, where P D is no longer small.
    """

    def __init__(self, spec: DataSpec, initial: float = 0.15, floor: float = 1e-3) -> None:
        super().__init__(spec)
        if spec.dims > FULL_DIMS:
            raise CapabilityError(f"expected at most {FULL_DIMS} dimensions for FullGaussianHead; got {spec.dims}")
        self.parameters_per_dim = 1 + spec.dims
        self.initial, self.floor = math.log(initial), math.log(floor)

    def _log_diagonal(self, params: Tensor) -> Tensor:
        diagonal = params[..., 1:, :].diagonal(dim1=-2, dim2=-1)
        return (diagonal + self.initial).clamp(self.floor, -self.floor)

    def log_prob_per_dim(self, params: Tensor, x: Tensor) -> Tensor:
        """See Head."""
        log_diagonal = self._log_diagonal(params)
        inverse, centred = (-log_diagonal).exp(), x - params[..., 0, :]
        eps: list[Tensor] = []  # forward substitution in L eps = x - m
        for i in range(self.spec.dims):
            rest = centred[..., i]
            for j in range(i):
                rest = rest - params[..., 1 + j, i].clamp(-LARGEST, LARGEST) * eps[j]
            eps.append(rest * inverse[..., i])
        return -0.5 * torch.stack(eps, -1) ** 2 - log_diagonal - 0.5 * math.log(2 * math.pi)

    def sample_per_dim(self, params: Tensor) -> Tensor:
        """See Head."""
        log_diagonal = self._log_diagonal(params)
        eps = torch.randn_like(log_diagonal)
        lower = params[..., 1:, :].transpose(-1, -2).tril(-1).clamp(-LARGEST, LARGEST)  # (*S, B, D, D)
        return params[..., 0, :] + log_diagonal.exp() * eps + (lower @ eps[..., None]).squeeze(-1)

    def mean_per_dim(self, params: Tensor) -> Tensor:
        """See Head."""
        return params[..., 0, :]

    def marginal_parameters(self, x: Tensor) -> Tensor:
        """The mean of each dimension, with L at its start: see GaussianHead."""
        params = x.new_zeros(self.parameters_per_dim, self.spec.dims)
        params[0] = x.flatten(1).mean(0)
        return params


class BernoulliHead(Head):
    """Independent Bernoulli variables; the parameter is the logit of P(x = 1)."""

    parameters_per_dim = 1

    def log_prob_per_dim(self, params: Tensor, x: Tensor) -> Tensor:
        """See Head."""
        return logsigmoid((2 * x.to(params.dtype) - 1) * params[..., 0, :])

    def sample_per_dim(self, params: Tensor) -> Tensor:
        """See Head."""
        return torch.bernoulli(self.mean_per_dim(params))

    def mean_per_dim(self, params: Tensor) -> Tensor:
        """See Head."""
        return params[..., 0, :].sigmoid()

    def marginal_parameters(self, x: Tensor) -> Tensor:
        """Logits of the frequencies of ones, by the rule of succession."""
        ones = x.flatten(1).sum(0, dtype=torch.float32)
        return ((ones + 1) / (len(x) - ones + 1)).log()[None]


class LogisticMixtureHead(Head):
    """Mixture of discretised logistics (Salimans et al. 2017, arXiv:1701.05517, section 2.1).

    Code x is the cell [x - 1/2, x + 1/2] on an axis scaled to [-1, 1]; the first and last cells are open to infinity,
    so the codes have total mass 1 whatever the parameters. P = 3C: C logits of weights, C locations, C log-scales.

    Args:
        components: C.
    """

    def __init__(self, spec: DataSpec, components: int = 5) -> None:
        super().__init__(spec)
        self.levels = _levels(spec, "LogisticMixtureHead")
        self.components = components
        self.parameters_per_dim = 3 * components

    def _parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, loc, log_scale = params.chunk(3, dim=-2)  # each (*S, B, C, D)
        # exp(-7) is a quarter of a cell at 256 levels; beyond either end nothing changes but the gradient's size
        return logits, loc, log_scale.clamp(-7.0, 5.0)

    def _log_cells(self, loc: Tensor, log_scale: Tensor, x: Tensor) -> Tensor:
        """log mass of the cells of `x`, by F(b) - F(a) = F(b) F(-a) (1 - exp(a - b)): no cancellation anywhere."""
        inverse, half = (-log_scale).exp(), 1 / (self.levels - 1)
        centred = x.to(loc.dtype) * (2 * half) - 1 - loc
        first, last = x == 0, x == self.levels - 1
        below = logsigmoid(-(centred - half) * inverse).masked_fill(first, 0.0)
        above = logsigmoid((centred + half) * inverse).masked_fill(last, 0.0)
        inside = (-torch.expm1(-2 * half * inverse)).log().masked_fill(first | last, 0.0)
        return below + above + inside

    def log_prob_per_dim(self, params: Tensor, x: Tensor) -> Tensor:
        """See Head."""
        logits, loc, log_scale = self._parts(params)
        log_cells = self._log_cells(loc, log_scale, x[:, None])
        return (logits.log_softmax(-2) + log_cells).logsumexp(-2)

    def sample_per_dim(self, params: Tensor) -> Tensor:
        """See Head."""
        logits, loc, log_scale = self._parts(params)
        chosen = _choose(logits)
        loc, log_scale = (t.gather(-2, chosen).squeeze(-2) for t in (loc, log_scale))
        value = loc + log_scale.exp() * torch.rand_like(loc).logit(eps=1e-7)
        return ((value + 1) * (0.5 * (self.levels - 1))).round().clamp(0, self.levels - 1)

    def mean_per_dim(self, params: Tensor) -> Tensor:
        """See Head. Mean of the mixture before it is cut into cells, clipped to the codes."""
        logits, loc, _ = self._parts(params)
        value = (logits.softmax(-2) * loc.clamp(-1, 1)).sum(-2)
        return (value + 1) * (0.5 * (self.levels - 1))

    def marginal_parameters(self, x: Tensor) -> Tensor:
        """Evenly spread components, the weights by EM on the marginals."""
        loc, log_scale = _spread(self.components)
        codes = torch.arange(self.levels)[:, None]
        tables = self._log_cells(loc, log_scale, codes).exp().T  # (C, levels)
        weights = _marginal_weights(tables.to(x.device), x)
        constant = torch.stack([loc, log_scale]).to(weights)[..., None].expand(2, self.components, self.spec.dims)
        return torch.cat([weights, *constant])


class CategoricalMixtureHead(Head):
    """Mixture of C categorical tables over the levels, shared by all dimensions; the parameters are C weight logits.

    A 256-way categorical of rank C: C outputs a dimension where a mixture of C logistics needs 3C, one exponential a
    component where that needs five, no resolution lost at the codes that dominate (80.7 % of MNIST's pixels are 0), and
    normalised by construction. Each table is softmax(T_c) with a share `floor` of the uniform law, which bounds
    log p(x) from below by log(floor / levels).

    Args:
        components: C, at least 2.
        floor: costs at most -log(1 - floor) nats a dimension, 0.008 nats on 784.
    """

    def __init__(self, spec: DataSpec, components: int = 12, floor: float = 1e-5) -> None:
        super().__init__(spec)
        self.levels = _levels(spec, "CategoricalMixtureHead")
        self.parameters_per_dim = components = min(components, self.levels)
        self.floor = floor
        start = LogisticMixtureHead(spec, components)
        loc, log_scale = _spread(components)
        log_cells = start._log_cells(loc, log_scale, torch.arange(self.levels)[:, None]).T.contiguous()
        # from below, since a table entry at exp(-2000) would never learn
        self.tables = nn.Parameter(log_cells.clamp(min=-10.0))

    def probabilities(self) -> Tensor:
        """The tables `(C, levels)`; each row sums to 1."""
        return (1 - self.floor) * self.tables.softmax(-1) + self.floor / self.levels

    def log_prob_per_dim(self, params: Tensor, x: Tensor) -> Tensor:
        """See Head."""
        mass = self.probabilities().T[x.long()].transpose(-1, -2)  # (B, D, C) to (B, C, D)
        # The largest weight is exp(0) and no mass is below the floor, so neither sum can underflow.
        weights = (params - params.amax(-2, keepdim=True).detach()).exp()
        return (weights * mass).sum(-2).log() - weights.sum(-2).log()

    def sample_per_dim(self, params: Tensor) -> Tensor:
        """See Head."""
        # One sorted array for all tables, row c shifted by c: the number of its steps below c + u is the code.
        c = _choose(params).squeeze(-2)  # (*S, B, D)
        cumulative = self.probabilities().double().cumsum(-1)[:, :-1]  # (C, levels - 1)
        steps = cumulative + torch.arange(len(cumulative), device=params.device)[:, None]
        below = torch.searchsorted(steps.flatten(), c + torch.rand_like(c, dtype=torch.float64), right=True)
        return (below - c * steps.shape[1]).clamp(0, self.levels - 1)

    def mean_per_dim(self, params: Tensor) -> Tensor:
        """See Head."""
        means = self.probabilities() @ torch.arange(self.levels, device=params.device, dtype=params.dtype)  # (C,)
        return (params.softmax(-2) * means[:, None]).sum(-2)

    def marginal_parameters(self, x: Tensor) -> Tensor:
        """The weights by EM on the marginals, the tables as they are."""
        return _marginal_weights(self.probabilities().detach(), x)


def head_for(spec: DataSpec, name: HeadName = "auto", components: int = 12) -> Head:
    """The observation head of that name on `spec`; "auto" takes gaussian, bernoulli or categoricals by its levels.

    Args:
        spec: the space of x.
        name: which head.
        components: of a mixture over levels.

    Raises:
        CapabilityError: a head for another kind of data.
    """
    kind = spec.kind
    heads = {
        "real": ("gaussian", "full_gaussian"),
        "binary": ("bernoulli",),
        "discrete": ("categoricals", "logistics"),
    }[kind]
    chosen = heads[0] if name == "auto" else name
    if chosen not in heads:
        raise CapabilityError(f"expected head {' or '.join(heads)} for {kind} data; got {name}")
    if chosen == "gaussian":
        return GaussianHead(spec)
    if chosen == "full_gaussian":
        return FullGaussianHead(spec)
    if chosen == "bernoulli":
        return BernoulliHead(spec)
    mixture = CategoricalMixtureHead if chosen == "categoricals" else LogisticMixtureHead
    return mixture(spec, components)


def _levels(spec: DataSpec, head: str) -> int:
    if spec.levels is None:
        raise CapabilityError(f"expected discrete data for {head}; got real data {spec.describe()}")
    return spec.levels


def _choose(logits: Tensor) -> Tensor:
    """Component indices `(*S, B, 1, D)` drawn by weights softmax(logits `(*S, B, C, D)`): Gumbel's maximum."""
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-2, keepdim=True)


def _spread(components: int) -> tuple[Tensor, Tensor]:
    """Locations `(C,)` evenly over [-1, 1] and log-scales `(C,)` at which neighbours overlap; the end components stand
    on the end codes and are narrow, since images have atoms there."""
    loc = torch.linspace(-1, 1, components)
    log_scale = torch.full((components,), math.log(1 / components))
    log_scale[0] = log_scale[-1] = -7.0
    return loc, log_scale


def _marginal_weights(tables: Tensor, x: Tensor, steps: int = 20) -> Tensor:
    """Log-weights `(C, D)` of mixtures of `tables (C, levels)` fitted by EM to each dimension of codes `x (N, ...)`."""
    codes = x.flatten(1).long()  # (N, D)
    counts = torch.zeros(codes.shape[1], tables.shape[1], device=x.device)  # (D, levels)
    counts.scatter_add_(1, codes.T, torch.ones_like(codes.T, dtype=counts.dtype))
    share = (counts + 1e-3) / (counts + 1e-3).sum(1, keepdim=True)
    weights = torch.full((len(counts), len(tables)), 1 / len(tables), device=x.device)  # (D, C)
    for _ in range(steps):
        weights = weights * ((share / (weights @ tables)) @ tables.T)
    return weights.clamp(min=1e-6).log().T.contiguous()
