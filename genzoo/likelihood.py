"""Log-likelihood answers: a lower end in nats per example, and a stored kind that says what sort of bound it is.

exact        lower = log p(x)
weights      exp(log_w) is unbiased for p(x), or for less; lower = log (1/K) sum_k exp(log_w_k)
lower_bound  only the mean of `lower` is a bound; it is averaged in nats and never exponentiated
bracket      lower <= log p(x) <= upper, certified or indicative
estimate     no direction; printed with ~ and never ranked
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor

from genzoo.errors import InputError, NumericsError
from genzoo.jackknife import Jackknife

Kind = Literal["exact", "weights", "lower_bound", "bracket", "estimate"]
KINDS: tuple[Kind, ...] = ("exact", "weights", "lower_bound", "bracket", "estimate")
GAIN_SLACK = 1e-6
"""Relative rounding allowed in `importance_gain` >= 0; log-mean-exp and mean are both float64."""


PER = "_per_"
"""Between a term and the parts that an array takes it apart into."""


class Extras(TypedDict, total=False):
    """What every constructor takes by keyword; shapes as in LogLikelihood."""

    variance: Tensor | None
    shared_variance: Tensor
    terms: Mapping[str, Tensor]
    arrays: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class LogLikelihood:
    """What a model says of a batch. Make one by a constructor below, never directly.

    Attributes:
        lower: `(B,)` float64, nats.
        kind: see the module's head.
        num_samples: Monte Carlo draws an example that `lower` rests on.
        upper: `(B,)` for a bracket.
        certified: whether a bracket is proved (enumeration, quadrature, BDMC on simulated data) or indicative.
        variance: `(B,)` Monte Carlo variance of `lower`, independent between examples; None where one draw cannot tell.
        shared_variance: `()` variance of an offset common to all examples, such as log Z.
        terms: named parts `(B,)` in nats, means over the same draws; they sum to `lower`.
        arrays: `{name: (B, ...)}`. One named `<term>_per_<part>` is anatomy: over its other dimensions it sums to that
            term (a divergence per latent, a log-determinant per layer, a bound per time step).
    """

    lower: Tensor
    kind: Kind
    num_samples: int = 1
    upper: Tensor | None = None
    certified: bool = False
    variance: Tensor | None = None
    shared_variance: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    arrays: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.lower.ndim != 1:
            raise InputError(f"expected log-likelihoods (B,), one an example; got {tuple(self.lower.shape)}")
        shape = self.lower.shape
        named = {"upper": self.upper, "variance": self.variance, **self.terms}
        for name, value in named.items():
            if value is not None and value.shape != shape:
                raise InputError(f"expected {name} of shape {tuple(shape)} like lower; got {tuple(value.shape)}")
        for name, value in self.arrays.items():
            if value.ndim < 1 or value.shape[0] != shape[0]:
                raise InputError(f"expected array {name!r} ({shape[0]}, ...); got {tuple(value.shape)}")
        if self.shared_variance.ndim != 0:
            raise InputError(f"expected shared_variance (); got {tuple(self.shared_variance.shape)}")

    def anatomy(self) -> dict[str, Tensor]:
        """The arrays that take a term apart: `{"<term>_per_<part>": (B, ...)}`, nats."""
        return {name: array for name, array in self.arrays.items() if term_of(name) in self.terms}

    @classmethod
    def exact(cls, value: Tensor, **extras: Unpack[Extras]) -> LogLikelihood:
        """log p(x) itself, `(B,)` nats."""
        extras.setdefault("variance", torch.zeros_like(value))
        return cls(lower=_f64(value), kind="exact", **_clean(extras))

    @classmethod
    def weights(cls, log_w: Tensor, **extras: Unpack[Extras]) -> LogLikelihood:
        """Log importance weights `(K, B)`: E exp(log_w) <= p(x). `terms` sum to the mean of log_w over K."""
        if log_w.ndim != 2:
            raise InputError(f"expected log weights (K, B); got {tuple(log_w.shape)}")
        sums = WeightSums()
        sums.add(log_w, extras.pop("terms", {}))
        return sums.result(**extras)

    @classmethod
    def lower_bound(cls, value: Tensor, *, num_samples: int = 1, **extras: Unpack[Extras]) -> LogLikelihood:
        """An unbiased draw `(B,)` of something at most log p(x): average it, never exponentiate it."""
        return cls(lower=_f64(value), kind="lower_bound", num_samples=num_samples, **_clean(extras))

    @classmethod
    def bracket(
        cls, lower: Tensor, upper: Tensor, certified: bool, *, num_samples: int = 1, **extras: Unpack[Extras]
    ) -> LogLikelihood:
        """Both ends `(B,)` of an interval; `certified` when the interval is proved and not only indicated."""
        extra = _clean(extras) | {"lower": _f64(lower), "upper": _f64(upper)}
        return cls(kind="bracket", certified=certified, num_samples=num_samples, **extra)

    @classmethod
    def estimate(cls, value: Tensor, *, num_samples: int = 1, **extras: Unpack[Extras]) -> LogLikelihood:
        """A number `(B,)` without direction: an ODE likelihood, a reverse annealed estimate."""
        return cls(lower=_f64(value), kind="estimate", num_samples=num_samples, **_clean(extras))

    def shifted(self, offset: Tensor, term: str) -> LogLikelihood:
        """The same answer plus a known `offset (B,)` nats, booked under `term` (a log-Jacobian, a class prior)."""
        offset = _f64(offset)
        terms = {**self.terms, term: self.terms[term] + offset if term in self.terms else offset}
        upper = None if self.upper is None else self.upper + offset
        return replace(self, lower=self.lower + offset, upper=upper, terms=terms if self.terms else {})

    @staticmethod
    def concat(parts: Iterable[LogLikelihood]) -> LogLikelihood:
        """Join answers about consecutive batches of one evaluation. A shared offset is the same one, not added up."""
        parts = list(parts)
        first = parts[0]
        if any((p.kind, p.num_samples, p.certified) != (first.kind, first.num_samples, first.certified) for p in parts):
            raise InputError("expected batches answered with one kind, one num_samples; they differ")

        def join(values: list[Tensor | None]) -> Tensor | None:
            known = [value for value in values if value is not None]
            return torch.cat(known) if len(known) == len(values) else None

        return replace(
            first,
            lower=torch.cat([p.lower for p in parts]),
            upper=join([p.upper for p in parts]),
            variance=join([p.variance for p in parts]),
            shared_variance=torch.stack([p.shared_variance for p in parts]).max(),
            terms={name: torch.cat([p.terms[name] for p in parts]) for name in first.terms},
            arrays={name: torch.cat([p.arrays[name] for p in parts]) for name in first.arrays},
        )


def term_of(name: str) -> str:
    """`kl` of `kl_per_latent`; empty for an array that is no anatomy."""
    term, found, _ = name.partition(PER)
    return term if found else ""


class WeightSums:
    """Running sums over importance weights, so that any number of draws fits in memory chunk by chunk.

    lower = log mean w; its variance by the jackknife; effective sample size (sum w)^2 / sum w^2 (Kong 1992).
    """

    def __init__(self) -> None:
        self.count = 0
        self._jackknife = Jackknife()
        self._log_sum: Tensor | None = None
        self._log_sum_square: Tensor | None = None
        self._sum: Tensor | None = None
        self._terms: dict[str, Tensor] = {}
        self._anatomy: dict[str, Tensor] = {}

    def add(self, log_w: Tensor, terms: Mapping[str, Tensor], anatomy: Mapping[str, Tensor] | None = None) -> None:
        """Add `log_w (K, B)`, `terms {name: (B,)}` and `anatomy {name: (B, ...)}`, means over these K draws."""
        k, log_w = len(log_w), _f64(log_w)
        for name, value in (anatomy or {}).items():
            held = self._anatomy.get(name)
            self._anatomy[name] = k * _f64(value) if held is None else held + k * _f64(value)
        self._jackknife.add(log_w)
        log_sum, log_sum_square, total = log_w.logsumexp(0), (2 * log_w).logsumexp(0), log_w.sum(0)
        if self._log_sum is None or self._log_sum_square is None or self._sum is None:
            self._log_sum, self._log_sum_square, self._sum = log_sum, log_sum_square, total
            self._terms = {name: k * _f64(value) for name, value in terms.items()}
        else:
            self._log_sum = torch.logaddexp(self._log_sum, log_sum)
            self._log_sum_square = torch.logaddexp(self._log_sum_square, log_sum_square)
            self._sum = self._sum + total
            self._terms = {name: value + k * _f64(terms[name]) for name, value in self._terms.items()}
        self.count += k

    def result(self, **extras: Unpack[Extras]) -> LogLikelihood:
        """The answer of kind `weights` over everything added; `extras` without terms, which were added."""
        if self._log_sum is None or self._log_sum_square is None or self._sum is None:
            raise InputError("expected at least one importance weight; got none")
        k = self.count
        lower = self._log_sum - math.log(k)
        terms = {name: value / k for name, value in self._terms.items()}
        arrays = {**extras.get("arrays", {}), **{name: value / k for name, value in self._anatomy.items()}}
        if k > 1:
            # sum w^2 / (sum w)^2; nan where every weight is zero, which has no effective draws
            concentration = (self._log_sum_square - 2 * self._log_sum).exp().nan_to_num(nan=1.0)
            arrays["effective_sample_size"] = (1 / concentration).clamp(max=k)
            if extras.get("variance") is None:
                variance = self._jackknife.variance(self._log_sum)
                # where one weight is all there is, leaving it out leaves nothing: the delta method's value instead
                delta = ((k * concentration - 1) / (k - 1)).clamp(min=0.0)
                extras["variance"] = torch.where(variance.isfinite(), variance, delta)
            gain = lower - self._sum / k
            finite = gain.isfinite()
            if bool((gain < -GAIN_SLACK * (1 + lower.abs()))[finite].any()):
                raise NumericsError(f"importance gain below zero ({float(gain[finite].min())}): log-mean-exp < mean")
            if terms:
                terms["importance_gain"] = gain
        extras["terms"], extras["arrays"] = terms, arrays
        return LogLikelihood(lower=lower, kind="weights", num_samples=k, **_clean(extras))


def _f64(value: Tensor) -> Tensor:
    return value.detach().to(torch.float64)


def _clean(extras: Extras) -> dict[str, Any]:
    cleaned: dict[str, Any] = {
        "terms": {name: _f64(value) for name, value in extras.get("terms", {}).items()},
        "arrays": {name: value.detach() for name, value in extras.get("arrays", {}).items()},
    }
    variance = extras.get("variance")
    if variance is not None:
        cleaned["variance"] = _f64(variance)
    if "shared_variance" in extras:
        cleaned["shared_variance"] = _f64(extras["shared_variance"])
    return cleaned
