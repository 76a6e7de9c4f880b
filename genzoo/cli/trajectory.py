"""`genzoo trajectory`: the forward trajectory of a picture, as a strip of frames."""

from __future__ import annotations

from pathlib import Path

import click

from genzoo.cli.options import plugin_option
from genzoo.errors import UsageError
from genzoo.text import plain

FORMATS = ("png", "pdf", "svg")


@click.command()
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("-m", "--model", required=True, help="Whose forward process, such as ddpm or 'ddpm[schedule=cosine]'.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="A .png, .pdf or .svg.")
@click.option("--frames", type=click.IntRange(2, 20), default=8, show_default=True, help="From the picture to x_T.")
@click.option("--side", type=click.IntRange(8, 1024), default=128, show_default=True, help="Pixels, of the longer one.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the noise.")
@plugin_option
def command(
    plugin_files: tuple[str, ...], picture: Path, model: str, output: Path, frames: int, side: int, seed: int
) -> None:
    """Draw one path of a forward process from PICTURE (PNG or JPEG) to noise: nothing is trained.

    Above each frame stands its time t and, where x_t = a x_0 + s noise with pixels taken to [-1, 1], a (what is left of
    the picture) and s (the deviation of the noise). What falls outside the range of a pixel is shown at its end.

    \b
      genzoo trajectory photo.jpg -m 'ddpm[schedule=linear,steps=1000]' -o trajectory.png
    """
    format = output.suffix.lower().removeprefix(".")
    if format not in FORMATS:
        names = ", ".join(f".{name}" for name in FORMATS)
        raise UsageError(f"cannot draw a trajectory to {plain(output)}: expected a name ending in {names}")
    import torch

    from genzoo.api import forward_process
    from genzoo.data.pictures import read_picture
    from genzoo.records import write_bytes
    from genzoo.report.plots import strip
    from genzoo.seeding import seeded
    from genzoo.spec import DataSpec

    pixels = torch.from_numpy(read_picture(picture, side))
    process = forward_process(model, DataSpec(tuple(pixels.shape), 256), plugins=plugin_files)
    times = process.times(frames)
    with seeded(seed, torch.device("cpu")):
        path = torch.cat([*process.path(pixels[None], times)])
    titles = [f"t = {time}\n{process.describe(time)}" for time in times]
    write_bytes(output, strip(path.round().clamp(0, 255).to(torch.uint8).numpy(), titles, format))
    click.echo(plain(output))
