"""The field of the plane: log f(x) = g(x) + log N(x; 0, s^2 I), normalised by quadrature.

The Gaussian makes f integrable whatever g is. After training Z is a sum over a fine grid, so the likelihood is exact
up to the rule's error, and samples are drawn from that grid, corrected inside its cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import softplus

from genzoo.config import TrainSettings
from genzoo.errors import NumericsError
from genzoo.interface import Estimator, GenerativeModel, ModelEstimator
from genzoo.likelihood import LogLikelihood
from genzoo.nn import ResidualMLP, condition_features, condition_width
from genzoo.spec import DataSpec, Split
from genzoo_energy.field import EBMConfig, Field

REACH = 5.5
"""Half a side of the grid in units of s: beyond it the Gaussian has 1e-7 of its mass."""
EDGE = 1e-6
"""Most of the mass that the grid's outermost cells may hold."""
FREQUENCIES = (1.0, 2.0, 4.0)
"""Radians a unit of x whose sines and cosines the network sees too (Tancik et al. 2020, arXiv:2006.10739), for maximum
likelihood: without them it stays at a ring, 0.43 nats off, where there are eight Gaussians; with them it is 0.02 off
after 200 steps. The other objectives look only where data or chains are, and such waves repeat elsewhere."""
ROWS = 1 << 15
CANDIDATES = 8
"""Points of the grid's law among which a sample is chosen by the density itself."""


class PlaneField(Field):
    """See the module; `config.objective` is one of four."""

    log_z: Tensor
    chains: Tensor

    def __init__(self, spec: DataSpec, config: EBMConfig) -> None:
        super().__init__(spec, config)
        c = self.config
        self.frequencies = FREQUENCIES if c.objective == "likelihood" else ()
        seen = 2 * (1 + 2 * len(self.frequencies)) + condition_width(spec)
        self.network = ResidualMLP(seen, 1, c.width or 128, c.blocks or 3, zero_last=True)
        # a constant in g cancels against Z, but for nce, where it is what learns Z
        self.network.last.bias.requires_grad_(c.objective == "nce")
        self.register_buffer("log_z", torch.zeros(spec.classes or 1, dtype=torch.float64))
        pcd = c.objective == "pcd"
        self.register_buffer("chains", torch.zeros((c.chains or 2000) * (spec.classes or 1) if pcd else 0, 2))

    @property
    def loss_in_nats(self) -> bool:
        """True for maximum likelihood."""
        return self.config.objective == "likelihood"

    def default_training(self) -> TrainSettings:
        """As for other small networks."""
        return TrainSettings(learning_rate=3e-3, batch_size=512)

    def estimators(self, model: GenerativeModel) -> Mapping[str, Callable[[], Estimator]]:
        """The likelihood is exact: no other is of use."""
        return {"default": lambda: ModelEstimator("default", model)}

    # the field

    def tilt(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """g `(N,)` at `x (N, 2)`."""
        label = condition_features(self.spec, condition, len(x), x)
        angles = [frequency * x for frequency in self.frequencies]
        waves = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
        return self.network(torch.cat([x, *waves, label], 1))[:, 0]  # type: ignore[no-any-return]

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

    def loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
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
        for _ in range(self.config.langevin_steps or 20):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                (score,) = torch.autograd.grad(self.log_f(x, condition).sum(), x)
            x = x + 0.5 * size**2 * score + size * torch.randn_like(x)
        return x.detach()

    def initialise(self, train: Split) -> None:
        """Chains begin at the Gaussian."""
        self.chains.copy_(self._base(len(self.chains)))

    def calibrate(self, train: Split, valid: Split) -> None:
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

    def log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        tilt, base = self.tilt(x, condition).double(), self.log_base(x.double())
        log_z = self.log_z[0].expand(len(x)) if condition is None else self.log_z[condition]
        return LogLikelihood.exact(tilt + base - log_z, terms={"energy": tilt, "base": base, "log_z": -log_z})

    def sample(self, n: int, condition: Tensor | None) -> Tensor:
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
