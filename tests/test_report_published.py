"""Published values, floors and ceilings beside ours in a report: synthetic cells on the protocols of MNIST."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from genzoo import references
from genzoo.records import RunRecord
from genzoo.references import published as kept
from genzoo.report import bands, floors, published, render, view_rows
from genzoo.report.collect import Group, collect
from genzoo.report.units import BITS_PER_DIM, NATS

BIT_PER_DIM = 784 * math.log(2)
HASHES = {each.dataset: (each.data_hash, each.test_hash) for each in references._floors().values()}


def save(run: Path, model: str, dataset: str, nll: float, **more: Any) -> None:
    levels = more.pop("levels", 256 if dataset == "mnist" else 2)
    hashes = HASHES.get(dataset, ("ab", "cd"))
    protocol = {"dataset": dataset, "data_hash": hashes[0], "test_hash": hashes[1], "target": "p(x)"}
    protocol |= more.pop("protocol", {})
    values = {
        "label": model,
        "family": "normalizing flow",
        "kind": "weights",
        "stderr": 1.5,
        "bits_per_dim": nll / BIT_PER_DIM,
        "event_shape": [1, 28, 28],
        "evaluation": {"estimator": "iwae[draws=1]", "num_samples": 10, "points": 10_000},
        "budget": "600s",
    }
    cell = f"{model}-{dataset}"
    record = RunRecord(
        cell=cell,
        status="ok",
        model=model,
        dataset=dataset,
        seed=0,
        nll=nll,
        levels=levels,
        protocol=protocol,
        **values | more,
    )
    record.save(run / "cells" / cell)


def group_of(run: Path) -> Group:
    (group,) = collect([run])
    return group


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    save(tmp_path, "vae", "mnist", 650.0)
    save(tmp_path, "flow", "mnist", 600.0)
    return tmp_path


def test_ours_stand_first_and_the_rest_is_marked(grey: Path) -> None:
    made = published.table(group_of(grey))
    assert made is not None
    titles = [column.title for column in made.columns]
    assert titles == ["model", "family", "NLL, bits/dim", "likelihood or estimator", "protocol", "tag", "source"]
    ours, theirs = made.rows[:2], made.rows[2:]
    assert [row.cells[0] for row in ours] == ["flow", "vae"]
    assert {row.cells[5] for row in ours} == {"measured here"}
    assert ours[0].cells[2:5] == ("<= 1.1041 +- 0.0028", "iwae, K=10", "10,000 test points, a budget of 600s on cpu")
    found = kept("mnist")
    assert found is not None
    assert [row.cells[0] for row in theirs] == [row.model for row in found.rows]
    assert {row.role for row in theirs} == {"reading"}
    assert {row.role for row in ours} == {"model"}
    assert not {row.cells[5] for row in theirs} & {"measured here", "-", ""}
    told = " ".join(made.notes)
    assert published.NOT_OURS in told
    assert "trained on 50,000 to 60,000 images" in told
    assert "Tag R: recalled, not seen: not checked." in told
    (ffjord,) = (row for row in theirs if row.cells[0].startswith("FFJORD"))
    assert ffjord.cells[2] == "<= 0.99"
    assert ffjord.cells[4] == "checkpoint picked on the test set"


def test_what_nobody_has_checked_can_be_left_out(grey: Path) -> None:
    every, checked = published.table(group_of(grey)), published.table(group_of(grey), checked=True)
    assert every is not None
    assert checked is not None
    left_out = {row.cells[5] for row in every.rows} - {row.cells[5] for row in checked.rows}
    assert left_out == {"R", "R?"}
    assert "D (V2)" in {row.cells[5] for row in checked.rows}
    assert not any(note.startswith("Tag R") for note in checked.notes)


def test_a_value_in_another_unit(grey: Path) -> None:
    """To the digit that tells the last published one: 0.97 bits/dim is 527 nats, give or take 3."""
    nats = published.table(group_of(grey), NATS)
    assert nats is not None
    by_model = {row.cells[0]: row.cells[2:4] for row in nats.rows}
    assert [column.title for column in nats.columns[2:4]] == ["NLL, nats", "as published, bits/dim"]
    assert by_model["residual flow"] == ("<= 527", "<= 0.97")
    assert by_model["gated PixelCNN, 7 layers, 64 channels"] == ("= 439.6", "= 0.809")
    assert by_model["flow"] == ("<= 600.0 +- 1.5", "<= 1.1041 +- 0.0028")
    found = kept("mnist_binary")
    assert found is not None
    (iaf,) = (row for row in found.rows if row.value == 79.10)
    assert published.value_text(iaf) == "<= 79.10 +- 0.07"
    assert published.value_text(iaf, BITS_PER_DIM.factor([784])) == "<= 0.14556 +- 0.00013"


@pytest.mark.parametrize(
    ("dataset", "own", "other"), [("mnist_binary", "78.01", "79.20"), ("mnist_binary_static", "79.20", "78.01")]
)
def test_static_and_dynamic_stand_in_tables_of_their_own(dataset: str, own: str, other: str, tmp_path: Path) -> None:
    save(tmp_path, "vae", dataset, 90.0)
    made = published.table(group_of(tmp_path))
    assert made is not None
    values = {row.cells[2].split()[1] for row in made.rows}
    assert own in values
    assert other not in values
    assert made.columns[2].title == "NLL, nats"
    assert any("static" in note.lower() or "dynamic" in note.lower() for note in made.notes)


def test_a_validation_split_is_said_and_has_no_floor(tmp_path: Path) -> None:
    save(tmp_path, "vae", "mnist", 650.0, split="valid")
    group = group_of(tmp_path)
    made = published.table(group)
    assert made is not None
    assert "Ours are of the valid split, the published values of the test set." in made.notes
    assert made.rows[0].cells[4].startswith("10,000 valid points")
    assert floors.table(group) is None


@pytest.mark.parametrize("dataset", ["moons", "digits", "mnist[labels=true]"])
def test_nothing_published_is_nothing_shown(dataset: str, tmp_path: Path) -> None:
    save(tmp_path, "vae", dataset, 90.0)
    group = group_of(tmp_path)
    assert published.table(group) is None
    assert published.rows(group) == []
    save(tmp_path, "vae", dataset, 90.0, protocol={"dataset": "mnist", "target": "p(x, y)"})
    assert published.table(group_of(tmp_path)) is None


def test_a_run_of_an_older_version_shows_nothing(tmp_path: Path) -> None:
    """No protocol on record, or another test set under the name: neither values nor floors."""
    save(tmp_path, "vae", "mnist", 650.0)
    record = RunRecord.load(tmp_path / "cells" / "vae-mnist")
    record.protocol = {}
    record.save(tmp_path / "cells" / "vae-mnist")
    group = group_of(tmp_path)
    assert published.table(group) is floors.table(group) is bands.drawing(group, {}) is None
    assert "Beside published values" not in render([tmp_path], "html")
    assert "Published values" not in render([tmp_path], "md")


def test_floor_and_ceiling(tmp_path: Path) -> None:
    save(tmp_path, "vae", "mnist_binary", 90.0, stderr=0.2)
    made = floors.table(group_of(tmp_path))
    assert made is not None
    assert made.rows[0].cells[:3] == ("entropy of the binarisation", "floor", "= 45.53")
    values = [float(row.cells[2].split()[1]) for row in made.rows]
    assert values == sorted(values)
    assert {row.cells[1] for row in made.rows[1:]} == {"ceiling"}
    by_name = {row.cells[0]: row.cells[2] for row in made.rows}
    assert re.fullmatch(r"= 205\.7\d \+- 0\.45", by_name["independent pixels"])
    assert not any(note.startswith("BUG") for note in made.notes)
    in_bits = floors.table(group_of(tmp_path), BITS_PER_DIM)
    assert in_bits is not None
    assert in_bits.rows[0].cells[2] == "= 0.0838"
    value, error = {row.cells[0]: row.cells[2] for row in in_bits.rows}["independent pixels"].split(" +- ")
    assert float(value.removeprefix("= ")) == pytest.approx(205.7 / BIT_PER_DIM, abs=2e-4)
    assert float(error) == pytest.approx(0.45 / BIT_PER_DIM, rel=0.02)


def test_a_model_below_the_floor_is_a_bug(tmp_path: Path) -> None:
    save(tmp_path, "honest", "mnist_binary", 45.0, stderr=0.2)  # within four errors
    save(tmp_path, "cheat", "mnist_binary", 40.0, stderr=0.2)
    made = floors.table(group_of(tmp_path))
    assert made is not None
    assert [note for note in made.notes if note.startswith("BUG")] == [
        "BUG cheat: below the entropy of the binarisation, 45.53 nats, by more than 4 standard errors."
    ]


def test_bands(grey: Path) -> None:
    drawn = bands.drawing(group_of(grey), {"flow": 2, "vae": 5})
    assert drawn is not None
    assert drawn.unit == "bits/dim"
    labels = [line.label for line in drawn.lines]
    assert labels[:2] == ["flow", "vae"]
    assert [line.colour for line in drawn.lines[:2]] == [2, 5]
    by_label = {label.partition(",")[0]: line for label, line in zip(labels, drawn.lines, strict=True)}
    found = kept("mnist")
    assert found is not None
    flows = [row for row in found.rows if row.family == "normalizing flow"]
    band = by_label["normalizing flow"]
    assert f"({len(flows)})" in band.label

    def at(bits: float) -> float:
        """On the axis that the ticks span."""
        (x0, low), *_, (x1, high) = drawn.x_ticks  # type: ignore[union-attr]
        return x0 + (bits - float(low)) / (float(high) - float(low)) * (x1 - x0)

    # to the tenth of a pixel that places are rounded to, twice
    assert drawn.lines[0].x == pytest.approx(at(600 / BIT_PER_DIM), abs=0.2)
    assert drawn.lines[0].low == pytest.approx(at((600 - 1.96 * 1.5) / BIT_PER_DIM), abs=0.2)
    assert drawn.lines[0].high == pytest.approx(at((600 + 1.96 * 1.5) / BIT_PER_DIM), abs=0.2)
    assert band.low == pytest.approx(at(0.97), abs=0.2)
    assert band.high == pytest.approx(at(2.02), abs=0.2)
    assert [stroke.x for stroke in band.strokes] == pytest.approx([at(row.value) for row in flows], abs=0.2)
    assert [stroke.faint for stroke in band.strokes] == [row.tag in ("R", "R?") for row in flows]
    assert by_label["bz2"].x == pytest.approx(at(1.4148), abs=0.2)
    assert by_label["bz2"].colour is None
    assert "published normalizing flow 0.970 to 2.020" in drawn.alt
    assert "independent pixels 1.69" in drawn.alt


def test_what_lies_far_off_leaves_the_drawing_at_its_side(tmp_path: Path) -> None:
    save(tmp_path, "vae", "mnist_binary", 90.0, stderr=0.2)
    drawn = bands.drawing(group_of(tmp_path), {"vae": 0})
    assert drawn is not None
    lines = {line.label: line for line in drawn.lines}
    assert lines["entropy of the binarisation 45.5 \u2190"].x == drawn.left
    assert lines["png 678.0 \u2192"].x == drawn.right
    inside = [line for label, line in lines.items() if label[-1] not in "\u2190\u2192"]
    assert all(drawn.left <= line.low <= line.high <= drawn.right for line in inside)
    ours = lines["vae"]
    assert ours.x is not None
    assert drawn.left < ours.low < ours.x < ours.high < drawn.right


def test_digits_have_floors_alone(tmp_path: Path) -> None:
    save(tmp_path, "vae", "digits", 100.0, levels=17, event_shape=[1, 8, 8])
    drawn = bands.drawing(group_of(tmp_path), {"vae": 0})
    assert drawn is not None
    assert drawn.unit == "bits/dim"
    assert [line.label.split(" \u2192")[0] for line in drawn.lines][:2] == ["vae", "gaussian"]
    assert not any(line.strokes for line in drawn.lines)


def test_the_page_and_the_markdown_have_them(grey: Path) -> None:
    page, text = render([grey], "html"), render([grey], "md")
    for words in ("Published values", "Floor and ceiling", "measured here", "checkpoint picked on the test set"):
        assert words in page
        assert words in text
    assert "Beside published values, floor and ceiling" in page
    assert "<title>residual flow: \u2264 0.97 (V2)</title>" in page
    assert "| residual flow | normalizing flow | ≤ 527 | ≤ 0.97 |" in text
    assert text.index("| flow | normalizing flow |") < text.index("| softmax transformer |")


def test_rows(grey: Path) -> None:
    made = view_rows([grey], "published")
    assert [row["model"] for row in made[:3]] == ["flow", "vae", "softmax transformer"]
    assert [row["measured"] for row in made[:3]] == [True, True, False]
    assert made[0]["nats"] == 600.0
    assert made[2]["nats"] == pytest.approx(0.621 * BIT_PER_DIM)
    (gaussian,) = (row for row in made if row["family"] == "Gaussian")
    assert gaussian["tag"] == "D (V2)"
    ground = view_rows([grey], "floors")
    assert [row["name"] for row in ground] == ["independent pixels", "gaussian", "bz2", "xz", "png"]
    assert {row["side"] for row in ground} == {"ceiling"}
