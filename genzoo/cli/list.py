"""`genzoo list`: what is installed, from the cards alone; with a name, the model's config from its class."""

from __future__ import annotations

import click

from genzoo import listing
from genzoo.cli.options import json_option, plugin_option, print_json, warn, warn_failures
from genzoo.errors import UnknownNameError
from genzoo.registry import load_registry


@click.command()
@click.argument("what", required=False, metavar="[models|datasets|metrics|plan]")
@click.argument("name", required=False)
@plugin_option
@json_option
def command(what: str | None, name: str | None, plugin_files: tuple[str, ...], as_json: bool) -> None:
    """Models, data sets and metrics that are installed; `plan`: what a plan file may hold.

    With NAME: everything its card says, and for a model its formulas, the file that computes them, and each config key
    with its type, default and reason.
    """
    if what is not None and what not in (*listing.SORTS, listing.PLAN):
        raise UnknownNameError("sort of thing", what, (*listing.SORTS, listing.PLAN))
    if what == listing.PLAN:
        parts = listing.plan_rows()
        if as_json:
            print_json(parts)
        else:
            click.echo(listing.plan_text(parts))
        return
    registry = load_registry(plugin_files)
    warn_failures(registry)
    if what is not None and name is not None:
        entry = listing.detail(registry, what, name)
        if as_json:
            print_json(entry)
        else:
            click.echo(listing.detail_text(entry))
        return
    tables = {sort: listing.rows(registry, sort) for sort in ([what] if what else listing.SORTS)}
    if as_json:
        print_json(tables[what] if what else tables)
        return
    blocks = [listing.table(sort, rows, heading=what is None) for sort, rows in tables.items()]
    click.echo("\n\n".join(blocks))
    if "models" in tables and registry.missing:
        packages = " ".join(sorted(set(registry.missing.values())))
        warn(f"not installed: {', '.join(registry.missing)} (pip install {packages})")
