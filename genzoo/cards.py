"""Cards: what a plugin says of its models, data sets and metrics before any of its code is imported.

A card is frozen data and needs no torch. `target` is a `"module:attribute"` string, resolved when the thing is built.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from genzoo.errors import PluginError
from genzoo.guard import descriptor_to

API = 1
NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,31}\Z")
TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")
DATA_KINDS = ("real", "binary", "discrete")
ANSWER_KINDS = ("exact", "weights", "lower_bound", "bracket", "estimate")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What every card has. Raises PluginError, naming the card and the field, for what is not of the stated form.

    Args:
        name: `[a-z0-9][a-z0-9_]{0,31}`, unique over the cards of its sort in all plugins.
        summary: one line.
        target: `"module:attribute"` of the model class, the data set loader or the metric function.
        paper: author-year and arXiv number or DOI; empty for none.
        api: version of the card format; this host reads 1.
    """

    what: ClassVar[str] = "card"

    name: str
    summary: str
    target: str
    paper: str = ""
    api: int = API

    def __post_init__(self) -> None:
        if type(self.api) is not int or self.api != API:
            raise PluginError(f"card {self.name!r} has api {self.api!r}; this genzoo reads api {API}")
        if not isinstance(self.name, str) or not NAME.match(self.name):
            raise PluginError(f"card name {self.name!r} is not of the form [a-z0-9][a-z0-9_]{{0,31}}")
        if not isinstance(self.target, str) or not TARGET.match(self.target):
            raise PluginError(f"target {self.target!r} of card {self.name!r} is not of the form 'module:attribute'")
        for key in ("summary", "paper"):
            self._expect(isinstance(getattr(self, key), str), key, "a string")

    def _expect(self, holds: bool, key: str, form: str) -> None:
        if not holds:
            raise PluginError(f"card {self.name!r}: expected {key} to be {form}; got {getattr(self, key)!r}")

    def locate(self) -> None:
        """Raise PluginError unless the module of `target` can be found; imports the packages around it, not itself."""
        module, attribute = self.target.split(":")
        try:
            if module in sys.modules:
                getattr(sys.modules[module], attribute)
            elif importlib.util.find_spec(module) is None:
                raise ModuleNotFoundError(f"No module named {module!r}")
        except Exception as cause:
            raise self._unloadable(cause) from cause

    def resolve(self) -> Any:
        """Import and return what `target` names. Raises PluginError with the cause when that fails.

        What the import prints goes to stderr, since stdout holds results only.
        """
        module, attribute = self.target.split(":")
        try:
            with contextlib.redirect_stdout(sys.stderr), descriptor_to(2):
                return getattr(importlib.import_module(module), attribute)
        except KeyboardInterrupt:
            raise
        except BaseException as cause:  # SystemExit and its like too: one bad model must not end the process
            raise self._unloadable(cause) from cause

    def _unloadable(self, cause: BaseException) -> PluginError:
        return PluginError(f"cannot load {self.what} {self.name!r} from {self.target}: {cause!r}")


def _are_kinds(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and all(kind in DATA_KINDS for kind in value)


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 1


KINDS_FORM = f"a tuple of {', '.join(DATA_KINDS)}"


@dataclass(frozen=True, kw_only=True)
class ModelCard(Card):
    """A generative model.

    Args:
        family: the field's word, such as "variational autoencoder".
        data: the data it takes natively or behind its default adapters: of "real", "binary", "discrete".
        min_dims, max_dims: how many dimensions an event may have (None: no limit).
        images: whether it takes images `(C, H, W)` alone.
        max_levels: most levels of the codes of discrete data (None: no limit).
        labels: whether it takes labels to condition on.
        gpu: whether it is trained on a GPU alone; a bench on a CPU leaves it out.
        because: why it takes no more than that, said wherever it declines; empty where that needs no reason.
        adapters: default adapter config for each kind of data, e.g. `{"discrete": {"dequantization": "uniform"}}`.
        num_samples: default evaluation effort (draws an example) for each kind of data; 1 where none is given.
        kind: the kind of its default answer, for listings: exact, weights, lower_bound, bracket or estimate.
        checked: config under which the conformance kit builds it, such as fewer steps, where the defaults would take
            longer than the kit has; options given to the kit come first.
    """

    what: ClassVar[str] = "model"

    family: str
    data: tuple[str, ...] = DATA_KINDS
    min_dims: int = 1
    max_dims: int | None = None
    images: bool = False
    max_levels: int | None = None
    labels: bool = True
    gpu: bool = False
    because: str = ""
    adapters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    num_samples: Mapping[str, int] = field(default_factory=dict)
    kind: str = "exact"
    checked: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect(isinstance(self.family, str), "family", "a string")
        self._expect(_are_kinds(self.data), "data", KINDS_FORM)
        self._expect(_is_size(self.min_dims), "min_dims", "a positive integer")
        limit = self.max_dims
        self._expect(limit is None or (_is_size(limit) and limit >= self.min_dims), "max_dims", "None or >= min_dims")
        for key in ("images", "labels", "gpu"):
            self._expect(isinstance(getattr(self, key), bool), key, "True or False")
        levels = self.max_levels
        self._expect(levels is None or (_is_size(levels) and levels > 1), "max_levels", "None or 2 or more")
        self._expect(isinstance(self.because, str), "because", "a string")
        for key, is_value, form in (
            ("adapters", lambda value: isinstance(value, Mapping), "settings"),
            ("num_samples", _is_size, "positive integer"),
        ):
            table = getattr(self, key)
            holds = isinstance(table, Mapping) and all(k in DATA_KINDS and is_value(v) for k, v in table.items())
            self._expect(holds, key, f"a mapping of {', '.join(DATA_KINDS)} to {form}")
        named = isinstance(self.checked, Mapping) and all(isinstance(key, str) for key in self.checked)
        self._expect(named, "checked", "a mapping of config keys to values")
        self._expect(self.kind in ANSWER_KINDS, "kind", f"one of {', '.join(ANSWER_KINDS)}")


@dataclass(frozen=True, kw_only=True)
class DatasetCard(Card):
    """A data set; `target` is called as `load(**options) -> Dataset`, options being the keys in `options`.

    Args:
        data: "real", "binary" or "discrete".
        event_shape: the shape of one example, for listings.
        options: option name to its default, such as `{"labels": False}`.
        truth: whether the exact log-density is known.
    """

    what: ClassVar[str] = "data set"

    data: str
    event_shape: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    truth: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect(self.data in DATA_KINDS, "data", f"one of {', '.join(DATA_KINDS)}")
        shape = self.event_shape
        is_shape = isinstance(shape, tuple) and bool(shape) and all(map(_is_size, shape))
        self._expect(is_shape, "event_shape", "a tuple of positive integers")
        options = self.options
        is_options = isinstance(options, Mapping) and all(
            isinstance(key, str) and key.isidentifier() for key in options
        )
        self._expect(is_options, "options", "a mapping of option names to defaults")
        self._expect(isinstance(self.truth, bool), "truth", "True or False")


@dataclass(frozen=True, kw_only=True)
class MetricCard(Card):
    """A sample metric; `target` is called as `metric(samples, reference, seed) -> float`.

    Args:
        data: the kinds of data it speaks of.
        max_dims: up to how many dimensions it means anything (None: any).
        lower_is_better: direction.
    """

    what: ClassVar[str] = "metric"

    data: tuple[str, ...] = DATA_KINDS
    max_dims: int | None = None
    lower_is_better: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect(_are_kinds(self.data), "data", KINDS_FORM)
        self._expect(self.max_dims is None or _is_size(self.max_dims), "max_dims", "None or a positive integer")
        self._expect(isinstance(self.lower_is_better, bool), "lower_is_better", "True or False")
