"""`genzoo bench`: a plan from flags or a file, run, shown, reported."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genzoo.cli.options import plugin_option, warn
from genzoo.config import Reference, split_outside_brackets
from genzoo.errors import UsageError
from genzoo.plan import DEFAULT_DATASETS, Cell, EvaluationPlan, Plan
from genzoo.text import plain

if TYPE_CHECKING:
    from genzoo.bench import CellState


@click.command()
@click.argument("plan_file", required=False, type=click.Path(path_type=Path), metavar="[PLAN.toml]")
@click.option("-m", "--models", help="Names with inline options: vae,flow[layers=8]; `all` for every installed model.")
@click.option("-d", "--datasets", help=f"Names or paths.  [default: {','.join(DEFAULT_DATASETS)}]")
@click.option("--seeds", help="How many, or a list: 3 or 0,5,7.  [default: 1]")
@click.option("--budget", help="Training of each cell: 2000steps, 10epochs or 60s.  [default: 30s]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Run folder.  [default: runs/<plan hash>]")
@click.option("--jobs", type=click.IntRange(min=1), help="Cells at a time.  [default: cores / threads]")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of a cell.  [default: 1]")
@click.option("--device", help="auto, cpu, cuda or cuda:i.  [default: auto]")
@click.option("--estimator", help="How to evaluate; names are the models' own.  [default: each model's first]")
@click.option("--num-samples", type=click.IntRange(min=1), help="Draws an example.  [default: the card's effort]")
@click.option("--until-se", type=float, help="Monte Carlo standard error to reach, nats.")
@click.option("--points", type=click.IntRange(min=2), help="Test points.  [default: 10,000 in 2D, 2,000 elsewhere]")
@click.option("--max-seconds", type=float, help="Stop an evaluation after this; 0 for never.  [default: 40]")
@click.option("--no-test", is_flag=True, help="End at validation, for tuning: the test set is not read.")
@click.option("--replay", type=click.Path(path_type=Path), help="Take the number of steps from the cells of this run.")
@click.option(
    "--hang-seconds",
    type=click.FloatRange(min=0),
    help="Kill a worker without a sign of life (a step, a network call) for this long; 0: never.  [default: 600]",
)
@click.option("--clean", is_flag=True, help="Refuse a checkout with local changes: for results to be committed.")
@click.option("--dry-run", is_flag=True, help="Say which cells there are and how long they take, and stop.")
@click.option(
    "--progress",
    type=click.Choice(["auto", "json", "none"]),
    default="auto",
    show_default=True,
    help="auto: a live table on a terminal, else lines, on stderr; json: an event a line, and only those, on stdout.",
)
@plugin_option
def command(
    plan_file: Path | None,
    output: Path | None,
    jobs: int | None,
    replay: Path | None,
    hang_seconds: float | None,
    clean: bool,
    dry_run: bool,
    progress: str,
    plugin_files: tuple[str, ...],
    **flags: Any,
) -> int:
    """Train, evaluate and compare models on data sets.

    Give a plan file (`genzoo list plan` says what it may hold), or models and data sets by flags; flags win over the
    plan. The same command goes on where an interrupted run stopped. The report is written again as cells end.

    \b
    genzoo bench --models vae,flow,ddpm
    genzoo bench -m flow,flow[layers=8] -d moons,mine.npz --seeds 3 --budget 60s -o runs/first
    genzoo bench benchmarks/toys.toml
    """
    plan, asked_for_data = _plan(plan_file, flags)
    # torch and the rest, only now that the arguments are known to be sound
    from rich.console import Console

    from genzoo import bench
    from genzoo.cli.outlook import ended, exit_code
    from genzoo.cli.progress import display
    from genzoo.report import terminal, write
    from genzoo.report.live import LivePage

    note = None
    if not asked_for_data:
        plan, note = bench.stand_in(plan)
    folder = output or Path("runs") / plan.key
    workers = jobs or bench.default_jobs(plan.threads)
    cells = bench.planned(plan, folder, plugin_files)
    _show_skips(cells)
    if dry_run:
        trained = [cell for cell in cells if cell.declined is None]
        for cell in trained:
            click.echo(plain(cell.name))
        seconds = bench.expected_seconds(plan, len(trained), workers)
        about = (
            "how long is not known (no limit in seconds)"
            if seconds is None
            else f"at most about {seconds / 60:.1f} minutes"
        )
        click.echo(f"{len(trained)} cells, {workers} at a time, {about}, in {plain(folder)}", err=True)
        return 0
    if note:
        warn(note)
    page = LivePage(folder)

    def watch(states: Sequence[CellState]) -> None:
        shown.show(states)
        done = len(ended(states))
        try:
            if done < len(states) and page.update(done):
                shown.reported(page.path, final=False)
        except Exception as error:  # the page can be made later; the cells are what takes hours
            warn(f"the report could not be written, and will be tried again: {plain(error, 200)}")

    with _terminable(), display(progress, workers, folder, plan.budget) as shown:
        states = bench.run(
            plan,
            folder,
            cells=cells,
            jobs=workers,
            plugins=plugin_files,
            replay=replay,
            notes=[note] if note else [],
            watch=watch,
            hang_seconds=bench.HANG_SECONDS if hang_seconds is None else hang_seconds,
            clean=clean,
        )
        shown.show(states)
        shown.finish()
        if progress != "json":
            terminal([folder], Console())
        path = write([folder], page.path)
        shown.reported(path, final=True)
        if progress != "json":
            click.echo(f"report: {plain(path)}")
    return exit_code(states)


def _show_skips(cells: Sequence[Cell]) -> None:
    """Before anything is trained: which cells the cards decline, and why; nothing where they take everything."""
    from rich.console import Console

    from genzoo.report.formats import print_table
    from genzoo.report.matrix import Place, matrix

    places = [
        Place(str(Reference.parse(cell.model)), str(Reference.parse(cell.dataset, "data set")), *_plan_of(cell))
        for cell in cells
    ]
    if (table := matrix(places)) is not None:
        print_table(table, Console(stderr=True))


def _plan_of(cell: Cell) -> tuple[str, str]:
    return ("run", "") if cell.declined is None else ("skip", cell.declined)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a bench as ctrl-C does: workers are stopped, and what is finished is said."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _plan(plan_file: Path | None, flags: dict[str, Any]) -> tuple[Plan, bool]:
    """The plan, and whether its data sets were asked for by name."""
    values = Plan.read(plan_file).model_dump() if plan_file is not None else {}
    evaluation = dict(values.pop("evaluation", {}))
    for key in ("budget", "threads", "device"):
        if flags[key] is not None:
            values[key] = flags[key]
    if flags["models"] is not None:
        values["models"] = split_outside_brackets(flags["models"])
    if flags["datasets"] is not None:
        values["datasets"] = split_outside_brackets(flags["datasets"])
    if flags["seeds"] is not None:
        values["seeds"] = _seeds(flags["seeds"])
    if flags["no_test"]:
        values["test"] = False
    for key in ("estimator", "num_samples", "until_se", "points", "max_seconds"):
        if flags[key] is not None:
            evaluation[key] = flags[key]
    if "models" not in values:
        raise UsageError("no models: give --models, such as --models vae,flow,ddpm, or a plan file")
    values["evaluation"] = EvaluationPlan.parse(evaluation, "[evaluation]")
    return Plan.parse(values, "bench"), "datasets" in values


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--seeds {text!r}: expected how many (3) or a list (0,5,7)")
    numbers = [int(part) for part in parts]
    return list(range(numbers[0])) if len(numbers) == 1 else numbers
