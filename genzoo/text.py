"""Text from elsewhere, made fit for a terminal and a log: plugin metadata, error messages, names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def plain(text: object, limit: int | None = None) -> str:
    """One line of printable text.

    Line breaks become "; ", every other control, formatting or bidirectional character becomes its escape, so that no
    metadata can move the cursor, colour the terminal or fake a second line.

    Args:
        text: anything; `str` of it is taken.
        limit: cut after that many characters, with an ellipsis.
    """
    lines = [line.strip() for line in str(text).splitlines()]
    joined = "; ".join(line for line in lines if line).replace("\t", " ")
    clean = "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in UNPRINTABLE else character
        for character in joined
    )
    return clean if limit is None or len(clean) <= limit else clean[: limit - 3] + "..."


def shown(value: object, limit: int = 120) -> str:
    """`repr` of a value for a message, its middle left out where it is long."""
    text = repr(value[: 4 * limit] if isinstance(value, (str, bytes, list, tuple)) else value)
    return text if len(text) <= limit else f"{text[: limit - 20]}...{text[-15:]}"


def complaints(errors: Iterable[Mapping[str, Any]], whole: str, limit: int = 5) -> str:
    """pydantic's errors on one line, `key=value: what is wrong; ...`: the first few, and how many more there are.

    Args:
        whole: what to call the value where an error speaks of all of it.
    """
    told = [
        f"{plain('.'.join(map(str, e['loc'])) or whole, 80)}={shown(e['input'])}: {e['msg'][:1].lower()}{e['msg'][1:]}"
        for e in errors
    ]
    more = f"; and {len(told) - limit:,} more" if len(told) > limit else ""
    return "; ".join(told[:limit]) + more
