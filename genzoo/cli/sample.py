"""`genzoo sample`: draws from a trained model, as an array or a picture; given a part of an example, of the rest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genzoo.cli.options import plugin_option
from genzoo.errors import CapabilityError, UsageError
from genzoo.text import plain

if TYPE_CHECKING:
    from torch import Tensor

PLAIN, GIVEN, EXAMPLES = 64, 8, 8


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-n", "count", type=click.IntRange(min=1), help=f"How many.  [default: {PLAIN}; with --given {GIVEN} an example]"
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="samples.npy or samples.png")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws.")
@click.option("--label", type=click.IntRange(min=0), help="Class, for a conditional model.  [default: all in turn]")
@click.option(
    "--given",
    metavar="half|all|MASK.npy",
    help="What is seen of each example: the upper half of an image (first half of a vector), all of it (with --noise), "
    "or where a .npy of booleans is True, one mask or one an example.",
)
@click.option("--noise", type=float, help="Deviation of the noise in what is seen, in data units.  [default: 0]")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="What is seen, as it stands: rows of npz, npy or CSV.  [default: test examples, and --noise is added to them]",
)
@click.option(
    "--examples", type=click.IntRange(min=1), default=EXAMPLES, show_default=True, help="Test examples, without --from."
)
@plugin_option
def command(
    plugin_files: tuple[str, ...],
    run: Path,
    count: int | None,
    output: Path,
    seed: int,
    label: int | None,
    given: str | None,
    noise: float | None,
    source: Path | None,
    examples: int,
) -> int:
    """Draw samples from the model of RUN (one cell folder): exactly the distribution its likelihood speaks of.

    With --given or --noise: fill in what is not seen of an example, or remove noise. Every draw is one of the model's
    guesses, not their mean. An array is then (examples, n, ...); a picture has a row an example: the original, what is
    seen of it, and the draws. For models that can, such as gaussian and ddpm; for another, the error names them.

    \b
      genzoo sample RUN --given half -o filled.png                 in-painting of test images
      genzoo sample RUN --noise 50 -o denoised.png                 denoising of test images
      genzoo sample RUN --noise 50 --from noisy.npy -o clean.npy   denoising of your own
    """
    if output.suffix not in (".npy", ".png"):
        raise UsageError(f"cannot write samples to {output}: expected a name ending in .npy or .png")
    if noise is not None and not 0 <= noise < math.inf:
        raise UsageError(f"expected --noise of at least 0; got {noise:g}")
    if given is None and noise is None and source is not None:
        raise UsageError(
            "--from holds what is seen: say which part of it with --given, or how noisy it is with --noise"
        )
    import torch

    from genzoo.api import cell_dataset, find_cell, load_cell

    cell = find_cell(run)
    model = load_cell(cell, plugin_files)
    spec = model.spec
    if label is not None and spec.classes is None:
        raise UsageError("--label is for conditional models; this one is not")
    if label is not None and spec.classes is not None and label >= spec.classes:
        raise UsageError(f"expected --label 0..{spec.classes - 1}; got {label}")
    if given is not None or noise is not None:
        from genzoo.building import able_to
        from genzoo.interface import ConditionalSampler
        from genzoo.observations import draws_given, mask_of, observe, read_observation, sheet
        from genzoo.registry import load_registry

        if not isinstance(model, ConditionalSampler):
            able = ", ".join(able_to(load_registry(plugin_files), ConditionalSampler))
            raise CapabilityError(
                f"{cell.record.label} can neither fill in nor denoise; models that can: {able} (not as the p(x) of "
                "class_mixture=marginal)"
            )

        mask, level = mask_of(given or "all", spec), noise or 0.0
        if source is None:
            data = cell_dataset(cell, plugin_files)
            observation = observe(data, spec, mask, level, examples, seed, label, split=cell.record.split)
        else:
            observation = read_observation(source, spec, mask, level, label)
        draws = draws_given(model, observation, count or GIVEN, seed)
        if output.suffix == ".npy":
            _write(output, draws, None, None)
        else:
            images, across = sheet(observation, draws, spec.levels)
            _write(output, images, spec.levels, across)
        return 0
    count = count or PLAIN
    condition = None
    if spec.classes is not None:
        turn = torch.arange(count) % spec.classes
        condition = turn if label is None else torch.full((count,), label, dtype=torch.int64)
    _write(output, model.sample(count, seed=seed, condition=condition), spec.levels, None)
    return 0


def _write(output: Path, samples: Tensor, levels: int | None, across: int | None) -> None:
    """An array or a picture, `across` images a row, and its name to stdout."""
    from genzoo.records import write_bytes

    if output.suffix == ".npy":
        import io

        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, samples.numpy(), allow_pickle=False)
        write_bytes(output, buffer.getvalue())
    else:
        from genzoo.report.figures import samples_png

        write_bytes(output, samples_png(samples.numpy(), levels, across))
    click.echo(plain(output))
