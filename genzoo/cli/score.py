"""`genzoo score`: log-likelihoods of your own data under a trained model."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from genzoo.cli.options import plugin_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--num-samples", type=click.IntRange(min=1), help="Draws an example.  [default: as the stored number]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write `lower` (and `upper`) to this .npz.")
@plugin_option
def command(
    plugin_files: tuple[str, ...], run: Path, data: Path, num_samples: int | None, seed: int, output: Path | None
) -> int:
    """Log-likelihood (bound) of each row of DATA under the model of RUN, in nats, a line a row.

    RUN is one cell folder; DATA is npz, npy, CSV or IDX, in the units of the data the model was trained on.
    """
    from genzoo.api import find_cell, load_cell
    from genzoo.data.files import load_points
    from genzoo.evaluation import make_estimator
    from genzoo.records import write_arrays

    cell = find_cell(run)
    model = load_cell(cell, plugin_files)
    x, y = load_points(data, model.spec)
    k = num_samples or cell.record.evaluation.get("num_samples", 1)
    mean = make_estimator(model, cell.record.evaluation.get("estimator")).mean(x, k, seed, y)
    result = mean.result
    if output is not None:
        arrays = {"lower": result.lower.numpy()}
        if result.upper is not None:
            arrays["upper"] = result.upper.numpy()
        write_arrays(output, arrays)
    else:
        sys.stdout.writelines(f"{value:.6f}\n" for value in result.lower.tolist())
    click.echo(f"mean {mean.mean:.6f} +- {mean.stderr:.6f} nats over {len(x)} rows ({result.kind})", err=True)
    return 0
