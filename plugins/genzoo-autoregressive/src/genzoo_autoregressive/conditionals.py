"""Laws of one dimension given the dimensions before it, and how codes enter a network.

Real dimensions have mixtures of Gaussians; two levels a Bernoulli; up to 32 levels a categorical; more a mixture of
categorical tables shared by all dimensions (`genzoo.heads.CategoricalMixtureHead`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genzoo.heads import BernoulliHead, CategoricalMixtureHead, Head
from genzoo.spec import DataSpec

MOST_LEVELS = 32
"""Levels up to which each has a logit of its own."""


class GaussianMixtureHead(Head):
    """Mixture of C Gaussians in each dimension, for data of scale about 1. P = 3C: logits, means, log-scales.

    Args:
        components: C.
        floor: least scale.
    """

    def __init__(self, spec: DataSpec, components: int, floor: float = 1e-3) -> None:
        super().__init__(spec)
        self.components = components
        self.parameters_per_dim = 3 * components
        self.floor = math.log(floor)

    def _parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, loc, log_scale = params.chunk(3, dim=-2)
        return logits, loc, log_scale.clamp(self.floor, -self.floor)

    def log_prob_per_dim(self, params: Tensor, x: Tensor) -> Tensor:
        """See Head."""
        logits, loc, log_scale = self._parts(params)
        z = (x[..., None, :] - loc) * (-log_scale).exp()
        log_p = -0.5 * z.square() - log_scale - 0.5 * math.log(2 * math.pi)
        return (logits.log_softmax(-2) + log_p).logsumexp(-2)

    def sample_per_dim(self, params: Tensor) -> Tensor:
        """See Head."""
        logits, loc, log_scale = self._parts(params)
        chosen = (logits - torch.empty_like(logits).exponential_().log()).argmax(-2, keepdim=True)
        loc, log_scale = (t.gather(-2, chosen).squeeze(-2) for t in (loc, log_scale))
        return loc + log_scale.exp() * torch.randn_like(loc)

    def mean_per_dim(self, params: Tensor) -> Tensor:
        """See Head."""
        logits, loc, _ = self._parts(params)
        return (logits.softmax(-2) * loc).sum(-2)

    def marginal_parameters(self, x: Tensor) -> Tensor:
        """Components spread over the marginal's quantiles, each as wide as its neighbours are far."""
        flat = x.flatten(1)
        shares = (torch.arange(self.components, device=x.device) + 0.5) / self.components
        loc = torch.quantile(flat[:5000], shares, dim=0)  # (C, D)
        width = (flat.std(0, correction=0) / self.components).clamp(min=2 * math.exp(self.floor)).log()
        return torch.cat([torch.zeros_like(loc), loc, width.expand_as(loc)])


class CategoricalHead(Head):
    """A logit for each level: P = levels."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        assert spec.levels is not None
        self.levels = self.parameters_per_dim = spec.levels

    def log_prob_per_dim(self, params: Tensor, x: Tensor) -> Tensor:
        """See Head."""
        codes = x.long().unsqueeze(-2).expand(*params.shape[:-2], 1, params.shape[-1])
        return params.log_softmax(-2).gather(-2, codes).squeeze(-2)

    def sample_per_dim(self, params: Tensor) -> Tensor:
        """See Head: Gumbel's maximum."""
        return (params - torch.empty_like(params).exponential_().log()).argmax(-2).to(params.dtype)

    def mean_per_dim(self, params: Tensor) -> Tensor:
        """See Head."""
        levels = torch.arange(self.levels, dtype=params.dtype, device=params.device)
        return (params.softmax(-2) * levels[:, None]).sum(-2)

    def marginal_parameters(self, x: Tensor) -> Tensor:
        """Log-frequencies, by the rule of succession."""
        counts = torch.nn.functional.one_hot(x.flatten(1).long(), self.levels).sum(0)  # (D, levels)
        return ((counts + 1.0) / (len(x) + self.levels)).log().T.contiguous()


def conditionals(spec: DataSpec, components: int) -> Head:
    """The head that suits the data; `components` of a mixture."""
    if spec.levels is None:
        return GaussianMixtureHead(spec, components)
    if spec.levels == 2:
        return BernoulliHead(spec)
    return CategoricalHead(spec) if spec.levels <= MOST_LEVELS else CategoricalMixtureHead(spec, components)


def features(spec: DataSpec, waves: bool = False) -> int:
    """How many numbers of a dimension a network sees."""
    return 1 + 2 * len(_frequencies(spec, waves))


def inputs(spec: DataSpec, x: Tensor, waves: bool = False) -> Tensor:
    """Flat `x (B, D)` as a network sees it, `(B, features, D)`: codes on [-1, 1], many levels with sines as well, since
    what lies between neighbours is invisible to a linear map. Real data as they are; with `waves`, their sines too."""
    h = x.to(torch.float32)
    if spec.levels is not None:
        h = h * (2 / (spec.levels - 1)) - 1
    frequencies = _frequencies(spec, waves)
    if not frequencies:
        return h[:, None]
    angles = torch.stack([h * f for f in frequencies], 1)
    return torch.cat([h[:, None], angles.sin(), angles.cos()], 1)


def _frequencies(spec: DataSpec, waves: bool) -> tuple[float, ...]:
    if spec.levels is None:
        return (1.0, 2.0, 4.0) if waves else ()
    return () if spec.levels == 2 else (math.pi, 2 * math.pi, 4 * math.pi)
