"""Splits held in memory: plain tensors, and binarisation that is drawn afresh for every batch."""

from __future__ import annotations

import hashlib
from functools import cached_property

import torch
from torch import Tensor

from genzoo.errors import DataError
from genzoo.spec import Batch, Split

Device = str | torch.device


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _update(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Add dtype, shape and bytes (row-major, little-endian as on every machine that torch supports)."""
    digest.update(f"{_name(tensor.dtype)}{tuple(tensor.shape)}".encode())
    for piece in tensor.detach().split(65536) if len(tensor) else ():
        digest.update(piece.cpu().contiguous().numpy())


def _check(name: str, x: Tensor, dtypes: tuple[torch.dtype, ...], y: Tensor | None) -> None:
    words = " or ".join(map(_name, dtypes))
    if x.dtype not in dtypes or x.ndim < 2:
        raise DataError(f"expected {name} (N, *event_shape) {words}; got {tuple(x.shape)} {_name(x.dtype)}")
    if y is not None and (y.dtype != torch.int64 or tuple(y.shape) != (len(x),)):
        raise DataError(f"expected labels y ({len(x)},) int64; got {tuple(y.shape)} {_name(y.dtype)}")


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
        moved = TensorSplit(self.x.to(device), None if self.y is None else self.y.to(device))
        if "fingerprint" in self.__dict__:
            moved.__dict__["fingerprint"] = self.fingerprint
        return moved

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over dtype, shape and bytes of `x` and, where there are labels, of `y`."""
        digest = hashlib.sha256()
        _update(digest, self.x)
        if self.y is not None:
            _update(digest, self.y)
        return digest.hexdigest()


class DynamicBinarySplit:
    """Binary examples drawn anew for each batch: pixel i is 1 with probability `grey_i / 255`, independently.

    The rule is `1 if u < grey`, u uniform on the 255 integers 0..254, so P(1) is exactly grey/255: grey 0 is never 1 and
    grey 255 always is (Salakhutdinov and Murray 2008; Burda et al. 2016, arXiv:1509.00519). torch draws u as a 32-bit word
    modulo 255, which is uniform to 2^-32; comparing bytes costs a fraction of `torch.bernoulli` on floats.

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
        """Fresh draws at `indices (B,)` int64 (CPU): u comes from `generator` (CPU), so the draws are the same on
        any device."""
        device = self.grey.device
        indices = indices.to(device)
        grey = self.grey[indices]
        u = torch.randint(0, 255, grey.shape, dtype=torch.uint8, generator=generator).to(device)
        return Batch((u < grey).view(torch.uint8), None if self.y is None else self.y[indices])

    def to(self, device: Device) -> DynamicBinarySplit:
        """The same split with its tensors on `device`."""
        moved = DynamicBinarySplit(self.grey.to(device), None if self.y is None else self.y.to(device))
        if "fingerprint" in self.__dict__:
            moved.__dict__["fingerprint"] = self.fingerprint
        return moved

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over dtype, shape and bytes of `grey`, of the labels if any, and the word "dynamic"."""
        digest = hashlib.sha256()
        _update(digest, self.grey)
        if self.y is not None:
            _update(digest, self.y)
        digest.update(b"dynamic")
        return digest.hexdigest()


def without_labels(split: TensorSplit | DynamicBinarySplit) -> TensorSplit | DynamicBinarySplit:
    """The same examples with no labels."""
    if split.y is None:
        return split
    return TensorSplit(split.x) if isinstance(split, TensorSplit) else DynamicBinarySplit(split.grey)


def fingerprints(*splits: Split) -> str:
    """Hex digest of the splits' fingerprints in their order, such as a protocol's `data_hash`."""
    return hashlib.sha256("\n".join(split.fingerprint for split in splits).encode()).hexdigest()
