"""`genzoo new`: write a plugin distribution to start from."""

from __future__ import annotations

from pathlib import Path

import click

from genzoo import scaffold
from genzoo.errors import UsageError
from genzoo.registry import load_registry


@click.command()
@click.argument("name")
@click.option(
    "--family",
    type=click.Choice([*scaffold.FAMILIES]),
    default="density",
    show_default=True,
    help="What it starts as: an exact density, a latent-variable model, or a data set.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=".", help="Where the folder goes.  [default: .]"
)
def command(name: str, family: str, output: Path) -> None:
    """Write an installable plugin distribution genzoo-NAME with a small model (or data set) that works.

    \b
    genzoo new mine && pip install -e genzoo-mine
    genzoo check mine && genzoo bench -m mine,gaussian -d moons --budget 20s
    """
    registry = load_registry()
    taken = registry.datasets if family == "dataset" else registry.models
    if name in taken:
        raise UsageError(f"the name {name} is taken by {registry.origin(taken[name])}: give another")
    folder = scaffold.write(name, family, output)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            click.echo(path)
    click.echo(f"next: pip install -e {folder}", err=True)
