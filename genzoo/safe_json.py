"""Strict JSON: no NaN, no number beyond 64 bits, no key twice, no half of a surrogate pair, not deep. No torch."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

DEPTH = 64
"""Levels of nesting: records have six; recursion in what walks a tree later must not run out of stack."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes, any_number: bool = False) -> Any:
    """The value that `text` (UTF-8 if it is bytes) holds; with `any_number`, Python's infinities, NaN and large
    integers too. Raises ValueError, which says what is wrong."""
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    numbers: dict[str, Any] = {"parse_int": _whole, "parse_float": _real, "parse_constant": _constant}
    try:
        value = json.loads(text, object_pairs_hook=_object, **({} if any_number else numbers))
    except RecursionError:
        raise ValueError(f"it is nested more than {DEPTH} levels deep") from None
    if text.count("[") + text.count("{") > DEPTH and deeper_than(value, DEPTH):
        raise ValueError(f"it is nested more than {DEPTH} levels deep")
    if _HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it has half of a surrogate pair, which is no character") from None
    return value


def deeper_than(value: Any, depth: int) -> bool:
    """Whether lists and dicts are nested more than `depth` levels deep; without recursion."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(depth):
        if not level:
            return False
        inner = (item for node in level for item in (node.values() if isinstance(node, dict) else node))
        level = [item for item in inner if isinstance(item, (dict, list))]
    return bool(level)


def _whole(digits: str) -> int:
    # by length first: turning a million digits into a number takes long
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"the number {digits[:24]} does not fit in 64 bits")
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]} does not fit in a double")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        times = Counter(key for key, _ in pairs)
        twice = times.most_common(1)[0][0]
        raise ValueError(f"the key {twice[:40]!r} stands twice in one object")
    return made
