"""MNIST (LeCun et al. 1998): first 50,000 of the training file, its last 10,000, and the test file; `(1, 28, 28)`.

Three data sets: 8-bit intensities; binary images drawn anew for each batch, P(1) = grey/255, with one fixed draw for
each of validation and test (seeds 1 and 2); and binary images drawn once (seeds 0, 1, 2; the same validation and test).
Each takes `points`, to train on the first so many images: what a model does with less data. Validation and test stay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genzoo.data.download import read_mnist
from genzoo.data.idx import parse_idx
from genzoo.data.splits import DynamicBinarySplit, TensorSplit, binarise, fingerprints
from genzoo.errors import ConfigError
from genzoo.spec import DataProtocol, Dataset, DataSpec, Split

TRAIN = 50_000
LEAST = 10
Part = tuple[Tensor, Tensor | None]


def load_mnist(labels: bool = False, points: int = TRAIN) -> Dataset:
    """8-bit MNIST, codes 0..255.

    Args:
        labels: p(x given y), ten classes.
        points: training images, 10 to 50,000: the first of the file.

    Raises:
        DataError: MNIST cannot be had.
        ConfigError: another number of points.
    """
    train, valid, test = (TensorSplit(grey, y) for grey, y in _parts(labels, points))
    return _dataset("mnist", 256, labels, "none", (train, valid, test))


def load_mnist_binary(labels: bool = False, points: int = TRAIN) -> Dataset:
    """Dynamically binarised MNIST: training images are drawn anew for each batch; validation and test are fixed draws.

    Arguments and errors are those of `load_mnist`. Reference: Burda et al. 2016 (arXiv:1509.00519).
    """
    train, valid, test = _parts(labels, points)
    splits = (DynamicBinarySplit(*train), _drawn(valid, 1), _drawn(test, 2))
    return _dataset("mnist_binary", 2, labels, "dynamic; validation and test drawn once, seeds 1 and 2", splits)


def load_mnist_binary_static(labels: bool = False, points: int = TRAIN) -> Dataset:
    """MNIST binarised once, seeds 0, 1 and 2 for the three splits: not the draw of Larochelle and Murray (2011), so its
    published numbers stand beside these, not in one table. Arguments and errors are those of `load_mnist`."""
    train, valid, test = _parts(labels, points)
    splits = (_drawn(train, 0), _drawn(valid, 1), _drawn(test, 2))
    return _dataset("mnist_binary_static", 2, labels, "static; seeds 0, 1 and 2", splits)


def _parts(labels: bool, points: int) -> tuple[Part, Part, Part]:
    """Intensities `(N, 1, 28, 28)` uint8 and labels `(N,)` int64, or None, of the three splits."""
    if not LEAST <= points <= TRAIN:
        raise ConfigError(f"expected points from {LEAST} to {TRAIN:,}; got {points}")
    files = read_mnist()

    def read(prefix: str) -> Part:
        # frombuffer gives a read-only view, which torch warns about: copy
        images = torch.from_numpy(parse_idx(files[f"{prefix}-images-idx3-ubyte"], f"{prefix} images").copy())
        y = torch.from_numpy(parse_idx(files[f"{prefix}-labels-idx1-ubyte"], f"{prefix} labels").copy())
        return images[:, None], y.to(torch.int64) if labels else None  # (N, 1, 28, 28)

    (grey, y), test = read("train"), read("t10k")
    return (grey[:points], None if y is None else y[:points]), (grey[TRAIN:], None if y is None else y[TRAIN:]), test


def _drawn(part: Part, seed: int) -> TensorSplit:
    grey, y = part
    return TensorSplit(binarise(grey, seed), y)


def _dataset(name: str, levels: int, labels: bool, binarisation: str, splits: tuple[Split, Split, Split]) -> Dataset:
    train, valid, test = splits
    options = ([f"points={len(train)}"] if len(train) != TRAIN else []) + (["labels=true"] if labels else [])
    protocol = DataProtocol(
        dataset=f"{name}[{','.join(options)}]" if options else name,
        data_hash=fingerprints(train, valid),
        test_hash=test.fingerprint,
        split=f"first {len(train):,} and last 10,000 of the training file, 10,000 of the test file",
        binarisation=binarisation,
        target="p(x given y)" if labels else "p(x)",
    )
    spec = DataSpec((1, 28, 28), levels=levels, classes=10 if labels else None)
    name = f"{name}[labels=true]" if labels else name
    return Dataset(name=name, spec=spec, protocol=protocol, train=train, valid=valid, test=test)
