"""Write CHECKS.md, the page of checks, from the kit itself and from the mutants: `make checks`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from genzoo.testing import kit

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "CHECKS.md"
HEAD = """# The checks

What `genzoo check MODEL` looks at, what each check means when it fails, and the usual cause. Written by `make checks`
from the kit; `genzoo check --explain` prints the same. By the null law of its statistic, a check of truth raises a
false alarm less than once in 1e7 runs.

Read the first failure first: a wrong mass makes other checks fail too. `genzoo check MODEL --only CHECK -v` runs one.
"""
PARTS = {"genzoo.testing.form": "## Form", "genzoo.testing.truth": "## Truth"}


def mutants() -> dict[str, list[str]]:
    """What is wrong with the mutants that each check must catch, in the words of their docstrings."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests" / "mutants").glob("mutant_*.py")):
        if path.stem not in sys.modules:
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None
            assert spec.loader is not None
            sys.modules[path.stem] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[path.stem])
        for value in vars(sys.modules[path.stem]).values():
            if isinstance(value, type) and "caught_by" in vars(value):
                words = " ".join((value.__doc__ or "").split())
                found.setdefault(vars(value)["caught_by"].partition("[")[0], []).append(words)
    return found


def page() -> str:
    """The whole page."""
    wrong, lines, part = mutants(), [HEAD], ""
    for check in kit.CHECKS:
        if check.run.__module__ != part:
            part = check.run.__module__
            lines.append(PARTS[part] + "\n")
        lines.append(
            f"### {check.name}\n\n**Promises.** {check.promise}\n\n**When it fails, usually:** {check.cause}.\n"
        )
        lines.append(f"Looked at on: {', '.join(check.problems)}.\n")
        if check.name in wrong:
            lines.append("Catches, in the mutant suite:\n")
            lines.append("".join(f"- {words}\n" for words in wrong[check.name]))
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
