"""Options and printing that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

from genzoo.registry import Registry
from genzoo.text import plain

F = TypeVar("F", bound=Callable[..., Any])


def plugin_option(function: F) -> F:
    """`--plugin PATH`, any number of times, as the argument `plugin_files`."""
    return click.option(
        "--plugin",
        "plugin_files",
        multiple=True,
        type=click.Path(),
        metavar="PATH",
        help="Also load this Python file with genzoo hooks, or this package (a folder); may be given again.",
    )(function)


def json_option(function: F) -> F:
    """`--json`, as the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def print_json(value: object) -> None:
    """`value` to stdout: ASCII, so that no control character reaches the terminal, and without NaN."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def warn(message: object) -> None:
    """One line of the log, on stderr."""
    click.echo(f"genzoo: warning: {plain(message)}", err=True)


def warn_failures(registry: Registry) -> None:
    """One line on stderr for each plugin failure and each plugin that makes listing slow."""
    for failure in registry.failures:
        warn(f"{failure} (see genzoo doctor)")
    for plugin in registry.plugins:
        if plugin.slow:
            warn(f"plugin {plugin.origin} takes {plugin.seconds:.1f} s to import (see genzoo doctor)")
