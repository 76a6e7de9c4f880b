"""The command line: arguments and printing, no logic. Each command is a module here, imported when it is used."""

from genzoo.cli.entry import main

__all__ = ["main"]
