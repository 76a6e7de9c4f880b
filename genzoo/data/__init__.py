"""Data sets: 2D densities (`toy`), MNIST, digits, and your own from a path or from arrays."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genzoo.data.files import from_arrays, load_path
    from genzoo.data.splits import DynamicBinarySplit, MappedSplit, TensorSplit, fingerprints

__all__ = ["DynamicBinarySplit", "MappedSplit", "TensorSplit", "fingerprints", "from_arrays", "load_path"]


def __getattr__(name: str) -> Any:
    # On first use, since these import torch, and `genzoo data` and `genzoo doctor` need `genzoo.data.download` alone.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "files" if name in ("from_arrays", "load_path") else "splits"
    return getattr(importlib.import_module(f"genzoo.data.{module}"), name)
