"""Figures for a paper, drawn by matplotlib: those of a report, one page a group of results, and strips of frames.

The page in the browser has its own, coded for size and speed (`figures.py`); these are to be cut out and printed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genzoo.report.collect import Group, Standing, collect
from genzoo.report.figures import density_scale, extent
from genzoo.report.numbers import divergence
from genzoo.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = 1.9
"""Side of one panel, inches; four fit across a text column of two."""
GAP, TITLE = 0.06, 0.45
"""Inches between the frames of a strip, and above them."""
TILES = 36


def pdf(runs: Sequence[Path]) -> bytes:
    """Density maps and samples (2D) or sample grids (images), and learning curves, of `runs` as a PDF.

    Raises:
        RunError: a folder without cells, or a record that cannot be read.
    """
    from matplotlib.backends.backend_pdf import PdfPages  # half a second to import: only here

    buffer = io.BytesIO()
    # no date, so that the same records give the same file
    with PdfPages(buffer, metadata={"CreationDate": None, "Creator": "genzoo"}) as pages:
        for group in collect(runs):
            if group.standings:
                pages.savefig(_figure(group))
    return buffer.getvalue()


def strip(images: NDArray[np.uint8], titles: Sequence[str], format: str) -> bytes:
    """Images `(m, c, h, w)` of codes 0..255 in a row, a title above each, as `png`, `pdf` or `svg`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    across, down = PANEL, PANEL * images.shape[2] / images.shape[3]
    size = len(images) * (across + GAP) + GAP, down + TITLE + GAP
    figure = Figure(figsize=size)
    for number, (pixels, title) in enumerate(zip(images, titles, strict=True)):
        left = GAP + number * (across + GAP)
        ax = figure.add_axes((left / size[0], GAP / size[1], across / size[0], down / size[1]))
        ax.set_axis_off()
        ax.set_title(title, fontsize=9)
        ax.imshow(pixels.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    buffer = io.BytesIO()
    # no date and no random names, so that the same gives the same file
    stamp = {"png": "Software", "pdf": "CreationDate", "svg": "Date"}[format]
    with rc_context({"svg.hashsalt": "genzoo"}):
        figure.savefig(buffer, format=format, dpi=200, metadata={stamp: None})
    return buffer.getvalue()


def _figure(group: Group) -> Figure:
    from matplotlib.figure import Figure

    plane = group.first_record.event_shape == [2]
    shown = [standing for standing in group.standings if standing.entries[0].arrays]
    columns = max(2, len(shown) + 1)
    figure = Figure(figsize=(PANEL * columns, PANEL * (2 if plane else 1) + 2.6), layout="constrained")
    figure.suptitle(plain(group.dataset))
    pictures, curves = np.asarray(figure.subfigures(2, 1, height_ratios=[PANEL * (2 if plane else 1), 2.6]), object)
    if plane:
        _planes(group, shown, pictures.subplots(2, columns, squeeze=False))
    else:
        _grids(group, shown, pictures.subplots(1, columns, squeeze=False)[0])
    _curves(group, shown, curves.subplots(1, 1))
    return figure


def _planes(group: Group, shown: Sequence[Standing], axes: NDArray[Any]) -> None:
    held = [standing.entries[0].arrays for standing in shown]
    truth = next((arrays["grid_truth"] for arrays in held if "grid_truth" in arrays), None)
    reference = next((arrays["reference"] for arrays in held if "reference" in arrays), None)
    grid = next((arrays for arrays in held if {"grid_x", "grid_y"} <= arrays.keys()), {})
    window = extent(grid.get("grid_x"), grid.get("grid_y"), reference)
    top = density_scale(truth)
    columns = [("truth", truth, reference)]
    for standing, arrays in zip(shown, held, strict=True):
        record = standing.entries[0].record
        kl = "" if record.kl is None else f"\nKL {divergence(record)}"
        columns.append((plain(standing.label, 40) + kl, arrays.get("grid_model"), arrays.get("samples")))
    for ax in axes.flat:
        ax.set_axis_off()
    for (title, log_density, points), (above, below) in zip(columns, axes.T, strict=False):
        above.set_title(title, fontsize=8)
        if log_density is not None and window is not None:
            above.imshow(np.exp(log_density), origin="lower", extent=window, vmin=0, vmax=top, rasterized=True)
        if points is not None and window is not None:
            below.plot(points[:, 0], points[:, 1], ",", color="0.2", rasterized=True)
            below.set(xlim=window[:2], ylim=window[2:], aspect="equal")


def _grids(group: Group, shown: Sequence[Standing], axes: NDArray[Any]) -> None:
    held = [standing.entries[0].arrays for standing in shown]
    reference = next((arrays["reference"] for arrays in held if "reference" in arrays), None)
    sheets = [("test data", reference)]
    sheets += [(plain(s.label, 40), arrays.get("samples")) for s, arrays in zip(shown, held, strict=True)]
    for ax in axes:
        ax.set_axis_off()
    for (title, images), ax in zip(sheets, axes, strict=False):
        ax.set_title(title, fontsize=8)
        if images is not None and images.ndim == 4 and images.shape[1] in (1, 3):
            side = int(min(TILES, len(images)) ** 0.5)
            _, channels, height, width = images.shape
            tiles = images[: side * side].reshape(side, side, channels, height, width)
            sheet = tiles.transpose(0, 3, 1, 4, 2).reshape(side * height, side * width, channels)
            span = float(sheet.max()) or 1.0
            ax.imshow(np.clip(sheet / span, 0, 1).squeeze(), cmap="gray_r", interpolation="nearest", rasterized=True)


def _curves(group: Group, shown: Sequence[Standing], ax: Axes) -> None:
    ends: list[float] = []
    for number, standing in enumerate(shown):
        for entry in standing.entries:
            x, y = entry.arrays.get("valid_seconds"), entry.arrays.get("valid_nll")
            if x is not None and y is not None:
                label = plain(standing.label, 40) if entry is standing.entries[0] else None
                ax.plot(x, y, "-o", markersize=2, color=f"C{number}", label=label)
                ends.append(float(y[-1]))
    entropy = group.first_record.entropy
    if entropy is not None:
        ax.axhline(entropy, color="0.4", linestyle="--", linewidth=1, label="entropy of the truth")
    ax.set(xlabel="seconds of training", ylabel="validation bound, NLL in nats")
    if ends:
        # where curves end is what counts; their first points may be far above
        low = min([*ends, *([] if entropy is None else [entropy])])
        ax.set_ylim(top=max(ends) + 0.5 * (max(ends) - low) + 0.05 * abs(max(ends)))
    if ends or entropy is not None:
        ax.legend(fontsize=7, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
