"""Text from elsewhere, made fit for a terminal and a log: plugin metadata, error messages, names."""

from __future__ import annotations

import unicodedata

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
