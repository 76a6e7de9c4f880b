"""The `genzoo` command: a table of commands, and what becomes of errors.

stdout is the result, stderr the log. Exit codes: 0 ok, 1 internal error, 2 usage, 3 some cells failed, 4 a check
failed, 130 interrupted. A command returns its exit code, or None for 0.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Sequence

import click

from genzoo.errors import GenzooError, UnknownNameError
from genzoo.text import plain

# Name to its line in `genzoo --help`; the module of that name in this package exports `command`.
COMMANDS = {
    "bench": "train, evaluate and compare models on data sets",
    "list": "models, data sets and metrics that are installed",
    "eval": "evaluate a trained model again, by another estimator or with more draws",
    "sample": "draw samples from a trained model, or fill in and denoise with it",
    "trajectory": "a picture of yours on its way to noise, step by step",
    "classify": "conditional models as classifiers, by Bayes' rule",
    "score": "log-likelihoods of your own data under a trained model",
    "report": "make the report of one or more runs",
    "data": "fetch, find and verify downloaded data",
    "new": "write a plugin distribution to start from",
    "check": "whether a model keeps the promises of the interface and its likelihood is right",
    "doctor": "what is installed, and which plugins failed and why",
}
TRACEBACK = "GENZOO_TRACEBACK"


class LazyGroup(click.Group):
    """A group that knows its commands by name and help, and imports one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"genzoo.cli.{cmd_name}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"genzoo.cli.{cmd_name}.command is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UnknownNameError("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from genzoo.loading import host_version  # here: --help needs none of the plugin machinery

        click.echo(f"genzoo {host_version()}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=f"{TRACEBACK}=1 shows the traceback of an error.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def group() -> None:
    """A zoo of generative models that says which is better, by how much, and whether the number can be trusted."""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        code = group.main(args=args, prog_name="genzoo", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _report(error.format_message(), error.exit_code)
    except GenzooError as error:
        if os.environ.get(TRACEBACK):
            click.echo(traceback.format_exc(), err=True)
        return _report(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        where = (
            error.__cause__ or error
        )  # click raises its Abort from a KeyboardInterrupt, which may say what was going on
        return _report(f"interrupted {where}".rstrip(), 130)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            click.echo(traceback.format_exc(), err=True)
            return 1
        kind = type(error).__name__
        return _report(f"internal error: {kind}: {plain(error, 400)} ({TRACEBACK}=1 shows the traceback)", 1)


def _report(message: str, code: int) -> int:
    click.echo(f"genzoo: error: {plain(message)}", err=True)
    return code
