"""Splits: plain tensors, rows of an array on disk, and binarisation that is drawn afresh for every batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genzoo.errors import DataError
from genzoo.spec import Batch, Split

Device = str | torch.device
ROWS = 4096  # how many examples are hashed or drawn at a time


class TensorSplit:
    """Examples `x (N, *event_shape)`, float32 or uint8, with labels `y (N,)` int64 or None.

    Raises DataError for other types and for labels of another length.
    """

    def __init__(self, x: Tensor, y: Tensor | None = None) -> None:
        _check("x", x, (torch.float32, torch.uint8), y)
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Examples at `indices (B,)` int64 (CPU), on the split's device; `generator` is not used."""
        indices = indices.to(self.x.device)
        return Batch(self.x[indices], None if self.y is None else self.y[indices])

    def to(self, device: Device) -> TensorSplit:
        """The same split with its tensors on `device`."""
        return TensorSplit(self.x.to(device), None if self.y is None else self.y.to(device))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over dtype, shape and bytes of `x` and, where there are labels, of `y`."""
        return _digest(_name(self.x.dtype), self.x.shape, _pieces(self.x), self.y)


class MappedSplit:
    """Rows of an array that stays on disk: each batch is read and converted when it is asked for.

    Its fingerprint is that of a `TensorSplit` of the same numbers.

    Args:
        array: a memory map `(M, *event_shape)` of numbers.
        rows: which rows belong to the split, `(N,)` int64.
        dtype: numpy's float32 or uint8, what batches are.
        y: labels `(N,)` int64 or None.
    """

    def __init__(
        self, array: NDArray[Any], rows: NDArray[np.int64], dtype: np.dtype[Any], y: Tensor | None = None
    ) -> None:
        self.array, self.rows, self.dtype, self.y = array, rows, dtype, y

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Examples at `indices (B,)` int64, on the CPU; `generator` is not used."""
        return Batch(self._read(self.rows[indices.numpy()]), None if self.y is None else self.y[indices])

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.asarray(self.array[rows], dtype=self.dtype))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over dtype, shape and bytes of the examples and, where there are labels, of `y`."""
        pieces = (self._read(self.rows[i : i + ROWS]) for i in range(0, len(self), ROWS))
        return _digest(self.dtype.name, (len(self), *self.array.shape[1:]), pieces, self.y)


class DynamicBinarySplit:
    """Binary examples drawn anew for each batch: pixel i is 1 with probability `grey_i / 255`, independently.

    The rule is `1 if u < grey`, u uniform on the 255 integers 0..254, so P(1) is exactly grey/255: grey 0 is never 1
    and grey 255 always is (Salakhutdinov and Murray 2008; Burda et al. 2016, arXiv:1509.00519). torch draws u as a
    32-bit word modulo 255, which is uniform to 2^-32; comparing bytes costs a fraction of `torch.bernoulli` on floats.

    Args:
        grey: intensities `(N, *event_shape)` uint8.
        y: labels `(N,)` int64 or None.
    """

    def __init__(self, grey: Tensor, y: Tensor | None = None) -> None:
        _check("grey", grey, (torch.uint8,), y)
        self.grey, self.y = grey, y

    def __len__(self) -> int:
        return len(self.grey)

    def batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Fresh draws at `indices (B,)` int64 (CPU); u comes from `generator` (CPU): the same draws on any device."""
        indices = indices.to(self.grey.device)
        grey = self.grey[indices]
        u = torch.randint(0, 255, grey.shape, dtype=torch.uint8, generator=generator).to(grey.device)
        return Batch((u < grey).view(torch.uint8), None if self.y is None else self.y[indices])

    def to(self, device: Device) -> DynamicBinarySplit:
        """The same split with its tensors on `device`."""
        return DynamicBinarySplit(self.grey.to(device), None if self.y is None else self.y.to(device))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over dtype, shape and bytes of `grey`, of the labels if any, and the word "dynamic"."""
        return _digest("dynamic uint8", self.grey.shape, _pieces(self.grey), self.y)


def binarise(grey: Tensor, seed: int) -> Tensor:
    """One fixed draw of the rule of `DynamicBinarySplit`: codes 0 or 1, uint8, of the shape of `grey` (uint8).

    u is a raw word of numpy's PCG64 modulo 255. The raw stream is what numpy keeps the same over versions (NEP 19), so
    the draw is a fixed data set.
    """
    words = np.random.PCG64(seed)
    uniform = (torch.from_numpy((words.random_raw(p.numel()) % 255).astype(np.uint8)) for p in _pieces(grey))
    pieces = [u.view(p.shape) < p for u, p in zip(uniform, _pieces(grey), strict=True)]
    return torch.cat(pieces).view(torch.uint8)


def permutation(n: int, seed: int) -> NDArray[np.int64]:
    """A random order of 0..n-1, `(n,)` int64: the order of n raw words of numpy's PCG64, the same in every numpy."""
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


def fingerprints(*splits: Split) -> str:
    """Hex digest of the splits' fingerprints in their order, such as a protocol's `data_hash`."""
    return hashlib.sha256("\n".join(split.fingerprint for split in splits).encode()).hexdigest()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    return (tensor[i : i + ROWS] for i in range(0, len(tensor), ROWS))


def _digest(kind: str, shape: Sequence[int], pieces: Iterable[Tensor], y: Tensor | None) -> str:
    """SHA-256 of kind, shape and row-major bytes (little-endian, as on every machine that torch supports)."""
    digest = hashlib.sha256(f"{kind} {tuple(shape)}".encode())
    for piece in pieces:
        digest.update(piece.cpu().contiguous().numpy().data)
    if y is not None:
        digest.update(b"labels")
        digest.update(y.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _check(name: str, x: Tensor, dtypes: tuple[torch.dtype, ...], y: Tensor | None) -> None:
    if x.dtype not in dtypes or x.ndim < 2:
        words = " or ".join(map(_name, dtypes))
        raise DataError(f"expected {name} (N, *event_shape) {words}; got {tuple(x.shape)} {_name(x.dtype)}")
    if y is not None and (y.dtype != torch.int64 or tuple(y.shape) != (len(x),)):
        raise DataError(f"expected labels y ({len(x)},) int64; got {tuple(y.shape)} {_name(y.dtype)}")
