"""The whole space of a problem: every state or a grid in the plane, the cells that draws are counted in, and the share
of draws that lies inside."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genzoo.adapters import Adapted
from genzoo.class_mixture import ClassMixture
from genzoo.interface import GenerativeModel
from genzoo.seeding import derive_seed
from genzoo.testing.problems import all_states, midpoint_grid
from genzoo.testing.subject import CheckSkipped, Subject, Trained, require

STATES = 20_000
"""Most states of a space that is summed over: nine dimensions of three levels."""
CELLS = 12
"""Cells a side, where samples are counted in the plane."""
SIDE = 3
"""Nodes a side of the squares over which a bound is averaged before it is exponentiated."""
ALIKE = 40
"""States in a cell, where samples are counted against a bound: the noise of one state's bound is too large."""


def domain(subject: Subject, trained: Trained) -> tuple[Tensor, Tensor, Tensor | None]:
    """Every state, or the grid's nodes, with their weights; a conditional model is checked at label 0 and 1 at once,
    each with half the weight. CheckSkipped for a space that cannot be visited."""
    spec, model = trained.data.spec, trained.model
    if isinstance(model, ClassMixture) and model.spec.classes is not None:
        raise CheckSkipped("an answer about p(x, y) sums to a label's share")
    if spec.levels is None and (spec.event_shape != (2,) or model.spec.classes is not None):
        raise CheckSkipped("only densities in the plane, without labels, are integrated")
    if spec.levels is not None and spec.dims * math.log(spec.levels) > math.log(STATES):
        raise CheckSkipped(f"{spec.levels}^{spec.dims} states are too many to sum over")
    if spec.levels is None:
        nodes, weights = midpoint_grid(*subject.box(trained.data), subject.level.grid)
        return nodes.to(torch.float32), weights, None
    states = all_states(spec)
    weights = torch.ones(len(states), dtype=torch.float64)
    if trained.model.spec.classes is None:
        return states, weights, None
    labels = torch.arange(2).repeat_interleave(len(states))
    return states.repeat(2, *[1] * len(spec.event_shape)), 0.5 * weights.repeat(2), labels


def share_inside(subject: Subject, trained: Trained, label: int) -> tuple[float, float]:
    """The share of draws given `label` that lies where the mass is summed, and its standard error: of inner draws that
    lie in [0, levels) behind dequantization, of draws in the grid's box in the plane; 1 of states. CheckFailed where
    none does."""
    adapted = _dequantized(trained.model)
    if trained.data.spec.levels is not None and adapted is None:
        return 1.0, 0.0
    draws, labels = _inner_draws(subject, trained, "share", subject.level.draws)
    if adapted is None:
        low, high = subject.box(trained.data)
        inside, place = (
            ((draws >= low) & (draws < high)).all(1),
            f"the square [{low:.3g}, {high:.3g}]^2 around the data",
        )
    else:
        inside, place = _inside(adapted, draws), _codes(adapted)
    if labels is not None:
        inside = inside[labels == label]
    require(bool(inside.any()), f"none of {len(inside):,} samples lies in {place}: there is nothing to compare with")
    share = float(inside.double().mean())
    return share, math.sqrt(max(share * (1 - share), 1.0 / len(inside)) / len(inside))


def inner_samples(subject: Subject, trained: Trained, purpose: str, n: int) -> tuple[Tensor, Tensor | None]:
    """Samples of the model and their labels; behind dequantization, the inner draws inside the range, which is what
    the mass counts. CheckFailed where none is."""
    y, labels = _inner_draws(subject, trained, purpose, n)
    adapted = _dequantized(trained.model)
    if adapted is None:
        return y, labels
    inside = _inside(adapted, y)
    require(bool(inside.any()), f"none of {len(inside):,} inner samples lies in {_codes(adapted)}: no sample is left")
    return adapted.to_data(y[inside]), None if labels is None else labels[inside]


def lattice(x: Tensor, points: Tensor) -> Tensor:
    """Cell of each point in a lattice over the grid nodes `x`, with one cell for all that lies outside."""
    low, high = x.min(0).values, x.max(0).values
    spacing = (high - low) / (round(math.sqrt(len(x))) - 1)
    low, high = low - spacing / 2, high + spacing / 2
    place = ((points - low) / (high - low) * CELLS).floor().to(torch.int64)
    outside = ((place < 0) | (place >= CELLS)).any(1)
    return torch.where(outside, CELLS * CELLS, place[:, 0] * CELLS + place[:, 1])


def groups(subject: Subject, trained: Trained, nodes: int) -> Tensor:
    """Groups over which a bound is averaged: small squares of nodes, each within a cell; single states."""
    if trained.data.spec.levels is not None:
        return torch.arange(nodes)
    side = torch.arange(subject.level.grid) // SIDE
    return (side[:, None] * (int(side[-1]) + 1) + side).flatten()


def frequent(trained: Trained, most: int) -> Tensor:
    """Nodes that are most frequent in the training data: a choice that looks at nothing that is checked."""
    x, y = trained.data.train.batch(torch.arange(len(trained.data.train)), torch.Generator())
    if trained.model.spec.classes is None:
        y = None
    elif y is not None:  # the two labels of `domain`
        x, y = x[y < 2], y[y < 2]
    counts = torch.bincount(node_of(trained, x, y))
    return counts.topk(min(most, int((counts > 0).sum()))).indices


def alike(trained: Trained, nodes: int, most: int) -> Tensor:
    """Cell of each state: the `most` frequent ones with those that are about as frequent, all others in one."""
    often = frequent(trained, most)  # by falling frequency
    rank = torch.arange(len(often)) // ALIKE
    cells = torch.full((nodes,), int(rank[-1]) + 1)
    cells[often] = rank
    return cells


def node_of(trained: Trained, samples: Tensor, labels: Tensor | None) -> Tensor:
    """Of each sample, the number of its state (and label) in the order of `domain`."""
    spec = trained.data.spec
    assert spec.levels is not None
    places = spec.levels ** torch.arange(spec.dims - 1, -1, -1)
    code = (samples.flatten(1).to(torch.int64) * places).sum(1)
    return code if labels is None else code + labels * spec.levels**spec.dims


def _dequantized(model: GenerativeModel) -> Adapted | None:
    return model if isinstance(model, Adapted) and model.stochastic else None


def _inner_draws(subject: Subject, trained: Trained, purpose: str, n: int) -> tuple[Tensor, Tensor | None]:
    """`n` samples and their labels; of the inner model, behind dequantization. Drawn once for each purpose."""
    if purpose not in trained.drawn:
        adapted, labels = _dequantized(trained.model), _labels(trained.model, n)
        model = trained.model if adapted is None else adapted.inner
        trained.drawn[purpose] = model.sample(n, derive_seed(purpose, subject.seed), labels), labels
    return trained.drawn[purpose]


def _labels(model: GenerativeModel, n: int) -> Tensor | None:
    """Half of each label in turn, for a conditional model."""
    return None if model.spec.classes is None else torch.arange(n) % 2


def _inside(adapted: Adapted, y: Tensor) -> Tensor:
    """Whether each inner draw lies in the range of the codes before it is floored."""
    for transform in reversed(adapted.transforms[1:]):
        y = transform.inverse(y)  # type: ignore[operator]
    assert adapted.spec.levels is not None
    return ((y >= 0) & (y < adapted.spec.levels)).flatten(1).all(1)


def _codes(adapted: Adapted) -> str:
    """The range that `_inside` speaks of, for a message."""
    return f"the range of the codes, [0, {adapted.spec.levels})"
