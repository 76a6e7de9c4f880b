"""`genzoo check`: the conformance kit over registered models."""

from __future__ import annotations

import click

from genzoo.cli.options import json_option, plugin_option, print_json
from genzoo.config import Reference
from genzoo.text import plain

CHECK_FAILED = 4


@click.command()
@click.argument("models", nargs=-1)
@click.option("--level", type=click.Choice(["quick", "full"]), default="quick", show_default=True, help="How thorough.")
@click.option("--only", multiple=True, metavar="CHECK", help="Only this check; may be given again.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights, batches and draws.")
@click.option("--explain", is_flag=True, help="Say what each check promises and what usually is wrong, and stop.")
@click.option("-v", "--verbose", is_flag=True, help="A line for every check, not only for failures.")
@plugin_option
@json_option
def command(
    models: tuple[str, ...],
    level: str,
    only: tuple[str, ...],
    seed: int,
    explain: bool,
    verbose: bool,
    plugin_files: tuple[str, ...],
    as_json: bool,
) -> int:
    """Check that models keep the interface's promises and that their likelihoods are right.

    MODELS are registered names with inline options. Exit code 4 when a check fails.
    """
    import torch

    from genzoo.errors import UnknownNameError, UsageError
    from genzoo.registry import load_registry
    from genzoo.testing import kit

    names = [check.name for check in kit.CHECKS]
    if explain:
        for check in kit.CHECKS:
            click.echo(f"{check.name}\n  promises: {check.promise}\n  when it fails, usually: {check.cause}.")
        return 0
    if not models:
        raise UsageError("no model: give a name, such as genzoo check flow, or --explain")
    for name in only:
        if name not in names:
            raise UnknownNameError("check", name, names)
    torch.set_num_threads(1)  # the networks are tiny: a second thread only waits, for long where the machine is busy
    registry = load_registry(plugin_files)
    receipts = []
    for text in models:
        reference = Reference.parse(text)
        subject = kit.subject_of(registry, reference.name, level, seed, **reference.options)

        def tell(result: kit.Result) -> None:
            if verbose or result.outcome == "failed":
                click.echo(f"{result.outcome:8} {result.name}  {plain(result.message)}".rstrip(), err=as_json)

        receipt = kit.run(subject, watch=tell, only=only)
        receipts.append(receipt)
        if not as_json:
            click.echo(receipt.summary())
    if as_json:
        print_json([receipt.as_json() for receipt in receipts])
    passed = all(receipt.count("failed") == 0 if only else receipt.ok for receipt in receipts)
    return 0 if passed else CHECK_FAILED
