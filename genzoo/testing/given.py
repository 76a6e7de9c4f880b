"""Checks of conditional samplers: what is seen comes back, and what is filled in follows the model."""

from __future__ import annotations

import torch
from torch import Tensor

from genzoo.interface import ConditionalSampler
from genzoo.seeding import derive_seed
from genzoo.testing.statistics import Z, paired_z
from genzoo.testing.subject import CheckSkipped, Subject, Trained, require

POINTS, WORK = 32, 2000
"""Examples filled in, and what one counts as work: as many draws of an answer as a sampler has steps and particles."""

DRAWS = 4000
"""Samples that are filled in again, by models whose conditionals are exact."""


def seen_comes_back(subject: Subject, problem: str) -> None:
    """`sample_given` returns what is observed without noise as it is, draws the rest by its seed, and leaves the global
    RNG and the modes of submodules as they were."""
    trained = subject.trained(problem)
    model = _sampler(trained)
    x, y = trained.examples(max(2, subject.points(trained.data, POINTS, WORK)))
    mask = _half(trained)
    model.train()
    modes = [child.training for child in model.modules()]
    before = torch.get_rng_state()
    first, second, other = (model.sample_given(x, mask, 0.0, seed, y) for seed in (7, 7, 8))
    after = [child.training for child in model.modules()]
    model.eval()
    require(torch.equal(before, torch.get_rng_state()), "a seeded sample_given changes the global RNG")
    require(modes == after, "sample_given leaves submodules in another mode")
    seen, hidden = mask.expand(x.shape), ~mask.expand(x.shape)
    changed = int((first != x)[seen].sum())
    require(changed == 0, f"{changed} of {int(seen.sum())} observed values come back changed")
    require(torch.equal(first, second), "one seed fills in two different draws")
    require(not torch.equal(first[hidden], other[hidden]), "another seed fills in the same draw: nothing is drawn")


def filled_in_is_the_model(subject: Subject, problem: str) -> None:
    """Samples of a model with exact conditionals, half of each forgotten and filled in again, are samples of it still:
    their mean log-likelihood is the same."""
    trained = subject.trained(problem)
    model = _sampler(trained)
    if not model.exact_given:
        raise CheckSkipped("its conditionals are approximate, as it says")
    held, y = trained.examples(max(2, subject.points(trained.data, DRAWS, 1)))
    seeds = [derive_seed("given", subject.seed, part) for part in range(4)]
    x = model.sample(len(held), seeds[0], y)
    again = model.sample_given(x, _half(trained), 0.0, seeds[1], y)
    before, after = (model.log_likelihood(v, 2, s, y).lower for v, s in ((x, seeds[2]), (again, seeds[3])))
    z = paired_z(after - before)
    gain = float((after - before).mean())
    require(abs(z) < Z, f"filling in changes the mean log-likelihood by {gain:.4f} nats (z = {z:.1f})")


def _sampler(trained: Trained) -> ConditionalSampler:
    if not isinstance(trained.model, ConditionalSampler):
        raise CheckSkipped("the model is no conditional sampler")
    return trained.model


def _half(trained: Trained) -> Tensor:
    """The first half of the dimensions is seen."""
    spec = trained.data.spec
    return (torch.arange(spec.dims) < (spec.dims + 1) // 2).view(spec.event_shape)
