"""Numbers as text: digits follow the error, and a sign says what sort of bound a figure is."""

from __future__ import annotations

import math
import re

from genzoo.records import RunRecord

SIGNS = {"exact": "=", "weights": "<=", "lower_bound": "<=", "bracket": "<=", "estimate": "~"}
"""What an NLL is, from the kind of the log-likelihood: minus a lower bound is an upper bound."""
NONE = "-"
MAX_DECIMALS = 6

TYPOGRAPHY = {"<=": "\u2264", "+-": "\u00b1"}


def decimals(stderr: float | None, otherwise: int = 4) -> int:
    """How many decimals show two significant digits of `stderr`; `otherwise` where there is none."""
    if stderr is None or not math.isfinite(stderr) or stderr <= 0:
        return otherwise
    # through the rounded mantissa: 0.0996 is 0.10 to two digits, and wants two decimals
    exponent = int(f"{stderr:.1e}".partition("e")[2])
    return min(MAX_DECIMALS, max(0, 1 - exponent))


def fixed(value: float | None, places: int) -> str:
    """`value` with that many decimals, `inf` and a dash included; never `-0.00`."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return "inf" if value > 0 else "-inf"
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def with_error(value: float | None, stderr: float | None) -> str:
    """`1.234 +- 0.056`: both to two significant digits of the error; the value alone where there is no error."""
    if value is None:
        return NONE
    places = decimals(stderr)
    return fixed(value, places) if stderr is None else f"{fixed(value, places)} +- {fixed(stderr, places)}"


def count(value: float | None) -> str:
    """A whole number with thousands separated."""
    return NONE if value is None else f"{value:,.0f}"


def brief(value: float | None) -> str:
    """Three significant digits, six decimals at most: seconds, rates, sample metrics."""
    if value is None or not math.isfinite(value):
        return NONE
    places = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, MAX_DECIMALS)}f}"


def typeset(text: str) -> str:
    """The same with the typographic signs for <= and +-, and a true minus before a number."""
    if text == NONE:
        return "\u2013"
    for plain, sign in TYPOGRAPHY.items():
        text = text.replace(plain, sign)
    return re.sub(r"(?<![\w.)\]-])-(?=\d|inf)", "\u2212", text)


def bound(record: RunRecord) -> str:
    """The NLL in nats behind its sign; a bracket as [lower end, upper end]; an infinite one with its count."""
    sign = SIGNS.get(record.kind or "", "~")
    if record.nll is None:
        return f"{sign} inf ({count(record.infinite)} at -inf)" if record.infinite else NONE
    if record.kind == "bracket" and record.nll_lower is not None:
        places = decimals(record.stderr)
        interval = f"[{fixed(record.nll_lower, places)}, {fixed(record.nll, places)}]"
        return interval if record.stderr is None else f"{interval} +- {fixed(record.stderr, places)}"
    return f"{sign} {with_error(record.nll, record.stderr)}"


def divergence(record: RunRecord) -> str:
    """KL to the truth in nats with its paired error, behind its sign: from a bound on log q it is an upper bound."""
    if record.kl is None:
        return NONE
    text = with_error(record.kl, record.kl_stderr)
    return text if record.kind == "exact" else f"{SIGNS.get(record.kind or '', '~')} {text}"


def bits(record: RunRecord) -> str:
    """Bits a dimension behind the sign of the NLL, to the digits of its error."""
    if record.bits_per_dim is None:
        return NONE
    dims = math.prod(record.event_shape) * math.log(2)
    stderr = None if record.stderr is None or dims <= 0 else record.stderr / dims
    return f"{SIGNS.get(record.kind or '', '~')} {fixed(record.bits_per_dim, decimals(stderr))}"
