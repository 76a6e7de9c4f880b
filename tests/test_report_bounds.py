"""How tight bounds are and what they are made of, in the report: synthetic cells whose numbers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genzoo.records import RunRecord, write_arrays, write_json
from genzoo.report import anatomy, formats, render, table, tightness
from genzoo.report.collect import Group, collect

PARTS = np.array([-0.5, -0.004, -1.25])


def reading(number: int, estimator: str, kind: str, nll: float, gain: float | None, **more: Any) -> dict[str, Any]:
    paired = None if gain is None else {"nats": gain, "stderr": 0.01, "points": 50}
    said = {"estimator": estimator, "num_samples": more.pop("draws", 1), "points": more.pop("points", 200)}
    return {"reading": number, "nll": nll, "kind": kind, "stderr": 0.05, "evaluation": said, "paired": paired, **more}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A vae read five times, one of them an estimate and one on other points; a flow read once."""
    for model, kind in (("vae", "weights"), ("flow", "exact")):
        record = RunRecord(
            cell=f"{model}-pair-0-0123456789",
            status="ok",
            model=model,
            label=model,
            dataset="pair",
            seed=0,
            kind=kind,
            nll=2.0,
            stderr=0.05,
            kl=0.1,
            kl_stderr=0.01,
            event_shape=[2],
            evaluation={"estimator": "iwae" if model == "vae" else "exact", "num_samples": 500, "points": 200},
            terms={"kl": float(PARTS.sum()), "reconstruction": -2.0 - float(PARTS.sum())},
        )
        folder = tmp_path / "cells" / record.cell
        record.save(folder)
        write_arrays(folder / "arrays.npz", {"anatomy_kl_per_latent": PARTS, "each_other": np.zeros((200, 3))})
    later = [
        reading(2, "elbo", "lower_bound", 2.5, -0.5),
        reading(3, "ode", "estimate", 1.7, 0.3),
        reading(4, "ais[chains=16]", "weights", 2.4, 0.05, points=50, draws=16),  # higher on its own few points
        reading(5, "iwae", "weights", 2.1, -0.1, draws=10),
    ]
    write_json(tmp_path / "cells" / "vae-pair-0-0123456789" / "readings.json", later)
    return tmp_path


def group_of(run: Path) -> Group:
    (group,) = collect([run])
    return group


def test_bounds_stand_from_loosest_to_tightest_by_their_pairs(run: Path) -> None:
    """The annealed bound is the tightest though its own mean, on other points, is worse; the estimate is no bound."""
    made = tightness.table(group_of(run))
    assert made is not None
    names = [row.cells[2] for row in made.rows]
    assert names == ["elbo", "iwae", "iwae", "ais[chains=16]", "ode"]
    gains = [row.cells[8] for row in made.rows]
    assert gains == ["-0.500 +- 0.010", "-0.100 +- 0.010", "the row", "0.050 +- 0.010", "0.300 +- 0.010"]
    assert [row.cells[0] for row in made.rows] == ["vae"] * 5  # the flow has one reading: nothing to compare
    drawn = tightness.ladder(group_of(run), {"vae": 3})
    assert drawn is not None
    places = [mark.x for mark in drawn.marks]
    assert places[:4] == sorted(places[:4], reverse=True)  # NLL falls from bound to bound
    assert [mark.faint for mark in drawn.marks] == [False, False, False, False, True]
    assert drawn.truth is not None
    # 2.0 - 0.05: between the row, 2.0, and the truth, 1.9, halfway
    assert drawn.marks[3].x == pytest.approx((drawn.marks[2].x + drawn.truth) / 2, abs=0.11)
    assert "ais, K=16 1.9500" in drawn.alt


def test_readings_without_a_pair_are_shown_by_their_own_number(run: Path) -> None:
    path = run / "cells" / "vae-pair-0-0123456789" / "readings.json"
    stored = json.loads(path.read_text())
    stored[0]["paired"], stored[1]["paired"] = None, {"nats": "much"}
    write_json(path, stored)
    made = tightness.table(group_of(run))
    assert made is not None
    assert {row.cells[2]: row.cells[8] for row in made.rows}["elbo"] == "-"
    assert tightness.ladder(group_of(run), {}) is not None


def test_a_bound_far_off_leaves_the_drawing_under_an_arrow(run: Path) -> None:
    path = run / "cells" / "vae-pair-0-0123456789" / "readings.json"
    stored = json.loads(path.read_text())
    stored[0]["paired"]["nats"] = -50.0
    write_json(path, stored)
    drawn = tightness.ladder(group_of(run), {})
    assert drawn is not None
    assert [mark.label.endswith(" \u2192") for mark in drawn.marks] == [True, False, False, False, False]
    assert drawn.marks[0].x == drawn.right
    assert max(mark.high for mark in drawn.marks[1:]) < drawn.right


def test_notes_of_the_league_are_about_its_rows(run: Path) -> None:
    """What later readings were made with, and that one of them is an estimate, stands in their own table: no row of
    the league is one. A fault in a later reading is told all the same."""
    path = run / "cells" / "vae-pair-0-0123456789" / "readings.json"
    stored = json.loads(path.read_text())
    stored[1]["below_floor"] = True
    write_json(path, stored)
    record = json.loads((run / "cells" / "flow-pair-0-0123456789" / "record.json").read_text())
    record["evaluation"]["estimator"] = "exact[width=3]"
    write_json(run / "cells" / "flow-pair-0-0123456789" / "record.json", record)
    notes = table.results(group_of(run)).notes
    assert "flow: exact with width=3" in notes
    assert not [note for note in notes if "chains=16" in note or note.startswith("~ ")]
    assert [note for note in notes if note.startswith("BUG vae")]


def test_one_reading_has_no_ladder(run: Path) -> None:
    (run / "cells" / "vae-pair-0-0123456789" / "readings.json").unlink()
    assert tightness.table(group_of(run)) is None
    assert tightness.ladder(group_of(run), {}) is None


def test_anatomy_counts_active_parts_and_is_drawn_to_scale(run: Path) -> None:
    made = anatomy.table(group_of(run))
    assert made is not None
    assert made.rows[0].cells[2:] == ("kl", "latent", "3", "2", "-1.7540", "3: -1.250, 1: -0.500, 2: -0.004")
    assert not any(note.startswith("BUG") for note in made.notes)
    bars = anatomy.drawings(group_of(run), {"vae": 1, "flow": 2})
    assert [drawing.colour for drawing in bars] == [2, 1]
    heights = [height for _, _, height in bars[0].bars]
    assert heights == pytest.approx((PARTS / PARTS.min() * (bars[0].bottom - bars[0].top)).tolist(), abs=0.02)
    assert bars[0].bars[2][1] == bars[0].top  # negative parts hang from zero


def test_parts_that_miss_their_term_are_a_bug(run: Path) -> None:
    write_arrays(run / "cells" / "vae-pair-0-0123456789" / "arrays.npz", {"anatomy_kl_per_latent": PARTS + 0.01})
    made = anatomy.table(group_of(run))
    assert made is not None
    assert [note for note in made.notes if note.startswith("BUG")] == [
        "BUG vae, seed 0: the parts of kl sum to -1.7240 nats, the record says -1.754."
    ]


def test_the_page_holds_both(run: Path) -> None:
    page = render([run], "html")
    for text in ("How tight each bound is", "Anatomy of the bound", "Every bound of each model", "kl per latent"):
        assert text in page
    for made in (tightness.table(group_of(run)), anatomy.table(group_of(run))):
        assert made is not None
        assert len(formats.text(made).splitlines()) == 1 + len(made.rows) + len(made.notes)


def test_the_learning_curves_stand_beside_the_truth_on_their_own_points(run: Path) -> None:
    """The line is the truth's NLL on the validation points, which is not its entropy: a curve below the entropy is no
    sign of a bug."""
    folder = run / "cells" / "flow-pair-0-0123456789"
    curve = {"valid_step": np.array([1, 2]), "valid_seconds": np.array([1.0, 2.0]), "valid_nll": np.array([2.2, 1.9])}
    write_arrays(folder / "arrays.npz", {**curve, "valid_truth": np.array(1.85)})
    page = render([run], "html")
    assert "the truth on the same points, 1.8500 nats" in page
    assert "entropy of the truth" not in page
