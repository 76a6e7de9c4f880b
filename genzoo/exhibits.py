"""What a cell stores for its report to draw: trajectories, nearest training examples, extreme test images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genzoo.evaluation import Evaluation
from genzoo.interface import GenerativeModel
from genzoo.records import TRACE
from genzoo.spec import Dataset
from genzoo.training import points_of

Arrays = dict[str, np.ndarray[Any, Any]]

TRACED_POINTS, TRACED_EXAMPLES = 500, 8
"""Points of the plane, and other examples, that a model traces."""

EXTREMES = 8
"""Test images kept of either end, at most."""


def traces(model: GenerativeModel, x: Tensor, seed: int) -> Arrays:
    """`trace_<name>`: what the model traces about the first of `x`, or of as many draws."""
    n = min(len(x), TRACED_POINTS if model.spec.event_shape == (2,) else TRACED_EXAMPLES)
    return {
        f"{TRACE}{name}": frames.cpu().numpy() for name, frames in model.traces(x[:n].to(model.device), n, seed).items()
    }


def nearest(samples: Tensor, data: Dataset, beat: Callable[[], None] = lambda: None) -> Tensor:
    """The training example nearest to each sample, in Euclidean distance; calls `beat` as it goes."""
    flat = samples.flatten(1).to(torch.float32)
    best = torch.full((len(samples),), float("inf"))
    found = torch.zeros_like(samples)
    generator = torch.Generator().manual_seed(0)
    for part in torch.split(torch.arange(len(data.train)), 10_000):
        beat()
        x = data.train.batch(part, generator).x.cpu()
        distance, at = torch.cdist(flat, x.flatten(1).to(torch.float32)).min(1)
        closer = distance < best
        best[closer] = distance[closer]
        found[closer] = x[at[closer]]
    return found


def extremes(data: Dataset, result: Evaluation) -> Arrays:
    """Of images, `extremes (2 k, *event_shape)`: the k most likely of the evaluated examples, the likeliest first, then
    the k least likely, the least likely first; `extremes_lower` their values in nats, `extremes_index` their places in
    the split."""
    k = min(EXTREMES, result.points // 2)
    if len(data.spec.event_shape) != 3 or k < 1:
        return {}
    lower = result.result.lower.cpu()
    rows = lower.argsort(stable=True)
    rows = torch.cat([rows[-k:].flip(0), rows[:k]])
    return {
        "extremes": points_of(data, result.split, result.points).x[rows].cpu().numpy(),
        "extremes_lower": lower[rows].numpy(),
        "extremes_index": result.index[rows].numpy(),
    }
