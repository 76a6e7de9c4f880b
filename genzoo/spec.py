"""What data is: the space and its base measure, batches, splits, data sets, and densities whose truth is known.

Real data has a density against Lebesgue measure in the data set's own units; discrete data has a probability mass over
the codes 0..levels-1. Every log-likelihood in genzoo speaks about the data exactly as the data set hands it over.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from genzoo.errors import DataError, InputError


@dataclass(frozen=True)
class DataSpec:
    """The space of one example and its base measure.

    Args:
        event_shape: shape of one example, such as `(2,)` or `(1, 28, 28)`.
        levels: None for real vectors (float32 batches), 2 for binary, 256 for 8-bit (uint8 codes 0..levels-1).
        classes: number of labels; a model built on such a spec is conditional, p(x given y).
    """

    event_shape: tuple[int, ...]
    levels: int | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "event_shape", tuple(int(n) for n in self.event_shape))
        if not self.event_shape or min(self.event_shape) < 1:
            raise DataError(f"expected an event shape of positive sizes; got {self.event_shape}")
        if self.levels is not None and not 2 <= self.levels <= 256:
            raise DataError(f"expected levels to be None or from 2 to 256; got {self.levels}")
        if self.classes is not None and self.classes < 1:
            raise DataError(f"expected classes to be None or at least 1; got {self.classes}")

    @property
    def dims(self) -> int:
        """Number of dimensions of one example."""
        return math.prod(self.event_shape)

    @property
    def dtype(self) -> torch.dtype:
        """dtype of a batch: float32 for real data, uint8 for discrete data."""
        return torch.float32 if self.levels is None else torch.uint8

    @property
    def kind(self) -> str:
        """ "real", "binary" (two levels) or "discrete" (more), the words that cards use."""
        if self.levels is None:
            return "real"
        return "binary" if self.levels == 2 else "discrete"

    def unconditional(self) -> DataSpec:
        """The same space without labels."""
        return replace(self, classes=None)

    def describe(self) -> str:
        """Shape and dtype in words, for messages: `(B, 1, 28, 28) uint8`."""
        return f"({', '.join(['B', *map(str, self.event_shape)])}) {str(self.dtype).removeprefix('torch.')}"

    def check(self, x: Tensor, condition: Tensor | None = None, *, levels: bool = True) -> None:
        """Raise InputError, naming both sides, unless `x` (and `condition`) is a batch of this space."""
        if not isinstance(x, Tensor):
            raise InputError(f"expected a tensor {self.describe()}; got {type(x).__name__}")
        if x.ndim != len(self.event_shape) + 1 or tuple(x.shape[1:]) != self.event_shape or x.dtype != self.dtype:
            got = f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"
            raise InputError(f"expected {self.describe()}; got {got}")
        if levels and self.levels is not None and self.levels < 256 and x.numel() and int(x.max()) >= self.levels:
            raise InputError(f"expected codes 0..{self.levels - 1}; got {int(x.max())}")
        self.check_condition(condition, len(x))

    def check_condition(self, condition: Tensor | None, n: int) -> None:
        """Raise InputError unless `condition` is None on an unconditional spec, labels `(n,)` on a conditional one."""
        if self.classes is None:
            if condition is not None:
                raise InputError("expected no condition: this model is not conditional (its spec has no classes)")
            return
        if condition is None:
            raise InputError(f"expected a condition (B,) int64 in 0..{self.classes - 1}: this model is conditional")
        if not isinstance(condition, Tensor) or condition.dtype != torch.int64 or tuple(condition.shape) != (n,):
            tensor = isinstance(condition, Tensor)
            got = f"{tuple(condition.shape)} {condition.dtype}" if tensor else type(condition).__name__
            raise InputError(f"expected a condition ({n},) int64; got {got}")
        if n and not 0 <= int(condition.min()) <= int(condition.max()) < self.classes:
            raise InputError(
                f"expected labels 0..{self.classes - 1}; got {int(condition.min())}..{int(condition.max())}"
            )


class Batch(NamedTuple):
    """Examples `x (B, *event_shape)` and, for labelled data, labels `y (B,)` int64."""

    x: Tensor
    y: Tensor | None


@runtime_checkable
class Split(Protocol):
    """Examples by index. Plain tensors, dynamic binarisation and memory maps are all splits."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Examples at `indices (B,)` int64 on the CPU; `generator` (CPU) feeds whatever randomness the split has."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digest of the content, stable over machines."""
        ...


class Density(Protocol):
    """A distribution over the plane whose truth is known."""

    entropy: float
    """Differential entropy in nats, to 1e-5."""

    bounds: tuple[tuple[float, float], tuple[float, float]]
    """((x_low, x_high), (y_low, y_high)) holding all but 1e-6 of the mass."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Normalised log-density `(N,)` float64, nats, of `x (N, 2)`; -inf outside the support."""
        ...

    def sample(self, n: int, seed: int) -> Tensor:
        """`(n, 2)` float32, independent draws by numpy's PCG64 from `seed`."""
        ...

    def quadrature(self) -> tuple[Tensor, Tensor]:
        """Nodes `(M, 2)` and weights `(M,)`, float64, over `bounds`, placed so that p integrates to 1 within 1e-5."""
        ...


class LabelledDensity(Protocol):
    """A distribution over the plane with labels, whose truth is known."""

    log_prior: Tensor
    """log p(y) `(classes,)` float64."""

    @property
    def entropy(self) -> float:
        """Of x given y, the mean over y, in nats, to 1e-5."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x given y) `(N, classes)` float64, nats, of `x (N, 2)` under every y."""
        ...


@dataclass(frozen=True, kw_only=True)
class DataProtocol:
    """The data side of a number. Only rows of one protocol are ranked together.

    Args:
        dataset: registered name with its options, or the name of the file.
        data_hash: fingerprint of the training and validation splits.
        test_hash: fingerprint of the test split.
        split: how the splits were made, in words.
        binarisation: "none", "static" or "dynamic", with its seed.
        target: "p(x)", "p(x given y)" or "p(x, y)".
    """

    dataset: str
    data_hash: str
    test_hash: str
    split: str
    binarisation: str = "none"
    target: str = "p(x)"

    @property
    def key(self) -> str:
        """Ten hex digits of SHA-256 over all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Three splits of one space, the protocol they stand for and, where it is known, the truth: p(x), and for labelled
    data p(x given y)."""

    name: str
    spec: DataSpec
    protocol: DataProtocol
    train: Split
    valid: Split
    test: Split
    truth: Density | None = None
    labelled: LabelledDensity | None = None
