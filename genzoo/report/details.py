"""What a report holds of a group beside its league: tables under their names, one list for the page and for text."""

from __future__ import annotations

from collections.abc import Callable

from genzoo.report import anatomy, classifiers, floors, frontier, leagues, published, tightness
from genzoo.report.collect import Group
from genzoo.report.leagues import Match
from genzoo.report.pairs import pair_table
from genzoo.report.table import READINGS, Table, metrics, terms
from genzoo.report.units import Unit

PAIRS = "Pairs of models"


def details(group: Group, match: Match | None = None) -> list[tuple[str, Callable[[Unit], Table | None]]]:
    """Names and what makes the table in a unit, or None where there is none; leagues of `match` where asked for."""
    return [
        *([(f"Leagues of equal {match}", lambda unit: leagues.table(group, match, unit))] if match else []),
        (published.TITLE, lambda unit: published.table(group, unit)),
        (floors.TITLE, lambda unit: floors.table(group, unit)),
        (PAIRS, lambda unit: pair_table(group, unit)),
        ("Bound and cost", lambda unit: frontier.table(group, unit)),
        ("Sample metrics", lambda _: metrics(group)),
        ("Classification by Bayes' rule", lambda _: classifiers.table(group)),
        ("Terms of the bound", lambda unit: terms(group, unit)),
        (READINGS, lambda unit: tightness.table(group, unit)),
        ("Anatomy of the bound", lambda unit: anatomy.table(group, unit)),
    ]
