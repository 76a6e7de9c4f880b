"""A finite mixture written as a Pyro program with a discrete latent, over which Pyro's enumeration sums.

k ~ Categorical(pi), x ~ p(x given k); log p(x) = log sum_k pi_k p(x given k), exact. p(x given k): a Gaussian for real
data, a product of categoricals (Bernoullis at two levels) for discrete data. Labels, where there are any, have weights
pi of their own over shared components (McLachlan & Peel 2000, Finite Mixture Models).
"""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import pyro
import pyro.distributions as dist
import torch
from pydantic import Field
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from genzoo.config import Config as BaseConfig
from genzoo.config import TrainSettings
from genzoo.spec import DataSpec, Split
from genzoo_pyro.heads import TableComponents
from genzoo_pyro.model import ExactPyroModel

FULL_DIMS = 32  # full covariances up to here by default: their cost grows with the cube of the dimensions
MIN_SPREAD = 1e-3  # of a start: fewer different points than components are all centres, at distance 0
START = 4096  # training examples that the start is made from
MIX = 0.5  # share of an example in the table that starts from it; the rest is the marginal, which covers all codes


class MixtureConfig(BaseConfig):
    """What a mixture is made of."""

    components: int = Field(64, ge=1, description="terms of the sum")
    covariance: Literal["full", "diagonal"] | None = Field(
        None, description="of the Gaussians; none: full up to 32 dimensions, else diagonal"
    )


class GaussianComponents(PyroModule):  # type: ignore[misc]
    """M Gaussians with full or diagonal covariance."""

    def __init__(self, spec: DataSpec, count: int, full: bool) -> None:
        super().__init__()
        self.full = full
        self.loc = nn.Parameter(torch.randn(count, spec.dims))
        one = torch.eye(spec.dims).repeat(count, 1, 1) if full else torch.ones(count, spec.dims)
        self.scale = PyroParam(one, constraints.lower_cholesky if full else constraints.positive)

    def forward(self, k: Tensor) -> Any:
        """The distribution of x `(D,)` given the component `k (*batch)`."""
        if self.full:
            return dist.MultivariateNormal(self.loc[k], scale_tril=self.scale[k])
        return dist.Normal(self.loc[k], self.scale[k]).to_event(1)

    def start(self, x: Tensor) -> None:
        """Centres by k-means++ (Arthur & Vassilvitskii 2007), one scale: the mean distance to the nearest centre."""
        x = x.float()
        centres = x[torch.randint(len(x), (1,))]
        nearest = x.new_full((len(x),), math.inf)
        for _ in range(1, len(self.loc)):
            nearest = torch.minimum(nearest, (x - centres[-1]).square().sum(1))
            weights = nearest if bool(nearest.sum() > 0) else torch.ones_like(nearest)
            centres = torch.cat([centres, x[torch.multinomial(weights, 1)]])
        spread = torch.cdist(x, centres).amin(1).square().mean().div(x.shape[1]).sqrt().clamp(min=MIN_SPREAD)
        self.loc.copy_(centres)
        unit = torch.eye(x.shape[1], device=x.device) if self.full else torch.ones_like(x[0])
        self.scale = (spread * unit).expand(len(self.loc), *unit.shape)


class CategoricalComponents(PyroModule):  # type: ignore[misc]
    """M products of categoricals over the levels."""

    def __init__(self, spec: DataSpec, count: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(0.1 * torch.randn(spec.dims, spec.levels or 2, count))

    def forward(self, k: Tensor) -> TableComponents:
        """The distribution of x `(D,)` given the component `k (*batch)`."""
        return TableComponents(self.logits.log_softmax(1), k)

    def start(self, x: Tensor) -> None:
        """Each table: the marginal of every dimension, with half a count added, mixed with one example each."""
        dims, levels, count = self.logits.shape
        rows = x.long() + levels * torch.arange(dims, device=x.device)  # (N, D), into a table of D L rows
        counts = torch.bincount(rows.flatten(), minlength=dims * levels).reshape(dims, levels, 1)
        marginal = (counts + 0.5) / (len(x) + 0.5 * levels)
        chosen = x[torch.randint(len(x), (count,))].T.long()  # (D, M)
        example = torch.zeros_like(self.logits).scatter_(1, chosen[:, None], 1.0)
        self.logits.copy_(torch.log((1 - MIX) * marginal + MIX * example))


class MixtureProgram(PyroModule):  # type: ignore[misc]
    """The program: a component, then x from it."""

    def __init__(self, spec: DataSpec, count: int, components: PyroModule) -> None:
        super().__init__()
        self.spec = spec
        self.logits = nn.Parameter(torch.zeros(spec.classes or 1, count))
        self.components = components

    def forward(self, x: Tensor | None, n: int, condition: Tensor | None) -> Tensor:
        """Data `(n, *event_shape)`."""
        logits = self.logits[0] if condition is None else self.logits[condition]  # (M,) or (n, M)
        with pyro.plate("data", n):
            k = pyro.sample("k", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            given = None if x is None else x.flatten(1)
            drawn = pyro.sample("x", self.components(k), obs=given)
        return cast(Tensor, drawn.unflatten(-1, self.spec.event_shape))


class PyroMixture(ExactPyroModel):
    """A mixture of Gaussians, of products of Bernoullis or of categoricals, trained by gradient on exact log p(x)."""

    Config = MixtureConfig

    def __init__(self, spec: DataSpec, config: MixtureConfig | None = None) -> None:
        config = MixtureConfig() if config is None else config
        components: PyroModule
        if spec.levels is None:
            full = spec.dims <= FULL_DIMS if config.covariance is None else config.covariance == "full"
            components = GaussianComponents(spec, config.components, full)
        else:
            components = CategoricalComponents(spec, config.components)
        super().__init__(spec, MixtureProgram(spec, config.components, components), config)

    def default_training(self) -> TrainSettings:
        """See GenerativeModel. Tables and centres are no network: they bear, and need, a high learning rate."""
        if self.spec.levels is None:
            return TrainSettings(learning_rate=2e-2, batch_size=512)
        # a step costs the whole table (a softmax over D L M numbers) whatever the batch is: make few, large ones
        return TrainSettings(learning_rate=1e-1, batch_size=1024)

    def _initialise(self, train: Split) -> None:
        indices = torch.randperm(len(train))[:START]
        x = train.batch(indices, torch.Generator().manual_seed(0)).x
        self.model.components.start(x.flatten(1).to(self.device))
