"""The bound from drawn indices and from all of them.

-log p(x_0) <= prior + sum of Terms + decoder,   each estimate of it without bias, of kind `lower_bound`
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genzoo.likelihood import LogLikelihood
from genzoo.spec import Split
from genzoo_ddpm.allocation import Allocation, stratified_variance
from genzoo_ddpm.terms import Terms

PILOT_VECTORS, PILOT_IMAGES = 64, 4
"""Pairs of example and index in the pilot of an estimator, for each index, two network calls each."""

PILOT_NUMBERS = 1 << 23
"""Most numbers in one of a pilot's arrays."""

PILOT_EXAMPLES = 10_000
"""Validation examples behind it, at most."""

DECODER_PAIRS = 1 << 10
"""Further pairs for the decoder of real data, where most of the variance is |eps|^2's: a slope must be known well."""


MOST_NUMBERS, PER_ROW = 1 << 22, 16
"""Numbers in a tensor over all draws of all examples, at most, where a row has D and some 16 of its own."""


def drawn_bound(terms: Terms, allocation: Allocation, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
    """From `num_samples` indices an example, drawn by `allocation` in strata, each with a noise and its mirror.

    The array `diffusion_per_step (B, T - 1)` is unbiased step by step; of one example it is as noisy as draws are few.
    """
    return in_parts(lambda *part: _drawn_bound(terms, allocation, *part), z, labels, num_samples)


def full_bound(terms: Terms, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
    """The sum over all indices, `num_samples` noises each; the array `diffusion_per_step` is `(B, T - 1)`."""
    return in_parts(lambda *part: _full_bound(terms, *part), z, labels, num_samples)


def in_parts(
    bound: Callable[[Tensor, Tensor, int], LogLikelihood], z: Tensor, labels: Tensor, num_samples: int
) -> LogLikelihood:
    """`bound(z, labels, num_samples)` in bounded memory: where the draws of all examples are too many numbers, a part
    of the examples at a time, and of one example a part of the draws, whose answers are averaged."""
    most = max(1, MOST_NUMBERS // (z.shape[1] + PER_ROW))
    if len(z) * num_samples <= most:
        return bound(z, labels, num_samples)
    size = max(1, most // num_samples)
    pairs = zip(torch.split(z, size), torch.split(labels, size), strict=True)
    return LogLikelihood.concat([_draws_in_parts(bound, *pair, num_samples, most) for pair in pairs])


def _draws_in_parts(
    bound: Callable[[Tensor, Tensor, int], LogLikelihood], z: Tensor, labels: Tensor, num_samples: int, most: int
) -> LogLikelihood:
    if len(z) * num_samples <= most:
        return bound(z, labels, num_samples)
    total: LogLikelihood | None = None
    done = 0
    while done < num_samples:
        k = min(most, num_samples - done)
        part = bound(z, labels, k)
        done += k
        total = part if total is None else _averaged(total, part, done)
    assert total is not None
    return total


def _averaged(first: LogLikelihood, second: LogLikelihood, num_samples: int) -> LogLikelihood:
    """The mean over the draws of both, which are independent."""
    share = second.num_samples / num_samples

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return a * (1 - share) + b * share

    variance = None
    if first.variance is not None and second.variance is not None:
        variance = first.variance * (1 - share) ** 2 + second.variance * share**2
    return LogLikelihood.lower_bound(
        mean(first.lower, second.lower),
        num_samples=num_samples,
        variance=variance,
        terms={name: mean(term, second.terms[name]) for name, term in first.terms.items()},
        arrays={name: mean(array, second.arrays[name]) for name, array in first.arrays.items()},
    )


def _drawn_bound(terms: Terms, allocation: Allocation, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
    step, probability, place = allocation.draw(num_samples, len(z))
    example = torch.arange(len(z), device=z.device).repeat(num_samples)
    rows = z[example]
    residual = residuals(terms, allocation, rows, step.flatten(), place.flatten(), terms.noise(rows), labels[example])
    weighted = residual.view_as(step) / probability
    first = step == 0
    diffusion = torch.where(first, 0.0, weighted).mean(0)
    decoder = torch.where(first, weighted, 0.0).mean(0)
    base = allocation.baseline
    variance = stratified_variance(weighted)
    # what each step gives: its baseline, and the residuals of the draws that fell on it
    each = base.repeat(len(z), 1).scatter_add(1, step.T, weighted.T / num_samples)
    arrays = {"diffusion_per_step": -each[:, 1:].float()}
    return answer(terms, z, num_samples, base[1:].sum() + diffusion, base[0] + decoder, variance, arrays)


def residuals(
    terms: Terms, allocation: Allocation, z: Tensor, step: Tensor, place: Tensor, noise: Tensor, labels: Tensor
) -> Tensor:
    """The terms, mirrored, less their control variates: `(R,)` float64."""
    values = terms.mirrored(z, step, place, noise, labels)
    return allocation.residual(values, terms.excess(z, step, noise), step)


def _full_bound(terms: Terms, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
    mean = torch.zeros(terms.count, len(z), dtype=torch.float64, device=z.device)
    variance = torch.zeros(len(z), dtype=torch.float64, device=z.device)
    many, names = z.repeat(num_samples, 1), labels.repeat(num_samples, 1)
    for t in range(terms.first, terms.count):
        index = torch.full((len(many),), t, device=z.device)
        place = torch.rand(len(many), dtype=torch.float64, device=z.device)
        values = terms(many, index, place, terms.noise(many), names).view(num_samples, len(z))
        mean[t] = values.mean(0)
        if num_samples > 1:
            variance += values.var(0) / num_samples
    known = variance if num_samples > 1 else None
    return answer(terms, z, num_samples, mean[1:].sum(0), mean[0], known, {"diffusion_per_step": -mean[1:].T})


def answer(
    terms: Terms,
    z: Tensor,
    num_samples: int,
    diffusion: Tensor,
    decoder: Tensor,
    variance: Tensor | None,
    arrays: dict[str, Tensor],
) -> LogLikelihood:
    """Add the prior and the decoder where it is no index: one draw an example, two where a variance is asked for."""
    if terms.first:
        draws = torch.stack([terms.decoder(z) for _ in range(1 if variance is None else 2)])
        decoder = draws.mean(0)
        variance = None if variance is None else variance + draws.var(0) / 2
    parts = {"prior": -terms.prior(z), "diffusion": -diffusion, "decoder": -decoder}
    lower = torch.stack(list(parts.values())).sum(0)
    return LogLikelihood.lower_bound(lower, num_samples=num_samples, variance=variance, terms=parts, arrays=arrays)


def pilot(terms: Terms, valid: Split) -> Allocation:
    """An allocation fitted to terms of validation data at every index; draws from the global RNG."""
    model = terms.model
    z, labels = model._encoded(*subset(valid, PILOT_EXAMPLES, model.device))
    pairs = PILOT_VECTORS if model.network.rows > 1000 else PILOT_IMAGES
    pairs = max(2, min(pairs, PILOT_NUMBERS // (terms.count * z.shape[1])))
    index = torch.arange(terms.first, terms.count, device=z.device).repeat(pairs)
    allocation = terms.allocation()
    if allocation.alone:
        index = torch.cat([index, index.new_zeros(DECODER_PAIRS)])
    rows = torch.randint(len(z), (len(index),), device=z.device)
    z, labels = z[rows], labels[rows]
    noise = terms.noise(z)
    place = torch.rand(len(index), dtype=torch.float64, device=z.device)
    values = terms.mirrored(z, index, place, noise, labels)
    allocation.fit(index, values, terms.excess(z, index, noise), terms.spread)
    return allocation


def subset(split: Split, n: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """At most `n` examples, evenly spread over the split, and their labels."""
    indices = torch.linspace(0, len(split) - 1, min(n, len(split))).round().to(torch.int64)
    x, y = split.batch(indices, torch.Generator().manual_seed(0))
    return x.to(device), None if y is None else y.to(device)
