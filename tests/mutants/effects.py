"""How many nats a mutant is off, against its correct twin with the same weights, after the kit's quick training.

answer     mean over test points of |the mutant's answer - the twin's|
samples    KL between the cells' frequencies in samples of both, which the KL of the distributions is at least
loss       |mean loss - the twin's|
terms      |mean of the sum of the terms - the answer|
parts      the same of the parts of a term and that term
NAME       the answer of the estimator NAME against the twin's
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from genzoo.interface import GenerativeModel, GradientModel
from genzoo.likelihood import term_of
from genzoo.registry import Registry, load_registry
from genzoo.testing import kit
from genzoo.testing.subject import ModelSubject, Trained

FILES = sorted(Path(__file__).parent.glob("mutant_*.py"))
DRAWS, POINTS = 64, 500
SAMPLES = 40_000
"""A KL between frequencies in C cells is too large by about C / SAMPLES: below 0.004 nats with the cells used here."""


def registry() -> Registry:
    """All mutants and twins as registered models."""
    return load_registry(map(str, FILES))


def modules() -> list[ModuleType]:
    """Of the plugin files, once `registry` was called."""
    return [sys.modules[path.stem] for path in FILES]


def names(twins: bool) -> list[str]:
    """Registered names of the twins, or of the mutants."""
    registry()
    every = [card.name for module in modules() for card in module.genzoo_models()]
    return [name for name in every if name.startswith("twin_") == twins]


def model_class(subject: ModelSubject) -> Any:
    """The class behind a subject, with `caught_by`, `effect` and perhaps `measure`."""
    return subject.card.resolve()


def catcher(subject: ModelSubject) -> tuple[kit.Check[ModelSubject], str]:
    """The check that must find a mutant, and the problem on which."""
    check, _, problem = model_class(subject).caught_by.rstrip("]").partition("[")
    return next(c for c in kit.CHECKS if c.name == check), problem


def effect(subject: ModelSubject) -> float:
    """Nats; see the module's head."""
    _, problem = catcher(subject)
    trained = subject.trained(problem)
    mutant = trained.model
    twin_class = type(mutant).__mro__[1]
    twin = twin_class(mutant.spec, mutant.config)
    twin.load_state_dict(mutant.state_dict())
    measure = getattr(type(mutant), "measure", "answer")
    x, y = trained.data.test.batch(torch.arange(POINTS), torch.Generator())
    condition = y if mutant.spec.classes is not None else None
    if measure == "samples":
        return _sample_effect(trained, twin.eval(), mutant)
    if measure == "loss":
        assert isinstance(mutant, GradientModel)
        assert isinstance(twin, GradientModel)
        with torch.no_grad():
            return abs(float((mutant.loss(x, 1.0, condition) - twin.loss(x, 1.0, condition)).mean()))
    if measure == "terms":
        result = mutant.log_likelihood(x, DRAWS, 0, condition)
        return abs(float((torch.stack(list(result.terms.values())).sum(0) - result.lower).mean()))
    if measure == "parts":
        result = mutant.log_likelihood(x, DRAWS, 0, condition)
        return max(
            abs(float((array.flatten(1).sum(1) - result.terms[term_of(name)]).mean()))
            for name, array in result.anatomy().items()
        )
    if measure == "answer":
        one, other = (model.log_likelihood(x, DRAWS, 0, condition).lower for model in (mutant, twin))
        return float((one - other).abs().mean())
    answers = [
        torch.stack([model.estimators()[measure]().log_likelihood(x, 1, seed, condition).lower for seed in range(8)])
        for model in (mutant, twin)
    ]
    return abs(float((answers[0] - answers[1]).mean()))


def _sample_effect(trained: Trained, twin: GenerativeModel, mutant: GenerativeModel) -> float:
    """KL(mutant, twin) between frequencies in 8 x 8 cells of the plane; of codes, in cells of one label and one sum of
    codes, or of one state where it is among the 60 most frequent: the larger of the two."""
    spec = trained.data.spec
    labels = None if mutant.spec.classes is None else torch.arange(SAMPLES) % 2
    draws = [model.sample(SAMPLES, seed, labels) for seed, model in enumerate((twin, mutant))]
    if spec.levels is None:
        centre, reach = draws[0].mean(0), 3 * draws[0].std(0)
        places = [((x - centre + reach) / (2 * reach) * 8).floor().clamp(0, 7).long() for x in draws]
        return _kl([place[:, 0] * 8 + place[:, 1] for place in places])
    codes = [x.flatten(1).long() for x in draws]
    label = torch.zeros(SAMPLES, dtype=torch.int64) if labels is None else labels
    sums = [(code.sum(1) * 2 + label) for code in codes]
    states = [(code * spec.levels ** torch.arange(spec.dims)).sum(1) * 2 + label for code in codes]
    top = torch.bincount(states[0]).topk(60).indices
    own = [(state[:, None] == top) for state in states]
    return max(_kl(sums), _kl([torch.where(match.any(1), match.long().argmax(1), 60) for match in own]))


def _kl(cells: list[Tensor]) -> float:
    """KL of the second's frequencies from the first's, to which one draw a cell is added, so that none is empty."""
    size = max(int(cell.max()) for cell in cells) + 1
    q, p = (torch.bincount(cell, minlength=size).double() for cell in cells)
    p, q = p / p.sum(), (q + 1) / (q + 1).sum()
    return float((torch.xlogy(p, p) - torch.xlogy(p, q)).sum())
