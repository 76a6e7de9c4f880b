"""What a page carries for programs: its records as JSON, safe inside HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from genzoo.records import ROW_KEYS, RunRecord, finite

UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
"""What could end or open a tag, as JSON writes it inside a string; outside strings JSON has none of these."""


def data(records: Sequence[RunRecord]) -> str:
    """Every reading's whole record, without per-example values, and the keys of a row, as JSON for a data block."""
    value: dict[str, Any] = {"keys": ROW_KEYS, "records": [finite(asdict(record)) for record in records]}
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    for character, escape in UNSAFE.items():
        text = text.replace(character, escape)
    return text
