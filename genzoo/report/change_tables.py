"""What changed between two runs, as sentences, tables and rows: see `changes`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from genzoo.records import RunRecord
from genzoo.report.changes import Change, Comparison, Model, Outcome, differing
from genzoo.report.collect import Entry
from genzoo.report.numbers import NONE, bound, brief, count, decimals, fixed, with_error
from genzoo.report.pairs import Difference
from genzoo.report.table import NAME_LIMIT, REASON_LIMIT, Column, Row, Table
from genzoo.report.units import NATS, Unit, in_unit
from genzoo.text import plain

TITLE = "What changed"
VALUES, SETTINGS = 3, 3
"""Most values of a setting, and names of settings in a cell, that are shown; of more, how many there are."""


def heading(comparison: Comparison) -> str:
    """Title of a comparison."""
    return f"{TITLE} from {plain(comparison.before, NAME_LIMIT)} to {plain(comparison.after, NAME_LIMIT)}"


def sentences(comparison: Comparison) -> list[str]:
    """What the comparison shows, the most important first."""
    found = Counter(model.word for model in comparison.models)
    said = []
    if comparison.models:
        words = {
            "lower": "a lower NLL",
            "higher": "a higher NLL",
            "": "no change that is clear",
            "same": "the same NLL",
        }
        counts = [f"{found[word]} with {words[word]}" for word in words if found[word]]
        noun = "model and data set" if len(comparison.models) == 1 else "models and data sets"
        size = "one" if len(comparison.models) == 1 else f"all {len(comparison.models)}"
        said.append(f"{len(comparison.models)} {noun} compared: {', '.join(counts)} (95 %, Holm over {size}).")
    if any(change.same for change in comparison.changes):
        said.append("Same: the two runs give one bound at every point, to the bit.")
    compared = [change for change in comparison.changes if change.outcome == "compared"]
    kinds = {change.after.record.kind for change in compared if change.after is not None}
    if kinds - {"exact"}:
        said.append("A bound that is not exact may have become tighter or looser while the model stayed as it was.")
    if any(not change.paired for change in compared):
        said.append("Unpaired: no test points in common are stored, so that the errors of both add up.")
    outcomes: tuple[tuple[Outcome, str], ...] = (
        ("copy", "the same record in both runs, a copy: counted once"),
        ("only_before", f"only in {comparison.before}"),
        ("only_after", f"only in {comparison.after}"),
    )
    said += [
        f"{_cells(comparison.count(outcome))} {words}." for outcome, words in outcomes if comparison.count(outcome)
    ]
    for change in comparison.changes:
        if change.outcome == "other_protocol":
            names = ", ".join(key.partition(".")[2] for key, _, _ in differing(change) if key.startswith("protocol."))
            said.append(f"{_title(change)}: not compared, another protocol ({names or 'another split'} differs).")
        elif change.outcome == "no_number":
            said.append(f"{_title(change)}: not compared: {_end(change.before)} before, {_end(change.after)} after.")
    return [plain(sentence, REASON_LIMIT) for sentence in said]


def table(comparison: Comparison, unit: Unit = NATS) -> Table | None:
    """A row for each model and data set, under it one for each seed where there are several; None without any."""
    if not comparison.models:
        return None
    titles = ("data", "model", "seed", f"NLL before, {unit}", f"NLL after, {unit}", f"change, {unit}", "p", "NLL is")
    texts = ("data", "model", "NLL is", "what differs")
    rows = [row for model in comparison.models for row in _rows(model, unit)]
    columns = (*titles, "train s", "eval s", "parameters", "what differs")
    notes: tuple[str, ...] = (
        "change: NLL after less NLL before, paired over the points in common; below 0 is better.",
    )
    if any(model.difference.over_seeds for model in comparison.models):
        notes += ("Of several seeds: the mean of their changes, with s/sqrt(S) over seeds; t(S-1).",)
    return Table(tuple(Column(title, text=title in texts) for title in columns), tuple(rows), notes, header=1)


def _rows(model: Model, unit: Unit) -> Iterator[Row]:
    p = "< 0.0001" if model.adjusted < 1e-4 else f"{model.adjusted:.2g}"
    first, alone = model.changes[0], len(model.changes) == 1
    if alone:
        yield _row(first, first.difference, unit, p, model.word)
        return
    name = (plain(first.dataset, NAME_LIMIT), plain(first.label, NAME_LIMIT), f"mean of {len(model.changes)}")
    blank = NONE
    yield Row(
        (*name, blank, blank, _change(model.difference, first, unit), p, model.word, *[blank] * 3, _settings(model))
    )
    for change in model.changes:
        yield _row(change, change.difference, unit, "", "same" if change.same else "", "seed")


def _row(change: Change, difference: Difference | None, unit: Unit, p: str, word: str, role: str = "model") -> Row:
    assert change.before is not None
    assert change.after is not None
    before, after = change.before.record, change.after.record
    cells = (
        plain(change.dataset, NAME_LIMIT),
        plain(change.label, NAME_LIMIT),
        str(change.seed),
        bound(in_unit(before, unit)),
        bound(in_unit(after, unit)),
        _change(difference, change, unit) + ("" if change.paired else " (unpaired)"),
        p,
        word,
        _both(brief(before.seconds_train), brief(after.seconds_train)),
        _both(brief(before.seconds_eval), brief(after.seconds_eval)),
        _both(count(before.parameters), count(after.parameters)),
        _names([change]),
    )
    return Row(cells, "seed" if role == "seed" else "model")


def _change(difference: Difference | None, change: Change, unit: Unit) -> str:
    assert change.after is not None
    if difference is None:
        return NONE
    factor = unit.factor(change.after.record.event_shape)
    if difference.stderr == 0:
        return fixed(-factor * difference.nats, decimals(None))
    return with_error(-factor * difference.nats, factor * difference.stderr)


def _settings(model: Model) -> str:
    return _names(model.changes)


def _names(changes: Sequence[Change]) -> str:
    names = list(dict.fromkeys(key for change in changes for key, _, _ in differing(change)))
    shown = ", ".join(names[:SETTINGS]) + (f" and {len(names) - SETTINGS} more" if len(names) > SETTINGS else "")
    return plain(shown, REASON_LIMIT) or NONE


def settings(comparison: Comparison) -> Table | None:
    """Every setting that differs in some cell with a number in both runs, and in how many; None where none does."""
    found: dict[str, list[tuple[str, str]]] = {}
    shared = [change for change in comparison.changes if change.outcome in ("compared", "other_protocol")]
    for change in shared:
        for key, before, after in differing(change):
            found.setdefault(key, []).append((before, after))
    if not found:
        return None
    rows = tuple(
        Row(
            (
                plain(key, NAME_LIMIT),
                *(_values(side) for side in zip(*values, strict=True)),
                f"{len(values)} of {len(shared)}",
            )
        )
        for key, values in found.items()
    )
    titles = ("setting", plain(comparison.before, NAME_LIMIT), plain(comparison.after, NAME_LIMIT))
    return Table((*(Column(title, text=True) for title in titles), Column("cells")), rows)


def _values(values: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(values))
    more = f" and {len(distinct) - VALUES} more" if len(distinct) > VALUES else ""
    return plain(", ".join(value or NONE for value in distinct[:VALUES]) + more, NAME_LIMIT)


def rows(comparison: Comparison) -> list[dict[str, object]]:
    """One mapping a cell of either run, for JSON and CSV; nats, and null where there is no number. `change`: NLL after
    less NLL before; `p_adjusted`, `nll_is`: of the model on the data set, over its seeds."""
    models = {id(change): model for model in comparison.models for change in model.changes}
    made = []
    for change in comparison.changes:
        found, model = change.difference, models.get(id(change))
        sides = {"before": change.before, "after": change.after}
        values: dict[str, object] = {
            "before": comparison.before,
            "after": comparison.after,
            "dataset": change.dataset,
            "model": change.label,
            "seed": change.seed,
            "outcome": change.outcome,
            "change": None if found is None else -found.nats,
            "stderr": None if found is None else found.stderr,
            "points": None if found is None else found.points,
            "paired": None if found is None else change.paired,
            "p_adjusted": None if model is None else model.adjusted,
            "nll_is": None if model is None else model.word or "not clear",
        }
        for name in ("cell", "status", "kind", "nll", "parameters", "seconds_train", "seconds_eval", "seconds_sample"):
            values |= {f"{name}_{side}": _of(entry, name) for side, entry in sides.items()}
        values["differs"] = {key: [before, after] for key, before, after in differing(change)}
        made.append(values)
    return made


def _of(entry: Entry | None, name: str) -> object:
    return None if entry is None else getattr(entry.record, name)


def _both(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"


def _title(change: Change) -> str:
    return f"{change.label} on {change.dataset}, seed {change.seed}"


def _end(entry: Entry | None) -> str:
    assert entry is not None
    record: RunRecord = entry.record
    return "an infinite NLL" if record.status == "ok" and record.nll is None else record.status


def _cells(number: int) -> str:
    return "1 cell is" if number == 1 else f"{number} cells are"
