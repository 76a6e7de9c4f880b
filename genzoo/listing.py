"""What `genzoo list` shows: cards as rows, as JSON and as text, and a model's config or a plan file's key by key."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from genzoo.cards import Card, ModelCard
from genzoo.errors import PluginError
from genzoo.registry import Registry
from genzoo.text import plain

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Row = dict[str, Any]

SORTS = ("models", "datasets", "metrics")
# Column heading to the key of the row that it shows.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "models": {
        "name": "name",
        "family": "family",
        "data": "data",
        "bound": "kind",
        "plugin": "plugin",
        "paper": "paper",
    },
    "datasets": {
        "name": "name",
        "data": "data",
        "shape": "event_shape",
        "truth": "truth",
        "options": "options",
        "plugin": "plugin",
        "summary": "summary",
    },
    "metrics": {
        "name": "name",
        "data": "data",
        "up to dims": "max_dims",
        "better": "lower_is_better",
        "plugin": "plugin",
        "summary": "summary",
    },
}
MATHS = "maths"
CONFIGS = {"config": "config", "adapter_config": "adapters (read by genzoo, for every model)"}
PLAN = "plan"
PLAN_PARTS = {
    "plan": "a plan file: keys of its own, and two tables",
    "training": "[training]: a key overrides what models propose; these defaults are of models that propose nothing",
    "evaluation": "[evaluation]",
}
BETTER = {True: "lower", False: "higher"}
SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of"}
MACHINE_WORD = 2**31


def rows(registry: Registry, sort: str) -> list[Row]:
    """One row for each card of `sort` (models, datasets or metrics), in the order of loading: all that it says."""
    return [row(registry, card) for card in _cards(registry, sort).values()]


def row(registry: Registry, card: Card) -> Row:
    """Everything that a card says, ready for JSON, and under `plugin` the distribution that brought it."""
    origin = registry.origin(card)
    plugin = {"distribution": origin.distribution, "version": origin.version}
    return {key: _jsonable(value) for key, value in asdict(card).items()} | {"plugin": plugin}


def detail(registry: Registry, sort: str, name: str) -> Row:
    """The row of one card; a model's with the file of its class, what the head of that file says (its formulas, by the
    zoo's custom) under `maths`, key, type, default and reason of each config key under `config`, and of the keys that
    the host reads for every model under `adapter_config`.

    Raises UnknownNameError, or PluginError where the model's class cannot be imported or has no pydantic `Config`.
    """
    if sort == "models":
        from genzoo.config import AdapterConfig  # here: pydantic costs 0.1 s, which plain listings should not pay

        card = registry.model(name)
        config = {"config": config_rows(_fields(card)), "adapter_config": config_rows(AdapterConfig.model_fields)}
        return row(registry, card) | _source(card) | config
    return row(registry, registry.dataset(name) if sort == "datasets" else registry.metric(name))


def config_rows(fields: Mapping[str, FieldInfo]) -> list[Row]:
    """Key, type, default (None where `required` is true) and reason of each field of a pydantic model."""
    return [
        {
            "key": key,
            "type": _field_type(field),
            "required": field.is_required(),
            "default": None if field.is_required() else _jsonable(field.get_default(call_default_factory=True)),
            "reason": field.description or "",
        }
        for key, field in fields.items()
    ]


def plan_rows() -> dict[str, list[Row]]:
    """What a plan file may hold, as `config_rows` of each part in `PLAN_PARTS`."""
    from genzoo.config import Config, TrainSettings  # here: pydantic, as above
    from genzoo.plan import EvaluationPlan, Plan

    parts: dict[str, type[Config]] = {"plan": Plan, "training": TrainSettings, "evaluation": EvaluationPlan}
    found = {name: config_rows(part.model_fields) for name, part in parts.items()}
    found["plan"] = [entry for entry in found["plan"] if entry["key"] not in parts]  # these are the tables
    return found


def plan_text(parts: Mapping[str, list[Row]]) -> str:
    """What `plan_rows` gives, as text."""
    return "\n\n".join(_keys(PLAN_PARTS[name], entries) for name, entries in parts.items())


def table(sort: str, entries: Sequence[Row], *, heading: bool = False) -> str:
    """Rows as aligned columns of printable text, under the name of the sort where `heading`."""
    columns = COLUMNS[sort]
    lines = [[*columns]] + [[_cell(key, entry[key]) for key in columns.values()] for entry in entries]
    text = align(lines)
    return f"{sort}\n{text}" if heading else text


def detail_text(entry: Row) -> str:
    """What `detail` gives, as text."""
    facts = [[key, _cell(key, value)] for key, value in entry.items() if key not in (MATHS, *CONFIGS)]
    blocks = [align(facts)]
    if entry.get(MATHS):
        lines = entry[MATHS].splitlines()
        # line by line, since `plain` makes one line of many and drops the indent
        text = "\n".join(" " * (len(line) - len(line.lstrip())) + plain(line) for line in lines)
        blocks.append(f"{MATHS}\n{text}")
    for key, heading in CONFIGS.items():
        if key in entry:
            blocks.append(_keys(heading, entry[key]))
    return "\n\n".join(blocks)


def _keys(heading: str, entries: Sequence[Row]) -> str:
    lines = [["key", "type", "default", "reason"], *map(_config_line, entries)]
    return f"{heading}\n{align(lines)}" if entries else f"{heading}: none"


def _config_line(field: Row) -> list[str]:
    default = "(required)" if field["required"] else _cell("default", field["default"])
    return [plain(field["key"]), plain(field["type"]), default, plain(field["reason"])]


def align(lines: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, each as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _fields(card: ModelCard) -> Mapping[str, FieldInfo]:
    config = getattr(card.resolve(), "Config", None)
    fields = getattr(config, "model_fields", None)
    if not isinstance(fields, dict):
        raise PluginError(
            f"model {card.name!r}: expected {card.target} to have a Config, a subclass of genzoo.config.Config; "
            f"got {config!r}"
        )
    return fields


def _source(card: ModelCard) -> Row:
    """File of the model's class, and the docstring at its head; empty where there is none."""
    module = inspect.getmodule(card.resolve())
    return {"file": getattr(module, "__file__", None) or "", MATHS: inspect.getdoc(module) or ""}


def _cards(registry: Registry, sort: str) -> Mapping[str, Card]:
    cards: dict[str, Mapping[str, Card]] = {
        "models": registry.models,
        "datasets": registry.datasets,
        "metrics": registry.metrics,
    }
    return cards[sort]


def _cell(key: str, value: Any) -> str:
    """One value as a person reads it, in printable characters."""
    if key == "plugin":
        return plain(f"{value['distribution']} {value['version']}".rstrip())
    if key == "lower_is_better":
        return BETTER[value]
    if key == "event_shape":
        return f"({', '.join(map(str, value))}{',' if len(value) == 1 else ''})"
    if key == "truth":
        return "known" if value else "-"
    if value is None or (key != "default" and value in ("", {}, [])):
        return "any" if key == "max_dims" else "none" if key == "default" else "-"
    if isinstance(value, Mapping):
        return plain(", ".join(_setting(name, inner) for name, inner in value.items()))
    if isinstance(value, list):
        return plain(", ".join(_cell("default", inner) for inner in value))
    return plain(str(value).lower() if isinstance(value, bool) else value)


def _setting(name: str, value: Any) -> str:
    """`key=value`, or `name[key=value]` of a mapping, as the command line takes them."""
    return f"{name}[{_cell('default', value)}]" if isinstance(value, Mapping) else f"{name}={_cell('default', value)}"


def _jsonable(value: Any) -> Any:
    """Plain JSON data: mappings and sequences rebuilt, what JSON cannot say as its text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    if isinstance(value, Mapping):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(inner) for inner in value]
    if hasattr(value, "model_dump"):
        return _jsonable(value.model_dump())
    return str(value)


def _field_type(field: FieldInfo) -> str:
    """`int, >= 1`, `linear | cosine`, `float | none`: the annotation and its limits."""
    return ", ".join([_type_name(field.annotation), *_limits(field.metadata)])


def _limits(metadata: Sequence[Any]) -> list[str]:
    """In words; those that only keep a number within a machine word are left out."""
    found = []
    for limit in metadata:
        found += _limits(getattr(limit, "metadata", ()))  # of a field in an annotation
        for name, sign in SIGNS.items():
            value = getattr(limit, name, None)
            if value is not None and abs(value) < MACHINE_WORD:
                found.append(f"{sign} {value}")
    return found


def _type_name(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is type(None):
        return "none"
    if origin is Annotated:
        return ", ".join([_type_name(inner[0]), *_limits(inner[1:])])
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " | ".join(map(_type_name, inner))
    if origin is not None:
        return f"{_type_name(origin)}[{', '.join('...' if one is ... else _type_name(one) for one in inner)}]"
    return str(getattr(annotation, "__name__", annotation))
