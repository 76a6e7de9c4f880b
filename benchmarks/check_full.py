"""The kit's full level over every registered model, or over those named: `make check-full`, or
`python benchmarks/check_full.py MODEL...`, which renews their part of the receipt.

Writes `results/check_full.json` after each model, with the commit it ran at, and exits 1 when one has no clean receipt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from genzoo.provenance import commit
from genzoo.registry import load_registry
from genzoo.testing import kit

RECEIPT = Path(__file__).parent / "results" / "check_full.json"


def main(names: list[str]) -> int:
    torch.set_num_threads(1)
    registry = load_registry()
    receipts = json.loads(RECEIPT.read_text()) if names and RECEIPT.exists() else {}
    for name in names or registry.models:
        receipt = kit.run(kit.subject_of(registry, name, "full"))
        print(receipt.summary(), flush=True)
        for result in receipt.results:
            if result.outcome == "failed":
                print(f"    {result.name}: {result.message}", flush=True)
        receipts[name] = receipt.as_json() | {"commit": commit()}
        RECEIPT.write_text(json.dumps(receipts, indent=1, sort_keys=True) + "\n")
    return 0 if all(receipt["ok"] for receipt in receipts.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
