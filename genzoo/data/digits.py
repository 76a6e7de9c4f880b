"""Scikit-learn's digits: 1,797 images of 8x8 pixels, codes 0..16 (Alpaydin and Kaynak 1998). Part of the package, so
always there."""

from __future__ import annotations

import torch

from genzoo.data.splits import TensorSplit, fingerprints, permutation
from genzoo.spec import DataProtocol, Dataset, DataSpec

TRAIN, VALID, TEST = 1097, 300, 400


def load_digits(labels: bool = False) -> Dataset:
    """Digits with 17 levels, `(1, 8, 8)`, split 1,097 / 300 / 400 by seed 0. With `labels`: p(x given y)."""
    from sklearn import datasets  # here: a second to import

    x, y = datasets.load_digits(return_X_y=True)
    order = permutation(len(x), seed=0)
    images = torch.from_numpy(x[order]).to(torch.uint8).reshape(-1, 1, 8, 8)  # (1797, 1, 8, 8)
    classes = torch.from_numpy(y[order]).to(torch.int64)
    bounds = ((0, TRAIN), (TRAIN, TRAIN + VALID), (TRAIN + VALID, TRAIN + VALID + TEST))
    train, valid, test = (TensorSplit(images[a:b], classes[a:b] if labels else None) for a, b in bounds)
    name = "digits[labels=true]" if labels else "digits"
    protocol = DataProtocol(
        dataset=name,
        data_hash=fingerprints(train, valid),
        test_hash=test.fingerprint,
        split="1,097 / 300 / 400 by seed 0",
        target="p(x given y)" if labels else "p(x)",
    )
    spec = DataSpec((1, 8, 8), levels=17, classes=10 if labels else None)
    return Dataset(name=name, spec=spec, protocol=protocol, train=train, valid=valid, test=test)
