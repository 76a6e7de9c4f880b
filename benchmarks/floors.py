"""Floors and ceilings of the NLL on the test images that come with genzoo: `python benchmarks/floors.py [DATASET...]`.

Writes `genzoo/references/floors.json`, which reports read, and prints it; a minute of one core. With names, their part
alone is made anew. Everything is nats an image over the whole test split:

- `entropy of the binarisation`, a floor: the mean over the grey test images g of H(x given g). No model that has not
  seen g goes below it in expectation over the draws x: a cross-entropy is at least the entropy, image by image.
- `independent pixels`: a histogram a pixel, of the training split plus one count a code (Laplace's rule), exact.
- `gaussian`: the zoo's own baseline with its default adapters, trained and evaluated as any model is.
- `bz2`, `xz`: all test images, a byte a pixel, in one stream at level 9. `png`: one file an image, headers included,
  of one bit a pixel where there are two levels, else eight; zlib's level 9 after the best of the five filters and the
  least-sum heuristic.
"""

from __future__ import annotations

import bz2
import json
import lzma
import math
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import genzoo
from genzoo.data.splits import ROWS, DynamicBinarySplit
from genzoo.records import write_bytes
from genzoo.references import Floor, Floors
from genzoo.spec import Dataset, Split

FILE = Path(genzoo.__file__).parent / "references" / "floors.json"
DATASETS = ("digits", "mnist", "mnist_binary", "mnist_binary_static")
GREY = {"mnist_binary": "mnist", "mnist_binary_static": "mnist"}
"""Which data set holds the grey images that a binary one was drawn from."""

PNG_FRAME = 8 + (12 + 13) + 12 + 12
"""Bytes of a PNG beside its compressed rows: signature, IHDR, the frame of one IDAT, IEND."""
GAUSSIAN_DRAWS = 10
Codes = NDArray[np.uint8]


def pieces(split: Split) -> Iterator[torch.Tensor]:
    """All examples `(b, *event_shape)` of a split, in order."""
    generator = torch.Generator().manual_seed(0)
    return (split.batch(rows, generator).x for rows in torch.arange(len(split)).split(ROWS))


def codes_of(split: Split) -> Codes:
    """All examples, `(N, D)`."""
    return torch.cat(list(pieces(split))).flatten(1).numpy()


def binarisation_entropy(grey: Codes) -> NDArray[np.float64]:
    """H(x given g) in nats of each grey image `(N, D)` where P(x = 1) = g / 255: `(N,)`."""
    p = np.arange(256) / 255
    with np.errstate(divide="ignore", invalid="ignore"):
        table = -(np.nan_to_num(p * np.log(p)) + np.nan_to_num((1 - p) * np.log1p(-p)))
    return table[grey].sum(1)


def pixel_counts(split: Split, levels: int) -> NDArray[np.float64]:
    """How often each pixel has each code, `(D, levels)`; its expectation where each batch is binarised anew."""
    if isinstance(split, DynamicBinarySplit):
        ones = split.grey.flatten(1).sum(0, dtype=torch.float64).numpy() / 255
        return np.stack([len(split) - ones, ones], axis=1)
    dims = split.batch(torch.arange(1), torch.Generator()).x[0].numel()
    counts = np.zeros(dims * levels)
    for x in pieces(split):
        at = x.flatten(1).to(torch.int64) + levels * torch.arange(dims)
        counts += np.bincount(at.flatten().numpy(), minlength=dims * levels)
    return counts.reshape(dims, levels)


def independent(counts: NDArray[np.float64], codes: Codes) -> NDArray[np.float64]:
    """NLL in nats of each image `(N, D)` under the histograms `(D, levels)` plus one count a code: `(N,)`."""
    log_p = np.log((counts + 1) / (counts + 1).sum(1, keepdims=True))
    return -log_p[np.arange(len(counts)), codes].sum(1)


def png_rows(images: NDArray[np.uint8], levels: int) -> Iterator[NDArray[np.uint8]]:
    """The filtered rows `(N, H, 1 + bytes)` of images `(N, H, W)` by each filter, then by the least-sum heuristic; one
    bit a pixel for two levels, else eight (PNG specification, third edition, sections 7.2 and 9)."""
    up_to = np.packbits(images, axis=2) if levels == 2 else images
    x = up_to.astype(np.int16)
    left, up, corner = (np.zeros_like(x) for _ in range(3))
    left[:, :, 1:], up[:, 1:], corner[:, 1:, 1:] = x[:, :, :-1], x[:, :-1], x[:, :-1, :-1]
    gaps = [np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)]  # of Paeth's guess to each
    paeth = np.where((gaps[0] <= gaps[1]) & (gaps[0] <= gaps[2]), left, np.where(gaps[1] <= gaps[2], up, corner))
    guesses = [np.zeros_like(x), left, up, (left + up) // 2, paeth]
    filtered = np.stack([((x - guess) % 256).astype(np.uint8) for guess in guesses])  # (5, N, H, bytes)
    kinds = np.broadcast_to(np.arange(5, dtype=np.uint8)[:, None, None, None], (*filtered.shape[:3], 1))
    every = np.concatenate([kinds, filtered], axis=3)
    yield from every
    sums = np.abs(filtered.view(np.int8).astype(np.int64)).sum(3)  # (5, N, H)
    yield np.take_along_axis(every, sums.argmin(0)[None, :, :, None], axis=0)[0]


def png_bytes(images: NDArray[np.uint8], levels: int) -> NDArray[np.int64]:
    """Bytes of the smallest PNG of each image `(N, H, W)`: `(N,)`."""
    sizes = [[len(zlib.compress(rows.tobytes(), 9)) for rows in each] for each in png_rows(images, levels)]
    return PNG_FRAME + np.min(sizes, axis=0)


def gaussian(data: Dataset) -> genzoo.evaluation.Evaluation:
    """The baseline of the zoo on the whole test split."""
    model = genzoo.build_model("gaussian", data.spec, seed=0)
    genzoo.fit(model, data, budget="1steps", seed=0)
    return genzoo.evaluate(model, data, num_samples=GAUSSIAN_DRAWS, points=len(data.test))


def floors_of(data: Dataset, grey: Codes | None = None) -> Floors:
    """Of a data set of grey or binary images; `grey`: the test images `(N, D)` that binary ones were drawn from."""
    levels, (_, height, width) = data.spec.levels, data.spec.event_shape
    assert levels is not None
    test = codes_of(data.test)
    found = []
    if grey is not None:
        how = "the mean entropy of the binary image given the grey one, over the test images"
        entropy = float(binarisation_entropy(grey).mean())
        found.append(Floor(name="entropy of the binarisation", side="floor", nats=entropy, kind="exact", how=how))
    pixels = independent(pixel_counts(data.train, levels), test)
    made = gaussian(data)
    own = f"full covariance behind uniform noise, logit 1e-6, {made.kind}, K={made.num_samples}"
    raw = np.ascontiguousarray(test).tobytes()
    png = png_bytes(test.reshape(-1, height, width), levels) * 8 * math.log(2)
    stream = "all test images in one stream, a byte a pixel, level 9"
    depth = "one bit" if levels == 2 else "eight bits"
    file = f"one file an image, {depth} a pixel, the best of six filterings, headers included"
    found += [
        Floor(
            name="independent pixels",
            side="ceiling",
            nats=pixels.mean(),
            stderr=error(pixels),
            kind="exact",
            how="a histogram a pixel from the training split, plus one count a code",
        ),
        Floor(name="gaussian", side="ceiling", nats=made.nll, stderr=made.stderr, kind="bound", how=own),
        *(
            Floor(name=name, side="ceiling", nats=8 * size * math.log(2) / len(test), kind="bound", how=stream)
            for name, size in (("bz2", len(bz2.compress(raw, 9))), ("xz", len(lzma.compress(raw, preset=9))))
        ),
        Floor(name="png", side="ceiling", nats=png.mean(), stderr=error(png), kind="bound", how=file),
    ]
    protocol = data.protocol
    return Floors(
        dataset=protocol.dataset,
        data_hash=protocol.data_hash,
        test_hash=protocol.test_hash,
        dims=data.spec.dims,
        points=len(test),
        floors=tuple(found),
    )


def error(values: NDArray[Any]) -> float:
    """Of the mean."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    kept = {each["dataset"]: each for each in json.loads(FILE.read_text())} if names and FILE.exists() else {}
    for name in names or DATASETS:
        grey = codes_of(genzoo.load_dataset(GREY[name]).test) if name in GREY else None
        made = floors_of(genzoo.load_dataset(name), grey)
        for floor in made.floors:
            bits = floor.nats / (made.dims * math.log(2))
            print(f"{name:20} {floor.name:28} {floor.nats:10.3f} nats {bits:8.4f} bits/dim", flush=True)
        kept[name] = made.model_dump(mode="json")
    document = [kept[name] for name in sorted(kept)]
    write_bytes(FILE, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
