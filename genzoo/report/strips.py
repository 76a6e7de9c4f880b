"""Strips of frames: what a model traced from data to noise and back, layer by layer or from code to code; the most and
the least likely test images; samples beside the training images nearest to them.

`arrays.npz` holds `trace_<name> (n, frames, *event_shape)` in data units, and `trace_<name>_at (frames,)`, where the
frames stand. Frames of the plane are scatters on the axes of its data set; of images, a frame is a column of examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from genzoo.records import MARKS
from genzoo.report import figures
from genzoo.report.collect import Arrays, Entry, Group, Standing
from genzoo.report.figures import Array, Extent, Image
from genzoo.report.numbers import fixed
from genzoo.text import plain

MOST_MODELS, MOST_FRAMES, ACROSS, ROWS = 6, 9, 8, 4
"""Models drawn, the best of a group; frames of a strip; pairs of images in a row; rows of a strip."""

LEAST_POINTS, SIDE = 50, 150
"""Points below which a scatter shows nothing, and the pixels of a frame of the plane."""

LABEL = 20
"""Characters of what stands above a frame."""

BYTES = 28_000
"""Pixels of a strip of images, which noise does not let one compress."""


@dataclass(frozen=True)
class Frame:
    """One picture of a strip and what stands above it."""

    label: str
    image: Image


@dataclass(frozen=True)
class Strip:
    """Frames in their order. `model`: the label of the model they are of; `pixelated`: whether of images."""

    title: str
    caption: str
    frames: tuple[Frame, ...]
    model: str
    pixelated: bool


@dataclass(frozen=True)
class Gallery:
    """Strips under a heading, one below the other, or single pictures side by side where `sheets`."""

    title: str
    caption: str
    strips: tuple[Strip, ...]
    sheets: bool = False


@dataclass(frozen=True)
class Kind:
    """How a trace is told: its title, what its frames are, and the label of a frame, made from where it stands."""

    title: str
    caption: str
    label: str


KINDS = {
    "forward": Kind(
        "data to noise", "test examples on one path of the forward process, which is not learned", "t = {:g}"
    ),
    "reverse": Kind("noise to samples", "draws on one path of the learned reverse process", "t = {:g}"),
    "layers": Kind(
        "noise to samples, layer by layer",
        "draws after each layer that mixes dimensions, the layers still to come left out; layer 0 is the noise",
        "layer {:g}",
    ),
    "interpolation": Kind(
        "from code to code", "decoded on the straight way from one test example's code to the next one's", "{:.2f}"
    ),
}
PAIRS = {"reconstructions": ("test examples", "what comes back from their codes")}


@dataclass(frozen=True)
class Canvas:
    """How the examples of a group are drawn."""

    name: str
    window: Extent | None
    levels: int | None
    span: tuple[float, float] | None

    @classmethod
    def of(cls, group: Group, arrays: Sequence[Arrays]) -> Canvas:
        """That of a group whose models hold `arrays`."""
        reference = next((held["reference"] for held in arrays if "reference" in held), None)
        grid = next((held for held in arrays if {"grid_x", "grid_y"} <= held.keys()), {})
        levels = group.first_record.levels
        images = levels is None and reference is not None and reference.ndim == 4
        return cls(
            plain(group.dataset),
            figures.extent(grid.get("grid_x"), grid.get("grid_y"), reference),
            levels,
            figures.value_span(reference) if images and reference is not None else None,
        )

    def frame(self, examples: Array, alt: str) -> Image | None:
        """Points as a scatter, images as a column; None for what is neither."""
        if examples.ndim == 2:
            return figures.scatter(examples, self.window, alt, SIDE) if len(examples) >= LEAST_POINTS else None
        return figures.tiles(examples, self.levels, alt, self.span, across=1)


def galleries(group: Group, drawn: Sequence[Standing]) -> list[Gallery]:
    """What is to be shown of the best of the models `drawn`, of the first seed of each; empty ones are left out."""
    entries = [standing.entries[0] for standing in drawn[:MOST_MODELS]]
    canvas = Canvas.of(group, [standing.entries[0].arrays for standing in drawn])
    traced = [(entry, entry.traces()) for entry in entries]
    made = [
        Gallery(
            "Frame by frame",
            "Above each frame stands where it is: a time step, how many layers are passed, or the share of a way.",
            tuple(strip for entry, traces in traced for strip in _strips(canvas, entry, traces)),
        ),
        Gallery(
            "Most and least likely test images",
            "Of those evaluated. Above each image, what the model says of it: log p(x) in nats, or its bound.",
            tuple(strip for entry in entries for strip in _extremes(canvas, entry)),
        ),
        Gallery(
            "Reconstructions",
            "",
            tuple(
                strip
                for entry, traces in traced
                for name, (above, below) in PAIRS.items()
                if name in traces
                for strip in _pairs(canvas, entry, traces[name], above, below)
            ),
            sheets=True,
        ),
        Gallery(
            "Nearest training images",
            "Nearest in Euclidean distance over the pixels. A model that only copies shows the same image twice.",
            tuple(
                strip
                for entry in entries
                if (beside := _nearest(entry.arrays)) is not None
                for strip in _pairs(canvas, entry, beside, "samples", "the training image nearest to each")
            ),
            sheets=True,
        ),
    ]
    return [gallery for gallery in made if gallery.strips]


def _strips(canvas: Canvas, entry: Entry, traces: Arrays) -> Iterator[Strip]:
    """One a trace that can be drawn."""
    for name, examples in traces.items():
        if name.endswith(MARKS) or name in PAIRS or examples.ndim not in (3, 5) or not examples.size:
            continue
        kind = KINDS.get(name, Kind(plain(name, 40), "", "{:g}"))
        count = examples.shape[1]
        marks = traces.get(name + MARKS)
        known = marks is not None and marks.shape == (count,) and np.isfinite(marks).all()
        shown = np.unique(np.linspace(0, count - 1, min(count, MOST_FRAMES)).round().astype(int))
        picked, step = _thinned(examples[:, shown])
        frames = []
        for number, at in enumerate(shown.tolist()):
            label = f"{at + 1} of {count}"
            if known and marks is not None:
                label = plain(kind.label.format(float(marks[at])), LABEL)
            image = canvas.frame(picked[:, number], f"{kind.title}, {label}: {_label(entry)} on {canvas.name}")
            frames.append(None if image is None else Frame(label, image))
        if all(frames):
            images = examples.ndim == 5
            caption = kind.caption + (f"; one pixel in {step} either way" if step > 1 else "")
            title = f"{_label(entry)}: {kind.title}"
            yield Strip(title, caption, tuple(frame for frame in frames if frame), _label(entry), images)


def _thinned(examples: Array) -> tuple[Array, int]:
    """As many rows of images `(n, frames, c, h, w)` as a page can hold, and of large ones every so many pixels."""
    if examples.ndim != 5:
        return examples, 1
    step = max(1, math.ceil(max(examples.shape[3:]) / 32))
    small = examples[..., ::step, ::step]
    return small[: min(ROWS, max(1, BYTES // max(1, small[0].size)))], step


def _extremes(canvas: Canvas, entry: Entry) -> Iterator[Strip]:
    """Two strips of single images: the likeliest first, and the least likely first."""
    images, values = (entry.arrays.get(name) for name in ("extremes", "extremes_lower"))
    if images is None or values is None or images.ndim != 4 or values.shape != (len(images),) or len(images) < 2:
        return
    half = len(images) // 2
    variance, note = entry.arrays.get("variance", np.zeros(0)).astype(np.float64), ""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(variance.mean()) if variance.size else 0.0
    if 0 < mean < math.inf:
        error = plain(fixed(math.sqrt(mean), 2), LABEL)
        note = f"; Monte Carlo error of one value {error} nats (root mean square)"
    sort = "log p(x)" if entry.record.kind == "exact" else "estimate" if entry.record.kind == "estimate" else "bound"
    small, step = _thinned(images[None])
    for title, rows in (("most likely", range(half)), ("least likely", range(half, 2 * half))):
        frames = []
        for row in rows:
            label = plain(fixed(float(values[row]), 1), LABEL)
            image = canvas.frame(small[0, row : row + 1], f"{title} to {_label(entry)} on {canvas.name}: {label} nats")
            frames.append(None if image is None else Frame(label, image))
        if all(frames):
            caption = f"{sort} in nats{note}" + (f"; one pixel in {step} either way" if step > 1 else "")
            shown = tuple(frame for frame in frames if frame)
            yield Strip(f"{_label(entry)}: {title}", caption, shown, _label(entry), True)


def _pairs(canvas: Canvas, entry: Entry, pairs: Array, above: str, below: str) -> Iterator[Strip]:
    """One picture of images `(n, 2, c, h, w)`: the first of each pair above, the second below."""
    if pairs.ndim != 5 or pairs.shape[1] != 2 or not len(pairs):
        return
    small, step = _thinned(pairs.transpose(1, 0, 2, 3, 4)[:, :ACROSS])
    if len(small) == 2:
        words = f"above {above}, below {below}"
        alt = f"{words}: {_label(entry)} on {canvas.name}"
        flat = small.reshape(-1, *small.shape[2:])
        image = figures.tiles(flat, canvas.levels, alt, canvas.span, across=small.shape[1])
        if image is not None:
            caption = words + (f"; one pixel in {step} either way" if step > 1 else "")
            yield Strip(_label(entry), caption, (Frame("", image),), _label(entry), True)


def _nearest(arrays: Arrays) -> Array | None:
    """Samples and what is nearest to each, `(n, 2, c, h, w)`."""
    samples, nearest = arrays.get("samples"), arrays.get("nearest")
    if samples is None or nearest is None or samples.shape != nearest.shape or samples.ndim != 4:
        return None
    return np.stack([samples, nearest], axis=1)


def _label(entry: Entry) -> str:
    return plain(entry.record.label, 80)
