"""Strips of frames in a report, from arrays whose every pixel is known."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from genzoo import report
from genzoo.records import RunRecord, write_arrays
from genzoo.report.collect import Group, collect
from genzoo.report.figures import SEPARATOR, Image
from genzoo.report.strips import MOST_FRAMES, MOST_MODELS, SIDE, Gallery, galleries

Arrays = dict[str, np.ndarray[Any, Any]]


def save(run: Path, model: str, shape: list[int], levels: int | None, arrays: Arrays, kind: str = "exact") -> None:
    cell = f"{model}-d-0"
    record = RunRecord(cell=cell, status="ok", model=model, label=model, dataset="d", seed=0, nll=1.0, kind=kind)
    record.event_shape, record.levels, record.protocol = shape, levels, {"dataset": "d"}
    record.save(run / "cells" / cell)
    write_arrays(run / "cells" / cell / "arrays.npz", {"lower": np.full(20, -1.0), "index": np.arange(20)} | arrays)


def shown(run: Path) -> dict[str, Gallery]:
    (group,) = collect([run])
    return {gallery.title: gallery for gallery in galleries(group, drawn(group))}


def drawn(group: Group) -> list[Any]:
    return [standing for standing in group.standings if standing.entries[0].arrays]


def pixels(image: Image) -> np.ndarray[Any, Any]:
    with PIL.Image.open(io.BytesIO(base64.b64decode(image.uri.partition(",")[2]))) as picture:
        assert picture.size == (image.width, image.height)
        return np.asarray(picture.convert("RGBA"))


def codes(n: int, frames: int) -> np.ndarray[Any, Any]:
    """Images `(n, frames, 1, 2, 2)` of one code each: example times 16 plus frame."""
    values = 16 * np.arange(n)[:, None] + np.arange(frames)
    return np.broadcast_to(values[..., None, None, None], (n, frames, 1, 2, 2)).astype(np.uint8)


def test_a_frame_is_a_column_of_examples_and_says_where_it_is(tmp_path: Path) -> None:
    trace = codes(6, 12)
    arrays = {"trace_forward": trace, "trace_forward_at": np.arange(12) * 10, "trace_odd": trace[:, :2]}
    save(tmp_path, "m", [1, 2, 2], 256, arrays)
    forward, odd = shown(tmp_path)["Frame by frame"].strips
    assert (forward.title, forward.model, forward.pixelated) == ("m: data to noise", "m", True)
    assert len(forward.frames) == MOST_FRAMES  # of twelve: both ends, and evenly between
    assert [frame.label for frame in forward.frames][::8] == ["t = 0", "t = 110"]
    assert forward.frames[8].image.alt == "data to noise, t = 110: m on d"
    for frame in forward.frames:
        at = int(frame.label.removeprefix("t = ")) // 10
        column = pixels(frame.image)[..., 0]
        assert column.shape == (4 * 3 - 1, 2)  # four examples, a line between
        assert column[::3, 0].tolist() == [16 * row + at for row in range(4)]
        assert (column[2::3] == SEPARATOR).all()
    assert odd.title == "m: odd"  # a trace of a plugin that nobody knows is drawn too
    assert [frame.label for frame in odd.frames] == ["1 of 2", "2 of 2"]


def test_frames_of_the_plane_share_their_axes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    trace = generator.uniform(-1, 1, (200, 3, 2)).astype(np.float32)
    trace[:, 2] = (0.99, 0.99)
    trace[:50, 1] = 5.0  # outside
    grid = np.linspace(-1, 1, 10)
    flat = np.zeros((10, 10))
    arrays = {"grid_x": grid, "grid_y": grid, "grid_truth": flat, "grid_model": flat}
    save(tmp_path, "m", [2], None, arrays | {"trace_layers": trace, "trace_layers_at": np.arange(3)})
    save(tmp_path, "old", [2], None, arrays | {"trace_layers": trace[:8]})  # eight points show nothing
    (strip,) = shown(tmp_path)["Frame by frame"].strips
    assert [frame.label for frame in strip.frames] == ["layer 0", "layer 1", "layer 2"]
    assert strip.frames[1].image.alt.endswith("50 of 200 outside the window")
    last = pixels(strip.frames[2].image)
    assert last.shape == (SIDE, SIDE, 4)
    rows, columns = np.nonzero(last[..., 3])
    assert rows.max() < 4  # the corner above, to the right
    assert columns.min() > SIDE - 5


def test_extremes_have_their_values_above_them_and_pairs_stand_one_above_the_other(tmp_path: Path) -> None:
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)
    values = np.array([-1.25, -2.5, -900.0, -np.inf])
    arrays = {
        "extremes": images,
        "extremes_lower": values,
        "variance": np.full(20, 4.0),
        "trace_reconstructions": codes(3, 2),
        "samples": codes(2, 1)[:, 0],
        "nearest": codes(2, 2)[:, 1],
    }
    save(tmp_path, "m", [1, 2, 2], 256, arrays, kind="weights")
    made = shown(tmp_path)
    best, worst = made["Most and least likely test images"].strips
    assert [frame.label for frame in best.frames] == ["-1.2", "-2.5"]
    assert [frame.label for frame in worst.frames] == ["-900.0", "-inf"]
    assert best.caption == "bound in nats; Monte Carlo error of one value 2.00 nats (root mean square)"
    assert [int(pixels(frame.image)[0, 0, 0]) for frame in (*best.frames, *worst.frames)] == [0, 1, 2, 3]
    assert worst.frames[0].image.alt == "least likely to m on d: -900.0 nats"
    for title, count in (("Reconstructions", 3), ("Nearest training images", 2)):
        (strip,) = made[title].strips
        sheet = pixels(strip.frames[0].image)[..., 0]
        assert sheet.shape == (5, 3 * count - 1)
        assert sheet[0, ::3].tolist() == [16 * i for i in range(count)]  # the first of each pair
        assert sheet[3, ::3].tolist() == [16 * i + 1 for i in range(count)]  # the second below it


@pytest.mark.parametrize(
    "arrays",
    [
        {"trace_x": np.zeros((3, 4))},
        {"trace_x": np.zeros((0, 4, 1, 2, 2))},
        {"trace_x": np.zeros((3, 2, 5, 2, 2))},
        {"trace_reconstructions": np.zeros((3, 3, 1, 2, 2))},
        {"extremes": np.zeros((4, 1, 2, 2)), "extremes_lower": np.zeros(3)},
        {"extremes": np.zeros((4, 7)), "extremes_lower": np.zeros(4)},
        {"samples": np.zeros((3, 1, 2, 2)), "nearest": np.zeros((2, 1, 2, 2))},
        {},
    ],
)
def test_what_is_not_as_it_should_be_is_left_out(tmp_path: Path, arrays: Arrays) -> None:
    save(tmp_path, "m", [1, 2, 2], 256, arrays)
    assert shown(tmp_path) == {}
    assert "<ol" not in report.render([tmp_path], "html")


def test_strange_marks_are_replaced_by_numbers(tmp_path: Path) -> None:
    save(tmp_path, "m", [1, 2, 2], 256, {"trace_forward": codes(2, 2), "trace_forward_at": np.array([0.0, np.nan])})
    (strip,) = shown(tmp_path)["Frame by frame"].strips
    assert [frame.label for frame in strip.frames] == ["1 of 2", "2 of 2"]


def test_a_page_of_thirty_cells_of_noise_in_colour_is_under_five_megabytes(tmp_path: Path) -> None:
    """Nothing here can be compressed, and each cell holds every figure; more models than are drawn share a data set."""
    generator = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray[Any, Any]:
        return generator.integers(0, 256, (*shape, 3, 64, 64)).astype(np.uint8)

    for number in range(30):
        arrays = {
            "samples": noise(16),
            "nearest": noise(16),
            "extremes": noise(16),
            "extremes_lower": np.linspace(-1, -2, 16),
            **{f"trace_{name}": noise(2, 9) for name in ("forward", "reverse", "interpolation")},
            "trace_reconstructions": noise(8, 2),
        }
        save(tmp_path, f"m{number}", [3, 64, 64], 256, arrays)
    page = report.render([tmp_path], "html")
    assert len(page.encode()) < 5_000_000
    assert page.count(": data to noise</strong>") == MOST_MODELS
    assert "one pixel in 2 either way" in page
    assert 'alt=""' not in page
