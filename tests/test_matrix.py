"""The matrix of models and data sets: what a card declines is known before anything is trained, and said."""

from __future__ import annotations

import io
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from genzoo import bench, registry
from genzoo.building import Blueprint, declined
from genzoo.cards import ModelCard
from genzoo.cli import main
from genzoo.config import Reference
from genzoo.errors import CapabilityError, PluginError
from genzoo.plan import EvaluationPlan, Plan
from genzoo.report import render, terminal
from genzoo.report.formats import text
from genzoo.report.matrix import Place, matrix
from genzoo.spec import DataSpec

CARD = ModelCard(name="m", summary="", family="test", target="genzoo.baseline:Gaussian")
IMAGES, POINTS = DataSpec((1, 8, 8), 17), DataSpec((2,))


@pytest.mark.parametrize(
    ("change", "spec", "words"),
    [
        ({"images": True}, POINTS, r"m takes images (C, H, W); this data set has events (2,)"),
        ({"max_levels": 16}, IMAGES, "m takes codes of up to 16 levels; this data set has 17"),
        ({"labels": False}, replace(POINTS, classes=3), "m takes no labels; this data set has 3 classes"),
        ({"data": ("real",), "because": "no noise"}, IMAGES, "m takes real data; this data set is discrete: no noise"),
        ({"max_dims": 2}, IMAGES, "m takes data of 1 to 2 dimensions; this data set has 64"),
    ],
)
def test_a_card_declines_in_words(change: dict[str, object], spec: DataSpec, words: str) -> None:
    card = replace(CARD, **change)  # type: ignore[arg-type]
    assert declined(card, spec) == words
    assert declined(CARD, spec) is None
    with pytest.raises(CapabilityError) as refused:
        Blueprint.of_card(card, {}, spec)
    assert str(refused.value) == words


@pytest.mark.parametrize("change", [{"images": 1}, {"max_levels": 1}, {"labels": None}, {"gpu": "yes"}, {"because": 3}])
def test_a_card_says_it_in_the_stated_form(change: dict[str, object]) -> None:
    with pytest.raises(PluginError, match=f"expected {next(iter(change))} to be"):
        replace(CARD, **change)  # type: ignore[arg-type]


def test_the_matrix_says_each_reason_once() -> None:
    """Seeds are counted, reasons are told with where they hold; no matrix where there is nothing to tell."""
    table = matrix(
        [
            Place("a", "moons", "ok"),
            Place("a", "moons", "fail", "loss is nan"),
            Place("b", "moons", "skip", "takes codes"),
            Place("b", "rings", "skip", "takes codes"),
            Place("a", "rings", "ok"),
            Place("a", "rings", "ok"),
        ]
    )
    assert table is not None
    assert text(table).splitlines() == [
        "model  moons         rings",
        "a      ok 1, fail 1  ok",
        "b      skip          skip",
        "  a on moons: fail: loss is nan",
        "  b on moons, rings: skip: takes codes",
    ]
    assert [row.role for row in table.rows] == ["failed", "model"]
    assert matrix([Place("a", "moons", "ok"), Place("b", "moons", "run")]) is None


def small(models: str | tuple[str, ...], *datasets: Path, **options: object) -> Plan:
    evaluation = EvaluationPlan(points=16, num_samples=2, samples=4)
    return Plan(models=models, datasets=tuple(map(str, datasets)), budget="2steps", evaluation=evaluation, **options)  # type: ignore[arg-type]


def test_all_is_every_registered_model_and_stays_in_the_plan(tmp_path: Path) -> None:
    """`all` in a file and among names, which come first with their options."""
    file = tmp_path / "plan.toml"
    file.write_text('models = "all"\ndatasets = ["moons"]\n')
    plan = Plan.read(file)
    assert plan.models == ("all",)
    assert Plan.parse({"models": ["all"]}, "test").to_toml().startswith('models = ["all"]')
    assert plan.models_of(["b", "a"]) == ["a", "b"]
    assert Plan(models=("b", "all", "a[k=1]")).models_of(["b", "a", "c"]) == ["b", "a", "c", "a[k=1]"]


def test_what_a_card_declines_is_skipped_before_training(
    tiny: Path, tmp_path: Path, inline: Executor, brittle: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker sees the cell; the matrix stands on the terminal, in markdown and on the page; a next run keeps it."""
    ran = []
    work = bench.run_cell
    monkeypatch.setattr(bench, "run_cell", lambda cell: ran.append(cell.dataset) or work(cell))
    plan = small(("brittle", "gaussian"), tiny / "points.npz", tiny / "images.npz")
    states = {
        (s.cell.model, Path(s.cell.dataset).stem): s
        for s in bench.run(plan, tmp_path, executor=inline, plugins=brittle)
    }
    assert {place: state.status for place, state in states.items()} == {
        ("brittle", "points"): "ok",
        ("gaussian", "points"): "ok",
        ("brittle", "images"): "skipped",
        ("gaussian", "images"): "ok",
    }
    assert len(ran) == 3
    record = states["brittle", "images"].record
    assert record is not None
    assert record.error is not None
    reason = "brittle takes real data; this data set is discrete"
    assert record.error == {"type": "CapabilityError", "message": reason, "traceback": ""}
    out = io.StringIO()
    terminal([tmp_path], Console(file=out, width=200))
    assert f"{tiny / 'images.npz'}: skip: {reason}" in out.getvalue()
    assert "## Cells" in render([tmp_path], "md")
    page = render([tmp_path], "html")
    assert "cells by model and data set" in page
    assert "3 cells evaluated, 1 cell skipped" in page
    assert [s.status for s in bench.run(plan, tmp_path, executor=inline, plugins=brittle)] == ["kept"] * 4


def test_all_leaves_out_what_takes_none_of_the_data(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that takes none is an error where it was given, and a skip under `all`; nothing left is an error; a card
    that cannot be imported is a cell that will fail, and one that needs a GPU is left out on a CPU."""
    cards = {card.name: card for card in (CARD, replace(CARD, name="codes", data=("binary",)))}
    cards["gone"] = replace(CARD, name="gone", target="genzoo.nowhere:Gone")
    cards["fast"] = replace(CARD, name="fast", gpu=True)
    known = replace(registry.load_registry(), models=cards)
    monkeypatch.setattr(bench, "load_registry", lambda plugins=(): known)
    checked = bench.check(small("all", tiny / "points.npz", device="cpu"))
    assert checked.models == ["codes", "fast", "gone", "m"]
    data = str(tiny / "points.npz")
    assert checked.declined == {
        ("codes", data): "codes takes binary data; this data set is real",
        ("fast", data): "fast is trained on a GPU; this bench runs on the CPU",
    }
    with pytest.raises(CapabilityError, match="codes takes binary data"):
        bench.check(small(("codes", "all"), tiny / "points.npz"))
    with pytest.raises(PluginError, match=r"genzoo\.nowhere"):
        bench.check(small(("gone",), tiny / "points.npz"))
    cards.pop("m"), cards.pop("gone"), cards.pop("fast")
    with pytest.raises(CapabilityError, match="codes takes binary data"):
        bench.check(small("all", tiny / "points.npz"))


def test_the_skips_are_printed_before_the_first_cell(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--dry-run` names the cells that will run; the matrix and its reasons are on stderr."""
    args = ["bench", "-m", "gaussian,rbm", "-d", f"{tiny / 'points.npz'},digits", "--dry-run"]
    with pytest.raises(CapabilityError):  # rbm takes neither: asked for by name, that is an error
        bench.check(Plan(models=("rbm",), datasets=(str(tiny / "points.npz"), "digits")))
    assert main([*args[:2], "gaussian,categorical_mixture", *args[3:]]) == 0
    out, err = capsys.readouterr()
    assert [line.split("-")[0] for line in out.splitlines()] == ["gaussian", "gaussian", "categorical_mixture"]
    assert "categorical_mixture  skip" in err
    assert "categorical_mixture takes binary, discrete data; this data set is real" in err
    assert "3 cells" in err


def test_the_plan_of_ci_is_that_of_the_zoo() -> None:
    """The same models and data; a few steps instead of a minute."""
    zoo, ci = (Plan.read(Path(__file__).parent.parent / "benchmarks" / name) for name in ("zoo.toml", "zoo-ci.toml"))
    assert zoo.models == ci.models == ("all",)
    assert zoo.datasets == tuple(Reference.parse(each).name for each in ci.datasets)  # ci's may take fewer points
    assert (zoo.budget, ci.budget, ci.evaluation.points) == ("60s", "20steps", 16)
