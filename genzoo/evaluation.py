"""Evaluation: a bound on the test points, its errors, bits a dimension, and the distance to a known truth."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from genzoo.class_mixture import ClassMixture, each_class
from genzoo.errors import CapabilityError, InputError, NumericsError, UnknownNameError
from genzoo.interface import Estimator, GenerativeModel
from genzoo.likelihood import Kind, LogLikelihood, term_of
from genzoo.means import MeanResult
from genzoo.memory import halving
from genzoo.report.numbers import SIGNS, decimals, fixed, with_error
from genzoo.seeding import derive_seed
from genzoo.spec import Dataset, Density
from genzoo.training import evaluation_index, points_of
from genzoo.two_phase import TwoPhase, subset_of

ANATOMY_SLACK = 1e-4
"""Relative rounding allowed between a term and the sum of its parts, which may be float32."""
FLOOR_ERRORS = 4.0
"""Paired standard errors below the truth at which a bound is reported as a bug."""
GRID_NODES = 2_000
"""Nodes of a density map that are evaluated at once."""
DEFAULT_POINTS = {"plane": 10_000, "other": 2_000}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one evaluation says. Numbers are nats; see RunRecord for their meaning.

    Attributes:
        dof, dof_mc: degrees of freedom of stderr and stderr_mc, for Student's t; infinite for a variance that is known.
        index: which examples of the split, `(n,)`; result: the per-example answer; log_p: the truth's, where known.
        anatomy: mean over the points, nats, of each array that takes a term apart; its sum is that term.
        refined: the two phases, where there were two; the NLL and its errors are then those of the second's bound, a
            bound in the mean alone, and `result`, with its terms, is the first's.
        batch_size: examples evaluated at once; first_batch_size: before it was halved for want of memory.
    """

    nll: float
    kind: Kind
    certified: bool
    nll_lower: float | None
    infinite: int
    bits_per_dim: float | None
    stderr: float
    stderr_data: float | None
    stderr_mc: float | None
    dof: float
    dof_mc: float
    entropy: float | None
    kl: float | None
    kl_stderr: float | None
    kl_quadrature: float | None
    mass: float | None
    below_floor: bool
    terms: dict[str, float]
    estimator: str
    num_samples: int
    points: int
    capped: bool
    split: str
    seconds: float
    calls: int | None
    batch_size: int
    first_batch_size: int
    index: Tensor
    result: LogLikelihood
    log_p: Tensor | None
    anatomy: dict[str, Tensor]
    refined: TwoPhase | None = None

    def __str__(self) -> str:
        sign = {"exact": "=", "estimate": "~"}.get(self.kind, "<=")
        about = f"{sign} " if sign != "=" else ""
        kl = "" if self.kl is None else f", KL to the truth {about}{self.kl:.4f} +- {self.kl_stderr:.4f}"
        bits = "" if self.bits_per_dim is None else f" ({self.bits_per_dim:.4f} bits/dim)"
        effort = f"{self.estimator}, {self.kind}, K={self.num_samples}, {self.points:,} points"
        if self.refined is not None:
            return f"NLL {sign} {self.nll:.4f} +- {self.stderr:.4f} nats{bits}{kl} [{self.estimator}: {self.refined}]"
        return f"NLL {sign} {self.nll:.4f} +- {self.stderr:.4f} nats{bits}{kl} [{effort}]"

    def __repr__(self) -> str:
        """One line: its tensors have as many values as there are points."""
        return f"<Evaluation: {self}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a row a number."""
        from genzoo.report.notebook import facts_html  # here: an evaluation needs no report

        return facts_html(self._facts(), "evaluation")

    def _facts(self) -> Iterator[tuple[str, str]]:
        sign = SIGNS.get(self.kind, "~")
        lower = "" if self.nll_lower is None else f"; its other end {fixed(self.nll_lower, decimals(self.stderr))}"
        yield "NLL, nats", f"{sign} {with_error(self.nll, self.stderr)}{lower}"
        if self.bits_per_dim is not None:
            yield "bits/dim", f"{sign} {self.bits_per_dim:.4f}"
        if self.kl is not None:
            about = "" if sign == "=" else f"{sign} "
            yield "KL to the truth, nats", f"{about}{with_error(self.kl, self.kl_stderr)}"
        if self.kl_quadrature is not None:
            yield "KL by quadrature, nats", fixed(self.kl_quadrature, 4)
        if self.below_floor:
            yield "BUG", "below the entropy of the truth by more than 4 paired standard errors"
        if self.infinite:
            yield "infinite", f"{self.infinite:,} of {self.points:,} points"
        for name, error in (("data", self.stderr_data), ("Monte Carlo", self.stderr_mc)):
            if error is not None:
                yield f"standard error, {name}", fixed(error, decimals(error))
        for name, value in self.terms.items():
            yield f"term {name}, nats", fixed(value, decimals(self.stderr))
        yield "estimator", f"{self.estimator}, {self.kind}, {self.num_samples:,} draws a point"
        capped = " (stopped at the time limit)" if self.capped else ""
        yield "points", f"{self.points:,} of the {self.split} split{capped}"
        yield "seconds", f"{self.seconds:.3g}"


def make_estimator(model: GenerativeModel, name: str | None) -> Estimator:
    """The estimator called `name`, or the model's default; UnknownNameError with the names there are.

    A stored name may say more in brackets, as in `vlb[steps=256]`, which is for readers of the record.
    """
    makers = model.estimators()
    key = next(iter(makers)) if name is None else estimator_key(name)
    if key not in makers:
        raise UnknownNameError(f"estimator of {type(model).__name__}", key, makers)
    return makers[key]()


def effort_of(model: GenerativeModel, name: str | None, default: int) -> int:
    """Draws an example where the caller names none: `default`, the card's, is of the model's default estimator; another
    knows its own."""
    if name is None or estimator_key(name) == next(iter(model.estimators())):
        return default
    return make_estimator(model, name).suggested_samples


def estimator_key(name: str) -> str:
    """`vlb` of `vlb[steps=256]`."""
    return name.partition("[")[0]


def evaluate(
    model: GenerativeModel,
    data: Dataset,
    *,
    estimator: str | None = None,
    num_samples: int = 1,
    until_se: float | None = None,
    points: int | None = None,
    seed: int = 0,
    split: str = "test",
    batch_size: int | None = None,
    max_seconds: float | None = None,
    refine: tuple[int, int] | None = None,
) -> Evaluation:
    """Evaluate `model` on the first `points` of the one seeded permutation of a split.

    Args:
        estimator: a name of `model.estimators()`; None for the default.
        num_samples, until_se, seed, batch_size, max_seconds: as in `Estimator.mean`.
        points: None for as many as suit the estimator, or else 10,000 in the plane and 2,000 elsewhere.
        refine: (K, m), more draws K on a random m of the points: the mean is then that of the bound with K draws, whose
            difference from the bound with `num_samples` is estimated on those m. For importance weights.

    Raises:
        CapabilityError: `refine` where the estimator's answers are not importance weights.
        NumericsError: NaN or +inf among the values, with their count.
    """
    if points is None:
        usual = DEFAULT_POINTS["plane" if data.truth is not None else "other"]
        points = make_estimator(model, estimator).suggested_points or usual
    x, y = points_of(data, split, points)
    device = model.device
    condition = y.to(device) if model.spec.classes is not None and y is not None else None

    def measured(size: int) -> tuple[Estimator, MeanResult, TwoPhase | None, float]:
        run = make_estimator(model, estimator)
        start = time.perf_counter()
        run.start(data.valid, seed)
        mean = run.mean(
            x.to(device), num_samples, seed, condition, until_se=until_se, batch_size=size, max_seconds=max_seconds
        )
        refined = None
        if refine is not None:
            refined = _refined(run, mean, x.to(device), condition, refine, seed, size)
        return run, mean, refined, time.perf_counter() - start

    first_size = max(1, min(batch_size or make_estimator(model, estimator).batch_size, len(x)))
    (run, mean, refined, seconds), size = halving(measured, first_size)
    said = mean if refined is None else refined
    done = len(mean.values)
    result = mean.result
    kl = kl_stderr = kl_quadrature = mass = log_p = entropy = None
    if data.truth is not None:
        log_p, entropy = log_truth(model, data, x[:done], None if condition is None else condition[:done].cpu())
        difference, errors = said.minus(log_p.to(mean.values.device))
        kl, kl_stderr = -difference, errors.stderr
        if result.kind == "exact" and model.spec.classes is None:
            kl_quadrature, mass = quadrature(model, data.truth)
    bits = said.mean / (data.spec.dims * math.log(2)) if data.spec.levels is not None else None
    below = kl is not None and kl_stderr is not None and result.kind != "estimate" and kl < -FLOOR_ERRORS * kl_stderr
    return Evaluation(
        nll=-said.mean,
        kind=result.kind if refined is None else "lower_bound",
        certified=result.certified,
        nll_lower=None if result.upper is None else -float(result.upper.mean()),
        infinite=mean.infinite,
        bits_per_dim=None if bits is None else -bits,
        stderr=said.stderr,
        stderr_data=said.stderr_data,
        stderr_mc=said.stderr_mc,
        dof=said.dof,
        dof_mc=said.dof_mc,
        entropy=entropy,
        kl=kl,
        kl_stderr=kl_stderr,
        kl_quadrature=kl_quadrature,
        mass=mass,
        below_floor=below,
        terms={name: float(term.mean()) for name, term in result.terms.items()},
        estimator=run.name,
        num_samples=mean.num_samples if refined is None else refined.second.num_samples,
        points=done,
        capped=done < len(x),
        split=split,
        seconds=seconds,
        calls=mean.calls if refined is None else refined.calls,
        batch_size=size,
        first_batch_size=first_size,
        index=evaluation_index(len({"train": data.train, "valid": data.valid, "test": data.test}[split]), done),
        result=result,
        log_p=log_p,
        anatomy=anatomy(result),
        refined=refined,
    )


def _refined(
    run: Estimator,
    first: MeanResult,
    x: Tensor,
    condition: Tensor | None,
    refine: tuple[int, int],
    seed: int,
    batch_size: int,
) -> TwoPhase:
    """The second phase: `refine = (K, m)` draws and points, chosen and drawn independently of the first."""
    num_samples, points = refine
    if first.kind != "weights":
        raise CapabilityError(f"refine is for importance weights; estimator {run.name} gives {first.kind}")
    if num_samples <= first.num_samples or points < 2:
        got = f"{num_samples} draws after {first.num_samples}, on {points} points"
        raise InputError(f"expected refine with more draws than the first phase, on 2 points or more; got {got}")
    subset = subset_of(len(first.values), points, derive_seed(seed, "refine points"))
    chosen = subset.to(x.device)
    labels = None if condition is None else condition[chosen]
    second = run.mean(x[chosen], num_samples, derive_seed(seed, "refine"), labels, batch_size=batch_size)
    return TwoPhase.of(first, second, subset.to(first.values.device))


def anatomy(result: LogLikelihood) -> dict[str, Tensor]:
    """Means over the examples, float64 nats, of the arrays that take a term apart.

    Raises:
        NumericsError: the parts of a term do not sum to it.
    """
    means = {}
    for name, array in result.anatomy().items():
        mean, term = array.to(torch.float64).mean(0), float(result.terms[term_of(name)].mean())
        gap = abs(float(mean.sum()) - term)
        if math.isfinite(term) and not gap <= ANATOMY_SLACK * (1 + abs(term)):
            raise NumericsError(f"the parts {name} sum to {float(mean.sum()):.6g} nats; their term is {term:.6g}")
        means[name] = mean.cpu()
    return means


def log_truth(model: GenerativeModel, data: Dataset, x: Tensor, y: Tensor | None) -> tuple[Tensor, float]:
    """The truth's log-density `(N,)` of what `model` speaks of, and the entropy of that, in nats: p(x), p(x given y)
    for a conditional model, p(x, y) for its class mixture.

    Raises:
        CapabilityError: a conditional model on data whose classes are not known.
    """
    if model.spec.classes is None:
        assert data.truth is not None
        return data.truth.log_prob(x.to(torch.float64)), data.truth.entropy
    if data.labelled is None or y is None:
        raise CapabilityError(f"{data.name} has no labels with a known density; expected labels=true")
    log_p = data.labelled.log_prob(x.to(torch.float64)).gather(1, y[:, None])[:, 0]
    if not isinstance(model, ClassMixture):
        return log_p, data.labelled.entropy
    log_prior = data.labelled.log_prior
    return log_p + log_prior[y], data.labelled.entropy - float((log_prior.exp() * log_prior).sum())


def quadrature(model: GenerativeModel, truth: Density, chunk: int = 20_000) -> tuple[float, float]:
    """(KL(p, q), mass of q) on the truth's own nodes, nats; for models whose answer is exact.

    The mass of q misses what lies outside the truth's bounds, so it is at most 1 but for the rule's error.
    """
    nodes, weights = truth.quadrature()
    log_p = truth.log_prob(nodes)
    inputs = nodes.to(torch.float32)
    log_q, _ = halving(lambda size: _by_part(model, inputs, size), chunk)
    p = log_p.exp() * weights
    inside = p > 0
    kl = float((p[inside] * (log_p - log_q)[inside]).sum())
    return kl, float((log_q.exp() * weights).sum())


def log_density_grid(
    model: GenerativeModel, truth: Density, size: int = 100, num_samples: int = 1
) -> dict[str, Tensor]:
    """Log-densities, nats, on a square grid over the truth's bounds.

    Returns grid_x, grid_y `(size,)`, grid_truth, grid_model `(size, size)` with the first axis y.
    """
    (x0, x1), (y0, y1) = truth.bounds
    xs = torch.linspace(x0, x1, size, dtype=torch.float64)
    ys = torch.linspace(y0, y1, size, dtype=torch.float64)
    nodes = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], dim=-1).reshape(-1, 2)
    inputs = nodes.to(torch.float32)
    values, _ = halving(lambda size: _by_part(model, inputs, size, num_samples, 0), GRID_NODES)
    return {
        "grid_x": xs,
        "grid_y": ys,
        "grid_truth": truth.log_prob(nodes).reshape(size, size),
        "grid_model": values.reshape(size, size),
    }


def _by_part(model: GenerativeModel, x: Tensor, size: int, num_samples: int = 1, seed: int | None = None) -> Tensor:
    """The bound of each row of `x`, nats, `size` rows at a time, on the CPU."""
    return torch.cat([_lower(model, part.to(model.device), num_samples, seed).cpu() for part in torch.split(x, size)])


def _lower(model: GenerativeModel, x: Tensor, num_samples: int, seed: int | None) -> Tensor:
    """The bound about p(x) `(N,)`; for a conditional model, of its classes alike, of use for a picture alone."""
    classes = model.spec.classes
    if classes is None:
        return model.log_likelihood(x, num_samples, seed).lower
    answers = each_class(lambda y: model.log_likelihood(x, num_samples, seed, y), classes, len(x), x.device)
    joint = torch.stack([answer.lower for answer in answers]).logsumexp(0)
    return joint if isinstance(model, ClassMixture) else joint - math.log(classes)
