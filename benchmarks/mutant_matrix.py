"""Every mutant under every check of the kit's quick level: `python benchmarks/mutant_matrix.py`, about three minutes.

Prints a table of mutants (rows) and the checks that fail (columns), writes `results/mutant_matrix.json`, and exits 1
unless every mutant is caught by its named check and no check catches more than half of the mutants.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "mutants"))

import effects  # noqa: E402  # lies beside the mutants

from genzoo.testing import kit  # noqa: E402

RECEIPT = ROOT / "benchmarks" / "results" / "mutant_matrix.json"


def main() -> int:
    torch.set_num_threads(1)
    start = time.perf_counter()
    registry = effects.registry()
    rows = {}
    for name in effects.names(twins=False):
        subject = kit.subject_of(registry, name)
        receipt = kit.run(subject)
        model = effects.model_class(subject)
        rows[name] = {
            "caught_by": model.caught_by,
            "effect": round(effects.effect(subject), 4),
            "least_effect": model.effect,
            "failed": [result.name for result in receipt.results if result.outcome == "failed"],
        }
    checks = [check.name for check in kit.CHECKS]
    catches = Counter(check for row in rows.values() for check in {name.partition("[")[0] for name in row["failed"]})
    missed = [name for name, row in rows.items() if row["caught_by"] not in row["failed"]]
    greedy = [check for check in checks if catches[check] > len(rows) / 2]
    shown = [check for check in checks if catches[check]]
    for i, check in enumerate(shown):
        print(f"{' ' * 42}{'| ' * i}{check} ({catches[check]})")
    for name, row in rows.items():
        failed = {check.partition("[")[0] for check in row["failed"]}
        named = row["caught_by"].partition("[")[0]
        marks = " ".join(
            "@" if check == named and check in failed else "x" if check in failed else "." for check in shown
        )
        print(f"{name:32}{row['effect']:9.3f} {marks}")
    print(f"\n{len(rows)} mutants; @ the named check, x another one. In nats: the effect, against the correct twin.")
    print(f"escaped their named check: {missed or 'none'}; checks that catch more than half: {greedy or 'none'}")
    RECEIPT.parent.mkdir(exist_ok=True)
    document = {"mutants": rows, "catches": dict(catches), "missed": missed, "more_than_half": greedy}
    document["seconds"] = round(time.perf_counter() - start, 1)
    RECEIPT.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    return 1 if missed or greedy else 0


if __name__ == "__main__":
    sys.exit(main())
