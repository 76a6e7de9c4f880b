"""`genzoo sample`: draws from a trained model, as an array or a picture."""

from __future__ import annotations

from pathlib import Path

import click

from genzoo.cli.options import plugin_option
from genzoo.errors import UsageError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-n", "count", type=click.IntRange(min=1), default=64, show_default=True, help="How many.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="samples.npy or samples.png")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws.")
@click.option("--label", type=click.IntRange(min=0), help="Class, for a conditional model.  [default: all in turn]")
@plugin_option
def command(plugin_files: tuple[str, ...], run: Path, count: int, output: Path, seed: int, label: int | None) -> int:
    """Draw samples from the model of RUN (one cell folder): exactly the distribution its likelihood speaks of."""
    if output.suffix not in (".npy", ".png"):
        raise UsageError(f"cannot write samples to {output}: expected a name ending in .npy or .png")
    import io

    import numpy as np
    import torch

    from genzoo.api import find_cell, load_cell
    from genzoo.records import write_bytes

    model = load_cell(find_cell(run), plugin_files)
    condition = None
    if model.spec.classes is not None:
        turn = torch.arange(count) % model.spec.classes
        condition = turn if label is None else torch.full((count,), label, dtype=torch.int64)
    elif label is not None:
        raise UsageError("--label is for conditional models; this one is not")
    samples = model.sample(count, seed=seed, condition=condition).numpy()
    if output.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, samples, allow_pickle=False)
        write_bytes(output, buffer.getvalue())
    else:
        from genzoo.report.figures import samples_png

        write_bytes(output, samples_png(samples, model.spec.levels))
    click.echo(str(output))
    return 0
