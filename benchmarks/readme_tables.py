"""Regenerate the tables of README.md from the records under benchmarks/results.

    python benchmarks/readme_tables.py            rewrite README.md
    python benchmarks/readme_tables.py --check    exit 1 when README.md is not what the records say

Between `<!-- table:NAME -->` and `<!-- /table:NAME -->` goes the table of `benchmarks/results/NAME`: where every data
set has a known truth, data sets by models with the KL to the truth; otherwise the results of each data set.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from genzoo.errors import GenzooError, RunError
from genzoo.records import write_bytes
from genzoo.report.collect import collect
from genzoo.report.formats import escape_markdown, markdown
from genzoo.report.table import kl_matrix, results

ROOT = Path(__file__).resolve().parent.parent
MARKED = re.compile(r"(<!-- table:(?P<name>[\w.-]+) -->\n).*?(<!-- /table:(?P=name) -->)", re.DOTALL)
OPENED = re.compile(r"<!-- table:([\w.-]+) -->")


def table(run: Path) -> str:
    """The markdown of one run folder."""
    groups = collect([run])
    if all(group.first_record.entropy is not None for group in groups if group.entries):
        return markdown(kl_matrix(groups))
    blocks = [f"**{escape_markdown(group.dataset)}**\n\n{markdown(results(group))}" for group in groups]
    return "\n\n".join(blocks)


def regenerate(text: str, folder: Path) -> str:
    """`text` with each marked table made anew from `folder`/NAME; RunError for a marker that is not closed."""
    made = MARKED.sub(lambda match: f"{match[1]}{table(folder / match['name'])}\n{match[3]}", text)
    unclosed = {*OPENED.findall(text)} - {match["name"] for match in MARKED.finditer(text)}
    if unclosed:
        raise RunError(
            f"expected <!-- /table:{min(unclosed)} --> after <!-- table:{min(unclosed)} -->; it is not there"
        )
    return made


def main(args: list[str] | None = None) -> int:
    """Rewrite or check; the exit code."""
    parser = argparse.ArgumentParser(description="Regenerate the tables of README.md from benchmarks/results.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if README.md is stale")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(args)
    text = options.readme.read_text(encoding="utf-8")
    try:
        made = regenerate(text, options.results)
    except GenzooError as error:
        print(f"{options.readme}: {error}", file=sys.stderr)
        return 1
    if made == text:
        return 0
    if options.check:
        print(f"{options.readme} is stale: run python benchmarks/readme_tables.py", file=sys.stderr)
        return 1
    write_bytes(options.readme, made.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
