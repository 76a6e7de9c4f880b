"""`genzoo classify`: conditional models as classifiers, by Bayes' rule."""

from __future__ import annotations

from pathlib import Path

import click

from genzoo.cli.options import json_option, plugin_option, print_json
from genzoo.errors import UsageError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--estimator", help="A name that the model gives.  [default: as the stored number]")
@click.option("--num-samples", type=click.IntRange(min=1), help="Draws an example.  [default: as the stored number]")
@click.option("--points", type=click.IntRange(min=2), help="Test points.  [default: as the stored number]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws.")
@click.option("--max-seconds", type=float, default=0.0, help="A cell; stop after this, 0 for never.  [default: 0]")
@json_option
@plugin_option
def command(
    plugin_files: tuple[str, ...],
    run: Path,
    estimator: str | None,
    num_samples: int | None,
    points: int | None,
    seed: int,
    max_seconds: float,
    as_json: bool,
) -> int:
    """Classify test points by the conditional models of RUN (a bench folder or one cell), by Bayes' rule: p(y given x)
    is proportional to p(x given y) p(y), the class frequencies those of the training data.

    Prints accuracy, log loss, Brier score and calibration error, a line a cell. It costs an evaluation times the
    classes. From a bound on p(x given y) the result is approximate, and is called so.
    """
    import torch

    from genzoo.api import cell_dataset, load_cell
    from genzoo.classification import classify
    from genzoo.records import find_cells, finite

    rows: list[dict[str, object]] = []
    for cell in find_cells(run):
        record = cell.record
        if record.status != "ok" or record.classes is None:
            why = record.status if record.status != "ok" else "no labels"
            click.echo(f"{cell.path.name}: {why}, left out", err=True)
            continue
        torch.set_num_threads(record.threads)
        result = classify(
            load_cell(cell, plugin_files),
            cell_dataset(cell, plugin_files),
            estimator=estimator or record.evaluation.get("estimator"),
            num_samples=num_samples or record.evaluation.get("num_samples", 1),
            points=points or record.evaluation.get("points"),
            seed=seed,
            split=record.split,
            max_seconds=max_seconds or None,
        )
        rows.append({"cell": cell.path.name, "model": record.label, "dataset": record.dataset, **result.as_record()})
        if not as_json:
            click.echo(f"{cell.path.name}: {result}")
    if not rows:
        raise UsageError(f"no cell of {run} can classify: train conditional models, as in `-d 'digits[labels=true]'`")
    if as_json:
        print_json(finite(rows))
    return 0
