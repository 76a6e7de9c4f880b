"""Fields over codes: their path from independent dimensions, and moves that know the gradient, all in nats.

    log f_b(v) = sum_i a_i(v_i) + b g(v),  0 <= b <= 1      a_i log-probabilities: f_0 is normalised and can be drawn

Gibbs with gradients (Grathwohl et al. 2021, arXiv:2102.04509): with v in one-hot form, the gradient of log f_b tells at
once about how much every change of one dimension i to a code k is worth,

    d_ik = s_ik - s_i v_i,   s = a + b dg/dv        q(i, k given v) proportional to exp(d_ik / 2),  k other than v_i

A move draws M changes from q, in M different dimensions (else the state stays), and is accepted with probability
min(1, f_b(v') prod q(i_m, v_{i_m} given v') / f_b(v) prod q(i_m, k_m given v)). The M changes back are a draw of the
same kind, so the move has detailed balance with respect to every f_b, which RAISE needs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot


class CodePoint:
    """A state of the chains, with g and its gradient at it (see `genzoo.ais.Point`).

    Attributes:
        z: codes `(C, B, D)` int64. base, tilt: sum_i a_i(v_i) and g, `(C, B)` float64. slope: dg/dv `(C, B, D, L)`.
    """

    def __init__(self, z: Tensor, base: Tensor, tilt: Tensor, slope: Tensor) -> None:
        self.z, self.base, self.tilt, self.slope = z, base, tilt, slope

    def log_prob(self, beta: float) -> Tensor:
        """log f_b(v), `(C, B)`."""
        return self.base + beta * self.tilt

    def where(self, mask: Tensor, other: CodePoint) -> CodePoint:
        """This point where `mask (C, B)`, the other elsewhere."""
        wide = mask[..., None]
        return CodePoint(
            torch.where(wide, self.z, other.z),
            torch.where(mask, self.base, other.base),
            torch.where(mask, self.tilt, other.tilt),
            torch.where(wide[..., None], self.slope, other.slope),
        )


class CodePath:
    """From independent dimensions to the field, for B examples (see `genzoo.ais.Path`). Its mass is Z.

    Args:
        table: a `(D, L)` nats, normalised in each row.
        tilt: g `(C, B)` at one-hot states `(C, B, D, L)`, differentiable.
        examples: B.
    """

    def __init__(self, table: Tensor, tilt: Callable[[Tensor], Tensor], examples: int) -> None:
        self.table, self.tilt, self.examples = table, tilt, examples

    def draw(self, chains: int) -> CodePoint:
        """Independent dimensions."""
        drawn = torch.multinomial(self.table.exp(), chains * self.examples, replacement=True)  # (D, C B)
        return self.at(drawn.T.reshape(chains, self.examples, -1))

    def at(self, z: Tensor) -> CodePoint:
        """The point of codes `(C, B, D)`."""
        with torch.enable_grad():
            v = one_hot(z, self.table.shape[1]).to(self.table.dtype).requires_grad_()
            tilt = self.tilt(v)
            (slope,) = torch.autograd.grad(tilt.sum(), v)
        base = (v.detach() * self.table).sum((-2, -1), dtype=torch.float64)
        return CodePoint(z, base, tilt.detach().double(), slope)


class GibbsWithGradients:
    """The move described at the module's head.

    Args:
        path: that of the chains.
        changes: M.
    """

    def __init__(self, path: CodePath, changes: int) -> None:
        self.path, self.changes = path, changes

    def __call__(self, point: CodePoint, beta: float) -> CodePoint:
        """See genzoo.ais.Transition."""
        return self.move(point, beta)[0]

    def move(self, point: CodePoint, beta: float) -> tuple[CodePoint, Tensor]:
        """The new point, and which chains `(C, B)` have moved."""
        levels = self.path.table.shape[1]
        log_q = self._log_q(point, beta)
        drawn = torch.multinomial(log_q.exp().flatten(0, 1), self.changes, replacement=True)
        drawn = drawn.view(*point.z.shape[:2], -1)  # (C, B, M)
        where, code = drawn // levels, drawn % levels
        apart = (where.sort(-1).values.diff(dim=-1) > 0).all(-1)
        back = where * levels + point.z.gather(-1, where)
        proposed = self.path.at(point.z.scatter(-1, where, code))
        log_ratio = proposed.log_prob(beta) - point.log_prob(beta)
        log_ratio = log_ratio + self._log_q(proposed, beta).gather(-1, back).sum(-1, dtype=torch.float64)
        log_ratio = log_ratio - log_q.gather(-1, drawn).sum(-1, dtype=torch.float64)
        moved = (torch.rand_like(log_ratio).log() < log_ratio) & apart
        return proposed.where(moved, point), moved

    def _log_q(self, point: CodePoint, beta: float) -> Tensor:
        """log q(i, k given v) `(C, B, D L)`."""
        slope = self.path.table + beta * point.slope
        here = point.z[..., None]
        gain = 0.5 * (slope - slope.gather(-1, here))
        return gain.scatter(-1, here, -torch.inf).flatten(2).log_softmax(-1)
