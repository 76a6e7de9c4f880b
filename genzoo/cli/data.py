"""`genzoo data`: fetch, find and verify the data that is not in the package."""

from __future__ import annotations

import click

from genzoo.data.download import fetch_mnist, mnist_paths, verify_mnist
from genzoo.errors import DataError
from genzoo.listing import align
from genzoo.text import plain

CHECK_FAILED = 4


@click.group()
def command() -> None:
    """Fetch, find and verify downloaded data (MNIST)."""


@command.command()
def fetch() -> None:
    """Get MNIST, unless it is here already, check it, and print its folder."""
    click.echo(plain(fetch_mnist()))


@command.command()
def path() -> None:
    """Print the paths of MNIST's four files on this machine."""
    paths = mnist_paths()
    if paths is None:
        raise DataError(
            "MNIST is not on this machine: genzoo data fetch, or set GENZOO_DATA to the folder above mnist/"
        )
    for file in paths.values():
        click.echo(plain(file))


@command.command()
def verify() -> int:
    """Check MNIST's four files by the SHA-256 of their content; exit 4 if one is wrong."""
    checks = verify_mnist()
    click.echo(align([[check.file, "ok" if check.ok else "WRONG", plain(check.detail)] for check in checks]))
    return 0 if all(check.ok for check in checks) else CHECK_FAILED
