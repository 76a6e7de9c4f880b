"""Splits: what batches hold, what fingerprints depend on, and the law of dynamic binarisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from genzoo.data.splits import DynamicBinarySplit, MappedSplit, TensorSplit, binarise, fingerprints, permutation
from genzoo.errors import DataError
from genzoo.spec import Split


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def worst_level(rate: Tensor, p: Tensor, n: int) -> float:
    """Largest distance of observed rates `(L,)` from `p`, in standard errors of n draws a level; inf where p is 0 or 1
    and the rate is not exactly that."""
    stderr = (p * (1 - p) / n).sqrt()
    return float(torch.where(rate == p, 0.0, (rate - p).abs() / stderr).max())


def aggregate(rate: Tensor, p: Tensor, n: int) -> float:
    """Distance of the sum of rates from the sum of `p`, in standard errors."""
    return float((rate - p).sum().abs() / (p * (1 - p) / n).sum().sqrt())


N = 20_000
GREY = torch.arange(256, dtype=torch.uint8).repeat(N, 1)  # (N, 256): every level N times
P = torch.arange(256, dtype=torch.float64) / 255


def dynamic(grey: Tensor) -> Tensor:
    return DynamicBinarySplit(grey).batch(torch.arange(len(grey)), generator()).x


def fixed(grey: Tensor) -> Tensor:
    return binarise(grey, 0)


@pytest.mark.parametrize("draw", [dynamic, fixed])
def test_binarisation_rates_are_grey_over_255(draw) -> None:
    """5 standard errors: over 254 free levels a right rule passes with probability 1 - 1.5e-4, and the seed is fixed.

    The aggregate over all levels is what a wrong rule of 1 % is seen by: its standard error is 0.05 % of the sum.
    """
    rate = draw(GREY).double().mean(0)
    assert worst_level(rate, P, N) < 5
    assert aggregate(rate, P, N) < 5
    assert rate[0] == 0
    assert rate[255] == 1


def test_twin_a_rule_wrong_by_one_percent_is_seen() -> None:
    wrong = (0.99 * P).expand(N, 256)
    rate = torch.bernoulli(wrong, generator=generator()).mean(0)
    assert aggregate(rate, P, N) > 5


def test_twin_bytes_up_to_255_are_seen_at_the_last_level() -> None:
    u = torch.randint(0, 256, GREY.shape, dtype=torch.uint8, generator=generator())
    assert worst_level((u < GREY).double().mean(0), P, N) == math.inf


def test_pixels_are_independent() -> None:
    """Correlation of neighbours at p = 1/2: 5 standard errors of 1/sqrt(n)."""
    x = dynamic(torch.full((2000, 128), 128, dtype=torch.uint8)).double()
    x = (x - x.mean()) / x.std()
    for shift in (1, 2, 8):
        assert abs(float((x[:, shift:] * x[:, :-shift]).mean())) < 5 / math.sqrt(x[:, shift:].numel())


def test_dynamic_batches_differ_and_obey_the_generator() -> None:
    split = DynamicBinarySplit(torch.full((8, 64), 128, dtype=torch.uint8), torch.arange(8))
    same = generator(3)
    first, second = (split.batch(torch.tensor([1, 5]), same) for _ in range(2))
    again = split.batch(torch.tensor([1, 5]), generator(3))
    assert not torch.equal(first.x, second.x)
    assert torch.equal(first.x, again.x)
    assert first.x.dtype == torch.uint8
    assert first.y is not None
    assert first.y.tolist() == [1, 5]


def test_fixed_draw_is_a_data_set() -> None:
    """Pinned: these bits are what protocol hashes of binary MNIST stand on."""
    drawn = binarise(torch.full((5000, 2), 128, dtype=torch.uint8), 1)
    assert drawn.flatten()[:16].tolist() == PINNED
    assert not torch.equal(drawn, binarise(torch.full((5000, 2), 128, dtype=torch.uint8), 2))
    # Pieces continue one stream: no repetition at the seam of 4,096 rows.
    assert not torch.equal(drawn[:900], drawn[4096:4996])


PINNED = [0, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1]


def test_permutation_is_one_and_is_pinned() -> None:
    order = permutation(1000, 0)
    assert sorted(order) == list(range(1000))
    assert permutation(10, 0).tolist() == ORDER
    assert permutation(10, 1).tolist() != ORDER


ORDER = [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]


def test_tensor_split_gives_rows() -> None:
    x = torch.arange(12, dtype=torch.float32).reshape(4, 3)
    split = TensorSplit(x, torch.tensor([3, 2, 1, 0]))
    batch = split.batch(torch.tensor([2, 0]), generator())
    assert torch.equal(batch.x, x[[2, 0]])
    assert batch.y is not None
    assert batch.y.tolist() == [1, 3]
    assert TensorSplit(x).batch(torch.tensor([1]), generator()).y is None
    assert len(split) == 4
    assert isinstance(split, Split)
    assert split.to("cpu").fingerprint == split.fingerprint


def test_fingerprint_sees_dtype_shape_values_and_labels() -> None:
    x = torch.zeros(4, 6, dtype=torch.uint8)
    changed = x.clone()
    changed[3, 5] = 1
    splits: list[Split] = [
        TensorSplit(x),
        TensorSplit(x.reshape(4, 2, 3)),
        TensorSplit(x.float()),
        TensorSplit(changed),
        TensorSplit(x, torch.zeros(4, dtype=torch.int64)),
        TensorSplit(x, torch.arange(4)),
        DynamicBinarySplit(x),
    ]
    assert len({split.fingerprint for split in splits}) == len(splits)
    assert TensorSplit(x.t().contiguous().t()).fingerprint == TensorSplit(x).fingerprint
    assert fingerprints(*splits[:2]) != fingerprints(*splits[1::-1])


def test_mapped_split_is_the_tensor_split_of_the_same_numbers(tmp_path) -> None:
    values = np.random.default_rng(0).normal(size=(9000, 3)).astype(">f8")
    np.save(tmp_path / "x.npy", values)
    array = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = np.arange(0, 9000, 2)
    y = torch.arange(len(rows))
    mapped = MappedSplit(array, rows, np.dtype(np.float32), y)
    plain = TensorSplit(torch.from_numpy(values[rows].astype(np.float32)), y)
    indices = torch.tensor([7, 0, 4499])
    assert mapped.fingerprint == plain.fingerprint
    assert len(mapped) == len(plain)
    for one, other in zip(mapped.batch(indices, generator()), plain.batch(indices, generator()), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.zeros(3, 2, dtype=torch.float64), None, r"expected x .* float32 or uint8; got \(3, 2\) float64"),
        (torch.zeros(3), None, r"got \(3,\) float32"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), r"expected labels y \(3,\) int64; got \(2,\) int64"),
        (torch.zeros(3, 2), torch.zeros(3), r"got \(3,\) float32"),
    ],
)
def test_wrong_tensors_are_refused(x, y, words) -> None:
    with pytest.raises(DataError, match=words):
        TensorSplit(x, y)
