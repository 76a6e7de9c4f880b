"""Figures from arrays: density maps, scatters and image grids coded to PNG, learning curves laid out for SVG.

Coded here rather than drawn by matplotlib: ten times as fast, a kilobyte or two each, and the curves follow the page's
light and dark colours. Functions return None where the arrays are missing or are not what they should be.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import CapabilityError

Array = NDArray[Any]
Extent = tuple[float, float, float, float]

# Nine equidistant colours of viridis (Smith & van der Walt 2015, CC0); linear between them.
VIRIDIS = np.array(
    [
        (68, 1, 84),
        (71, 45, 123),
        (59, 82, 139),
        (44, 114, 142),
        (33, 145, 140),
        (40, 174, 128),
        (94, 201, 98),
        (173, 220, 48),
        (253, 231, 37),
    ],
    dtype=np.float64,
)
INK = (74, 134, 204)  # legible on white and on near-black
CANVAS = 280
SEPARATOR = 112  # between tiles: seen beside black and white
MAX_SIDE, MAX_TILES, LEAST_TILES = 1024, 64, 4
COLOURS = 8
"""Of curves, in the style sheet."""
SHEET, SHEETS = 2**16, 2**20  # pixels of a sheet of images, and of all sheets of a data set, colours counted
SEEN = 512  # pixels that the longer side of a picture of samples has at least half of
DASH = 5.0


@dataclass(frozen=True)
class Image:
    """A PNG as a data URI, its size in pixels, and what it shows, in words."""

    uri: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Curve:
    """`x` `(v,)` seconds or steps, `y` `(v,)` nats; `colour` is the number of a colour of the page."""

    x: Array
    y: Array
    colour: int


@dataclass(frozen=True)
class Chart:
    """Curves in the coordinates of a `width` x `height` drawing: polylines, ticks `(position, label)`, a floor."""

    lines: tuple[tuple[int, str], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    floor: float | None
    x_label: str
    alt: str
    width: int = 480
    height: int = 280
    left: int = 56
    right: int = 468
    top: int = 12
    bottom: int = 236


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Code `(h, w)` grey, `(h, w, 3)` RGB or `(h, w, 4)` RGBA pixels (PNG specification, third edition); those of at
    most 256 colours by a palette, a few bits a pixel, which is a third of the size."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    wide = np.full((height, width, 4), 255, np.uint8)
    wide[..., : 4 if channels == 4 else 3] = pixels[..., None] if channels == 1 else pixels
    colours, indices = np.unique(np.ascontiguousarray(wide).view(np.uint32).ravel(), return_inverse=True)
    chunks = []
    if len(colours) > 256 or (channels == 1 and len(colours) > 16):
        bits, colour, rows = 8, {1: 0, 3: 2, 4: 6}[channels], pixels.reshape(height, -1)
    else:
        bits, colour = next(b for b in (1, 2, 4, 8) if len(colours) <= 2**b), 3
        spread = np.unpackbits(indices.astype(np.uint8).reshape(height, width, 1), axis=2)[..., 8 - bits :]
        rows = np.packbits(spread.reshape(height, -1), axis=1)
        table = colours.view(np.uint8).reshape(-1, 4)
        chunks = [_chunk(b"PLTE", table[:, :3].tobytes())]
        if table[:, 3].min() < 255:
            chunks.append(_chunk(b"tRNS", table[:, 3].tobytes()))
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)  # filter 0 before each line
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    parts = (header, *chunks, _chunk(b"IDAT", zlib.compress(filtered.tobytes(), 9)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def image(pixels: NDArray[np.uint8], alt: str) -> Image:
    """Pixels as an `Image`."""
    uri = f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"
    return Image(uri, pixels.shape[1], pixels.shape[0], alt)


def density_scale(log_density: Array | None) -> float | None:
    """The top of the colour scale: the largest density of the truth on its grid."""
    if log_density is None or not _is_grid(log_density) or not np.isfinite(log_density).any():
        return None
    top = float(np.exp(np.nanmax(log_density)))
    return top if math.isfinite(top) and top > 0 else None


def density_map(log_density: Array | None, top: float | None, alt: str) -> Image | None:
    """A density on a grid, from its log `(g, g)` in nats, first axis y upwards; colours from 0 to `top`."""
    if log_density is None or not _is_grid(log_density) or not top:
        return None
    with np.errstate(over="ignore"):
        share = np.exp(np.nan_to_num(log_density.astype(np.float64), nan=-np.inf)) / top
    return image(viridis(np.flipud(np.clip(share, 0, 1))), alt)


def viridis(share: Array) -> NDArray[np.uint8]:
    """Colours `(..., 3)` of shares in [0, 1], 256 in all."""
    place, level = np.linspace(0, 1, len(VIRIDIS)), np.round(255 * share) / 255
    channels = [np.interp(level, place, VIRIDIS[:, i]) for i in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def colour_bar() -> Image:
    """The colour scale, low to high."""
    return image(viridis(np.linspace(0, 1, 128)[None, :]), "colour scale from zero density to the largest of the truth")


def extent(grid_x: Array | None, grid_y: Array | None, points: Array | None) -> Extent | None:
    """The window of a data set: that of its grid, or that of its points with a margin: x low, x high, y low, y high."""
    if grid_x is not None and grid_y is not None and grid_x.size > 1 and grid_y.size > 1:
        edges = [float(edge) for grid in (grid_x, grid_y) for edge in (grid.min(), grid.max())]
    elif points is not None and points.ndim == 2 and points.shape[1] == 2 and len(points):
        span = np.stack([points.min(axis=0), points.max(axis=0)], axis=1)  # (2, low and high)
        margin = 0.05 * (span[:, 1] - span[:, 0]) + 1e-6
        edges = [float(edge) for edge in (span + np.stack([-margin, margin], axis=1)).ravel()]
    else:
        return None
    x_low, x_high, y_low, y_high = edges
    sound = all(map(math.isfinite, edges)) and x_low < x_high and y_low < y_high
    return (x_low, x_high, y_low, y_high) if sound else None


def scatter(points: Array | None, window: Extent | None, alt: str, side: int = CANVAS) -> Image | None:
    """Points `(m, 2)` as dots of two pixels on a transparent ground; those outside the window are counted in words."""
    if points is None or window is None or points.ndim != 2 or points.shape[1] != 2 or not len(points):
        return None
    pixels, outside = _dots(points, window, side)
    return image(pixels, f"{alt}, {outside} of {len(points)} outside the window" if outside else alt)


def tiles(
    images: Array | None,
    levels: int | None,
    alt: str,
    span: tuple[float, float] | None = None,
    across: int | None = None,
    budget: int = SHEET,
) -> Image | None:
    """The first of images `(m, c, h, w)`, c 1 or 3, as a grid; codes 0..levels-1, or real values over `span`.

    64 of them, or as many as `budget` pixels hold, colours counted, but 4; `across` in a row, None for a square.
    """
    if images is None or not _are_images(images):
        return None
    most = min(MAX_TILES, max(LEAST_TILES, math.isqrt(budget // images[0].size) ** 2))
    told = alt if len(images) <= most else f"{alt}, the first {most} of {len(images)}"
    return image(_sheet(images[:most], levels, span, across), told)


def samples_png(samples: Array, levels: int | None, across: int | None = None) -> bytes:
    """Samples as a PNG file: images as a grid of all of them, points of the plane as a scatter on white.

    A small grid is enlarged, each pixel to a square of them, so that a viewer shows it at a size to be seen.

    Args:
        samples: `(m, c, h, w)` with c 1 or 3, or `(m, 2)`; levels: of discrete data, whose codes are 0..levels-1.
        across: images in a row; None for about as many as there are rows.

    Raises:
        CapabilityError: samples of another shape.
    """
    if _are_images(samples):
        sheet = _sheet(samples, levels, None, across)
        side = max(1, SEEN // max(sheet.shape[:2]))
        return png(sheet.repeat(side, axis=0).repeat(side, axis=1))
    window = extent(None, None, samples)
    if window is None:
        shape = tuple(samples.shape[1:])
        raise CapabilityError(
            f"cannot draw samples of shape {shape}: expected (2,), (1, h, w) or (3, h, w); write a .npy instead"
        )
    pixels, _ = _dots(samples, window)
    cover = pixels[..., 3:] / 255
    return png((255 * (1 - cover) + pixels[..., :3] * cover).round().astype(np.uint8))


def _dots(points: Array, window: Extent, side: int = CANVAS) -> tuple[NDArray[np.uint8], int]:
    """RGBA pixels of points `(m, 2)`, and how many of them lie outside the window (or are NaN)."""
    x_low, x_high, y_low, y_high = window
    shares = (points.astype(np.float64) - (x_low, y_low)) / (x_high - x_low, y_high - y_low)
    inside = ((shares >= 0) & (shares <= 1)).all(axis=1)
    column, row = (shares[inside] * (side - 2)).astype(int).T
    hits = np.zeros((side, side))
    for right in (0, 1):
        for up in (0, 1):
            np.add.at(hits, (row + up, column + right), 1)
    pixels = np.empty((side, side, 4), np.uint8)
    pixels[..., :3] = INK
    pixels[..., 3] = np.flipud(255 * (1 - 0.35**hits)).astype(np.uint8)
    return pixels, len(points) - int(inside.sum())


def _are_images(values: Array) -> bool:
    return values.ndim == 4 and values.shape[1] in (1, 3) and values.size > 0 and max(values.shape[2:]) <= MAX_SIDE


def _sheet(
    images: Array, levels: int | None, span: tuple[float, float] | None, across: int | None = None
) -> NDArray[np.uint8]:
    """Pixels of images `(m, c, h, w)`, a pixel between them; `across` in a row, None for a square as near as can be."""
    low, high = (0.0, float(levels - 1)) if levels else span or value_span(images)
    shares = (images.astype(np.float64) - low) / max(high - low, 1e-12)
    codes = (255 * np.clip(np.nan_to_num(shares), 0, 1)).round().astype(np.uint8)
    m, c, h, w = codes.shape
    across = across or math.ceil(math.sqrt(m))
    down = math.ceil(m / across)
    sheet = np.full((down * across, h + 1, w + 1, c), SEPARATOR, np.uint8)
    sheet[:m, :h, :w] = codes.transpose(0, 2, 3, 1)  # (m, h, w, c)
    grid = sheet.reshape(down, across, h + 1, w + 1, c).transpose(0, 2, 1, 3, 4)
    pixels = grid.reshape(down * (h + 1), across * (w + 1), c)[:-1, :-1]
    return pixels[..., 0] if c == 1 else pixels


def value_span(images: Array) -> tuple[float, float]:
    """The middle 99 % of real values."""
    finite = images[np.isfinite(images)]
    low, high = np.quantile(finite, [0.005, 0.995]) if finite.size else (0.0, 1.0)
    return float(low), float(high)


def chart(curves: Sequence[Curve], floor: float | None, x_label: str, alt: str) -> Chart | None:
    """Learning curves on shared axes; the first steep fall of each may leave the top, so that the ends can be told."""
    shown = [curve for curve in map(_clean, curves) if len(curve.x)]
    if not shown:
        return None
    lows = [float(curve.y.min()) for curve in shown] + ([floor] if floor is not None else [])
    low = min(lows)
    high = max(float(np.quantile(curve.y, 0.75)) for curve in shown)
    high = max(high, max(lows), low + 1e-3)
    low, high = low - 0.06 * (high - low), high + 0.12 * (high - low)
    right = max(float(curve.x.max()) for curve in shown)
    frame = Chart((), (), (), None, x_label, alt)

    def across(value: float) -> float:
        return round(frame.left + (frame.right - frame.left) * value / right, 1)

    def down(value: float) -> float:
        # far outside is clipped by the drawing; bounded here, so that no coordinate overflows
        share = min(max((value - low) / (high - low), -1), 10)
        return round(frame.bottom - (frame.bottom - frame.top) * share, 1)

    def line(curve: Curve) -> str:
        places = [(across(x), down(y)) for x, y in zip(*_thin(curve), strict=True)]
        if len(places) == 1:  # a dash, for a model that is fitted in one step
            x, y = places[0]
            places = [(x - DASH, y), (x + DASH, y)]
        return " ".join(f"{x},{y}" for x, y in places)

    lines = tuple((curve.colour, line(curve)) for curve in shown)
    x_ticks = tuple((across(value), text) for value, text in ticks(0, right))
    y_ticks = tuple((down(value), text) for value, text in ticks(low, high))
    return Chart(lines, x_ticks, y_ticks, None if floor is None else down(floor), x_label, alt)


def ticks(low: float, high: float, about: int = 5) -> list[tuple[float, str]]:
    """Round values (1, 2 or 5 times a power of ten apart) between `low` and `high`, with their text."""
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, f"{i * step:,.{places}f}") for i in range(first, last + 1)]


def _clean(curve: Curve) -> Curve:
    if curve.x.ndim != 1 or curve.x.shape != curve.y.shape:
        return Curve(np.empty(0), np.empty(0), curve.colour)
    x, y = curve.x.astype(np.float64), curve.y.astype(np.float64)
    keep = np.isfinite(x) & np.isfinite(y) & (x > 0)
    return Curve(x[keep], y[keep], curve.colour)


def _thin(curve: Curve, most: int = 300) -> tuple[list[float], list[float]]:
    keep = np.unique(np.linspace(0, len(curve.x) - 1, most).round().astype(int))
    return curve.x[keep].tolist(), curve.y[keep].tolist()


def _is_grid(values: Array | None) -> bool:
    return values is not None and values.ndim == 2 and min(values.shape) > 1 and max(values.shape) <= MAX_SIDE
