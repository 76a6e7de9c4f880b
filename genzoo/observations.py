"""Examples of which a part is seen, or seen with noise, and a model's draws of what they may be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genzoo.data.files import load_points
from genzoo.data.readers import read
from genzoo.errors import DataError, UsageError
from genzoo.interface import ConditionalSampler
from genzoo.seeding import derive_seed
from genzoo.spec import Dataset, DataSpec
from genzoo.training import points_of

WORDS = ("half", "all")


@dataclass(frozen=True)
class Observation:
    """What is known of N examples.

    Attributes:
        x: `(N, *event_shape)` as `ConditionalSampler.sample_given` takes it: the spec's dtype, float32 with noise.
        mask: bool, `event_shape` or `(N, *event_shape)`; True is observed. noise: in data units.
        y: labels `(N,)` for a conditional model. original: the examples themselves, where they are known.
    """

    x: Tensor
    mask: Tensor
    noise: float
    y: Tensor | None
    original: Tensor | None


def mask_of(given: str, spec: DataSpec) -> Tensor:
    """The mask that `given` names: `half`, the upper half of an image or the first half of a vector; `all`; or an npy
    of booleans, `event_shape` or `(N, *event_shape)`.

    Raises:
        DataError: a file that cannot be read, or is no such mask.
    """
    shape = spec.event_shape
    if given in WORDS:
        mask = torch.ones(shape, dtype=torch.bool)
        if given == "half":
            axis = 1 if len(shape) == 3 else 0
            mask.narrow(axis, (shape[axis] + 1) // 2, shape[axis] // 2).fill_(False)
        return mask
    path = Path(given).expanduser()
    if not path.exists():
        raise DataError(f"--given {given}: expected {', '.join(WORDS)} or an existing .npy file of booleans")
    array = np.asarray(next(iter(read(path).x.values())))
    if array.dtype != np.bool_ or array.shape[array.ndim - len(shape) :] != shape or array.ndim > len(shape) + 1:
        got = f"{array.shape} {array.dtype}"
        raise DataError(f"{path}: expected a mask of booleans, {shape} or {('N', *shape)}, True where seen; got {got}")
    return torch.from_numpy(array.copy())


def observe(
    data: Dataset,
    spec: DataSpec,
    mask: Tensor,
    noise: float,
    n: int,
    seed: int,
    label: int | None = None,
    *,
    split: str = "test",
) -> Observation:
    """The first `n` points of the one permutation of a split, with noise added from `seed`.

    Args:
        spec: of the model, which says whether there are labels. label: in the place of the examples' own.
    """
    x, y = points_of(data, split, n)
    observed = x
    if noise > 0:
        generator = torch.Generator().manual_seed(derive_seed("observation", seed))
        observed = x.to(torch.float32) + noise * torch.randn(x.shape, generator=generator)
    return _checked(Observation(observed, mask, noise, _labels(spec, y, label, len(x)), x))


def read_observation(path: Path, spec: DataSpec, mask: Tensor, noise: float, label: int | None) -> Observation:
    """The rows of a file, which are observations as they stand: no noise is added.

    Args:
        label: of all rows, for a conditional model; None where the file brings labels.

    Raises:
        DataError: rows that are not of this space; with noise, codes may be any numbers.
    """
    levels = spec.levels if noise == 0 else None
    x, y = load_points(path, DataSpec(spec.event_shape, levels, spec.classes if label is None else None))
    return _checked(Observation(x, mask, noise, _labels(spec, y, label, len(x)), None))


def _labels(spec: DataSpec, y: Tensor | None, label: int | None, n: int) -> Tensor | None:
    if spec.classes is None or label is None:
        return y if spec.classes is not None else None
    return torch.full((n,), label, dtype=torch.int64)


def _checked(observation: Observation) -> Observation:
    x, mask = observation.x, observation.mask
    if bool(mask.all()) and observation.noise == 0:
        raise UsageError("all is seen and without noise: nothing is left to draw; hide a part or say how noisy it is")
    if mask.ndim == x.ndim and len(mask) != len(x):
        raise DataError(f"expected a mask for each of {len(x)} examples, or one for all; got {len(mask)} masks")
    return observation


def draws_given(model: ConditionalSampler, observation: Observation, n: int, seed: int) -> Tensor:
    """`n` independent draws of each example, `(N, n, *event_shape)`."""
    x, count = observation.x, len(observation.x)
    shape = tuple(x.shape[1:])
    mask = observation.mask.expand(x.shape).repeat_interleave(n, 0)
    labels = None if observation.y is None else observation.y.repeat_interleave(n)
    device = model.device
    drawn = model.sample_given(
        x.repeat_interleave(n, 0).to(device),
        mask.to(device),
        observation.noise,
        seed,
        None if labels is None else labels.to(device),
    )
    return drawn.cpu().view(count, n, *shape)


def sheet(observation: Observation, draws: Tensor, levels: int | None) -> tuple[Tensor, int]:
    """Images for a picture of a row an example, and how many a row: the original where it is known, what was seen of it
    (grey elsewhere), then the draws.

    Raises:
        UsageError: examples that are not images.
    """
    if observation.x.ndim != 4:
        raise UsageError("a picture of what is filled in is for images: expected an output that ends in .npy")
    x = observation.x.to(torch.float32)
    grey = (levels - 1) / 2 if levels is not None else float(x.mean())
    seen = torch.where(observation.mask, x, grey)
    if levels is not None:
        seen = seen.clamp(0, levels - 1)
    columns = [seen[:, None], draws.to(torch.float32)]
    if observation.original is not None:
        columns.insert(0, observation.original[:, None].to(torch.float32))
    images = torch.cat(columns, 1)
    return images.flatten(0, 1), images.shape[1]
