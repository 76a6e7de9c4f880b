"""`genzoo eval`: evaluate trained cells again. The first reading stays the row; later ones are appended and counted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genzoo.cli.options import plugin_option
from genzoo.errors import CapabilityError, RunError, UnknownNameError, UsageError
from genzoo.text import plain

if TYPE_CHECKING:
    from genzoo.records import CellFolder

ALL_SECONDS = 60.0
"""After this a reading of `--estimator all` stops with the batch it is in, unless --max-seconds says otherwise."""


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--estimator", help="A name that the model gives, or `all`.  [default: as the stored number]")
@click.option("--num-samples", type=click.IntRange(min=1), help="Draws an example.  [default: as the stored number]")
@click.option("--until-se", type=float, help="Monte Carlo standard error to reach, nats.")
@click.option("--points", type=click.IntRange(min=2), help="Test points.  [default: as the stored number]")
@click.option("--seed", type=click.IntRange(min=0), help="Of the draws.  [default: as the stored number]")
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=0),
    help="Stop a reading after this; 0 for never.  [default: 0; with `all` 60]",
)
@click.option("--refine", type=click.IntRange(min=2), metavar="K", help="Then K draws on some points: see above.")
@click.option("--refine-points", type=click.IntRange(min=2), default=500, show_default=True, help="How many those are.")
@click.option("--dry", is_flag=True, help="Print only: append no reading to the cell.")
@plugin_option
def command(
    plugin_files: tuple[str, ...],
    run: Path,
    estimator: str | None,
    num_samples: int | None,
    until_se: float | None,
    points: int | None,
    seed: int | None,
    max_seconds: float | None,
    refine: int | None,
    refine_points: int,
    dry: bool,
) -> int:
    """Evaluate the cells of RUN (a bench folder or one cell) again.

    Without options this recomputes the stored number. `--estimator all` reads every bound that the model has, those
    from importance weights over the number of draws too; the report then shows how tight each is. Every reading of the
    test set is counted. Cells whose model lacks the estimator are left out, and named.

    `--refine K` is for bounds from importance weights: the bound with --num-samples draws on all points, plus the mean
    gain of K draws on a random --refine-points of them. That estimates the bound with K draws on all points, unbiased,
    at a share of its cost; both phases' errors are printed and stored.
    """
    from genzoo.api import load_cell
    from genzoo.readings import all_bounds, read_again
    from genzoo.records import find_cells

    if refine is not None and estimator == "all":
        raise UsageError("--refine is for one estimator; got --estimator all")
    cells = find_cells(run)
    left_out: list[CellFolder] = []
    lacking, names = 0, {"all"}

    def leave_out(cell: CellFolder, why: object) -> None:
        left_out.append(cell)
        click.echo(f"{plain(cell.path.name)}: {plain(why)}, left out", err=True)

    for cell in cells:
        if cell.record.status != "ok":
            leave_out(cell, cell.record.status)
            continue
        model = load_cell(cell, plugin_files)
        names.update(model.estimators())
        if estimator is not None and estimator not in ("all", *model.estimators()):
            if len(cells) == 1:
                raise UnknownNameError(f"estimator of {cell.record.model}", estimator, names)
            lacking += 1
            leave_out(cell, f"{cell.record.model} has no estimator {estimator}")
            continue
        options: dict[str, Any] = {
            "num_samples": num_samples,
            "until_se": until_se,
            "points": points,
            "seed": seed,
            "max_seconds": (ALL_SECONDS if estimator == "all" and max_seconds is None else max_seconds) or None,
            "refine": None if refine is None else (refine, refine_points),
            "append": not dry,
            "plugins": plugin_files,
        }
        if estimator != "all":
            try:
                told = str(read_again(cell, model, estimator=estimator, **options))
            except CapabilityError as reason:  # one cell of many that cannot be refined is no reason to stop
                if len(cells) == 1:
                    raise
                leave_out(cell, reason)
                continue
            click.echo(f"{plain(cell.path.name)}: {told}")
            continue
        for name, result in all_bounds(cell, model, **options):
            told = f"{name} declined: {result}" if isinstance(result, CapabilityError) else str(result)
            click.echo(f"{plain(cell.path.name)}: {told}", err=isinstance(result, CapabilityError))
    if estimator is not None and lacking == len(cells):
        raise UnknownNameError("estimator", estimator, names)
    if len(left_out) == len(cells):
        raise RunError(f"nothing in {run} was evaluated: all {len(cells)} cells were left out")
    if left_out:
        click.echo(f"{len(left_out)} of {len(cells)} cells left out", err=True)
    return 0
