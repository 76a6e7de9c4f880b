"""Write CHECKS.md, the page of checks, from the kit itself and from the mutants: `make checks`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from genzoo.testing import kit

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "CHECKS.md"
HEAD = """# The checks

What `genzoo check` looks at, what each check means when it fails, and the usual cause. Written by `make checks` from
the kit; `genzoo check --explain` prints the same. By the null law of its statistic, a check of truth raises a false
alarm less than once in 1e7 runs.

`genzoo check MODEL` builds a registered model, trains it briefly on small problems and runs the checks of training and
of answers. `genzoo check RUN` takes the trained checkpoints of a bench folder, or of one cell, runs the checks of
answers on their own data sets, and audits what is stored. A stored number is recomputed on its own points, which counts
as no new reading.

Read the first failure first: a wrong mass makes other checks fail too. `genzoo check MODEL --only CHECK -v` runs one.
"""
PARTS = {
    "Training: how a model is built and learns": kit.TRAINING,
    "Answers: what a trained model says, of small problems or of its own data": kit.ANSWERS,
    "Audit: what a run has stored": kit.AUDIT,
}


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
    wrong, lines = mutants(), [HEAD]
    for part, checks in PARTS.items():
        lines.append(f"## {part}\n")
        lines.extend(line for check in checks for line in section(check, wrong.get(check.name, [])))
    return "\n".join(lines)


def section(check: kit.Check[Any], mutants: list[str]) -> list[str]:
    """Of one check."""
    lines = [f"### {check.name}\n\n**Promises.** {check.promise}\n\n**When it fails, usually:** {check.cause}.\n"]
    if check.problems != kit.STORED:
        lines.append(f"Looked at on: {', '.join(check.problems)}.\n")
    if mutants:
        lines.append("Catches, in the mutant suite:\n")
        lines.append("".join(f"- {words}\n" for words in mutants))
    return lines


if __name__ == "__main__":
    PAGE.write_text(page())
