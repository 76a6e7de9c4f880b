"""Reports of a synthetic run: records and arrays by numpy, where every rank and error is known."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import json
import math
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner
from rich.console import Console

from genzoo import report
from genzoo.cli.report import command
from genzoo.errors import CapabilityError, RunError
from genzoo.records import ROW_KEYS, RunRecord, write_arrays, write_json
from genzoo.report import figures, formats, numbers, table, tightness
from genzoo.report.collect import Group, collect
from genzoo.report.pairs import Difference, compare, pair_table
from genzoo.report.verdict import verdict

N = 1000
EVIL = "<script>alert(1)</script>[b]\"'{{ 7*7 }}|$x$\x1b[31m"
Arrays = dict[str, np.ndarray[Any, Any]]


def mixture(x: np.ndarray[Any, Any], width: float, centre: float) -> np.ndarray[Any, Any]:
    """Log-density in nats at `(n, 2)` of two Gaussians of scale `width` at (-centre, 0) and (centre, 0)."""
    squares = [((x - (sign * centre, 0)) ** 2).sum(-1) / (2 * width**2) for sign in (-1, 1)]
    log_sum: np.ndarray[Any, Any] = np.logaddexp(-squares[0], -squares[1])
    return log_sum - math.log(4 * math.pi * width**2)


def points(n: int, width: float, centre: float, seed: int) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(seed)
    return generator.choice([-1, 1], (n, 1)) * (centre, 0) + width * generator.standard_normal((n, 2))


def plane(centre: float, width: float, gap: float = 0.0, noise: float = 0.0, seed: int = 0, n: int = N) -> Arrays:
    """Arrays of a model that is the mixture of a wrong `width` (the truth's is 0.5), less `gap`, with noise in nats."""
    x = points(N, 0.5, centre, seed=99)[:n]
    grid = np.linspace(-4, 4, 96)
    mesh = np.stack(np.meshgrid(grid, grid), axis=-1)  # (96, 96, 2), first axis y
    steps = np.arange(1, 41) * 50
    log_p, log_q = mixture(x, 0.5, centre), mixture(x, width, centre)
    lower = log_q - gap + noise * np.random.default_rng(seed).standard_normal(n)
    return {
        "index": np.arange(n),
        "lower": lower,
        "variance": np.full(n, noise**2),
        "log_p": log_p,
        "valid_step": steps,
        "valid_seconds": steps * 0.01,
        "valid_nll": -lower.mean() + 3 * np.exp(-steps / 300.0),
        "samples": points(800, width, centre, seed=5).astype(np.float32),
        "reference": x[:800].astype(np.float32),
        "grid_x": grid,
        "grid_y": grid,
        "grid_truth": mixture(mesh, 0.5, centre),
        "grid_model": mixture(mesh, width, centre) - gap,
    }


def sheet(level: float, seed: int) -> Arrays:
    generator = np.random.default_rng(seed)
    lower = -level + 5 * np.random.default_rng(3).standard_normal(N) + 0.5 * generator.standard_normal(N)
    return {
        "index": np.arange(N),
        "lower": lower,
        "valid_step": np.arange(1, 30),
        "valid_seconds": np.arange(1, 30) * 0.5,
        "valid_nll": level + 200 / np.arange(1, 30),
        "samples": generator.integers(0, 17, (64, 1, 8, 8)).astype(np.uint8),
        "reference": generator.integers(0, 17, (64, 1, 8, 8)).astype(np.uint8),
    }


def save(run: Path, model: str, dataset: str, kind: str | None, arrays: Arrays | None, **more: Any) -> Path:
    """Write a cell whose numbers follow from its arrays."""
    seed = more.pop("seed", 0)
    cell: str = more.pop("cell", f"{model}-{dataset}-{seed}-0123456789")
    values: dict[str, Any] = {
        "label": model,
        "protocol": {"dataset": dataset, "data_hash": "ab" * 16, "split": "seeds 0, 1, 2", "target": "p(x)"},
        "event_shape": [2],
        "config": {"layers": 8},
        "budget": "60s",
        "versions": {"genzoo": "0.1.0", "torch": "2.13.0"},
        "commit": "c0ffee",
        "started": "2026-01-01T00:00:00Z",
        "seconds_train": 59.87,
        "seconds_eval": 3.21,
        "seconds_sample": 0.5,
        "samples": 2000,
        "steps": 12345,
        "parameters": 54321,
        "family": "flow",
        "paper": "arXiv:1906.04032",
        "plugin": "genzoo-flow 0.1.0",
    }
    if arrays is not None:
        lower = arrays["lower"]
        stderr = lower.std(ddof=1) / math.sqrt(len(lower))
        mc = math.sqrt(arrays["variance"].sum()) / len(lower) if "variance" in arrays else None
        values |= {"nll": -lower.mean(), "stderr": stderr, "stderr_mc": mc}
        values["stderr_data"] = None if mc is None else math.sqrt(max(0, stderr**2 - mc**2))
        values["evaluation"] = {"estimator": "iwae", "num_samples": 50, "points": len(lower)}
        if "log_p" in arrays:
            d = arrays["log_p"] - lower
            values |= {"kl": d.mean(), "kl_stderr": d.std(ddof=1) / math.sqrt(len(d)), "entropy": 1.7}
    record = RunRecord(
        cell=cell, status=more.pop("status", "ok"), model=model, dataset=dataset, seed=seed, kind=kind, **values | more
    )
    folder = run / "cells" / cell
    record.save(folder)
    if arrays is not None:
        write_arrays(folder / "arrays.npz", arrays)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two planes, one image data set; a failed cell, an estimate, a bracket, an infinite NLL, a bug, an injection."""
    run = tmp_path_factory.mktemp("runs") / "first"
    metrics = {"sliced_wasserstein": {"value": 0.0312, "reference": 0.0201}}
    save(run, "flow", "pair", "exact", plane(2.0, 0.52), kl_quadrature=0.0031, mass=1.0001, metrics=metrics)
    save(run, "vae", "pair", "weights", plane(2.0, 0.52, 0.03, 0.05), terms={"reconstruction": -1.5, "kl": 0.3})
    save(run, "ddpm", "pair", "lower_bound", plane(2.0, 0.6, 0.05, 0.5))
    save(run, "gan", "pair", "estimate", plane(2.0, 0.5))
    save(run, "rbm", "pair", "bracket", plane(2.0, 0.7, 0.1), nll_lower=1.75, certified=True)
    for seed in (0, 1, 2):
        save(run, "flow", "ring", "exact", plane(1.0, 0.52 + 0.01 * seed), seed=seed)
    save(run, "vae", "ring", "weights", plane(1.0, 0.7, 0.02, 0.05), notes=["Evaluated on fewer points than asked."])
    save(run, "ddpm", "ring", "lower_bound", plane(1.0, 0.51, -0.5), below_floor=True)
    spike = plane(1.0, 0.5)
    spike["lower"][:7] = -np.inf
    numbers_of_spike = {"nll": None, "infinite": 7, "stderr": None, "stderr_data": None, "kl": None, "kl_stderr": None}
    with np.errstate(invalid="ignore"):  # the errors of -inf, replaced by None
        save(run, "spike", "ring", "weights", spike, **numbers_of_spike)
    trace = f'Traceback (most recent call last):\n  File "x.py", line 1\nNumericsError: {EVIL}'
    error = {"type": "NumericsError", "message": f"loss not finite {EVIL}", "traceback": trace}
    save(run, "vae", "ring", None, None, status="failed", seed=1, protocol={}, error=error)
    save(run, "evil", "ring", "exact", plane(1.0, 0.8), label=EVIL, summary=EVIL, paper=EVIL, plugin=EVIL, notes=[EVIL])
    for model, kind, level in (("flow", "weights", 120.0), ("vae", "weights", 110.0), ("ddpm", "lower_bound", 130.0)):
        bits = level / (64 * math.log(2))
        arrays = sheet(level, seed=len(model))
        save(run, model, "pix", kind, arrays, event_shape=[1, 8, 8], levels=17, bits_per_dim=bits)
    return run


@pytest.fixture(scope="module")
def groups(run: Path) -> dict[str, Group]:
    return {group.dataset: group for group in collect([run])}


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return report.render([run], "html")


def cells(group: Group, title: str) -> dict[tuple[str, str], str]:
    """The cells of one column of the results, by model and seed."""
    made = table.results(group)
    titles = [column.title for column in made.columns]
    at = [titles.index(name) for name in ("model", "seed", title)]
    return {(row.cells[at[0]], row.cells[at[1]]): row.cells[at[2]] for row in made.rows}


def test_ranks_follow_the_bound_and_leave_out_what_has_no_direction(groups: dict[str, Group]) -> None:
    assert [*groups] == ["pair", "ring", "pix"]
    ranks = {standing.label: standing.rank for standing in groups["pair"].standings}
    assert ranks == {"flow": 1, "vae": 2, "ddpm": 3, "rbm": 4, "gan": None}
    ranks = {standing.label: standing.rank for standing in groups["ring"].standings}
    assert ranks == {"flow": 1, "vae": 2, EVIL: 3, "spike": 4, "ddpm": None}
    assert [standing.label for standing in groups["pix"].standings] == ["vae", "flow", "ddpm"]
    assert cells(groups["ring"], "rank")["ddpm", "0"] == "bug"
    assert any(note.startswith("BUG ddpm, seed 0") for note in table.results(groups["ring"]).notes)
    assert "ddpm beats the truth, which is a bug: not ranked." in verdict(groups["ring"]).details


def test_signs_say_what_a_number_is(groups: dict[str, Group]) -> None:
    pair, ring = cells(groups["pair"], "NLL, nats"), cells(groups["ring"], "NLL, nats")
    assert re.fullmatch(r"= \d\.\d{3} \+- 0\.0\d\d", pair["flow", "0"])
    assert pair["vae", "0"].startswith("<= ")
    assert pair["ddpm", "0"].startswith("<= ")
    assert pair["gan", "0"].startswith("~ ")
    assert pair["rbm", "0"].startswith("[1.750, ")
    assert ring["spike", "0"] == "<= inf (7 at -inf)"
    assert ring["vae", "1"] == "failed"
    assert cells(groups["pair"], "KL to truth, nats")["ddpm", "0"].startswith("<= 0.")
    assert cells(groups["pair"], "KL by quadrature")["flow", "0"] == "0.0031"
    assert "certified" in cells(groups["pair"], "estimator")["rbm", "0"]
    assert cells(groups["pix"], "bits/dim")["vae", "0"].startswith("<= 2.4")


@pytest.mark.parametrize(
    ("value", "stderr", "expected"),
    [
        (1.23456, 0.0123, "1.235 +- 0.012"),
        (1.23456, 0.0996, "1.23 +- 0.10"),
        (-0.00004, 0.012, "0.000 +- 0.012"),
        (98.24, 1.26, "98.2 +- 1.3"),
        (1234.56, 123.0, "1235 +- 123"),
        (0.123456789, 1e-12, "0.123457 +- 0.000000"),
        (1.23456, None, "1.2346"),
        (1.5, 0.0, "1.5000 +- 0.0000"),
        (None, 0.1, "-"),
        (math.inf, None, "inf"),
    ],
)
def test_digits_follow_the_error(value: float | None, stderr: float | None, expected: str) -> None:
    assert numbers.with_error(value, stderr) == expected


def test_several_seeds_get_a_mean_with_its_error(groups: dict[str, Group]) -> None:
    flow = groups["ring"].standings[0]
    nll = [entry.record.nll or math.nan for entry in flow.entries]
    assert [entry.record.seed for entry in flow.entries] == [0, 1, 2]
    assert flow.summary.nll == pytest.approx(np.mean(nll))
    assert flow.summary.stderr == pytest.approx(np.std(nll, ddof=1) / math.sqrt(3))
    reach = 4.302653 * np.std(nll, ddof=1) / math.sqrt(3)  # t of two degrees
    assert flow.interval() == pytest.approx((np.mean(nll) - reach, np.mean(nll) + reach), rel=1e-6)
    data = math.sqrt(np.mean([(entry.record.stderr_data or 0) ** 2 for entry in flow.entries]))
    assert flow.summary.stderr_data == pytest.approx(data)
    wide = flow.interval(population=True)
    assert wide is not None
    both = math.hypot(flow.summary.stderr or 0, data)
    assert 1.96 * both < wide[1] - np.mean(nll) < 4.302653 * both
    note = next(note for note in table.results(groups["ring"]).notes if "over 3 seeds" in note)
    assert re.fullmatch(
        r"flow, at 95 % over 3 seeds: \[.*\] nats on these test points, \[.*\] nats for the population of them.", note
    )
    assert groups["ring"].standings[1].interval() is None  # one seed
    names = cells(groups["ring"], "rank")
    assert names["flow", "mean of 3"] == "1"
    assert names["flow", "2"] == ""


def paired(groups: dict[str, Group], planted: float = 1.0) -> tuple[Difference | None, float, float]:
    """compare() of flow and vae on "pair", and the same from the arrays by hand, vae's values times `planted`."""
    flow, vae = groups["pair"].standings[:2]
    a, b = flow.entries[0].arrays["lower"], vae.entries[0].arrays["lower"] * planted
    return compare(flow, vae), float((a - b).mean()), float((a - b).std(ddof=1) / math.sqrt(N))


def test_the_difference_is_paired(groups: dict[str, Group]) -> None:
    # Tolerance 1e-9: the same sums in float64, in another order.
    made, nats, stderr = paired(groups)
    assert made is not None
    assert (made.nats, made.stderr) == pytest.approx((nats, stderr), rel=1e-9)
    # the common noise of the points cancels: ten times below the error of either mean
    assert made.stderr < 0.1 * (groups["pair"].standings[0].summary.stderr or 0)
    _, nats, stderr = paired(groups, planted=1.01)
    assert (made.nats, made.stderr) != pytest.approx((nats, stderr), rel=1e-9)


def test_a_shared_error_enters_the_difference(tmp_path: Path) -> None:
    arrays = plane(1.0, 0.6, noise=0.1)
    own = 0.1**2 / N
    save(tmp_path, "field", "a", "weights", arrays, stderr_mc=math.sqrt(own + 0.3**2))
    save(tmp_path, "flow", "a", "exact", plane(1.0, 0.5))
    first, second = collect([tmp_path])[0].standings
    made = compare(first, second)
    assert made is not None
    assert made.stderr == pytest.approx(0.3, rel=1e-3)  # s_d^2/n is 1e-4 of 0.3^2


def test_verdicts(groups: dict[str, Group]) -> None:
    said = verdict(groups["pair"])
    assert said.headline.startswith("pair: flow leads: NLL = 2.")
    assert "KL to the truth 0.00" in said.headline
    assert re.match(r"vae is 0\.03\d+ \+- 0\.00\d+ nats behind \(paired over 1,000 points in common", said.details[0])
    assert said.details[1] == "vae's figure is a bound: its own NLL may be lower."
    assert "(<= 2.4796 bits/dim)" in verdict(groups["pix"]).headline


def test_a_difference_within_its_error_is_no_victory(tmp_path: Path) -> None:
    for model, seed in (("a", 1), ("b", 2)):
        save(tmp_path, model, "d", "weights", plane(1.0, 0.5, noise=1.0, seed=seed))
    said = verdict(collect([tmp_path])[0])
    assert (
        "a and b cannot be told apart; a: NLL <= " in said.headline
        or "b and a cannot be told apart; b:" in said.headline
    )


def test_a_divergence_within_its_error_says_so(tmp_path: Path) -> None:
    for name, noise, gap in (("true", 0.3, 0.0), ("near", 0.3, 0.05)):
        save(tmp_path, "a", name, "weights", plane(1.0, 0.5, gap, noise, seed=4))
    headlines = {group.dataset: verdict(group).headline for group in collect([tmp_path])}
    assert headlines["true"].endswith("nats, not told from 0.")
    assert re.search(r"KL to the truth <= 0\.0\d+ \+- 0\.0\d+ nats\.$", headlines["near"])


def test_over_seeds_the_error_is_that_of_the_seeds(tmp_path: Path) -> None:
    for seed in (0, 1):
        save(tmp_path, "a", "d", "exact", plane(1.0, 0.50 + 0.02 * seed), seed=seed)
        save(tmp_path, "b", "d", "exact", plane(1.0, 0.60 + 0.02 * seed), seed=seed)
    group = collect([tmp_path])[0]
    made = compare(*group.standings)
    assert made is not None
    errors = [standing.summary.stderr or 0 for standing in group.standings]
    assert made.stderr == pytest.approx(math.hypot(*errors), rel=1e-9)
    assert 1 <= made.dof <= 2
    assert "(error over 2 and 2 seeds: of the methods, on these 1,000 points)" in verdict(group).details[0]


def test_ranks_use_the_points_in_common(tmp_path: Path) -> None:
    easy = plane(1.0, 0.50)
    order = np.argsort(-easy["log_p"])
    worse = plane(1.0, 0.55)
    few = order[: N // 4]
    save(tmp_path, "all", "d", "exact", easy)
    save(
        tmp_path, "few", "d", "exact", worse | {key: worse[key][few] for key in ("index", "lower", "variance", "log_p")}
    )
    group = collect([tmp_path])[0]
    records = {standing.label: standing.summary for standing in group.standings}
    assert (records["few"].nll or 0) < (records["all"].nll or 0)  # only because its points are the likeliest
    assert [standing.label for standing in group.standings] == ["all", "few"]
    assert group.common == N // 4
    assert "Ranks use the 250 test points" in table.results(group).notes[0]


def test_other_protocols_and_efforts_stand_apart(tmp_path: Path) -> None:
    save(tmp_path, "a", "d", "exact", plane(1.0, 0.5))
    save(tmp_path, "a", "d", "exact", plane(1.0, 0.5), cell="other", seed=1, protocol={"data_hash": "x"})
    save(tmp_path, "a", "d", "exact", plane(1.0, 0.5), cell="valid", seed=1, split="valid")
    save(tmp_path, "a", "d", "exact", plane(1.0, 0.6), cell="short", seed=1, budget="5s")
    groups = collect([tmp_path])
    assert sorted(len(group.standings) for group in groups) == [1, 1, 2]
    assert "budget" in [c.title for g in groups for c in table.results(g).columns]
    assert len(re.findall(r"<h2[^>]*>d \(", report.render([tmp_path], "html"))) == 3


def test_later_readings_are_listed_and_never_ranked(tmp_path: Path) -> None:
    folder = save(tmp_path, "a", "d", "weights", plane(1.0, 0.6))
    save(tmp_path, "b", "d", "weights", plane(1.0, 0.55))
    evaluation = {"estimator": "ais", "num_samples": 5000, "points": N}
    write_json(folder / "readings.json", [{"reading": 2, "nll": 0.1, "stderr": 0.01, "evaluation": evaluation}])
    group = collect([tmp_path, tmp_path])[0]  # given twice, read once
    assert [standing.label for standing in group.standings] == ["b", "a"]
    assert [*cells(group, "rank")] == [("b", "0"), ("a", "0")]
    assert any("Only the first reading" in note for note in table.results(group).notes)
    every = tightness.table(group)
    assert every is not None
    assert "<= 0.100 +- 0.010" in [row.cells[6] for row in every.rows]
    assert [row["reading"] for row in report.rows([tmp_path])] == [1, 1, 2]
    assert group.standings[1].later[0].arrays == {}


def test_rows_have_the_documented_keys_and_no_nan(run: Path) -> None:
    rows = json.loads(report.render([run], "json"), parse_constant=pytest.fail)
    assert len(rows) == len([*(run / "cells").iterdir()])
    assert all(tuple(row) == ROW_KEYS for row in rows)
    spike = next(row for row in rows if row["model"] == "spike")
    assert (spike["nll"], spike["infinite"], spike["status"]) == (None, 7, "ok")
    assert next(row for row in rows if row["status"] == "failed")["error"]["type"] == "NumericsError"
    assert rows[0]["estimator"] == {"estimator": "iwae", "num_samples": 50, "points": N}


class Outline(html.parser.HTMLParser):
    """Every tag with its attributes, and which are left open."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_for_nothing(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    assert not re.search(r"NaN|Undefined|None[^a-z]", re.sub(r"base64,[^\"]+", "", page))
    kinds = ("script", "link", "iframe", "object", "embed", "base", "form")
    loaded = [(tag, attributes) for tag, attributes in outline.tags if tag in kinds]
    assert loaded == [
        ("link", {"rel": "icon", "href": "data:,"}),  # none, or a server would be asked for one
        ("script", {"type": "application/json", "id": "records"}),
        ("script", {}),
    ]
    for tag, attributes in outline.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style", tag  # the policy would refuse it
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                assert str(value).startswith(("data:image/png;base64,", "data:,", "#")), (tag, name, value)
    assert "url(" not in page
    assert "@import" not in page
    policy = next(a["content"] for _, a in outline.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    for kind in ("style", "script"):
        (source,) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy


def test_the_page_says_what_it_should(page: str) -> None:
    tags = Outline(page).tags
    images = [attributes for tag, attributes in tags if tag == "img"]
    alts = [str(attributes["alt"]) for attributes in images]
    assert "density of flow on pair" in alts
    assert "bound on the density of vae on pair" in alts
    assert "samples of ddpm on pix" in alts
    assert all(alts)
    lines = [str(attributes["class"]) for tag, attributes in tags if tag == "polyline"]
    assert sum(name.startswith("line ") for name in lines) == 2 * (5 + 7 + 3)  # a curve a cell and axis
    assert lines.count("floor stairs") == 3 * 3  # the frontier of three costs on three data sets
    assert "told apart" in page.lower()
    assert sum(attributes.get("scope") == "row" for _, attributes in tags) > 15
    assert 'class="failed"' in page
    assert "genzoo bench -m" in page
    assert "entropy of the truth, 1.7000 nats" in page
    assert "<dt>genzoo</dt><dd>0.1.0</dd>" in page
    assert "<dt>torch</dt><dd>2.13.0</dd>" in page


def test_more_models_than_colours_are_told_apart(tmp_path: Path) -> None:
    """Twelve: each has its own name and stroke in the legend of the curves; dots of the frontier have numbers."""
    names = [f"model{number:02d}" for number in range(12)]
    for number, name in enumerate(names):
        ends = np.array([3.0, 2.5, 2.4 + 0.01 * number])
        curve = {"valid_nll": ends, "valid_step": np.arange(1.0, 4), "valid_seconds": np.arange(1.0, 4)}
        save(tmp_path, name, "pair", "exact", plane(2.0, 0.5 + 0.01 * number, seed=number) | curve)
    made = report.render([tmp_path], "html")
    curves, frontier = (made[made.index(f"<h3>{title}") :] for title in ("Learning curves", "Bound against cost"))
    entry = r'<i class="swatch (c\d v\d)"></i>([^<]*)</span>'
    legend = re.findall(entry, curves[: curves.index("</p>")])
    assert [label for _, label in legend] == names
    assert len({look for look, _ in legend}) == 12
    assert {look for look, _ in legend} == set(re.findall(r'<polyline class="line (c\d v\d)"', curves))
    assert [label for _, label in re.findall(entry, frontier)][:12] == [
        f"{n + 1} {name}" for n, name in enumerate(names)
    ]
    assert re.search(r'c0 v1[^>]*><title>model08</title></circle>\s*<text class="number"[^>]*>9</text>', frontier)
    few = tmp_path / "few"
    for name in names[:8]:
        shutil.copytree(next((tmp_path / "cells").glob(f"{name}-*")), few / "cells" / name)
    assert 'class="number"' not in report.render([few], "html")


def test_each_run_of_several_is_made_again_in_a_folder_of_its_own(tmp_path: Path) -> None:
    for name in ("first", "second"):
        save(tmp_path / name, name, "pair", "exact", plane(2.0, 0.5))
    made = report.render([tmp_path / "first", tmp_path / "second"], "md")
    assert re.findall(r"genzoo bench -m (\w+) .* -o (\S+)", made) == [
        ("first", "runs/again-1"),
        ("second", "runs/again-2"),
    ]
    assert "-o runs/again\n" in report.render([tmp_path / "first"], "md") + "\n"


def test_what_was_skipped_has_not_failed(tmp_path: Path) -> None:
    save(tmp_path, "flow", "pair", "exact", plane(2.0, 0.5))
    error = {"type": "CapabilityError", "message": "rbm takes binary data"}
    save(tmp_path, "rbm", "pair", None, None, status="skipped", error=error)
    made = report.render([tmp_path], "html")
    assert "Failed cells" not in made
    assert "rbm takes binary data" in made
    assert '<tr class="skipped"' in made
    assert '<tr class="failed"' not in made


def test_names_cannot_inject(run: Path, page: str) -> None:
    assert page.count("<script") == page.count("</script>") == 2  # the page's own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7*7 }}" in page  # as text, not as a template
    assert "\x1b" not in page
    markdown = report.render([run], "md")
    assert "<script" not in markdown
    assert "\x1b" not in markdown
    assert "\x1b" not in report.render([run], "json")
    tex = report.render([run], "tex")
    assert r"\{\{ 7*7 \}\}" in tex
    for line in tex.splitlines():
        assert line.startswith(("%", "\\")) or line.endswith(r"\\") or not line


def test_csv_holds_rows_and_no_formula() -> None:
    row = dict.fromkeys(ROW_KEYS) | {
        "model": "\t=HYPERLINK()",
        "dataset": "a\x1b[31m",
        "nll": -1.5,
        "terms": {"kl": 1.0},
    }
    lines = formats.csv_text([row]).splitlines()
    assert lines[0] == ",".join(ROW_KEYS)
    assert lines[1].startswith(r"'=HYPERLINK(),a\x1b[31m,,,-1.5,")
    assert '"{""kl"": 1.0}"' in lines[1]


def test_markdown_and_tex(groups: dict[str, Group]) -> None:
    made = table.results(groups["pair"])
    lines = formats.markdown(made).splitlines()
    assert lines[0].startswith("| rank | model | seed | NLL, nats |")
    assert lines[3].startswith("| 2 | vae | 0 | ≤ 2.")
    tex = formats.tex(made)
    assert r"\toprule" in tex
    assert r"2 & vae & 0 & $\le$ 2." in tex
    apart = pair_table(groups["pair"])
    assert apart is not None
    assert [column.title for column in apart.columns] == ["ahead", "2. vae", "3. ddpm", "4. rbm"]
    assert re.fullmatch(r"0\.03\d+ \[0\.0\d+, 0\.0\d+\], p < 0\.0001", apart.rows[0].cells[1])
    assert apart.rows[1].cells[1] == "-"
    assert "over all 6 pairs of ranked models (Holm)" in apart.notes[1]
    matrix = formats.markdown(table.kl_matrix([*groups.values()]))
    assert [line.split(" | ")[0] for line in matrix.splitlines()] == ["| data", "| :--", "| pair", "| ring"]


def terminal(run: Path, width: int, is_terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=is_terminal, color_system=None)
    report.terminal([run], console)
    return out.getvalue()


def test_the_terminal_table_fits_and_a_pipe_gets_it_whole(run: Path) -> None:
    narrow, piped = terminal(run, 90, True), terminal(run, 20, False)
    body = [line for line in narrow.splitlines() if re.match(r"(rank| *\d) +\w", line)]
    assert len(body) > 10
    assert max(map(len, body)) <= 90
    assert "parameters" not in narrow
    assert "parameters" in piped
    assert "<= 2." in piped
    assert piped.isascii()
    assert "[b]" in piped  # rich's markup, as text
    assert "\x1b" not in piped


def test_an_estimator_with_settings_tells_them_in_a_note(tmp_path: Path) -> None:
    evaluation = {"estimator": "vlb[variance=fixed,steps=256]", "num_samples": 64, "points": N}
    save(tmp_path, "a", "d", "lower_bound", plane(1.0, 0.6), evaluation=evaluation)
    save(tmp_path, "b", "d", "exact", plane(1.0, 0.5), mass=1.02, evaluation={"estimator": "default", "points": N})
    group = collect([tmp_path])[0]
    assert cells(group, "estimator") == {("a", "0"): "vlb, K=64, 1,000 points", ("b", "0"): "exact, 1,000 points"}
    notes = table.results(group).notes
    assert "a: vlb with variance=fixed, steps=256" in notes
    assert "BUG b, seed 0: its density integrates to 1.020 over the grid, more than one." in notes


def test_missing_or_broken_arrays_leave_the_table(tmp_path: Path) -> None:
    save(tmp_path, "a", "d", "exact", plane(1.0, 0.5))
    other = save(tmp_path, "b", "d", "exact", plane(1.0, 0.6))
    (other / "arrays.npz").write_bytes(b"PK broken")
    odd = save(tmp_path, "c", "d", "exact", {"lower": np.zeros(3), "samples": np.zeros((2, 3, 4, 5, 6))})
    (save(tmp_path, "e", "d", "exact", plane(1.0, 0.8)) / "arrays.npz").unlink()
    text = report.render([tmp_path], "html")
    assert "arrays.npz is not a valid npz" in text
    assert "share no stored points" in text
    assert odd.name in text


def test_commands_and_errors(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    made = runner.invoke(command, [str(run), "-o", str(tmp_path / "x.html")], standalone_mode=False)
    assert made.output.strip() == str(tmp_path / "x.html")
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")
    made = runner.invoke(command, [str(run)], standalone_mode=False)
    assert (run / "report.html").exists()
    assert made.output.strip() == str(run / "report.html")
    shutil.copytree(run, tmp_path / "second")
    monkeypatch.chdir(tmp_path)
    own = (run / "report.html").read_bytes()
    made = runner.invoke(command, [str(run), "second"], standalone_mode=False)
    assert made.output.strip() == "comparison.html"
    assert (tmp_path / "comparison.html").read_bytes() != own == (run / "report.html").read_bytes()
    made = runner.invoke(command, [str(run), "--format", "csv", "-o", str(tmp_path / "x.csv")], standalone_mode=False)
    assert (tmp_path / "x.csv").read_text().count("\n") == len([*(run / "cells").iterdir()]) + 1
    with pytest.raises(RunError, match="no cells in"):
        report.rows([tmp_path / "nothing"])


def test_no_torch(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, genzoo.cli.report, genzoo.report as r; from rich.console import Console\n"
        f"run = pathlib.Path({str(run)!r}); r.write([run], pathlib.Path({str(tmp_path / 'x.html')!r}))\n"
        "r.rows([run]); r.terminal([run], Console())\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'matplotlib', 'sklearn')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


def decode(uri: str) -> np.ndarray[Any, Any]:
    """Pixels `(h, w, c)` of an unfiltered PNG, by its specification; RGBA where it has a palette."""
    data = base64.b64decode(uri.partition(",")[2])
    parts: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + body)
        parts[name] = body
        at += 12 + length
    width, height = struct.unpack(">II", parts[b"IHDR"][:8])
    bits, colour = parts[b"IHDR"][8:10]
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not lines[:, 0].any()
    if colour != 3:
        assert bits == 8
        return lines[:, 1:].reshape(height, width, {0: 1, 2: 3, 6: 4}[colour])
    places = np.unpackbits(lines[:, 1:], axis=1)[:, : width * bits].reshape(height, width, bits)
    table = np.frombuffer(parts[b"PLTE"], np.uint8).reshape(-1, 3)
    alpha = np.full(len(table), 255, np.uint8)
    alpha[: len(parts.get(b"tRNS", b""))] = np.frombuffer(parts.get(b"tRNS", b""), np.uint8)
    colours: np.ndarray[Any, Any] = np.column_stack([table, alpha])[places @ (1 << np.arange(bits)[::-1])]
    return colours


@pytest.mark.parametrize("colours", [1, 2, 3, 5, 17, 256, 257])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_come_back_from_a_png(colours: int, channels: int) -> None:
    """Every depth and sort of colour, at a width that fills no whole byte, read by another library too."""
    generator = np.random.default_rng(colours)
    table = generator.choice(256, (colours, channels)) if channels > 1 else np.arange(colours)[:, None] % 256
    pixels = table[generator.integers(0, colours, (23, 37))].astype(np.uint8)
    coded = figures.png(pixels[..., 0] if channels == 1 else pixels)
    with PIL.Image.open(io.BytesIO(coded)) as image:
        assert np.array_equal(np.asarray(image.convert("RGBA"))[..., :3], np.broadcast_to(pixels[..., :3], (23, 37, 3)))
        assert np.array_equal(
            np.asarray(image.convert("RGBA"))[..., 3], pixels[..., 3] if channels == 4 else 255 + 0 * pixels[..., 0]
        )
    ours = decode("," + base64.b64encode(coded).decode())
    assert np.array_equal(ours[..., : min(3, channels)], pixels[..., :3])


def test_maps_and_grids_are_the_arrays() -> None:
    log_density = np.full((4, 6), -np.inf)
    log_density[0, 0] = math.log(2.0)  # lowest y, lowest x: bottom left
    made = figures.density_map(log_density, 2.0, "map")
    assert made is not None
    pixels = decode(made.uri)
    assert pixels[-1, 0].tolist() == [253, 231, 37, 255]
    assert pixels[0, 0].tolist() == [68, 1, 84, 255]
    images = np.zeros((5, 3, 2, 2), np.uint8)
    images[4, 1] = 16
    made = figures.tiles(images, 17, "tiles")
    assert made is not None
    pixels = decode(made.uri)
    assert pixels.shape == (5, 8, 4)  # two rows of three tiles, a pixel between
    assert pixels[3, 3].tolist() == [0, 255, 0, 255]
    dots = figures.scatter(np.array([[0.0, 0.0], [9.0, 9.0]]), (-1, 1, -1, 1), "dots")
    assert dots is not None
    assert dots.alt == "dots, 1 of 2 outside the window"
    assert (decode(dots.uri)[..., 3] > 0).sum() == 4


def test_samples_as_a_file() -> None:
    images = np.zeros((70, 1, 2, 2), np.uint8)
    assert figures.samples_png(images, 2)[:8] == b"\x89PNG\r\n\x1a\n"
    uri = "," + base64.b64encode(figures.samples_png(images, 2)).decode()
    side = figures.SEEN // (9 * 3 - 1)
    pixels = decode(uri)  # all 70, not the 64 of a page, each pixel a square
    assert pixels.shape == (side * (8 * 3 - 1), side * (9 * 3 - 1), 4)
    assert (pixels == pixels[::side, ::side].repeat(side, axis=0).repeat(side, axis=1)).all()
    uri = "," + base64.b64encode(figures.samples_png(points(500, 0.5, 1.0, 0), None)).decode()
    pixels = decode(uri)
    assert pixels.shape == (figures.CANVAS, figures.CANVAS, 4)
    assert pixels[0, 0].tolist() == [255, 255, 255, 255]
    with pytest.raises(CapabilityError, match=r"shape \(7,\): expected \(2,\), \(1, h, w\)"):
        figures.samples_png(np.zeros((3, 7)), None)


def test_a_chart_is_in_its_frame() -> None:
    curve = figures.Curve(np.array([1.0, 5.0, 10.0]), np.array([9.0, 3.0, 2.0]), 1)
    made = figures.chart([curve, figures.Curve(np.array([5.0]), np.array([2.5]), 2)], 1.5, "seconds", "curves")
    assert made is not None
    (_, line), (_, dash) = made.lines
    places = [tuple(map(float, place.split(","))) for place in line.split()]
    assert places[-1][0] == made.right
    assert places[0][1] < places[1][1] < places[2][1] < (made.floor or 0) < made.bottom  # downwards is better
    assert len(dash.split()) == 2  # one point is still to be seen
    assert all(made.left <= x <= made.right for x, _ in made.x_ticks)


def test_axis_ticks() -> None:
    assert [text for _, text in figures.ticks(0, 60)] == ["0", "20", "40", "60"]
    assert [text for _, text in figures.ticks(1.62, 2.31)] == ["1.8", "2.0", "2.2"]
    assert [text for _, text in figures.ticks(-0.02, 0.03)] == ["-0.02", "-0.01", "0.00", "0.01", "0.02", "0.03"]


def test_figures_refuse_what_they_cannot_draw() -> None:
    assert figures.density_map(np.zeros(3), 1.0, "") is None
    assert figures.density_map(np.zeros((3, 3)), None, "") is None
    assert figures.scatter(np.zeros((3, 2)), None, "") is None
    assert figures.tiles(np.zeros((3, 2, 4, 4)), None, "") is None
    assert figures.chart([], None, "", "") is None
    nan = np.full(5, np.nan)
    assert figures.chart([figures.Curve(nan, nan, 0)], 1.0, "", "") is None
    assert figures.density_scale(np.full((3, 3), -np.inf)) is None


def test_write_leaves_no_half_file(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = report.write([run], tmp_path / "report.html")
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write([run], path)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]
