"""Results in a notebook and a shell: tables that say what the numbers are, in which names stay text."""

from __future__ import annotations

import html.parser
from concurrent.futures import Executor
from pathlib import Path

import pytest
import torch

import genzoo
from genzoo import bench
from genzoo.plan import EvaluationPlan, Plan
from genzoo.report.notebook import table_html
from genzoo.report.table import Column, Row, Table

EVIL = "<img src=x onerror=alert(1)>&\x1b[31m"


class Reader(html.parser.HTMLParser):
    """The cells of every row; which tags there are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "br":
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def evaluated() -> tuple[genzoo.GenerativeModel, genzoo.Dataset]:
    torch.set_num_threads(1)
    data = genzoo.load_dataset("moons")
    return genzoo.build_model("gaussian", data.spec), data


def test_an_evaluation_is_a_table(evaluated: tuple[genzoo.GenerativeModel, genzoo.Dataset]) -> None:
    model, data = evaluated
    curve = genzoo.fit(model, data, budget="1steps")
    result = genzoo.evaluate(model, data, points=500)
    rows = dict(Reader(result._repr_html_()).rows)
    places = max(0, len(rows["NLL, nats"].partition(".")[2].partition(" ")[0]))
    assert rows["NLL, nats"].startswith(f"= {result.nll:.{places}f} \u00b1 ")
    assert rows["KL to the truth, nats"].startswith(f"{result.kl:.2f}")
    assert rows["points"] == "500 of the test split"
    assert rows["estimator"].endswith(", exact, 1 draws a point")
    assert "bits/dim" not in rows
    assert repr(result) == f"<Evaluation: {result}>"
    assert "\n" not in repr(result)
    head, *points = Reader(curve._repr_html_()).rows
    assert head == ["step", "seconds", "loss", "validation NLL, nats"]
    assert [point[0] for point in points] == ["1"]
    assert repr(curve).splitlines()[1].startswith("step 1, ")


def test_a_bench_is_its_tables(tiny: Path, tmp_path: Path, inline: Executor, brittle: tuple[str, ...]) -> None:
    plan = Plan(
        models=("gaussian", "brittle[nan_from=0.5]"),
        datasets=(str(tiny / "points.npz"),),
        budget="5steps",
        evaluation=EvaluationPlan(points=16),
    )
    results = bench.run(plan, tmp_path / "run", plugins=brittle, executor=inline)
    shown = Reader(results._repr_html_())
    head, first, second = shown.rows
    assert head[:4] == ["rank", "model", "seed", "NLL, nats"]
    assert (first[0], first[1]) == ("1", "gaussian")
    assert (second[1], second[3]) == ("brittle[nan_from=0.5]", "failed")
    assert shown.tags <= {"p", "strong", "br", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    text = str(results)
    assert text == repr(results)
    assert text.splitlines()[0].endswith(
        "points.npz: gaussian is the only model ranked: NLL " + first[3].replace("\u00b1", "+-") + " nats."
    )
    assert len(results) == 2
    assert "no cells" in bench.Results()._repr_html_() + repr(bench.Results())


def test_names_stay_text() -> None:
    table = Table((Column(EVIL, text=True), Column("n")), (Row((EVIL, "1"), "model"),), (EVIL,))
    made = table_html(table)
    shown = Reader(made)
    assert shown.tags == {"table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    assert shown.rows[1][0] == r"<img src=x onerror=alert(1)>&\x1b[31m"
    assert "\x1b" not in made
