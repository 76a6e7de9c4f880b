"""`genzoo report`: the page, or the table in another format, of one or more runs."""

from __future__ import annotations

from pathlib import Path

import click

from genzoo.errors import UsageError
from genzoo.records import write_bytes
from genzoo.report import FORMATS, render, write
from genzoo.report.leagues import MATCHES
from genzoo.text import plain


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--format", "form", type=click.Choice([*FORMATS, "pdf"]), default="html", show_default=True, help="What to make."
)
@click.option(
    "--view",
    type=click.Choice(["results", "pairs", "frontier", "published", "floors", "changes"]),
    default="results",
    show_default=True,
    help="The table: results, all pairs of models, bound and cost, published values, floor and ceiling, or what "
    "changed from the first RUN to the others. The page has all.",
)
@click.option("--match", type=click.Choice(MATCHES), help="Leagues of models at equal steps, seconds or parameters.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="PATH", help="Write to PATH, and print it.")
def command(runs: tuple[Path, ...], form: str, view: str, match: str | None, output: Path | None) -> None:
    """Make the report of one or more runs; each RUN is a bench folder or a cell folder.

    The page goes to report.html in the RUN, and its path is printed; md, csv, tex and json go to stdout; pdf, the
    figures alone for a paper, goes to figures.pdf in the RUN. Of several, they go to comparison.html and comparison.pdf
    in the working folder: no run's own page changes.

    Several runs are merged: cells of one protocol are ranked together, those of others stand apart. What two runs both
    hold is compared: how the bound changed, paired over the points in common, and which settings differ. A copy of a
    cell counts once; another result of one is labelled with its run, and is not another seed.
    """
    if match is not None and view != "results":
        raise UsageError(f"--match {match} is a view of its own: leave out --view {view}")
    if form == "pdf" and (match is not None or view != "results"):
        raise UsageError("--format pdf draws figures; --view and --match are tables: use html, md, csv, tex or json")
    view = match or view
    if output is not None and output.is_dir():
        raise UsageError(f"-o {output}: expected a file to write; got a folder")
    several = len(runs) > 1
    if form == "html":
        path = output or (Path("comparison.html") if several else runs[0] / "report.html")
        click.echo(plain(write(runs, path, view)))
    elif form == "pdf":
        from genzoo.report.plots import pdf  # matplotlib: only here

        path = output or (Path("comparison.pdf") if several else runs[0] / "figures.pdf")
        write_bytes(path, pdf(runs))
        click.echo(plain(path))
    elif output is None:
        click.echo(render(runs, form, view))
    else:
        write_bytes(output, render(runs, form, view).encode() + b"\n")
        click.echo(plain(output))
