"""What `benchmarks/floors.py` computes, against closed forms, decoders and, on MNIST, itself."""

from __future__ import annotations

import importlib.util
import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import genzoo
from genzoo.data.splits import DynamicBinarySplit, TensorSplit, binarise
from genzoo.references import Floors, floors
from genzoo.report.figures import png
from genzoo.spec import DataProtocol, Dataset, DataSpec

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "floors.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("floors", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images(n: int, seed: int, top: int = 256, side: int = 5) -> torch.Tensor:
    drawn = np.random.default_rng(seed).integers(0, top, (n, 1, side, side + 2))
    return torch.from_numpy(drawn.astype(np.uint8))


def dataset(levels: int, *splits: Any) -> Dataset:
    protocol = DataProtocol(dataset="own", data_hash="a", test_hash="b", split="", binarisation="none", target="p(x)")
    spec = DataSpec(tuple(splits[0].batch(torch.arange(1), torch.Generator()).x.shape[1:]), levels)
    return Dataset(name="own", spec=spec, protocol=protocol, train=splits[0], valid=splits[1], test=splits[2])


def test_the_entropy_of_a_binarisation(script: Any) -> None:
    """Nothing at black and white, and in general the sum over all images of three pixels."""
    grey = np.array([[0, 255, 0], [51, 102, 204]], np.uint8)
    entropies = script.binarisation_entropy(grey)
    assert entropies[0] == 0
    p = grey[1] / 255
    total = 0.0
    for code in range(8):
        x = np.array([code >> i & 1 for i in range(3)])
        mass = np.prod(np.where(x == 1, p, 1 - p))
        total -= mass * math.log(mass)
    assert entropies[1] == pytest.approx(total, rel=1e-12)
    # the draws themselves: their surprise has the entropy as its mean, within four standard errors
    many = np.repeat(np.arange(256, dtype=np.uint8)[None], 4000, 0)
    drawn = binarise(torch.from_numpy(many), seed=5).numpy()
    with np.errstate(divide="ignore"):
        p = many / 255
        surprise = -np.where(drawn == 1, np.log(p), np.log1p(-p)).sum(1)
    error = surprise.std() / math.sqrt(len(surprise))
    assert abs(surprise.mean() - script.binarisation_entropy(many)[0]) < 4 * error


def test_independent_pixels_are_counted_and_scored(script: Any) -> None:
    train = images(40, 0, top=4)
    counts = script.pixel_counts(TensorSplit(train), 4)
    assert counts.shape == (35, 4)
    assert (counts.sum(1) == 40).all()
    assert counts[3, 2] == int((train.flatten(1)[:, 3] == 2).sum())
    test = images(6, 1, top=4).flatten(1).numpy()
    by_hand = [-sum(math.log((counts[j, c] + 1) / 44) for j, c in enumerate(image)) for image in test]
    assert script.independent(counts, test) == pytest.approx(by_hand, rel=1e-12)
    # a distribution: the masses of all 4^2 images of its first two pixels sum to one
    pairs = np.array([[a, b] for a in range(4) for b in range(4)], np.uint8)
    assert np.exp(-script.independent(counts[:2], pairs)).sum() == pytest.approx(1, rel=1e-12)


def test_what_is_binarised_anew_counts_by_its_probability(script: Any) -> None:
    grey = images(30, 2)
    counts = script.pixel_counts(DynamicBinarySplit(grey), 2)
    assert counts[:, 1] == pytest.approx(grey.flatten(1).double().sum(0).numpy() / 255, rel=1e-12)
    assert (counts.sum(1) == 30).all()


def smooth(levels: int) -> np.ndarray[Any, Any]:
    """Images that every filter is good for, of 5 rows and 11 columns: no whole byte of bits."""
    y, x = np.mgrid[:5, :11]
    kinds = [x * 20, y * 40, (x + y) * 14, (x * y) % 7 * 30, x * 0 + 9]
    made = np.stack(kinds).astype(np.uint8)
    return made if levels == 256 else (made > 60).astype(np.uint8)


@pytest.mark.parametrize("levels", [2, 256])
def test_png_rows_decode_to_the_images(script: Any, levels: int) -> None:
    """By another decoder, whichever filter was taken; and the frame has the bytes that it is said to have."""
    shown, used = smooth(levels), set()
    header = struct.pack(">IIBBBBB", 11, 5, 1 if levels == 2 else 8, 0, 0, 0, 0)
    sizes = script.png_bytes(shown, levels)
    best = np.full(len(shown), 1 << 30)
    for rows in script.png_rows(shown, levels):
        used |= {tuple(each[:, 0]) for each in rows}
        for i, each in enumerate(rows):
            parts = [(b"IHDR", header), (b"IDAT", zlib.compress(each.tobytes(), 9)), (b"IEND", b"")]
            chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
            file = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
            with Image.open(io.BytesIO(file)) as image:
                assert (np.asarray(image).astype(np.uint8) == shown[i]).all()
            best[i] = min(best[i], len(file))
    assert {(kind,) * 5 for kind in range(5)} < used  # each filter alone, and mixed by the heuristic
    assert (sizes == best).all()


def test_a_png_is_no_larger_than_ours_without_filters(script: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 28, 28)).astype(np.uint8)
    own = len(png(np.stack([pixels[0]] * 3, 2)[..., 0]))
    assert script.png_bytes(pixels, 256)[0] <= own


def test_all_of_a_data_set(script: Any) -> None:
    """Uniform codes of two levels: nothing beats D ln 2, and a histogram a pixel is just above it."""
    splits = [TensorSplit(images(n, seed, top=2)) for seed, n in enumerate((3000, 300, 600))]
    made = script.floors_of(dataset(2, *splits))
    assert isinstance(made, Floors)
    by_name = {floor.name: floor for floor in made.floors}
    entropy = 35 * math.log(2)
    pixels = by_name["independent pixels"]
    # (levels - 1) / (2 N) nats a pixel is what fitting costs
    assert pixels.nats == pytest.approx(entropy + 35 / (2 * 3000), abs=4 * (pixels.stderr or 0))
    for name in ("bz2", "xz", "png", "gaussian"):
        assert by_name[name].nats > entropy
    assert (made.dims, made.points, made.dataset) == (35, 600, "own")
    assert all(floor.side == "ceiling" for floor in made.floors)


def test_the_floor_is_below_the_images_own_mass(script: Any) -> None:
    """Of dynamic binarisation: the entropy given the grey image, which the law that drew the images reaches."""
    grey = [images(n, seed) for seed, n in enumerate((500, 100, 400))]
    splits = [DynamicBinarySplit(grey[0]), TensorSplit(binarise(grey[1], 1)), TensorSplit(binarise(grey[2], 2))]
    made = script.floors_of(dataset(2, *splits), grey[2].flatten(1).numpy())
    floor = made.floors[0]
    assert (floor.name, floor.side) == ("entropy of the binarisation", "floor")
    g, x = grey[2].flatten(1).numpy() / 255, splits[2].x.flatten(1).numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.where(x == 1, np.log(g), np.log1p(-g)).sum(1)
    assert floor.nats == pytest.approx(surprise.mean(), abs=4 * surprise.std() / 20)
    assert all(each.nats > floor.nats for each in made.floors[1:])


def committed(name: str) -> tuple[Dataset, dict[str, float]]:
    data = genzoo.load_dataset(name)
    found = floors(data.protocol.data_hash, data.protocol.test_hash)
    assert found is not None, f"run python benchmarks/floors.py {name}"
    return data, {floor.name: floor.nats for floor in found.floors}


def test_the_committed_floors_of_digits_are_recomputed(script: Any) -> None:
    data, stored = committed("digits")
    made = {floor.name: floor.nats for floor in script.floors_of(data).floors}
    assert made.keys() == stored.keys()
    for name, nats in made.items():
        # another zlib, liblzma or torch may code or draw a little differently
        loose = {"gaussian": 1e-3, "png": 1e-2, "xz": 1e-2}.get(name, 1e-9)
        assert nats == pytest.approx(stored[name], rel=loose), name


def test_the_committed_floors_of_binarised_mnist_are_recomputed(script: Any) -> None:
    data, stored = committed("mnist_binary")
    grey = script.codes_of(genzoo.load_dataset("mnist").test)
    assert script.binarisation_entropy(grey).mean() == pytest.approx(stored["entropy of the binarisation"], rel=1e-9)
    pixels = script.independent(script.pixel_counts(data.train, 2), script.codes_of(data.test))
    assert pixels.mean() == pytest.approx(stored["independent pixels"], rel=1e-9)
    # as known from elsewhere: about 206 nats for independent Bernoullis, 45.53 of the binarisation alone
    assert stored["independent pixels"] == pytest.approx(206, abs=0.5)
    assert stored["entropy of the binarisation"] == pytest.approx(45.53, abs=0.005)


@pytest.mark.long
@pytest.mark.parametrize("name", ["mnist", "mnist_binary", "mnist_binary_static"])
def test_all_the_committed_floors_of_mnist_are_recomputed(script: Any, name: str) -> None:
    data, stored = committed(name)
    grey = None if name == "mnist" else script.codes_of(genzoo.load_dataset("mnist").test)
    for floor in script.floors_of(data, grey).floors:
        loose = {"gaussian": 1e-3, "png": 1e-2, "xz": 1e-2}.get(floor.name, 1e-9)
        assert floor.nats == pytest.approx(stored[floor.name], rel=loose), floor.name
