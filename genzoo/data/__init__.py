"""Data sets: 2D densities (`toy`), MNIST, digits, and your own from a path or from arrays."""

from genzoo.data.files import from_arrays, load_path
from genzoo.data.splits import DynamicBinarySplit, MappedSplit, TensorSplit, fingerprints

__all__ = ["DynamicBinarySplit", "MappedSplit", "TensorSplit", "fingerprints", "from_arrays", "load_path"]
