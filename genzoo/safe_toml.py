"""TOML of a stranger: what `tomllib` reads, bounded in size, in nesting and in the parts of a dotted key. No torch."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from genzoo.safe_json import DEPTH, deeper_than

SIZE = 256 * 2**10
"""Characters: tomllib reads about a megabyte a second, and a plan has one thousand."""

PARTS = 32
"""Of a dotted key, `a.b.c`: tomllib's time grows with their square."""

# Comments and strings, in the order in which TOML looks for them: what is left has dots in keys and numbers only. A
# string that does not end is taken to the end of its line or of the text, where tomllib stops too.
_TEXT = re.compile(
    r'''#[^\n]*+|"""(?:[^"\\]++|\\.|"(?!""))*+\\?(?:"{3,5}|\Z)|"(?:[^"\\\n]++|\\[^\n])*+\\?(?:"|(?=\n)|\Z)|'''
    r"""'''(?:[^']++|'(?!''))*+(?:'{3,5}|\Z)|'[^'\n]*+(?:'|(?=\n)|\Z)""",
    re.DOTALL,
)
_WORDS = re.compile(r"[\w\-+ \t]+")


def parse_toml(text: str) -> dict[str, Any]:
    """The table that `text` holds. Raises ValueError, which says what is wrong."""
    if len(text) > SIZE:
        raise ValueError(f"it has {len(text):,} characters; at most {SIZE:,} are read")
    if "." * PARTS in _WORDS.sub("", _TEXT.sub("", text)):
        raise ValueError(f"a dotted key has more than {PARTS} parts")
    try:
        table = tomllib.loads(text)
    except RecursionError:
        table = None
    if table is None or deeper_than(table, DEPTH):
        raise ValueError(f"it is nested more than {DEPTH} levels deep")
    return table
