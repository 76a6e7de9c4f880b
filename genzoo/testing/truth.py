"""Checks of truth: the likelihood sums to one, bounds are bounds, and samples come from what is scored."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genzoo.interface import Estimator, GenerativeModel
from genzoo.latent import LatentJoint, RefinedELBO
from genzoo.likelihood import LogLikelihood, term_of
from genzoo.seeding import derive_seed
from genzoo.testing.spaces import alike, domain, frequent, groups, inner_samples, lattice, node_of, share_inside
from genzoo.testing.statistics import (
    ALPHA,
    Z,
    cell_deviations,
    chi_square_limit,
    integral,
    lower_integral,
    paired_z,
    pooled,
)
from genzoo.testing.subject import CheckSkipped, Subject, Trained, require
from genzoo.wrapping import WrappedEstimator, Wrapper

TOLERANCE = 0.012
"""Granted on a total mass of 1: in the plane for the midpoint rule at the quick level and what lies outside the box;
for importance weights, whose sample variance misses what rare large weights add (the standardised mass of a correct
VAE was seen to spread by 1.3 in place of 1, and to lie 0.5 too low)."""
ROUNDING = 1e-3
"""Granted on an exact mass over all states: float32 networks, a relative 1e-6 in logits near 100."""
TOP, TOP_DRAWS = 60, 128
"""Of a discrete space: states that are cells of their own, and the draws spent on each, since they hold most mass. The
rest fall into cells by the sum of their codes."""
HEAVY = 0.25
"""Relative variance of a frequent state's mass beyond which the weights' tail is so heavy that their sample variance,
and with it the law of the statistic, means nothing: four effective draws."""
BOUND_TOP, BOUND_DRAWS = 200, 2
"""Of a discrete space: the states at which a bound is asked, and the draws spent on each, for every one that the level
grants a node."""
AGREE, AGREE_LEAST = 200, 8
"""Examples on which estimators are compared; one so costly that fewer are within the level's work is left out."""
TERMS = 1e-6
"""Relative rounding granted where terms are summed: they are float64 means over the same draws."""
PARTS = 1e-5
"""The same where the parts of a term are summed, which may be float32."""


def mass_is_one(subject: Subject, problem: str) -> None:
    """exp(lower) integrates, or sums over all states, to one, given each label; behind dequantization to the share of
    draws inside."""
    trained = subject.trained(problem)
    if (kind := subject.kind(trained)) not in ("exact", "weights"):
        raise CheckSkipped(f"an answer of kind {kind} is not exponentiated draw by draw")
    result, weights = _everywhere(subject, trained)
    for label, mass in enumerate(_masses(subject, trained, result, weights)):
        given = f" given label {label}" if trained.model.spec.classes is not None else ""
        expected = "1" if mass.share == 1.0 else f"{mass.share:.4f} (the share of inner draws inside)"
        require(
            mass.right,
            f"total mass {mass.total:.4f} +- {mass.error:.4f}{given}; expected {expected} within {mass.limit:.4f}: off "
            f"by {math.log(max(mass.total, 1e-300) / mass.share):+.3f} nats",
        )


def bound_mass_is_below_one(subject: Subject, problem: str) -> None:
    """A lower bound, averaged over many draws in nats and only then exponentiated, has a mass of at most one."""
    trained = subject.trained(problem)
    if (kind := subject.kind(trained)) != "lower_bound":
        raise CheckSkipped(f"an answer of kind {kind} is checked two-sided or not at all")
    result, weights = _everywhere(subject, trained)
    if result.variance is None:
        raise CheckSkipped("the answer does not know its Monte Carlo variance")
    mass, variance = lower_integral(result.lower, result.variance, weights, groups(subject, trained, len(weights)))
    total, error = float(mass.sum()), float(variance.sum().sqrt())
    limit = 1 + TOLERANCE + Z * error
    require(total <= limit, f"mass of the bound {total:.4f} +- {error:.4f}; expected at most 1")


def exact_has_no_noise(subject: Subject, problem: str) -> None:
    """An exact answer is the same from two seeds."""
    trained = subject.trained(problem)
    x, condition = trained.examples(subject.points(trained.data, 256, 2))
    first, second = (trained.model.log_likelihood(x, 1, seed, condition) for seed in (1, 2))
    if first.kind != "exact":
        raise CheckSkipped(f"the answer is of kind {first.kind}")
    gap = float((first.lower - second.lower).abs().max())
    require(torch.equal(first.lower, second.lower), f"an answer called exact changes with the seed, by {gap:.3g} nats")


def terms_sum(subject: Subject, problem: str) -> None:
    """The named terms sum to the answer, and the parts of a term, an array named `<term>_per_<part>`, to that term;
    both example by example."""
    trained = subject.trained(problem)
    x, condition = trained.examples(subject.points(trained.data, 64, 8))
    for k in (1, 4):
        result = trained.model.log_likelihood(x, k, 0, condition)
        if not result.terms:
            raise CheckSkipped("the answer has no terms")
        total = torch.stack(list(result.terms.values())).sum(0)
        gap = _miss(total, result.lower, result.lower.abs())
        require(gap <= TERMS, f"with {k} draws the terms {', '.join(result.terms)} miss the answer by {gap:.3g} of it")
        for name, array in result.anatomy().items():
            parts = array.to(torch.float64).flatten(1)  # (B, parts)
            gap = _miss(parts.sum(1), result.terms[term_of(name)], parts.abs().sum(1))
            require(gap <= PARTS, f"with {k} draws the parts {name} miss their term by {gap:.3g} of their size")


def _miss(total: Tensor, expected: Tensor, size: Tensor) -> float:
    """The largest difference `(B,)`, relative to 1 + size, where what is expected is finite."""
    gaps = ((total - expected).abs() / (1 + size))[expected.isfinite()]
    return float(gaps.max()) if len(gaps) else 0.0


def below_the_truth(subject: Subject, problem: str) -> None:
    """On data whose density is known, the mean bound is not above the mean of the true log-density."""
    trained = subject.trained(problem)
    truth = trained.data.truth
    if truth is None:
        raise CheckSkipped("the truth is not known here")
    if subject.kind(trained) == "estimate":
        raise CheckSkipped("an estimate has no direction")
    n = subject.level.draws
    x = truth.sample(n, derive_seed("below", subject.seed) % 2**31)
    result = subject.answer(trained, x, subject.effort(n), f"fresh {n}")
    difference = truth.log_prob(x) - result.lower
    z = paired_z(difference, float(result.shared_variance))
    require(z > -Z, f"the bound beats the truth by {-float(difference.mean()):.4f} nats (z = {z:.1f})")


def estimators_agree(subject: Subject, problem: str) -> None:
    """With one draw, the bounds of one model have one expectation: a lower bound is the mean of the log weights, and so
    is what a model with a joint density says of its pieces, log p(x, z) - log q(z given x). Sharper ones are left out.
    """
    trained = subject.trained(problem)
    x, y = trained.examples(AGREE)
    seeds, first = 8, ("", torch.empty(0))
    compared = 0
    estimators = [(name, make()) for name, make in trained.model.estimators().items()]
    joint = _joint(trained.model)
    if joint is not None:
        estimators.append(("log_joint", joint))
    for name, estimator in estimators:
        if estimator.another or (estimator.sharper and estimator is not joint):
            continue
        n = subject.points(trained.data, len(x), seeds * (estimator.calls or 1))
        if n < min(AGREE_LEAST, len(x)):
            continue
        label = None if y is None else y[:n]
        estimator.start(trained.data.valid, subject.seed)
        draws = [
            estimator.log_likelihood(x[:n], 1, derive_seed("agree", subject.seed, name, repeat), label)
            for repeat in range(seeds)
        ]
        lower = torch.stack([draw.lower for draw in draws])  # (8, n)
        if draws[0].kind not in ("weights", "lower_bound"):
            continue
        compared += 1
        if compared == 1:
            first = name, lower
            continue
        n = min(n, first[1].shape[1])
        own, other = first[1][:, :n], lower[:, :n]
        difference = (own - other).mean(0)
        noise = float((own.var(0) + other.var(0)).sum()) / seeds / n**2
        z = float(difference.mean()) / max(math.sqrt(noise), 1e-12)
        require(
            abs(z) < Z,
            f"with one draw, {first[0]} and {name} have one expectation; they differ by "
            f"{float(difference.mean()):+.4f} nats (z = {z:.1f})",
        )
    if compared < 2:
        raise CheckSkipped("there is one bound only")


def _joint(model: GenerativeModel) -> Estimator | None:
    """The ELBO from the pieces of a LatentJoint, through whatever is around it; None for any other model."""
    if isinstance(model, LatentJoint):
        return RefinedELBO(model, steps=0)
    if isinstance(model, Wrapper) and (inner := _joint(model.inner)) is not None:
        return WrappedEstimator(model, inner)
    return None


def draws_tighten(subject: Subject, problem: str) -> None:
    """An importance bound rises with the number of draws: 64 draws give at least the log of the mean of 8 weights, in
    expectation (Burda et al., arXiv:1509.00519, theorem 1)."""
    trained = subject.trained(problem)
    (x, condition), many = subject.tight(trained)
    if many.kind != "weights":
        raise CheckSkipped(f"the answer is of kind {many.kind}")
    seeds = [derive_seed("tighten", subject.seed, repeat) for repeat in range(8)]
    few = torch.stack([trained.model.log_likelihood(x, 1, seed, condition).lower for seed in seeds])
    gain = many.lower - (few.logsumexp(0) - math.log(len(few)))
    z = paired_z(gain)
    require(z > -Z, f"64 draws give {float(gain.mean()):+.4f} nats over 8 draws' mean weight (z = {z:.1f})")


def samples_match(subject: Subject, problem: str) -> None:
    """Samples fall into cells as often as the likelihood says: two-sided for exact and weights; for a bound no cell
    holds significantly less than the integral of exp(lower)."""
    trained = subject.trained(problem)
    if (kind := subject.kind(trained)) in ("estimate", "bracket"):
        raise CheckSkipped(f"an answer of kind {kind} says nothing of cells")
    result, weights = _everywhere(subject, trained)
    if result.kind == "lower_bound":
        _no_cell_is_short(subject, trained, result, weights)
        return
    if not all(mass.right for mass in _masses(subject, trained, result, weights)):
        raise CheckSkipped("the likelihood does not sum to one: mend mass_is_one first")
    x, _, _ = domain(subject, trained)
    variance_of = torch.zeros_like(result.lower) if result.variance is None else result.variance
    often = torch.empty(0, dtype=torch.int64) if trained.data.spec.levels is None else frequent(trained, TOP)
    if len(often) and (worst := float(variance_of[often].max())) > HEAVY:
        raise CheckSkipped(f"of a frequent state, {TOP_DRAWS} weights are worth {1 / worst:.0f}: too few to tell")
    samples, labels = inner_samples(subject, trained, "samples", subject.level.draws)
    if trained.data.spec.levels is None:
        cells, drawn, systematic = lattice(x, x), lattice(x, samples), TOLERANCE
    else:
        cells, systematic = TOP + x.flatten(1).sum(1, dtype=torch.int64), 0.0
        cells[often] = torch.arange(len(often))
        drawn = cells[node_of(trained, samples, labels)]
    mass = weights * result.lower.exp()
    counts, share, variance = _by_cell(cells, drawn, mass, mass.square() * variance_of)
    z = cell_deviations(counts, share, variance, systematic, scaled=True)
    statistic, limit = float(z.square().sum()), chi_square_limit(len(z))
    require(
        statistic <= limit,
        f"samples do not follow the likelihood: chi-square {statistic:.1f} over {len(z)} cells, limit {limit:.1f}",
    )


def _no_cell_is_short(subject: Subject, trained: Trained, result: LogLikelihood, weights: Tensor) -> None:
    """No cell holds significantly fewer samples than the integral of exp(lower): of the plane's lattice, or of states
    that are about as frequent in the training data."""
    if result.variance is None:
        raise CheckSkipped("the answer does not know its Monte Carlo variance")
    x, _, _ = domain(subject, trained)
    group = groups(subject, trained, len(weights))
    mass, noise = lower_integral(result.lower, result.variance, weights, group)
    plane = trained.data.spec.levels is None
    place = lattice(x, x) if plane else alike(trained, len(weights), BOUND_TOP)
    cells = torch.empty_like(mass, dtype=torch.int64).scatter(0, group, place)
    _, share, variance = _by_cell(cells, cells, mass, noise)
    n = subject.level.draws
    expected, spread = pooled(n * share, n * n * variance)
    most = float((expected / (expected + spread).clamp(min=1.0).sqrt()).max())
    if most < _bonferroni(len(expected)):
        raise CheckSkipped(f"the bound is so noisy that a cell without any sample would be {most:.1f} deviations short")
    samples, labels = inner_samples(subject, trained, "samples", n)
    drawn = lattice(x, samples) if plane else place[node_of(trained, samples, labels)]
    counts, share, variance = _by_cell(cells, drawn, mass, noise)
    z = cell_deviations(counts, share, variance, TOLERANCE if plane else 0.0)
    worst, limit = float(z.min()), -_bonferroni(len(z))
    require(worst >= limit, f"a cell holds too few samples for the bound: z = {worst:.1f}, limit {limit:.1f}")


def _by_cell(cells: Tensor, drawn: Tensor, mass: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draws in each cell, and the sums of `mass` and `variance (N,)` of what lies in each of `cells (N,)`, float64."""
    size = int(max(int(cells.max()), int(drawn.max()))) + 1
    empty = torch.zeros(size, dtype=torch.float64)
    counts = torch.bincount(drawn, minlength=size).to(torch.float64)
    return counts, empty.index_add(0, cells, mass), empty.index_add(0, cells, variance)


def _bonferroni(cells: int) -> float:
    """One-sided normal quantile of ALPHA over the number of cells."""
    return -float(torch.special.ndtri(torch.tensor(ALPHA / cells, dtype=torch.float64)))


def _everywhere(subject: Subject, trained: Trained) -> tuple[LogLikelihood, Tensor]:
    """The answer at every node, and the nodes' weights.

    States that are frequent in the training data get more draws where there are draws: chosen without looking at the
    answer, so that it stays unbiased. A bound is asked about them only and is -inf elsewhere: its checks are one-sided,
    and hold for any part of the space.
    """
    x, weights, condition = domain(subject, trained)

    def ask(states: Tensor, draws: int, key: str) -> LogLikelihood:
        return subject.answer(trained, x[states], draws, key, None if condition is None else condition[states])

    every = torch.arange(len(x))
    kind = subject.kind(trained)
    if trained.data.spec.levels is None or kind not in ("weights", "lower_bound"):
        return ask(every, subject.effort(len(x)), "everywhere"), weights
    if kind == "weights":
        result, often = ask(every, subject.effort(len(x)), "everywhere"), frequent(trained, TOP)
        refined = ask(often, TOP_DRAWS, "top")
    else:
        nothing = torch.full((len(x),), -math.inf, dtype=torch.float64)
        often = frequent(trained, BOUND_TOP)
        refined = ask(often, BOUND_DRAWS * subject.level.num_samples, "top")
        result = replace(refined, lower=nothing, variance=torch.zeros_like(nothing), terms={}, arrays={})
    if refined.variance is None or result.variance is None:
        return replace(result, variance=None), weights
    lower, variance = result.lower.clone(), result.variance.clone()
    lower[often], variance[often] = refined.lower, refined.variance
    return replace(result, lower=lower, variance=variance), weights


@dataclass(frozen=True)
class _Mass:
    """The mass given one label, what it should be, and what is granted."""

    total: float
    error: float
    share: float
    limit: float

    @property
    def right(self) -> bool:
        return abs(self.total - self.share) <= self.limit


def _masses(subject: Subject, trained: Trained, result: LogLikelihood, weights: Tensor) -> list[_Mass]:
    """One for each label, or one in all."""
    granted = ROUNDING if trained.data.spec.levels is not None and result.kind == "exact" else TOLERANCE
    parts = 1 if trained.model.spec.classes is None else 2
    size = len(weights) // parts
    masses = []
    for label in range(parts):
        part = slice(label * size, (label + 1) * size)
        variance = None if result.variance is None else result.variance[part]
        total, error = integral(result.lower[part], variance, parts * weights[part])
        share, share_error = share_inside(subject, trained, label)
        masses.append(_Mass(total, error, share, granted + Z * math.hypot(error, share_error)))
    return masses
