"""`genzoo check`: the conformance kit over registered models and over trained cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genzoo.cli.options import json_option, plugin_option, print_json, warn
from genzoo.config import Reference
from genzoo.registry import Registry
from genzoo.text import plain

if TYPE_CHECKING:
    from genzoo.testing.kit import Receipt, Result

CHECK_FAILED = 4
MESSAGE = 400
"""Characters of a check's message that are shown: an exception's text may be a page."""


@click.command()
@click.argument("subjects", nargs=-1, metavar="[MODEL|RUN]...")
@click.option("--level", type=click.Choice(["quick", "full"]), default="quick", show_default=True, help="How thorough.")
@click.option("--only", multiple=True, metavar="CHECK", help="Only this check; may be given again.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights, batches and draws.")
@click.option("--explain", is_flag=True, help="Say what each check promises and what usually is wrong, and stop.")
@click.option("-v", "--verbose", is_flag=True, help="A line for every check, not only for failures.")
@plugin_option
@json_option
def command(
    subjects: tuple[str, ...],
    level: str,
    only: tuple[str, ...],
    seed: int,
    explain: bool,
    verbose: bool,
    plugin_files: tuple[str, ...],
    as_json: bool,
) -> int:
    """Check that models keep the interface's promises and that their likelihoods are right.

    MODEL is a registered name with inline options: it is trained briefly on small problems and checked there. RUN is a
    bench folder or a cell folder: each trained checkpoint is checked on its own data set, and its stored number is
    recomputed, which counts as no new reading. An argument that exists as a path is a RUN; `flow[]` is the model where
    a folder is called flow. Exit code 4 when a check fails.
    """
    import torch

    from genzoo.errors import UnknownNameError, UsageError
    from genzoo.registry import load_registry
    from genzoo.testing import kit

    checks: tuple[kit.Check[Any], ...] = (*kit.AUDIT, *kit.CHECKS)
    every = {check.name: check for check in checks}
    if explain:
        for check in every.values():
            click.echo(f"{check.name}\n  promises: {check.promise}\n  when it fails, usually: {check.cause}.")
        return 0
    if not subjects:
        raise UsageError("nothing to check: give a model, such as genzoo check flow, a run folder, or --explain")
    for name in only:
        if name not in every:
            raise UnknownNameError("check", name, every)
    torch.set_num_threads(1)  # the networks are tiny: a second thread only waits, for long where the machine is busy
    registry = load_registry(plugin_files)

    def tell(result: Result) -> None:
        if verbose or result.outcome == "failed":
            click.echo(f"{result.outcome:8} {result.name}  {plain(result.message, MESSAGE)}".rstrip(), err=as_json)

    receipts = []
    for text in subjects:
        for receipt in _receipts(text, registry, level, seed, plugin_files, tell, only):
            receipts.append(receipt)
            if not as_json:
                click.echo(receipt.summary())
                for note in receipt.notes:
                    click.echo(f"  {plain(note)}")
    if as_json:
        print_json([receipt.as_json() for receipt in receipts])
    passed = all(receipt.count("failed") == 0 if only else receipt.ok for receipt in receipts)
    return 0 if passed else CHECK_FAILED


def _receipts(
    text: str,
    registry: Registry,
    level: str,
    seed: int,
    plugins: tuple[str, ...],
    tell: Callable[[Result], None],
    only: tuple[str, ...],
) -> Iterator[Receipt]:
    """One for a model; one for each trained cell of a run."""
    from genzoo.errors import RunError
    from genzoo.records import find_cells
    from genzoo.testing import kit
    from genzoo.testing.cell import CellSubject

    if not Path(text).exists():
        reference = Reference.parse(text)
        yield kit.run(kit.subject_of(registry, reference.name, level, seed, **reference.options), watch=tell, only=only)
        return
    if text in registry.models:
        warn(f"{text} is a path here as well as a model: the path is checked; {text}[] names the model")
    trained = 0
    for cell in find_cells(Path(text)):
        if cell.record.status != "ok":
            click.echo(f"{plain(cell.path.name)}: {cell.record.status}, left out", err=True)
            continue
        trained += 1
        yield kit.run_cell(CellSubject(cell, level, seed, plugins), watch=tell, only=only)
    if not trained:
        raise RunError(f"no trained cell in {text}: there is nothing to check")
