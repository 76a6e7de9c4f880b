"""What a decoder's output says of the data: distributions over events (D,), normalised in the spec's base measure.

Notation: D dimensions, L levels, h (..., parameters) output of the decoder.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid, softplus

from genzoo.spec import DataSpec

MIN_SCALE = 1e-3  # of a normal in standardised units: a dimension that is constant has no density without a floor
FIRST_SCALE = -1.0  # added to log scale, about a third of the data's spread: with 1 a decoder learns to ignore z first


def head_width(spec: DataSpec, components: int) -> int:
    """Numbers that `head` reads for one event."""
    return spec.dims * {"real": 2, "binary": 1, "discrete": 3 * components}[spec.kind]


def head(spec: DataSpec, h: Tensor, components: int) -> Any:
    """A distribution with batch shape `h.shape[:-1]` and event shape `(D,)`.

    Real data: normals with their own scale. Binary: Bernoulli. Discrete: a mixture of `components` discretised
    logistics a dimension.
    """
    if spec.kind == "binary":
        return dist.Bernoulli(logits=h).to_event(1)
    if spec.kind == "real":
        loc, log_scale = h.chunk(2, dim=-1)
        return dist.Normal(loc, MIN_SCALE + (log_scale + FIRST_SCALE).clamp(max=9).exp()).to_event(1)
    logits, loc, log_scale = h.reshape(*h.shape[:-1], 3, spec.dims, components).unbind(-3)  # (..., D, components) each
    return DiscretizedLogistics(logits, loc, log_scale, spec.levels or 2).to_event(1)


class DiscretizedLogistics(dist.TorchDistribution):  # type: ignore[misc]
    """A mixture of logistics on codes 0..L-1 (Salimans et al. 2017, arXiv:1701.05517), levels scaled to [-1, 1].

    P(c) = sum_j pi_j [s((x_c + 1/(L-1) - m_j) / r_j) - s((x_c - 1/(L-1) - m_j) / r_j)], x_c = 2c/(L-1) - 1, s the
    logistic function; the first and last level reach to infinity, so the sum over levels is 1.

    Args:
        logits, loc, log_scale: `(*batch, components)`; log_scale 0 is a tenth of the range.
        levels: L.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  torch's own form of an empty declaration
    support = constraints.nonnegative_integer

    def __init__(
        self, logits: Tensor, loc: Tensor, log_scale: Tensor, levels: int, validate_args: bool | None = None
    ) -> None:
        self.logits, self.loc, self.levels = logits, loc, levels
        # no narrower than a fifth of half a level: below that nothing changes but the gradient, which vanishes
        self.log_scale = (log_scale + math.log(0.1)).clamp(min=math.log(0.2 / (levels - 1)))
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistics:
        """The same distribution with a larger batch."""
        shape = (*batch_shape, self.logits.shape[-1])
        made: DiscretizedLogistics = self._get_checked_instance(DiscretizedLogistics, _instance)
        made.levels = self.levels
        made.logits, made.loc, made.log_scale = (t.expand(shape) for t in (self.logits, self.loc, self.log_scale))
        super(DiscretizedLogistics, made).__init__(torch.Size(batch_shape), validate_args=False)
        return made

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(value), `(*batch)` nats, for whole numbers 0..levels-1."""
        half = 1 / (self.levels - 1)
        x = (2 * half * value - 1).unsqueeze(-1)
        rate = torch.exp(-self.log_scale)
        upper, lower = (x + half - self.loc) * rate, (x - half - self.loc) * rate
        # s(b) - s(a) = s(b) s(-a) (1 - exp(a - b)): no difference of near numbers, and b - a = 2 half rate
        inside = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(-2 * half * rate))
        first, last = value.unsqueeze(-1) <= 0, value.unsqueeze(-1) >= self.levels - 1
        log_p = torch.where(first, -softplus(-upper), torch.where(last, -softplus(lower), inside))
        return torch.logsumexp(log_p + torch.log_softmax(self.logits, -1), -1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Codes as floats, `(*sample_shape, *batch)`: a logistic draw, rounded to its level."""
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            which = dist.Categorical(logits=self.logits).sample(sample_shape).unsqueeze(-1)
            loc, log_scale = (
                t.expand(*shape, t.shape[-1]).gather(-1, which).squeeze(-1) for t in (self.loc, self.log_scale)
            )
            tiny = torch.finfo(loc.dtype).eps
            u = torch.rand(shape, dtype=loc.dtype, device=loc.device).clamp(tiny, 1 - tiny)
            x = loc + log_scale.exp() * torch.logit(u)
            return ((x + 1) * (self.levels - 1) / 2).round().clamp(0, self.levels - 1)


class TableComponents(dist.TorchDistribution):  # type: ignore[misc]
    """One of M products of categoricals: log p(x given k) = sum_d table[d, x_d, k].

    All M components are read at once, by one sum of table rows an example; `component` then picks, so that an
    enumerated `component (M, 1)` costs no table a component.

    Args:
        log_table: `(D, L, M)`, normalised over L.
        component: `(*batch)` int64.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.nonnegative_integer, 1)  # type: ignore[no-untyped-call]

    def __init__(self, log_table: Tensor, component: Tensor, validate_args: bool | None = None) -> None:
        self.log_table, self.component = log_table, component
        super().__init__(component.shape, log_table.shape[:1], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TableComponents:
        """The same distribution with a larger batch."""
        made: TableComponents = self._get_checked_instance(TableComponents, _instance)
        made.log_table, made.component = self.log_table, self.component.expand(batch_shape)
        super(TableComponents, made).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return made

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value given component), the batch shapes of both broadcast, nats; value `(..., D)` of codes."""
        dims, levels, count = self.log_table.shape
        offset = torch.arange(dims, device=value.device) * levels
        rows = (value.long() + offset).flatten(0, -2)  # (N, D)
        every = torch.nn.functional.embedding_bag(rows, self.log_table.reshape(-1, count), mode="sum")  # (N, M)
        every = every.reshape(*value.shape[:-1], count)
        shape = (every[..., 0] + self.component).shape  # broadcast
        return every.expand(*shape, count).gather(-1, self.component.expand(shape).unsqueeze(-1)).squeeze(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Codes as floats, `(*sample_shape, *batch, D)`."""
        with torch.no_grad():
            component = self.component.expand(*sample_shape, *self.batch_shape)
            codes = torch.empty(*component.shape, self.log_table.shape[0], device=component.device)
            for k in set(component.flatten().tolist()):  # one at a time: a table for each row would not fit
                mine = component == k
                codes[mine] = dist.Categorical(logits=self.log_table[:, :, k]).sample((int(mine.sum()),)).to(codes)
            return codes
