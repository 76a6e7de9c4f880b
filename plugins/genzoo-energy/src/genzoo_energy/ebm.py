"""Energy-based model of the plane (LeCun et al. 2006; Song and Kingma 2021, arXiv:2101.03288), Z by quadrature.

    log f(x) = g(x) + log N(x; 0, s^2 I)           p(x) = f(x) / Z,  g a network

The Gaussian makes f integrable whatever g is. After training Z is a sum over a fine grid, so the likelihood is exact
up to the rule's error, and samples are drawn from that grid, corrected inside its cells. Four ways to train; u is a
draw of the Gaussian, v a random direction:

    likelihood   -log f(x) + log Z, Z by a jittered grid at every step                        maximum likelihood
    nce          softplus(-g(x)) + softplus(g(u))                    Gutmann and Hyvarinen 2012: g learns Z as well
    score        v.H v + (v.d log f)^2 / 2 at x, H the Hessian       sliced score matching, Song et al. 2019
    pcd          g(chain) - g(x), chains by Langevin steps           Nijkamp et al. 2020; Tieleman 2008
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from genzoo.config import Config, TrainSettings
from genzoo.errors import CapabilityError, NumericsError
from genzoo.interface import GradientModel
from genzoo.likelihood import LogLikelihood
from genzoo.nn import ResidualMLP, condition_features, condition_width
from genzoo.spec import DataSpec, Split

REACH = 5.5
"""Half a side of the grid in units of s: beyond it the Gaussian has 1e-7 of its mass."""
EDGE = 1e-6
"""Most of the mass that the grid's outermost cells may hold."""
ROWS = 1 << 15
CANDIDATES = 8
"""Points of the grid's law among which a sample is chosen by the density itself."""


class EBMConfig(Config):
    """Configuration of `EBM`."""

    objective: Literal["likelihood", "nce", "score", "pcd"] = Field("likelihood", description="see the module")
    width: int = Field(128, ge=4, description="features inside the network")
    blocks: int = Field(3, ge=1, description="residual blocks")
    scale: float = Field(1.5, gt=0, description="s, for data whose scale is about 1")
    grid: int = Field(400, ge=50, description="nodes a side for the final Z and for samples")
    train_grid: int = Field(
        64, ge=8, description="nodes a side for Z in the likelihood objective, jittered at each step"
    )
    chains: int = Field(2000, ge=1, description="persistent chains of pcd, of each class")
    langevin_steps: int = Field(20, ge=1, description="Langevin steps of pcd")
    langevin_size: float = Field(0.05, gt=0, description="their size: x + size^2 / 2 d log f + size noise")


class EBM(GradientModel):
    """See the module. Raises CapabilityError for data that is not real, or has more than two dimensions."""

    Config = EBMConfig
    config: EBMConfig
    log_z: Tensor
    chains: Tensor

    def __init__(self, spec: DataSpec, config: EBMConfig | None = None) -> None:
        super().__init__(spec, config)
        if spec.levels is not None or spec.event_shape != (2,):
            raise CapabilityError(f"ebm takes real points of the plane, (2,); got {spec.describe()}")
        c = self.config
        self.network = ResidualMLP(2 + condition_width(spec), 1, c.width, c.blocks, zero_last=True)
        # a constant in g cancels against Z, but for nce, where it is what learns Z
        self.network.last.bias.requires_grad_(c.objective == "nce")
        self.register_buffer("log_z", torch.zeros(spec.classes or 1, dtype=torch.float64))
        pcd = c.objective == "pcd"
        self.register_buffer("chains", torch.zeros(c.chains * (spec.classes or 1) if pcd else 0, 2))

    @property
    def loss_in_nats(self) -> bool:
        """True for maximum likelihood."""
        return self.config.objective == "likelihood"

    def default_training(self) -> TrainSettings:
        """As for other small networks."""
        return TrainSettings(learning_rate=3e-3, batch_size=512)

    # the field

    def tilt(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """g `(N,)` at `x (N, 2)`."""
        label = condition_features(self.spec, condition, len(x), x)
        return self.network(torch.cat([x, label], 1))[:, 0]  # type: ignore[no-any-return]

    def log_base(self, x: Tensor) -> Tensor:
        """log N(x; 0, s^2 I) `(N,)`."""
        s = self.config.scale
        return -0.5 * (x / s).square().sum(1) - math.log(2 * math.pi * s * s)

    def log_f(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """log f `(N,)`, in the dtype of `x`."""
        return self.tilt(x, condition) + self.log_base(x)

    def _base(self, n: int) -> Tensor:
        return self.config.scale * torch.randn(n, 2, device=self.log_z.device)

    # training

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        if self.config.objective == "likelihood":
            return -self.log_f(x, condition) + self._train_log_z(condition, len(x))
        if self.config.objective == "nce":
            return softplus(-self.tilt(x, condition)) + softplus(self.tilt(self._base(len(x)), condition))
        if self.config.objective == "score":
            return self._sliced(x, condition)
        # every class has chains of its own: a Langevin step does not carry one to another class
        classes = self.spec.classes or 1
        at = torch.randint(len(self.chains) // classes, (len(x),), device=x.device) * classes
        at = at if condition is None else at + condition
        ghosts = self._langevin(self.chains[at], condition)
        if self.training:
            self.chains[at] = ghosts
        return self.tilt(ghosts, condition) - self.tilt(x, condition)

    def _train_log_z(self, condition: Tensor | None, n: int) -> Tensor:
        """log Z on a grid moved by a random part of a cell, `()` or, with labels, `(n,)`."""
        side = self.config.train_grid
        nodes, cell = self._nodes(side, jitter=True)
        if condition is None:
            return self.log_f(nodes, None).logsumexp(0) + math.log(cell)
        classes = self.spec.classes or 1
        every = torch.arange(classes, device=nodes.device).repeat_interleave(len(nodes))
        log_f = self.log_f(nodes.repeat(classes, 1), every).view(classes, -1)
        return (log_f.logsumexp(1) + math.log(cell))[condition]

    def _sliced(self, x: Tensor, condition: Tensor | None) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            v = torch.randn_like(x)
            (score,) = torch.autograd.grad(self.log_f(x, condition).sum(), x, create_graph=True)
            along = (score * v).sum(1)
            (curvature,) = torch.autograd.grad(along.sum(), x, create_graph=True)
        return (curvature * v).sum(1) + 0.5 * along.square()

    def _langevin(self, x: Tensor, condition: Tensor | None) -> Tensor:
        size = self.config.langevin_size
        for _ in range(self.config.langevin_steps):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                (score,) = torch.autograd.grad(self.log_f(x, condition).sum(), x)
            x = x + 0.5 * size**2 * score + size * torch.randn_like(x)
        return x.detach()

    def _initialise(self, train: Split) -> None:
        """Chains begin at the Gaussian."""
        self.chains.copy_(self._base(len(self.chains)))

    def _calibrate(self, train: Split, valid: Split) -> None:
        """Z on the fine grid.

        Raises:
            NumericsError: a field with mass at the edge of the grid, beyond which it was not summed.
        """
        for k in range(len(self.log_z)):
            log_mass = self._table(k)[1]
            self.log_z[k] = log_mass.logsumexp(0)
            square = log_mass.view(self.config.grid, -1)
            edge = torch.cat([square[[0, -1]].flatten(), square[:, [0, -1]].flatten()])
            share = float((edge.logsumexp(0) - self.log_z[k]).exp())
            if not share < EDGE:
                raise NumericsError(
                    f"the outermost cells of the grid hold {share:.2g} of the field's mass, expected less than "
                    f"{EDGE:g}: what lies beyond is not in Z. Give a smaller scale"
                )

    # the grid

    def _nodes(self, side: int, jitter: bool = False) -> tuple[Tensor, float]:
        """Midpoints of a grid `(side^2, 2)`, moved together where `jitter`, and the area of a cell."""
        reach = REACH * self.config.scale
        width = 2 * reach / side
        line = -reach + width * (torch.arange(side, device=self.log_z.device) + 0.5)
        nodes = torch.cartesian_prod(line, line)
        if jitter:
            nodes = nodes + width * (torch.rand(2, device=nodes.device) - 0.5)
        return nodes, width * width

    def _table(self, label: int) -> tuple[Tensor, Tensor]:
        """Nodes of the fine grid, and the log of each cell's mass, float64 nats."""
        nodes, cell = self._nodes(self.config.grid)
        parts = []
        for some in torch.split(nodes, ROWS):
            condition = None if self.spec.classes is None else torch.full((len(some),), label, device=some.device)
            parts.append(self.log_f(some, condition).double())
        return nodes, torch.cat(parts) + math.log(cell)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        tilt, base = self.tilt(x, condition).double(), self.log_base(x.double())
        log_z = self.log_z[0].expand(len(x)) if condition is None else self.log_z[condition]
        return LogLikelihood.exact(tilt + base - log_z, terms={"energy": tilt, "base": base, "log_z": -log_z})

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        drawn = torch.empty(n, 2, device=self.log_z.device)
        labels = torch.zeros(n, dtype=torch.int64, device=drawn.device) if condition is None else condition
        for k in torch.unique(labels).tolist():  # type: ignore[no-untyped-call]
            rows = labels == k
            count = int(rows.sum()) * CANDIDATES
            nodes, log_mass = self._table(k)
            cell = torch.multinomial(log_mass.softmax(0), count, replacement=True)
            width = 2 * REACH * self.config.scale / self.config.grid
            x = nodes[cell] + width * (torch.rand(count, 2, device=drawn.device) - 0.5)
            some = None if condition is None else torch.full((count,), k, device=drawn.device)
            ratio = self.log_f(x, some).double() - (log_mass[cell] - 2 * math.log(width))
            chosen = torch.multinomial(ratio.view(-1, CANDIDATES).softmax(1), 1)
            drawn[rows] = x.view(-1, CANDIDATES, 2)[torch.arange(len(chosen)), chosen[:, 0]]
        return drawn
