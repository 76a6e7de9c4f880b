"""What diffusions trace for a report: one path from data to noise, and the way back to draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from genzoo.interface import GenerativeModel
from genzoo.nn import condition_features
from genzoo.noising import ForwardProcess
from genzoo.seeding import evaluating, seeded

FRAMES = 9

Reverse = Callable[[Tensor, Sequence[int]], list[Tensor]]
"""Labels `(n, classes)` and times, the last first and 0 at the end, to the states `(n, D)` there, in data units."""


def traced(
    model: GenerativeModel, process: ForwardProcess, reverse: Reverse, like: Tensor, x: Tensor, n: int, seed: int
) -> dict[str, Tensor]:
    """See GenerativeModel.traces. forward: one path from x_0 up to x_T; reverse: from x_T down to the draws of
    `sample(n, seed)` (of a conditional model, under labels drawn alike). `like`: dtype and device of labels."""
    times = process.times(FRAMES)
    with torch.no_grad(), evaluating(model), seeded(seed, x.device):
        classes = model.spec.classes
        drawn = None if classes is None else torch.randint(0, classes, (n,), device=x.device)
        back = reverse(condition_features(model.spec, drawn, n, like), times[::-1])
        forward = torch.stack([*process.path(x[:n], times)], 1)
    at = torch.tensor(times)
    return {
        "forward": forward,
        "forward_at": at,
        "reverse": torch.stack(back, 1).reshape(n, len(times), *model.spec.event_shape),
        "reverse_at": at.flip(0),
    }
