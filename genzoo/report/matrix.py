"""Models by data sets: what became of each cell, or will, and the reason of each that is skipped or has failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from genzoo.report.collect import Group
from genzoo.report.numbers import NONE
from genzoo.report.table import NAME_LIMIT, REASON_LIMIT, Column, Row, Table
from genzoo.text import plain

WORDS = {"skipped": "skip", "failed": "fail"}
"""Of a record's status."""


class Place(NamedTuple):
    """One cell in the matrix: `status` is ok, skip, fail, or run for one that is still to be trained."""

    model: str
    dataset: str
    status: str
    reason: str = ""


def of_groups(groups: Sequence[Group]) -> list[Place]:
    """What became of every cell; later readings of one are left out."""
    places = []
    for group in groups:
        records = [entry.record for standing in group.standings for entry in standing.entries]
        for record in [*records, *(entry.record for entry in group.failed)]:
            reason = (record.error or {}).get("message", "") if record.status != "ok" else ""
            places.append(Place(record.label, record.dataset, WORDS.get(record.status, record.status), reason))
    return places


def matrix(places: Iterable[Place]) -> Table | None:
    """A row a model, a column a data set; None where no cell is skipped and none has failed.

    A cell of several seeds says how many: `ok 2, fail 1`. The notes give each reason once, with where it holds.
    """
    places = list(places)
    if not any(place.status in WORDS.values() for place in places):
        return None
    datasets = list(dict.fromkeys(place.dataset for place in places))
    models = sorted({place.model for place in places})
    rows = []
    for model in models:
        cells = []
        for dataset in datasets:
            here = Counter(place.status for place in places if (place.model, place.dataset) == (model, dataset))
            alone = len(here) == 1
            cells.append(", ".join(status if alone else f"{status} {n}" for status, n in here.items()) or NONE)
        rows.append(Row((plain(model, NAME_LIMIT), *cells), "failed" if "fail" in " ".join(cells) else "model"))
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for place in sorted(places):
        if place.status in WORDS.values():
            reasons.setdefault((place.status, place.model, place.reason), []).append(place.dataset)
    notes = [
        f"{plain(model, NAME_LIMIT)} on {plain(', '.join(dict.fromkeys(where)), REASON_LIMIT)}: {status}: "
        f"{plain(reason or 'no reason recorded', REASON_LIMIT)}"
        for (status, model, reason), where in reasons.items()
    ]
    columns = (Column("model", text=True), *(Column(plain(name, NAME_LIMIT), text=True) for name in datasets))
    return Table(columns, tuple(rows), tuple(notes))
