"""Your own data: what each format becomes, and one clear line for each thing that is wrong with it."""

from __future__ import annotations

import gzip
import io
import logging
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from genzoo.data import from_arrays, load_path, readers
from genzoo.data.splits import MappedSplit
from genzoo.errors import DataError
from genzoo.spec import Dataset, Split

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(100, 2))
BYTES = RNG.integers(0, 256, (100, 3, 4, 4)).astype(np.uint8)
LABELS = np.arange(100) % 5


def everything(split: Split) -> torch.Tensor:
    return split.batch(torch.arange(len(split)), torch.Generator()).x


def sizes(data: Dataset) -> tuple[int, int, int]:
    return len(data.train), len(data.valid), len(data.test)


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def save(folder: Path, name: str, content: object) -> Path:
    """Write `content` in the format that `name` says."""
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name.endswith(".npy"):
        np.save(path, content, allow_pickle=True)
    elif name.endswith(".npz"):
        np.savez(path, **content)  # type: ignore[arg-type]
    else:
        path.write_text(str(content))
    return path


def csv(array: np.ndarray, header: str = "") -> str:
    lines = [",".join(repr(value) for value in row) for row in array.tolist()]
    return "\n".join([header, *lines] if header else lines) + "\n"


@pytest.mark.parametrize(
    ("x", "shape", "levels"),
    [
        (REAL, (2,), None),
        (REAL.astype(np.float32), (2,), None),
        (REAL.astype(">f8"), (2,), None),
        (BYTES, (3, 4, 4), 256),
        (BYTES.astype(np.int64), (3, 4, 4), 256),
        (BYTES > 99, (3, 4, 4), 2),
        ((BYTES > 99).astype(np.uint8), (3, 4, 4), 2),
        ((BYTES > 99).astype(np.int32), (3, 4, 4), 2),
        (BYTES[:, 0], (1, 4, 4), 256),
        (REAL.reshape(50, 2, 2), (2, 2), None),
        (torch.from_numpy(BYTES), (3, 4, 4), 256),
        (REAL.tolist(), (2,), None),
    ],
)
def test_kind_follows_from_the_numbers(x, shape, levels) -> None:
    data = from_arrays(x)
    assert data.spec.event_shape == shape
    assert data.spec.levels == levels
    assert data.spec.classes is None
    for split in (data.train, data.valid, data.test):
        data.spec.check(everything(split))


def test_levels_override() -> None:
    x = BYTES % 17
    assert from_arrays(x, levels=17).spec.levels == 17
    assert from_arrays(x.astype(np.float64), levels=17).spec.dtype == torch.uint8
    assert from_arrays(LABELS[:, None], levels=5).spec.event_shape == (1,)
    for wrong, words in (
        (16, "16 levels are codes 0 to 15; got whole numbers from 0 to 16"),
        (1, "expected levels from 2 to 256; got 1"),
        (257, "expected levels from 2 to 256; got 257"),
    ):
        with pytest.raises(DataError, match=words):
            from_arrays(x, levels=wrong)
    with pytest.raises(DataError, match="17 levels are codes 0 to 16; got numbers that are not whole, from"):
        from_arrays(REAL, levels=17)


def test_split_is_80_10_10_and_loses_nothing() -> None:
    x = np.arange(105, dtype=np.float64)[:, None] + 0.5
    data = from_arrays(x)
    assert sizes(data) == (85, 10, 10)
    parts = torch.cat([everything(split) for split in (data.train, data.valid, data.test)])
    assert torch.equal(parts.sort(0).values, torch.from_numpy(x).float())
    assert from_arrays(x).protocol.key == data.protocol.key
    assert "seed 0" in data.protocol.split
    changed = x.copy()
    changed[50] += 1
    assert from_arrays(changed).protocol.key != data.protocol.key


def test_labels_go_with_their_rows() -> None:
    x = np.stack([LABELS + 0.25, LABELS - 0.25], 1)
    data = from_arrays(x, LABELS)
    assert data.spec.classes == 5
    assert data.protocol.target == "p(x given y)"
    for split in (data.train, data.valid, data.test):
        batch = split.batch(torch.arange(len(split)), torch.Generator())
        assert batch.y is not None
        assert torch.equal(batch.x[:, 0], batch.y + 0.25)


def test_same_numbers_in_any_format_are_the_same_protocol(tmp_path) -> None:
    codes = BYTES.reshape(100, -1)
    for x, name in ((REAL, "points"), (codes, "codes")):
        paths = [
            save(tmp_path, f"{name}.npy", x),
            save(tmp_path, f"{name}.npz", {"x": x}),
            save(tmp_path, f"{name}.csv", csv(x)),
        ]
        keys = {load_path(path).protocol.key for path in paths}
        save(tmp_path, f"{name}.csv", csv(x, ",".join(f"c{i}" for i in range(x.shape[1]))))
        assert keys == {load_path(tmp_path / f"{name}.csv").protocol.key}
        assert load_path(paths[0]).name == name


def test_npz_parts_and_labels(tmp_path) -> None:
    parts = {"train": BYTES[:60], "valid": BYTES[60:80], "test": BYTES[80:]}
    ys = {"y_train": LABELS[:60], "y_valid": LABELS[60:80], "y_test": LABELS[80:]}
    path = save(tmp_path, "a.npz", {**parts, **ys})
    data = load_path(path, labels=True)
    assert sizes(data) == (60, 20, 20)
    assert data.spec.classes == 5
    assert torch.equal(everything(data.test), torch.from_numpy(BYTES[80:]))
    assert load_path(path).spec.classes is None
    path = save(tmp_path, "b.npz", {"train": BYTES[:80], "test": BYTES[80:]})
    assert sizes(load_path(path)) == (72, 8, 20)
    assert load_path(save(tmp_path, "c.npz", {"x": BYTES, "y": LABELS}), labels=True).spec.classes == 5
    # Labels that nobody asked for may be of any type.
    assert load_path(save(tmp_path, "d.npz", {"x": REAL, "y": REAL[:, 0]})).spec.classes is None


def test_csv_column_label_is_y(tmp_path) -> None:
    table = np.column_stack([REAL, LABELS])
    data = load_path(save(tmp_path, "a.csv", csv(table, "a,b,label")), labels=True)
    assert data.spec.event_shape == (2,)
    assert data.spec.classes == 5
    assert load_path(save(tmp_path, "b.csv", csv(table))).spec.event_shape == (3,)
    assert load_path(save(tmp_path, "c.csv", csv((BYTES[:, 0, 0] > 99).astype(int)))).spec.levels == 2


@pytest.mark.parametrize("pack", [False, True])
def test_idx_folder_and_file(tmp_path, pack) -> None:
    grey = BYTES[:, 0]
    content = {
        "train-images-idx3-ubyte": grey[:80],
        "train-labels-idx1-ubyte": LABELS[:80].astype(np.uint8),
        "t10k-images-idx3-ubyte": grey[80:],
        "t10k-labels-idx1-ubyte": LABELS[80:].astype(np.uint8),
    }
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, array in content.items():
        (folder / (f"{name}.gz" if pack else name)).write_bytes(gzip.compress(idx(array)) if pack else idx(array))
    data = load_path(folder, labels=True)
    assert (data.name, data.spec.event_shape, data.spec.classes) == ("mine", (1, 4, 4), 5)
    assert sizes(data) == (72, 8, 20)
    suffix = ".gz" if pack else ""
    assert sizes(load_path(folder / f"train-images-idx3-ubyte{suffix}")) == (64, 8, 8)
    with pytest.raises(DataError, match=r"labels-idx1-ubyte.* whole numbers of shape \(20,\): labels, it seems"):
        load_path(folder / f"t10k-labels-idx1-ubyte{suffix}")
    for path in folder.glob("*images*"):
        path.unlink()
    with pytest.raises(DataError, match="got 2 IDX files, all of labels"):
        load_path(folder)


@pytest.mark.parametrize("x", [REAL, BYTES, BYTES[:, 0]], ids=["real", "bytes", "grey"])
def test_large_npy_stays_on_disk_and_is_the_same_data(tmp_path, monkeypatch, x) -> None:
    path = save(tmp_path, "x.npy", x)
    plain = load_path(path)
    monkeypatch.setattr(readers, "MAPPED", 0)
    mapped = load_path(path)
    assert isinstance(mapped.train, MappedSplit)
    assert mapped.protocol == plain.protocol
    assert mapped.spec == plain.spec
    mapped.spec.check(everything(mapped.test))
    assert torch.equal(everything(mapped.test), everything(plain.test))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (BYTES.astype(np.int64), "holds int64 from 0 to 255: taken as codes with 256 levels"),
        (np.round(REAL), "holds whole numbers as floats, .*: taken as real data"),
        (np.full((20, 8, 8, 3), 9, np.uint8), r"genzoo reads images as \(N, channels, height, width\)"),
    ],
)
def test_what_is_taken_in_a_doubtful_way_is_said(caplog, x, words) -> None:
    with caplog.at_level(logging.WARNING):
        from_arrays(x)
    assert len(caplog.records) == 1

    assert re.search(words, caplog.records[0].getMessage())


def with_bad(*bad: tuple[int, int, float]) -> np.ndarray:
    x = REAL.copy()
    for row, column, value in bad:
        x[row, column] = value
    return x


nan, inf = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (with_bad((3, 0, nan), (3, 1, nan), (7, 0, nan)), "x has 3 NaN in 2 of 100 rows"),
        (with_bad((3, 0, inf)), "x has 1 inf in 1 of 100 rows"),
        (with_bad((3, 0, -inf), (5, 0, nan)), "x has 1 NaN and 1 inf in 2 of 100 rows"),
        (with_bad((3, 0, 1e300)), "x has 1 inf in 1 of 100 rows"),  # in float32
        (LABELS, r"x is whole numbers of shape \(100,\): labels, it seems"),
        (LABELS[:, None], "one whole number a row: labels, it seems"),
        (REAL[:, 0], r"shape \(100,\); expected \(N, \*event_shape\): reshape it to \(N, 1\)"),
        (np.float64(3.0), r"has shape \(\); expected"),
        (REAL[:0], r"is empty, shape \(0, 2\)"),
        (REAL[:, :0], r"is empty, shape \(100, 0\)"),
        (REAL[:9], "x has 9 rows, too few to split; expected 10"),
        (BYTES.astype(np.int64) - 1, "whole numbers are codes 0 to 255; got -1 to 254"),
        (BYTES.astype(np.int64) + 1, "codes 0 to 255; got 1 to 256"),
        (REAL.astype(complex), "holds complex128; expected numbers"),
        (REAL.astype(object), "holds Python objects; expected numbers"),
        (REAL.astype(str), "holds <U.*; expected numbers"),
        ([[1.0, 2.0], [3.0]], "expected x as an array of numbers"),
    ],
)
def test_arrays_that_cannot_be_used(x, words) -> None:
    with pytest.raises(DataError, match=words) as caught:
        from_arrays(x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (LABELS[:99], r"labels have shape \(99,\); expected one for each example, \(100,\)"),
        (np.eye(5)[LABELS], r"labels have shape \(100, 5\)"),
        (LABELS - 1, "expected labels as whole numbers from 0; got -1"),
        (LABELS + 0.5, "expected labels as whole numbers from 0; got float64"),
        (LABELS.astype(str), "got <U"),
    ],
)
def test_labels_that_cannot_be_used(y, words) -> None:
    with pytest.raises(DataError, match=words):
        from_arrays(REAL, y)


TRAIN = {"train": REAL, "valid": REAL, "test": REAL}
BROKEN: dict[str, tuple[str, object, str]] = {
    "extension": ("a.parquet", "x", r"cannot tell its format by its name; expected \.npz, \.npy, \.csv, an IDX file"),
    "objects npy": ("a.npy", np.array([{}, {}], dtype=object), "it holds Python objects, which are not read"),
    "objects npz": ("a.npz", {"x": np.array([{}, {}], dtype=object)}, "it holds Python objects, which are not read"),
    "text as npy": ("text.npy", b"hello", "it is not a NumPy file of numbers"),
    "text as npz": ("text.npz", b"hello", "broken or not a NumPy file: the archive is broken"),
    "nothing as npy": ("zero.npy", b"", "broken or not a NumPy file"),
    "nothing as npz": ("zero.npz", b"", "broken or not a NumPy file"),
    "broken zip": ("zip.npz", b"PK\x03\x04 and no more", "broken or not a NumPy file"),
    "npz keys": ("a.npz", {"images": REAL}, "expected the keys x, or train, valid and test; got images"),
    "npz x and train": ("a.npz", {"x": REAL, **TRAIN}, "expected the keys x, or train, valid and test; got x, train"),
    "npz no test": ("a.npz", {"train": REAL, "valid": REAL}, "got train, valid"),
    "npz y of train": ("a.npz", {"x": REAL, "y_train": LABELS}, "labels of x are under the key y; got y_train"),
    "npz some labels": ("a.npz", {**TRAIN, "y_test": LABELS}, "expected the labels y_train, y_valid, y_test; got y_t"),
    "npz y length": ("a.npz", {"x": REAL, "y": LABELS[:50]}, r"labels have shape \(50,\)"),
    "shapes": ("a.npz", {**TRAIN, "test": REAL[:, :1]}, r"train has \(2,\) float64, test has \(1,\) float64"),
    "kinds": ("a.npz", {**TRAIN, "test": BYTES[:, 0, 0, :2]}, r"train has \(2,\) float64, test has \(2,\) uint8"),
    "empty part": ("a.npz", {**TRAIN, "valid": REAL[:0]}, r"valid is empty, shape \(0, 2\)"),
    "NaN in a part": ("a.npz", {**TRAIN, "test": with_bad((1, 1, nan))}, "test has 1 NaN in 1 of 100 rows"),
    "csv empty": ("a.csv", "", "it holds no numbers"),
    "csv header only": ("a.csv", "a,b\n", "it holds no numbers"),
    "csv ragged": ("a.csv", "1,2\n" * 12 + "1,2,3\n", "numbers, as many on each line; .*changed from 2 to 3"),
    "csv missing": ("a.csv", "1.0,\n" + "1.0,2.0\n" * 12, "could not convert string ''"),
    "csv words": ("a.csv", "1,2\n" * 12 + "1,cat\n", "could not convert string 'cat'"),
    "csv NaN": ("a.csv", "1.5,2\n" * 12 + "nan,2\n", "x has 1 NaN in 1 of 13 rows"),
    "csv header": ("a.csv", "a,b,c\n" + "1,2\n" * 12, "the header names 3 columns; the lines have 2"),
    "csv bytes": ("a.csv", b"\xff\xfe\x00", "cannot be read"),
    "csv labels": ("a.csv", "0\n1\n2\n" * 12, "one whole number a row: labels, it seems"),
    "idx cut": ("a-idx3-ubyte", idx(BYTES[:, 0])[:-1], "it has 1,615"),
}


@pytest.mark.parametrize(("name", "content", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_files_that_cannot_be_used(tmp_path, name, content, words) -> None:
    path = save(tmp_path, name, content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=words) as caught:
        load_path(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        header((10**11, 2)) + REAL.tobytes(),  # 1.6 TB, were it believed
        header((100, 2)) + REAL.tobytes()[:-8],
        header((100, 2))[:40],
        header((100, 2)).replace(b"}", b" ") + REAL.tobytes(),
    ],
    ids=["too large", "cut", "cut in the header", "no end of the header"],
)
def test_npy_whose_header_lies_is_refused(tmp_path, content) -> None:
    path = save(tmp_path, "x.npy", content)
    with pytest.raises(DataError, match="broken or not a NumPy file"):
        load_path(path)


def test_missing_things(tmp_path) -> None:
    with pytest.raises(DataError, match=r"none\.npy: there is no such file or folder"):
        load_path(tmp_path / "none.npy")
    with pytest.raises(DataError, match=r"expected IDX files of examples, .* got no IDX file"):
        load_path(tmp_path)
    with pytest.raises(DataError, match="labels were asked for, but there are none"):
        load_path(save(tmp_path, "x.npy", REAL), labels=True)
