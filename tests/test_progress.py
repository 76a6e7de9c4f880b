"""What a bench tells while it runs: lines, a live table, JSON events, and a page that is written again as cells end.

Times are those of a clock that the test sets; states are made by hand but where a whole bench runs.
"""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from genzoo.bench import CellState
from genzoo.cli import events, main, progress
from genzoo.cli.outlook import Now, Outlook, duration, summary, told
from genzoo.errors import PlanError
from genzoo.plan import Plan
from genzoo.records import RunRecord, find_cells
from genzoo.report import live
from genzoo.report.live import LivePage

Streams = pytest.CaptureFixture[str]
EVIL = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202e\r\n[bold]x[/bold]"
FAST = ("--budget", "20steps", "--points", "16")


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def states(*statuses: str, models: Sequence[str] = (), data: str = "moons", **progress: Any) -> list[CellState]:
    """A cell for each status, of the models `a`, `b`, ... or those given; `progress` is told by all that run."""
    names = models or [chr(ord("a") + number) for number in range(len(statuses))]
    cells = list(Plan(models=tuple(names), datasets=(data,), budget="60s").cells(Path("run")))
    return [state(cell, status, **progress) for cell, status in zip(cells, statuses, strict=True)]


def state(cell: Any, status: str, **told: Any) -> CellState:
    if status in ("waiting", "running"):
        return CellState(cell, status, told if status == "running" else {})
    record = RunRecord(
        cell="c",
        status="ok" if status == "kept" else status,  # type: ignore[arg-type]
        model="m",
        label=cell.model,
        dataset=cell.dataset,
        seed=0,
        kind="exact",
        nll=None if status in ("failed", "skipped") else 1.25,
        stderr=0.1,
        seconds_train=60.0,
        error={"type": "E", "message": f"why {EVIL}", "traceback": ""} if status in ("failed", "skipped") else None,
    )
    return CellState(cell, status, {}, record)


STEPS = {"step": 500, "total": 2000, "seconds": 10.0, "nll": 2.5, "nll_step": 200, "time": 1e9}


def test_where_a_cell_stands() -> None:
    now = Now.of(STEPS)
    assert now == Now("training", 500, 2000, 10.0, 30.0, 2.5, 200)
    assert str(now) == "step 500 of 2,000, 30 s left, validation NLL 2.5000"
    assert [str(Now.of(said)) for said in ({}, {"stage": "data"}, {"stage": "training"})] == [
        "starting",
        "data",
        "training",
    ]
    assert Now.of({**STEPS, "step": 0}).seconds_left is None
    assert Now.of({**STEPS, "nll": None}).valid_nll is None


@pytest.mark.parametrize(
    "said",
    [
        {"stage": EVIL},
        {"stage": ["data"]},
        {"step": EVIL, "total": {}, "seconds": "10", "nll": [], "nll_step": True},
        {"step": 1e400, "total": float("nan"), "seconds": 1e300, "nll": -1e400},
        {"step": -5, "total": -7, "seconds": None},
    ],
)
def test_nonsense_in_a_progress_file_is_as_if_not_told(said: dict[str, object]) -> None:
    now = Now.of(said)
    assert now.stage in ("starting", "training")
    assert [*dataclasses.asdict(now).values()][1:] == [None] * 6
    assert str(now).isprintable()


def test_how_long_a_bench_may_take() -> None:
    """Two at a time. a took 100 s; b runs for 30; c and d wait: (100 - 30) + 100 + 100 over two."""
    clock = Clock()
    outlook = Outlook(2, clock)
    assert outlook.seconds_left(states("waiting", "waiting", "waiting", "waiting")) is None
    outlook.see(states("running", "waiting", "waiting", "waiting"))
    clock.now += 70
    outlook.see(states("running", "running", "waiting", "waiting"))
    clock.now += 30
    now = states("ok", "running", "waiting", "waiting")
    outlook.see(now)
    assert outlook.seconds_left(now) == pytest.approx((70 + 100 + 100) / 2)
    # b says that its training alone takes 400 s more: the bench takes no less
    later = states("ok", "running", "waiting", "waiting", **STEPS | {"step": 20})
    assert outlook.seconds_left(later) == pytest.approx(max(10 / 20 * 1980, (990 + 200) / 2))
    assert outlook.seconds_left(states("ok", "ok", "failed", "skipped")) == 0
    assert summary(now, 135) == "1 of 4 cells done, about 2 min left"
    assert summary(states("ok", "failed"), None) == "2 of 2 cells done, 1 failed"


def test_cells_are_taken_to_last_as_those_of_their_model() -> None:
    """On two data sets: a took 10 s and b 100 s on the first; on the second both wait."""
    clock, outlook = Clock(), None
    plan = Plan(models=("a", "b"), datasets=("moons", "rings"), budget="60s")
    cells = list(plan.cells(Path("run")))
    outlook = Outlook(1, clock)
    for index, seconds in ((0, 10.0), (1, 100.0)):
        outlook.see([state(cells[index], "running")])
        clock.now += seconds
        outlook.see([state(cells[index], "ok")])
    every = [state(cell, "ok" if number < 2 else "waiting") for number, cell in enumerate(cells)]
    assert outlook.seconds_left(every) == pytest.approx(110)
    assert outlook.seconds_left([*every[:2], every[2]]) == pytest.approx(10)


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (99.4, "99 s"), (150, "2 min"), (9000, "2.5 h")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_lines_where_there_is_no_terminal(capsys: Streams) -> None:
    """One as a cell ends, one a minute about all that run, and nothing twice."""
    clock = Clock()
    shown = progress.Lines(2, Path("run"), clock)
    with shown:
        shown.show(states("running", "running", "waiting", **STEPS))
        clock.now += 59
        shown.show(states("running", "running", "waiting", **STEPS))
        assert capsys.readouterr().err.splitlines() == ["3 cells, 2 at a time, in run"]
        clock.now += 2
        shown.show(states("ok", "running", "running", **STEPS))
        shown.reported(Path("run/report.html"), final=False)
        shown.reported(Path("run/report.html"), final=False)
        shown.show(states("ok", "running", "running", **STEPS))
        clock.now += 30
        shown.show(states("ok", "failed", "running", **STEPS))
        shown.reported(Path("run/report.html"), final=True)
    out, err = capsys.readouterr()
    assert out == ""
    first, second, third, fourth = err.splitlines()
    assert first == "1/3 a on moons, seed 0: NLL 1.2500 nats"
    assert second == (
        "1 of 3 cells done, about 61 s left; running b on moons, seed 0: step 500 of 2,000, 30 s left, validation NLL "
        "2.5000; c on moons, seed 0: step 500 of 2,000, 30 s left, validation NLL 2.5000"
    )
    assert third == "report so far, written again as cells end: run/report.html"
    assert fourth.startswith(r"2/3 b on moons, seed 0: failed why \x1b[31mred")


def test_many_running_cells_are_counted(capsys: Streams) -> None:
    clock = Clock()
    shown = progress.Lines(40, Path("run"), clock)
    many = states(*["running"] * 26)
    shown.show(many)
    clock.now += 61
    shown.show(many)
    assert capsys.readouterr().err.splitlines()[-1].endswith("p on moons, seed 0: starting; 10 more")


def test_a_live_table_on_a_terminal() -> None:
    stream = io.StringIO()
    shown = progress.LiveTable(2, Path("run"), Console(file=stream, force_terminal=True, width=120, color_system=None))
    with shown:
        shown.show(states("ok", "running", "running", "waiting", **STEPS))
        shown.finish()
    text = stream.getvalue()
    assert "4 cells, 2 at a time, in run" in text
    assert "1/4 a on moons, seed 0: NLL 1.2500 nats" in text
    console = Console(file=io.StringIO(), width=120)
    console.print(shown.table(states("ok", "running", "running", "waiting", **STEPS)))
    head, b, c = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert head.rstrip() == "1 of 4 cells done"
    bar = "\u2501" * 5  # a quarter of twenty
    assert b.split() == ["b", "on", "moons,", "seed", "0", bar, *str(Now.of(STEPS)).split()]
    assert c.startswith("c on moons")
    narrow = Console(file=io.StringIO(), width=60)
    narrow.print(shown.table(states("ok", "running", "running", data="/a/long/path/of/data.npz", **STEPS)))
    lines = narrow.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [len(line) <= 60 for line in lines] == [True] * 3


@pytest.mark.parametrize("name", ["folder", "data", "model", "reason", "stage"])
def test_names_cannot_steer_the_terminal(name: str, capsys: Streams) -> None:
    """Wherever a name stands in lines, table and events, its control characters are escapes."""
    given = {"data": "/tmp/\x1bc\x07\x9b\u202e\r\nred.csv", "models": [r'a[key="\u001b]31mred\u0007\u202e"]', "b"]}
    kept = {key: given[key] for key in ("data",) if name == key} | (
        {"models": given["models"]} if name == "model" else {}
    )
    told = {"stage": EVIL} if name == "stage" else STEPS
    now = states("running", "failed" if name == "reason" else "ok", **kept, **told)
    folder = Path(EVIL if name == "folder" else "run")
    clock = Clock()
    lines = progress.Lines(1, folder, clock)
    lines.show(now)
    clock.now += 61
    lines.show(now)
    lines.reported(folder, final=False)
    table = io.StringIO()
    console = Console(file=table, force_terminal=True, width=400, color_system=None)
    shown = progress.LiveTable(1, folder, console)
    shown.show(now)
    console.print(shown.table(now))
    stream = io.StringIO()
    with progress.JsonEvents(1, folder, "60s", events.Writer(stream)) as written:
        written.show(now)
        written.reported(folder, final=True)
    said = {"lines": capsys.readouterr().err, "table": table.getvalue(), "events": stream.getvalue()}
    for where, text in said.items():
        for character in "\x1b\x07\x9b\u202e\r":
            assert character not in text, (where, character)
        if name not in ("stage", "model"):  # one is not shown, the other printable as it was given
            assert r"\x1b" in text or r"\u001b" in text, where
    assert all(isinstance(json.loads(line), dict) for line in said["events"].splitlines())


FIELDS = {
    "start": "schema folder cells kept jobs budget",
    "cell": "cell model dataset seed status done cells kind nll infinite stderr bits_per_dim kl seconds_train "
    "seconds_eval seconds_sample error",
    "progress": "cell stage step steps seconds seconds_left valid_nll valid_step bench_seconds_left",
    "report": "path final",
    "end": "outcome cells ok kept failed skipped seconds exit_code error",
}
"""Of schema 1, for ever: fields may be added at the end, with this list; none goes or changes its meaning."""


def test_the_events_are_those_of_their_schema() -> None:
    found = {each.event: [field.name for field in dataclasses.fields(each)] for each in events.EVENTS}
    assert found == {name: fields.split() for name, fields in FIELDS.items()}
    assert events.SCHEMA == 1
    for each in events.EVENTS:  # and each field is described where the event is
        assert all(f"{field.name}" in (each.__doc__ or "") for field in dataclasses.fields(each))


def parse(text: str) -> list[dict[str, Any]]:
    assert text.isascii()
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def test_events_of_a_bench() -> None:
    clock, stream = Clock(), io.StringIO()
    with progress.JsonEvents(2, Path("run"), "60s", events.Writer(stream), clock) as shown:
        shown.show(states("kept", "waiting", "waiting"))
        shown.show(states("kept", "running", "waiting"))
        clock.now += 5
        for step in (500, 600):  # the second comes too soon
            shown.show(states("kept", "running", "waiting", **STEPS | {"step": step}))
        clock.now += 5
        shown.show(states("kept", "ok", "running", **STEPS))
        shown.reported(Path("run/report.html"), final=False)
        shown.show(states("kept", "ok", "failed"))
        shown.reported(Path("run/report.html"), final=True)
    said = parse(stream.getvalue())
    for event in said:
        assert [*event] == ["event", "time", *FIELDS[event["event"]].split()]
        assert abs(event["time"] - time.time()) < 600
    assert [(event["event"], event.get("status", event.get("stage"))) for event in said] == [
        ("start", None),
        ("cell", "kept"),
        ("cell", "running"),
        ("progress", "starting"),
        ("progress", "training"),
        ("cell", "ok"),
        ("cell", "running"),
        ("progress", "training"),
        ("report", None),
        ("cell", "failed"),
        ("report", None),
        ("end", None),
    ]
    assert said[0].items() >= {"folder": "run", "cells": 3, "kept": 1, "jobs": 2, "budget": "60s"}.items()
    assert [event["done"] for event in said if event["event"] == "cell"] == [1, 1, 2, 2, 3]
    assert said[4].items() >= {"step": 500, "steps": 2000, "seconds": 10.0, "seconds_left": 30.0}.items()
    assert said[4].items() >= {"valid_nll": 2.5, "valid_step": 200, "bench_seconds_left": None}.items()
    assert said[5].items() >= {"kind": "exact", "nll": 1.25, "seconds_train": 60.0, "error": None}.items()
    assert said[7]["bench_seconds_left"] == 30.0
    assert said[9]["nll"] is None
    assert said[9]["error"].startswith("why ")
    counts = {"cells": 3, "ok": 1, "kept": 1, "failed": 1, "skipped": 0, "exit_code": 3}
    assert said[-1].items() >= (counts | {"outcome": "finished", "seconds": 10.0, "error": None}).items()


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (KeyboardInterrupt("with 1 of 3 cells finished"), "interrupted", 130),
        (PlanError("the folder holds another plan"), "error", 2),
        (ValueError("a bug"), "error", 1),
    ],
)
def test_the_last_event_says_how_it_ended(error: BaseException, outcome: str, code: int) -> None:
    stream = io.StringIO()
    shown = progress.JsonEvents(1, Path("run"), "60s", events.Writer(stream))
    shown.show(states("ok", "running", "waiting"))
    with pytest.raises(type(error)), shown:
        raise error
    last = parse(stream.getvalue())[-1]
    assert (last["event"], last["outcome"], last["exit_code"], last["error"]) == ("end", outcome, code, str(error))
    assert (last["cells"], last["ok"]) == (3, 1)


def test_numbers_that_are_none_are_null() -> None:
    cell = states("ok")[0]
    assert cell.record is not None
    record = dataclasses.replace(cell.record, nll=float("inf"), stderr=float("nan"), infinite=3)
    said = json.loads(events.line(events.Cell.of(dataclasses.replace(cell, record=record), 1, 1)))
    assert (said["nll"], said["stderr"], said["infinite"]) == (None, None, 3)
    assert told(dataclasses.replace(cell, record=dataclasses.replace(record, nll=None))).endswith("NLL inf")


READER_GOES = """
import sys, time
from pathlib import Path
from genzoo.cli import events, progress
sys.path.insert(0, {tests!r})
from test_progress import states
shown = progress.JsonEvents(1, Path("run"), "60s", events.Writer())
with shown:
    shown.show(states("running", "waiting"))
    sys.stdin.readline()
    for status in ("ok", "failed"):
        shown.show(states(status, "running"))
print("went through", file=sys.stderr)
"""


def test_a_reader_that_goes_away_does_not_end_the_bench() -> None:
    code = READER_GOES.format(tests=str(Path(__file__).parent))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        assert json.loads(child.stdout.readline())["event"] == "start"
        child.stdout.close()
        child.stdin.write("\n")
        child.stdin.close()
        err = child.stderr.read()
        assert child.wait(timeout=60) == 0, err
    assert err.splitlines() == [
        "genzoo: warning: nobody reads the events any more: the bench goes on without them",
        "went through",
    ]


def test_the_page_is_written_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once for the first cell; then not within ten seconds, nor more than a fiftieth of the time."""
    clock, cost, written = Clock(), 0.1, []

    def write(runs: Sequence[Path], path: Path) -> None:
        clock.now += cost
        written.append(clock.now)
        if cost > 100:
            raise OSError("disk full")

    monkeypatch.setattr(live, "write", write)
    page = LivePage(tmp_path, clock)
    assert not page.update(0)
    assert page.update(1)
    assert not page.update(1)
    clock.now += 9.9
    assert not page.update(2)
    clock.now += 0.2
    assert page.update(2)
    clock.now += 11
    assert not page.update(2)  # nothing new
    cost = 5.0
    assert page.update(3)
    clock.now += 240
    assert not page.update(4)
    clock.now += 6
    cost = 101.0
    with pytest.raises(OSError, match="disk full"):
        page.update(4)
    assert not page.update(4)  # not at once again
    cost = 0.1
    clock.now += 101 * 49 + 1
    assert page.update(4)
    assert len(written) == 5
    assert page.path == tmp_path / "report.html"


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


def test_events_on_stdout_and_nothing_else(
    tiny: Path, tmp_path: Path, inline: Executor, brittle: tuple[str, ...], capsys: Streams
) -> None:
    args = ("bench", "-m", "gaussian,brittle[nan_from=0.5]", "-d", tiny / "points.npz", *FAST, "-o", tmp_path / "run")
    assert run(*args, "--plugin", *brittle, "--progress", "json") == 3
    out, err = capsys.readouterr()
    said = parse(out)
    assert err == ""
    assert said[0]["event"] == "start"
    assert said[0]["budget"] == "20steps"
    assert {event["model"]: event["status"] for event in said if event["event"] == "cell"} == {
        "gaussian": "ok",
        "brittle[nan_from=0.5]": "failed",
    }
    records = {cell.record.cell: cell.record for cell in find_cells(tmp_path / "run")}
    for event in said:
        if event["event"] == "cell":
            assert event["nll"] == records[event["cell"]].nll
    assert said[-2].items() >= {"event": "report", "path": str(tmp_path / "run" / "report.html"), "final": True}.items()
    assert said[-1].items() >= {"event": "end", "outcome": "finished", "exit_code": 3, "ok": 1, "failed": 1}.items()
    assert run("bench", "-m", "gaussian", "-d", tiny / "points.npz", "-o", tmp_path / "run", "--progress", "json") == 2
    out, err = capsys.readouterr()
    assert "another plan" in err
    assert [(event["event"], event["outcome"], event["exit_code"]) for event in parse(out)] == [("end", "error", 2)]


def test_an_interrupted_bench_ends_its_events(tiny: Path, tmp_path: Path) -> None:
    args = ["-m", "vae[hidden=[8],latents=2]", "-d", str(tiny / "points.npz"), "--budget", "50000steps"]
    command = [sys.executable, "-m", "genzoo", "bench", *args, "--progress", "json", "-o", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        for line in child.stdout:
            event = json.loads(line)
            if event["event"] == "progress" and event["step"]:
                break
        child.send_signal(signal.SIGINT)
        rest = [json.loads(line) for line in child.stdout]
        err = child.stderr.read()
        assert child.wait(timeout=60) == 130, err
    assert event["steps"] == 50_000
    assert event["seconds_left"] == pytest.approx(event["seconds"] / event["step"] * (50_000 - event["step"]))
    last = rest[-1]
    assert (last["event"], last["outcome"], last["exit_code"], last["ok"]) == ("end", "interrupted", 130, 0)
    assert last["error"] in err
    assert err.strip().startswith("genzoo: error: interrupted with 0 of 1 cells finished in ")


def test_no_progress_at_all(tiny: Path, tmp_path: Path, inline: Executor, capsys: Streams) -> None:
    args = ("bench", "-m", "gaussian", "-d", tiny / "points.npz", *FAST, "-o", tmp_path / "run")
    assert run(*args, "--progress", "none") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[-1] == f"report: {tmp_path / 'run' / 'report.html'}"


def test_a_cell_keeps_telling_its_last_validation(tiny: Path, tmp_path: Path, inline: Executor) -> None:
    """It is not in the line of the step that was validated alone."""
    args = ("bench", "-m", "vae[hidden=[8],latents=2]", "-d", tiny / "points.npz", "--budget", "40steps")
    assert run(*args, "--points", 16, "--num-samples", 2, "--progress", "none", "-o", tmp_path) == 0
    (cell,) = find_cells(tmp_path)
    lines = [json.loads(line) for line in (cell.path / "progress.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "step" in line]
    curve = dict(zip(cell.arrays()["valid_step"].tolist(), cell.arrays()["valid_nll"].tolist(), strict=True))
    assert len(curve) == 9
    for line in steps:
        last = max((step for step in curve if step <= line["step"]), default=None)
        assert (line["nll_step"], line["nll"]) == (last, None if last is None else curve[last])
    assert [line["stage"] for line in lines if "stage" in line] == ["data", "training", "evaluation", "sampling"]


class AfterThePage(Executor):
    """In place of LocalExecutor, one cell at a time; the second begins once the page of the first is there."""

    page: Path
    seen = ""

    def __init__(self, jobs: int, threads: int) -> None:
        self._pool, self._begun = ThreadPoolExecutor(1), False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        later, self._begun = self._begun, True
        return self._pool.submit(self._run, later, fn, *args, **kwargs)

    def _run(self, later: bool, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        end = time.monotonic() + 120
        while later and not self.page.exists() and time.monotonic() < end:
            time.sleep(0.02)
        if later:
            type(self).seen = self.page.read_text()
        return fn(*args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


@pytest.mark.parametrize("broken", [False, True])
def test_the_page_is_there_before_the_bench_is_over(
    broken: bool, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    """And one that cannot be written is no reason to stop."""
    monkeypatch.setattr(AfterThePage, "page", tmp_path / "run" / "report.html", raising=False)
    monkeypatch.setattr("genzoo.bench.LocalExecutor", AfterThePage)
    if broken:

        def refuse(runs: Sequence[Path], path: Path) -> None:
            path.write_text("")  # for the executor
            raise RuntimeError(EVIL)

        monkeypatch.setattr(live, "write", refuse)
    args = ("bench", "-m", "gaussian", "-d", tiny / "points.npz", "--seeds", 2, *FAST, "-o", tmp_path / "run")
    assert run(*args) == 0
    err = capsys.readouterr().err
    assert "1/2 gaussian on" in err
    if broken:
        assert r"warning: the report could not be written, and will be tried again: \x1b[31mred" in err
    else:
        assert "report so far, written again as cells end: " in err
        assert "1 cell evaluated, 1 cell of the plan not yet run" in AfterThePage.seen
    last = (tmp_path / "run" / "report.html").read_text()
    assert "2 cells evaluated" in last
    assert "not yet run" not in last
