"""`genzoo doctor`: the machine, the data, and every plugin with what failed, at which stage and why."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable
from typing import Any

import click

from genzoo.cards import Card
from genzoo.cli.options import json_option, plugin_option, print_json
from genzoo.data.download import data_folder, mnist_paths
from genzoo.listing import align
from genzoo.loading import PluginFailure, PluginLoad, check_targets, host_version
from genzoo.registry import load_registry
from genzoo.text import plain

CHECK_FAILED = 4


@click.command()
@click.option(
    "--strict-plugins",
    is_flag=True,
    help="Also import every card's target and build every model; exit 4 if a plugin has a failure or a note.",
)
@plugin_option
@json_option
def command(strict_plugins: bool, plugin_files: tuple[str, ...], as_json: bool) -> int:
    """What is installed, and which plugins failed and why."""
    registry = load_registry(plugin_files)
    look: Callable[[Card], None] = Card.locate
    if strict_plugins:
        from genzoo.building import (
            check_card as look,
        )  # here: it imports torch, which plain `genzoo doctor` does without
    failures = [*registry.failures, *check_targets(registry.plugins, look)]
    report = {
        **_machine(),
        "mnist": _mnist_folder(),
        "plugins": [_plugin(plugin) for plugin in registry.plugins],
        "failures": [_failure(failure) for failure in failures],
        "missing": registry.missing,
    }
    if as_json:
        print_json(report)
    else:
        click.echo(_text(report))
    unsound = bool(failures) or any(plugin.notes for plugin in registry.plugins)
    return CHECK_FAILED if strict_plugins and unsound else 0


def _machine() -> dict[str, Any]:
    return {
        "genzoo": host_version(),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "GENZOO_DATA": os.environ.get("GENZOO_DATA"),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _mnist_folder() -> str | None:
    paths = mnist_paths()
    return str(next(iter(paths.values())).parent) if paths else None


def _plugin(plugin: PluginLoad) -> dict[str, Any]:
    return {
        "distribution": plugin.origin.distribution,
        "version": plugin.origin.version,
        "entry_point": plugin.origin.entry_point,
        "seconds": round(plugin.seconds, 4),
        "cards": [{"sort": card.what, "name": card.name} for card in plugin.cards],
        "notes": [*plugin.notes],
    }


def _failure(failure: PluginFailure) -> dict[str, Any]:
    return {
        "distribution": failure.distribution,
        "version": failure.version,
        "entry_point": failure.origin.entry_point,
        "stage": failure.stage,
        "cause": failure.cause,
        "cards": [{"sort": sort, "name": name} for sort, name in failure.names],
        "traceback": failure.traceback.splitlines(),
    }


def _text(report: dict[str, Any]) -> str:
    missing = {None: "not installed"}
    facts = [
        ["genzoo", report["genzoo"]],
        ["python", report["python"]],
        ["torch", missing.get(report["torch"], report["torch"])],
        ["cores", str(report["cores"])],
        ["GENZOO_DATA", "not set" if report["GENZOO_DATA"] is None else plain(report["GENZOO_DATA"])],
        ["mnist", plain(report["mnist"]) if report["mnist"] else f"not found ({_advice()})"],
    ]
    plugins = [["plugin", "version", "seconds", "brings"]]
    for plugin in report["plugins"]:
        names = ", ".join(card["name"] for card in plugin["cards"])
        plugins.append(
            [plugin["distribution"], plugin["version"] or "-", f"{plugin['seconds']:.3f}", names or "nothing"]
        )
    lines = [align(facts), "", align(plugins), ""]
    lines.extend(
        f"FAILED {_owner(failure)} at {failure['stage']}: {failure['cause']}" for failure in report["failures"]
    )
    for plugin in report["plugins"]:
        lines.extend(f"note   {_owner(plugin)} {note}" for note in plugin["notes"])
    if any(failure["traceback"] for failure in report["failures"]):
        lines.append("tracebacks: genzoo doctor --json")
    if not report["failures"]:
        lines.append("no plugin failed")
    if report["missing"]:
        packages = " ".join(sorted(set(report["missing"].values())))
        lines.append(f"not installed: {', '.join(report['missing'])} (pip install {packages})")
    return "\n".join(lines)


def _owner(entry: dict[str, Any]) -> str:
    return f"{entry['distribution']} {entry['version']}".rstrip()


def _advice() -> str:
    folder = data_folder()
    return "genzoo data fetch" if folder is None else f"genzoo data fetch, or put its four files into {plain(folder)}"
