"""`genzoo eval`: evaluate trained cells again. The first reading stays the row; later ones are appended and counted."""

from __future__ import annotations

from pathlib import Path

import click

from genzoo.cli.options import plugin_option
from genzoo.errors import UnknownNameError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--estimator", help="A name that the model gives, or `all`.  [default: as the stored number]")
@click.option("--num-samples", type=click.IntRange(min=1), help="Draws an example.  [default: as the stored number]")
@click.option("--until-se", type=float, help="Monte Carlo standard error to reach, nats.")
@click.option("--points", type=click.IntRange(min=2), help="Test points.  [default: as the stored number]")
@click.option("--seed", type=click.IntRange(min=0), help="Of the draws.  [default: as the stored number]")
@click.option("--max-seconds", type=float, default=0.0, help="Stop after this; 0 for never.  [default: 0]")
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
    max_seconds: float,
    dry: bool,
) -> int:
    """Evaluate the cells of RUN (a bench folder or one cell) again.

    Without options this recomputes the stored number. Every reading of the test set is counted.
    """
    from genzoo.api import load_cell
    from genzoo.readings import read_again
    from genzoo.records import find_cells

    for cell in find_cells(run):
        if cell.record.status != "ok":
            click.echo(f"{cell.path.name}: {cell.record.status}, left out", err=True)
            continue
        model = load_cell(cell, plugin_files)
        names = list(model.estimators()) if estimator == "all" else [estimator]
        for name in names:
            if name is not None and name not in model.estimators():
                raise UnknownNameError(f"estimator of {cell.record.model}", name, model.estimators())
            result = read_again(
                cell,
                model,
                estimator=name,
                num_samples=num_samples,
                until_se=until_se,
                points=points,
                seed=seed,
                max_seconds=max_seconds or None,
                append=not dry,
                plugins=plugin_files,
            )
            click.echo(f"{cell.path.name}: {result}")
    return 0
