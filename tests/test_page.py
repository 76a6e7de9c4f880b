"""The page in a real browser, without a network: nothing is asked for, nothing complains, and what it offers works.

Skipped where no Chromium is installed.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from genzoo import report
from genzoo.records import ROW_KEYS, write_json
from genzoo.report import change_tables, embedded, ratio, table
from genzoo.report.changes import comparisons
from genzoo.report.collect import collect
from genzoo.report.details import PAIRS, details
from genzoo.report.numbers import NONE
from genzoo.report.table import READINGS as READINGS_TABLE
from genzoo.report.units import BITS, BITS_PER_DIM, NATS, Unit
from genzoo.report.verdict import verdict

ROOT = Path(__file__).resolve().parent.parent
EVIL = "<img src=x onerror=taken=1></script><script>taken=1</script>[red]&amp;"


def load(path: Path) -> ModuleType:
    """A module by its file."""
    spec = importlib.util.spec_from_file_location(f"page_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


driver = load(ROOT / "benchmarks" / "browser.py")
cells = load(ROOT / "tests" / "test_report.py")  # for its synthetic cells
needs_browser = pytest.mark.skipif(driver.chromium() is None, reason="no Chromium here: .ci/run installs it")


READINGS = (("elbo", 1, -0.5), ("iwae", 10, -0.1), ("ais[chains=16,steps=1000]", 16, 0.02))


def reading(number: int, estimator: str, draws: int, gain: float) -> dict[str, Any]:
    """A later reading of a cell, `gain` nats tighter than its first."""
    paired = {"nats": gain, "stderr": 0.01, "points": 1000}
    said = {"estimator": estimator, "num_samples": draws, "points": 1000}
    return {
        "reading": number,
        "nll": 2.1 - gain,
        "kind": "weights",
        "stderr": 0.05,
        "evaluation": said,
        "paired": paired,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine cells, one of a model with a hostile name, and one that failed with such words."""
    run = tmp_path_factory.mktemp("runs") / "nine"
    steps = {"flow": 900, "vae": 12_345, "ddpm": 3_000}
    for dataset, centre in (("pair", 2.0), ("ring", 1.0)):
        cells.save(run, "flow", dataset, "exact", cells.plane(centre, 0.52), steps=900, kl_quadrature=0.0031)
        names = {"label": EVIL, "plugin": EVIL, "paper": EVIL, "notes": [EVIL]} if dataset == "ring" else {}
        vae = cells.save(run, "vae", dataset, "weights", cells.plane(centre, 0.52, 0.03, 0.05), steps=12_345, **names)
        write_json(vae / "readings.json", [reading(number, *said) for number, said in enumerate(READINGS, start=2)])
        cells.save(run, "ddpm", dataset, "lower_bound", cells.plane(centre, 0.6, 0.05, 0.5), steps=3_000)
    for model, kind, level in (("flow", "weights", 120.0), ("vae", "weights", 110.0), ("ddpm", "lower_bound", 130.0)):
        image = {"event_shape": [1, 8, 8], "levels": 17, "bits_per_dim": level / (64 * math.log(2))}
        cells.save(run, model, "pix", kind, cells.sheet(level, len(model)), steps=steps[model], **image)
    error = {"type": "NumericsError", "message": EVIL, "traceback": f"Traceback\n{EVIL}"}
    cells.save(run, "broken", "ring", None, None, status="failed", error=error)
    return run


@pytest.fixture(scope="module")
def file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write([run], tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with driver.Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def tab(browser: Any, file: Path) -> Any:
    return browser.open(file)


def column(tab: Any, title: str, section: str = "ring") -> list[str]:
    """The cells of a column of a section's league, as shown, from the top."""
    return tab.run(f"""(() => {{
        const table = document.querySelector('section[data-name="{section}"] table');
        const titles = [...table.tHead.rows[0].cells].map(cell => cell.textContent);
        const at = titles.findIndex(text => text.startsWith({json.dumps(title)}));
        return [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[at].textContent);
    }})()""")


@needs_browser
def test_nothing_is_asked_for_and_nothing_complains(tab: Any, file: Path) -> None:
    assert tab.requests() == [file.as_uri()]
    assert tab.complaints() == []
    # both would be seen: the policy refuses a request and a script, and says so
    tab.run("""(() => {
        const picture = document.createElement('img');
        picture.src = 'https://example.org/x.png';
        const script = document.createElement('script');
        script.textContent = 'document.title = "taken"';
        document.body.append(picture, script);
        picture.remove(); script.remove();
    })()""")
    tab.run("new Promise(done => setTimeout(done, 50))")
    refused = " ".join(tab.complaints())
    assert "img-src" in refused
    assert "script-src" in refused
    assert tab.run("document.title") != "taken"
    tab.browser.events.clear()


@needs_browser
def test_hostile_names_are_text(tab: Any) -> None:
    assert tab.run("document.title") == "genzoo: " + ", ".join(sorted(["ddpm", "flow", "vae", EVIL]))
    assert tab.run("document.images.length") == tab.run("document.querySelectorAll('img[src^=\"data:\"]').length")
    assert tab.run("document.querySelectorAll('[onerror]').length") == 0
    assert tab.run("typeof taken") == "undefined"
    assert tab.run("document.scripts.length") == 2
    assert EVIL in column(tab, "model")
    assert tab.run("document.querySelector('.failure').textContent").count(EVIL) == 2


@needs_browser
def test_headings_sort_by_mouse_and_keys(tab: Any) -> None:
    given = column(tab, "model")
    assert given[-1] == "broken"  # failed: below all that have a number
    steps = [int(text.replace(",", "")) for text in column(tab, "steps")]
    head = "document.querySelectorAll('section[data-name=\"ring\"] table')[0].tHead.rows[0].cells"
    where = f"[...{head}].find(cell => cell.textContent === 'steps')"
    assert tab.run(f"{where}.getAttribute('aria-sort')") is None
    tab.run(f"{where}.querySelector('button').click()")
    assert [int(text.replace(",", "")) for text in column(tab, "steps")] == sorted(steps)
    assert tab.run(f"{where}.getAttribute('aria-sort')") == "ascending"
    tab.run(f"{where}.querySelector('button').focus()")
    tab.press("Enter", 13, "\r")
    assert [int(text.replace(",", "")) for text in column(tab, "steps")] == sorted(steps, reverse=True)
    assert tab.run(f"{where}.getAttribute('aria-sort')") == "descending"
    assert tab.run("document.getElementById('said').textContent") == "sorted by steps, descending"
    tab.press("Enter", 13, "\r")
    assert column(tab, "model") == given
    assert tab.run(f"{where}.getAttribute('aria-sort')") is None
    # without a number: last, whichever way
    tab.run(f"[...{head}].find(cell => cell.textContent === 'rank').querySelector('button').click()")
    assert column(tab, "rank")[-1] == "\u2013"
    tab.run(f"[...{head}].find(cell => cell.textContent === 'rank').querySelector('button').click()")
    assert column(tab, "rank") == ["3", "2", "1", "\u2013"]
    tab.run(f"[...{head}].find(cell => cell.textContent === 'rank').querySelector('button').click()")


def numbers_of(text: str) -> list[tuple[float, float]]:
    """The numbers in a text, each with half a unit of its last digit."""
    found = re.findall(r"\d+(?:\.(\d+))?", text)
    whole = re.findall(r"\d+(?:\.\d+)?", text)
    return [(float(number), 0.5 * 10.0 ** -len(places)) for number, places in zip(whole, found, strict=True)]


@needs_browser
@pytest.mark.parametrize(("value", "unit", "dims"), [("bits", "bits", 1), ("dim", "bits/dim", 2)])
def test_the_unit_changes_every_number_with_its_error(tab: Any, value: str, unit: str, dims: int) -> None:
    def choose(value: str) -> None:
        tab.run(f"document.querySelector('input[name=unit][value={value}]').click()")

    titles = ("NLL, ", "KL to truth, ", "KL by quadrature", "stderr data / MC")
    nats = {title: column(tab, title, "pair") for title in titles}
    pairs = "[...document.querySelectorAll('section[data-name=\"pair\"] details td')].map(cell => cell.textContent)"
    apart = tab.run(pairs)
    choose(value)
    per_nat = 1 / math.log(2) / dims
    for title in titles:
        for before, after in zip(nats[title], column(tab, title, "pair"), strict=True):
            old, new = numbers_of(before), numbers_of(after)
            assert len(old) == len(new)
            for (was, half), (now, rounding) in zip(old, new, strict=True):
                assert now == pytest.approx(per_nat * was, abs=per_nat * half + rounding + 1e-12), (before, after)
    assert [len(numbers_of(text)) for text in nats["NLL, "]] == [2, 2, 2]
    assert tab.run(pairs) != apart
    headings = tab.run("[...document.querySelectorAll('thead th')].map(cell => cell.textContent)")
    assert f"NLL, {unit}" in headings
    assert not [title for title in headings if re.search(r"(NLL|KL to truth), nats", title)]
    assert f" {unit}" in tab.run("document.querySelector('.verdicts a[href=\"#data-1\"]').textContent")
    choose("nats")
    assert {title: column(tab, title, "pair") for title in titles} == nats
    assert tab.run(pairs) == apart


@needs_browser
def test_filtering_by_model_data_and_status(tab: Any) -> None:
    def type_in(text: str) -> list[str]:
        tab.run(f"""(() => {{
            const box = document.getElementById('filter');
            box.value = {json.dumps(text)};
            box.dispatchEvent(new Event('input'));
        }})()""")
        shown = "[...document.querySelectorAll('section[data-name]')].filter(s => !s.hidden).map(s => s.dataset.name)"
        return [name for name in tab.run(shown) if name not in ("", "cells")]

    everything = type_in("")
    assert everything == ["pair", "ring", "pix"]
    assert type_in("flow") == ["pair", "ring", "pix"]
    assert column(tab, "model", "pair") == ["flow"]
    shown = "[...document.querySelectorAll('section[data-name=pair] [data-model]')].filter(f => !f.hidden).length"
    assert tab.run(shown) == 1
    assert type_in("pair flow") == ["pair"]
    assert tab.run("[...document.querySelectorAll('.verdicts li')].map(item => item.hidden)") == [False, True, True]
    assert "ring" in type_in("failed")
    assert column(tab, "model", "ring") == ["broken"]
    assert type_in("no such thing") == []
    assert tab.run("document.getElementById('said').textContent").startswith("0 of ")
    assert type_in("") == everything
    assert len(column(tab, "model", "ring")) == 4


@needs_browser
def test_the_records_can_be_saved(browser: Any, tab: Any, run: Path, tmp_path: Path) -> None:
    browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), eventsEnabled=True)

    def save(button: str) -> str:
        tab.run(f"document.getElementById('{button}').click()")
        while browser.wait("Browser.downloadProgress")["params"]["state"] != "completed":
            pass
        (made,) = tmp_path.iterdir()
        text = made.read_text(encoding="utf-8")
        made.unlink()
        return text

    records = json.loads(save("as-json"))
    rows = report.rows([run])
    assert [record["cell"] for record in records] == [row["cell"] for row in rows]
    assert [record["label"] for record in records].count(EVIL) == 1 + len(READINGS)
    for record, row in zip(records, rows, strict=True):
        assert {key: record["evaluation" if key == "estimator" else key] for key in ROW_KEYS} == row
    lines = [*csv.DictReader(io.StringIO(save("as-csv")))]
    assert tuple(lines[0]) == ROW_KEYS
    for line, row in zip(lines, rows, strict=True):
        assert line["cell"] == row["cell"]
        assert (float(line["nll"]) if line["nll"] else None) == row["nll"]
        assert json.loads(line["config"]) == row["config"]


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_everything_fits_and_no_labels_touch(tab: Any, width: int) -> None:
    tab.resize(width, 900)
    try:
        assert tab.run("document.documentElement.scrollWidth") <= width
        found = tab.run("""[...document.querySelectorAll('svg[role=img]')].map(drawing => ({
            name: drawing.getAttribute('aria-label'),
            frame: drawing.getBoundingClientRect().toJSON(),
            texts: [...drawing.querySelectorAll('text')].filter(t => t.textContent.trim()).map(t =>
                ({ text: t.textContent, ...t.getBoundingClientRect().toJSON() })),
        }))""")
        assert len(found) > 10
        for drawing in found:
            if not drawing["frame"]["width"]:
                continue  # folded
            for text in drawing["texts"]:
                assert text["height"] >= 11, (drawing["name"], text)
                assert text["left"] >= 0, (drawing["name"], text)
                assert text["right"] <= width, (drawing["name"], text)
            for i, one in enumerate(drawing["texts"]):
                for other in drawing["texts"][:i]:
                    apart = max(
                        max(one["left"], other["left"]) - min(one["right"], other["right"]),
                        max(one["top"], other["top"]) - min(one["bottom"], other["bottom"]),
                    )
                    assert apart > -3, (drawing["name"], one["text"], other["text"])
        small = tab.run("""[...document.images].filter(picture => picture.closest('.panels'))
            .map(picture => picture.getBoundingClientRect().width)""")
        assert min(small) >= 140
    finally:
        tab.resize(1280, 900)


@needs_browser
def test_a_screen_reader_finds_names(tab: Any) -> None:
    for what, selector in (
        ("caption", "table:not(:has(caption))"),
        ("scope", "th:not([scope])"),
        ("row heading", "tbody tr:not(:has(th[scope=row]))"),
        ("alt", "img:not([alt]), img[alt='']"),
        ("label", "svg:not(svg svg):not([aria-label])"),
        ("label", "input:not(label input)"),
        ("name", ".scroll:not([aria-label])"),
    ):
        assert tab.run(f"document.querySelectorAll({json.dumps(selector)}).length") == 0, (what, selector)
    assert tab.run("document.documentElement.lang") == "en"
    ids = tab.run("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(ids) == len({*ids})


@needs_browser
def test_without_its_script_the_page_is_read(browser: Any, file: Path) -> None:
    tab = browser.open(file, script=False)
    # the protocol still evaluates; nothing of the page has run
    assert tab.run("document.getElementById('tools').hidden") is True
    assert tab.run("document.querySelectorAll('thead button').length") == 0
    assert column(tab, "model", "pair") == ["flow", "vae", "ddpm"]
    assert tab.complaints() == []


@needs_browser
def test_print_and_dark(browser: Any, tab: Any, file: Path) -> None:
    printed = tab.pdf()
    assert 1 < len(re.findall(rb"/Type\s*/Page\b", printed)) < 40
    tab.send("Emulation.setEmulatedMedia", media="print")
    assert tab.run("getComputedStyle(document.getElementById('tools')).display") == "none"
    tab.send("Emulation.setEmulatedMedia", media="")
    dark = browser.open(file, dark=True)
    ground, ink = (dark.run(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    assert max(number for number, _ in numbers_of(ground)) < 60
    assert min(number for number, _ in numbers_of(ink)) > 200


def test_the_data_block_cannot_end_early(run: Path) -> None:
    entries = [entry.record for group in collect([run]) for entry in group.entries]
    text = embedded.data(entries)
    assert not {"<", ">", "&"} & {*text}
    held = json.loads(text)
    assert EVIL in [record["label"] for record in held["records"]]
    assert held["keys"] == list(ROW_KEYS)


def test_thirty_such_cells_are_under_five_megabytes(file: Path) -> None:
    assert file.stat().st_size / 9 * 30 < 5e6


def test_the_map_of_the_ratio_is_red_where_a_model_has_too_little() -> None:
    with np.errstate(divide="ignore"):
        truth = np.log(np.array([[1.0, 1.0, 1.0], [1e-4, 1e-4, 0.0]]))  # lowest y first
        model = np.log(np.array([[1.0, 0.1, 9.0], [1e-4, 1.0, 0.0]]))
    made = ratio.ratio_map(truth, model, "ratio")
    assert made is not None
    pixels = cells.decode(made.uri)[::-1]
    white, red, blue = ratio.COLOURS[2], ratio.COLOURS[-1], ratio.COLOURS[0]
    assert pixels[0, :, :3].tolist() == [white.tolist(), red.tolist(), blue.tolist()]
    assert pixels[1, 1, :3].tolist() == blue.tolist()
    assert pixels[..., 3].tolist() == [[255, 255, 255], [0, 255, 0]]
    assert ratio.ratio_map(None, model, "") is None
    assert ratio.ratio_map(truth, model[:1], "") is None


@pytest.mark.parametrize(("form", "heading"), [("md", "### {}"), ("tex", "% {}")])
def test_text_holds_every_table_of_the_page(run: Path, form: str, heading: str) -> None:
    text = report.render([run], form).splitlines()
    for group in collect([run]):
        for title, make in details(group):
            if make(NATS) is not None:
                assert heading.format(title) in text
    assert any(line.lstrip("% ").startswith("genzoo bench") for line in text)
    assert "<img" not in "".join(text) or form == "tex"


NATS_TOLD = re.compile(r".*, nats$|nats$|KL |stderr|MC error|tighter by|largest")
"""Titles of the columns whose numbers are nats."""


@pytest.mark.parametrize("unit", [BITS, BITS_PER_DIM], ids=str)
def test_every_table_and_verdict_says_the_same_in_every_unit(tmp_path: Path, unit: Unit) -> None:
    """Columns of nats are multiplied, number by number, to the rounding of both; no other cell changes."""
    parts = {"anatomy_kl_per_unit": np.array([0.25, 0.05, 0.2])}
    for seed in (0, 1):
        cells.save(tmp_path / "a", "flow", "pair", "exact", cells.plane(2.0, 0.52 + 0.01 * seed), seed=seed)
    more = {"terms": {"kl": 0.5, "reconstruction": -2.25}, "kl_quadrature": 0.0031}
    vae = cells.save(tmp_path / "a", "vae", "pair", "weights", cells.plane(2.0, 0.52, 0.03, 0.05) | parts, **more)
    write_json(vae / "readings.json", [reading(number, *said) for number, said in enumerate(READINGS, start=2)])
    cells.save(tmp_path / "a", "ddpm", "pair", "lower_bound", cells.plane(2.0, 0.6, 0.05, 0.5))
    cells.save(tmp_path / "b", "ddpm", "pair", "lower_bound", cells.plane(2.0, 0.58, 0.05, 0.5), steps=9)
    (group,) = collect([tmp_path / "a"])
    (changed,) = comparisons([tmp_path / "a", tmp_path / "b"])
    makers = [
        ("results", lambda unit: table.results(group, unit)),
        ("changes", lambda unit: change_tables.table(changed, unit)),
        *details(group, "steps"),
    ]
    factor, held = unit.factor([2]), set()

    def scaled(was: str, now: str) -> None:
        old, new = numbers_of(was), numbers_of(now)
        assert len(old) == len(new)
        for (before, half), (after, rounding) in zip(old, new, strict=True):
            assert after == pytest.approx(factor * before, abs=factor * half + rounding + 1e-12), (was, now)

    for name, make in makers:
        nats, other = make(NATS), make(unit)
        if nats is None:
            continue
        assert other is not None
        held.add(name)
        titles = [column.title for column in nats.columns]
        for before, after in zip(nats.rows, other.rows, strict=True):
            for title, was, now in zip(titles, before.cells, after.cells, strict=True):
                if name == PAIRS and title != "ahead" and was != NONE:
                    assert was.partition(", p")[2] == now.partition(", p")[2] != ""
                    scaled(was.partition(", p")[0], now.partition(", p")[0])
                elif NATS_TOLD.match(title):
                    scaled(re.sub(r"\d+: ", "", was), re.sub(r"\d+: ", "", now))
                else:
                    assert was == now
    expected = {"results", "changes", "Leagues of equal steps", PAIRS, "Bound and cost", "Terms of the bound"}
    assert held == expected | {READINGS_TABLE, "Anatomy of the bound"}

    def amounts(each: Unit) -> str:
        said = verdict(group, each)
        told = " ".join([said.headline, *said.details, *table.results(group, each).notes])
        return "; ".join(re.findall(rf"([^ ]+(?: \+- [^ ]+| [^ ]+\])?) {each}\b(?!/)", told))

    assert amounts(NATS).count("; ") == 4  # NLL, KL, the distance to the second, two intervals over seeds
    scaled(amounts(NATS), amounts(unit))


@pytest.mark.long
def test_two_hundred_cells_take_seconds_and_no_torch(tmp_path: Path) -> None:
    """Ten data sets, twenty models each, all pairs compared over 1,000 points."""
    for dataset in range(10):
        centre = 1.0 + dataset / 10
        for number in range(20):
            arrays = cells.plane(centre, 0.5 + 0.01 * number, noise=0.01, seed=number)
            cells.save(tmp_path, f"m{number}", f"d{dataset}", "weights", arrays)
    code = (
        "import sys, time, pathlib, genzoo.report as r\n"
        "start = time.process_time()\n"
        "text = r.render([pathlib.Path(sys.argv[1])], 'html')\n"
        "print(time.process_time() - start, text.count('<tr class=\"model'), len(text), 'torch' in sys.modules)"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    seconds, rows, size, torch = done.stdout.split()
    assert float(seconds) < 20
    assert int(rows) > 200
    assert int(size) < 200 / 30 * 5e6  # thirty cells under five megabytes
    assert torch == "False"
