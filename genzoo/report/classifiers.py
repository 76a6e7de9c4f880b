"""The table of generative classifiers: how well conditional models tell the classes apart by Bayes' rule."""

from __future__ import annotations

from genzoo.records import RunRecord
from genzoo.report.collect import Group
from genzoo.report.numbers import NONE, count, decimals, fixed
from genzoo.report.table import NAME_LIMIT, Column, Row, Table
from genzoo.text import plain

EXPLAINED = (
    "p(y given x) by Bayes' rule from p(x given y) and the class frequencies of the training data.",
    "Calibration error: of the most probable class's probability, over bins of equally many points; in parentheses "
    "what 95 in 100 calibrated classifiers stay below.",
)
APPROXIMATE = "~ approximate: from a bound on p(x given y), whose differences are no differences of densities."
TRUTH = "Bayes: the true posterior on the same points, which no classifier beats but by chance."


def table(group: Group) -> Table | None:
    """Accuracy, log loss, Brier score and calibration error of the first readings; None where nothing classifies."""
    records = [entry.record for standing in group.standings for entry in standing.entries if entry.record.classifier]
    if not records:
        return None
    known = any("bayes_accuracy" in record.classifier for record in records)
    columns = [
        Column("model", text=True),
        Column("seed"),
        Column("accuracy"),
        Column("log loss, nats"),
        Column("Brier score"),
        Column("calibration error"),
        Column("points"),
        *([Column("Bayes accuracy"), Column("Bayes log loss")] if known else []),
    ]
    notes = [*EXPLAINED]
    if any(record.classifier.get("approximate") for record in records):
        notes.append(APPROXIMATE)
    if known:
        notes.append(TRUTH)
    return Table(tuple(columns), tuple(_row(record, known) for record in records), tuple(notes))


def _row(record: RunRecord, known: bool) -> Row:
    held = record.classifier
    sign = "~ " if held.get("approximate") else ""
    points = held.get("points")
    limit = fixed(_number(held.get("calibration_limit")), 3)
    cells = [
        plain(record.label, NAME_LIMIT),
        str(record.seed),
        *(sign + _with_error(record, name) for name in ("accuracy", "log_loss", "brier")),
        f"{sign}{fixed(_number(held.get('calibration_error')), 3)} ({limit})",
        count(int(points)) if isinstance(points, (int, float)) else NONE,
    ]
    if known:
        cells += [fixed(_number(held.get(f"bayes_{name}")), 4) for name in ("accuracy", "log_loss")]
    return Row(tuple(cells))


def _with_error(record: RunRecord, name: str) -> str:
    error = _number(record.classifier.get(f"{name}_stderr"))
    places = decimals(error)
    return f"{fixed(_number(record.classifier.get(name)), places)} +- {fixed(error, places)}"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
