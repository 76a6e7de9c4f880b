"""From a name and options to a model or a data set."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genzoo.adapters import adapt
from genzoo.cards import Card, ModelCard
from genzoo.config import ADAPTER_KEYS, AdapterConfig, Config, Reference
from genzoo.errors import CapabilityError, ConfigError, DataError, PluginError, UnknownNameError
from genzoo.interface import GenerativeModel
from genzoo.registry import Registry
from genzoo.spec import Dataset, DataSpec

LEVELS = {"real": None, "binary": 2, "discrete": 256}
SHAPES = ((2,), (1, 8, 8), (1, 28, 28), (3, 32, 32))
"""What a card's word is tried on, after the smallest event that it says it takes."""


def able_to(registry: Registry, sort: type) -> list[str]:
    """Registered models whose class is of a sort, such as ConditionalSampler; imports them all, and leaves out what
    cannot be."""
    able = []
    for name, card in registry.models.items():
        with contextlib.suppress(PluginError):
            model = card.resolve()
            if isinstance(model, type) and issubclass(model, sort):
                able.append(name)
    return sorted(able)


@dataclass(frozen=True)
class Blueprint:
    """Everything that a model is before it has weights: resolved, validated, not yet built."""

    card: ModelCard
    spec: DataSpec
    config: Config
    adapters: AdapterConfig

    @classmethod
    def of(cls, registry: Registry, name: str, options: Mapping[str, Any], spec: DataSpec) -> Blueprint:
        """Resolve a registered name and its inline options on a data spec; the card's default adapters come first.

        Raises:
            UnknownNameError: no such model or config key. ConfigError: a wrong value.
            CapabilityError: the card does not take such data.
        """
        return cls.of_card(registry.model(name), options, spec)

    @classmethod
    def of_card(cls, card: ModelCard, options: Mapping[str, Any], spec: DataSpec) -> Blueprint:
        """The same from a card."""
        if (reason := declined(card, spec)) is not None:
            raise CapabilityError(reason)
        name, model = card.name, card.resolve()
        if not (isinstance(model, type) and issubclass(model, GenerativeModel)):
            raise PluginError(f"{card.target} of card {name} is not a GenerativeModel; got {model!r}")
        own = {key: value for key, value in options.items() if key not in ADAPTER_KEYS}
        unknown = [key for key in own if key not in model.Config.model_fields]
        if unknown:
            known = [*model.Config.model_fields, *ADAPTER_KEYS]
            raise UnknownNameError(f"config key of {name}", unknown[0], known)
        asked = {key: value for key, value in options.items() if key in ADAPTER_KEYS}
        adapters = AdapterConfig.parse({**card.adapters.get(spec.kind, {}), **asked}, name)
        return cls(card, spec, model.Config.parse(own, name), adapters)

    def build(self, seed: int) -> GenerativeModel:
        """The model with weights drawn from `seed`; the caller's RNG is untouched."""
        make = self.card.resolve()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return adapt(lambda spec: make(spec, self.config), self.spec, self.adapters)

    def stored_config(self) -> dict[str, Any]:
        """Config with the adapters under `adapters`, as records hold it."""
        return {**self.config.model_dump(mode="json"), "adapters": self.adapters.model_dump(mode="json")}

    @classmethod
    def from_stored(cls, registry: Registry, name: str, stored: Mapping[str, Any], spec: DataSpec) -> Blueprint:
        """The inverse of `stored_config`."""
        card = registry.model(name)
        own = {key: value for key, value in stored.items() if key != "adapters"}
        adapters = AdapterConfig.parse(stored.get("adapters", {}), name)
        return cls(card, spec, card.resolve().Config.parse(own, name), adapters)


def declined(card: ModelCard, spec: DataSpec) -> str | None:
    """Why the card says that its model does not take such data; None where it does."""
    low, high, levels = card.min_dims, card.max_dims, card.max_levels
    limits = f"{low} dimensions or more" if high is None else f"{low} to {high} dimensions"
    demands = (
        (spec.kind in card.data, f"{', '.join(card.data)} data", f"is {spec.kind}"),
        (spec.dims >= low and (high is None or spec.dims <= high), f"data of {limits}", f"has {spec.dims}"),
        (not card.images or len(spec.event_shape) == 3, "images (C, H, W)", f"has events {spec.event_shape}"),
        (levels is None or (spec.levels or 0) <= levels, f"codes of up to {levels} levels", f"has {spec.levels}"),
        (card.labels or spec.classes is None, "no labels", f"has {spec.classes} classes"),
    )
    because = f": {card.because}" if card.because else ""
    for met, takes, it in demands:
        if not met:
            return f"{card.name} takes {takes}; this data set {it}{because}"
    return None


def check_card(card: Card) -> None:
    """Import the card's target, and build a model for each kind of data that the card says it takes.

    Raises PluginError where the card lies: no such target, not a GenerativeModel, none of a few shapes taken.
    """
    if not isinstance(card, ModelCard):
        if not callable(card.resolve()):
            raise PluginError(f"{card.target} of {card.what} {card.name} cannot be called; expected a function")
        return
    for kind in card.data:
        levels = LEVELS[kind]
        if levels is not None and card.max_levels is not None:
            levels = min(levels, card.max_levels)
        refused: Exception | None = None
        for shape in ((card.min_dims,), *SHAPES):
            try:
                Blueprint.of_card(card, {}, DataSpec(shape, levels)).build(0)
                break
            except PluginError:
                raise
            except Exception as error:  # it may take another shape
                refused = refused or error
        else:
            words = f"{type(refused).__name__}: {refused}"
            raise PluginError(f"card {card.name} says that the model takes {kind} data; it took none: {words}")


def load_reference(registry: Registry, reference: Reference) -> Dataset:
    """A registered data set with its options, or your own data by path.

    Raises:
        UnknownNameError: neither registered nor a path; DataError: cannot be loaded.
    """
    options = dict(reference.options)
    if reference.name in registry.datasets:
        card = registry.dataset(reference.name)
        unknown = [key for key in options if key not in card.options]
        if unknown:
            raise UnknownNameError(f"option of data set {card.name}", unknown[0], card.options)
        for key, value in options.items():
            if type(value) is not type(card.options[key]):
                expected, got = type(card.options[key]).__name__, type(value).__name__
                raise ConfigError(f"option {key} of data set {card.name}: expected {expected}; got {value!r} ({got})")
        data = card.resolve()(**options)
        if not isinstance(data, Dataset):
            raise PluginError(f"{card.target} of data set {card.name} did not return a Dataset; got {data!r}")
        return data
    path = Path(reference.name).expanduser()
    if not path.exists():
        if path.suffix or "/" in reference.name:
            raise DataError(f"no file or folder {reference.name!r}; give an existing .npz, .npy, .csv or IDX folder")
        registry.dataset(reference.name)  # raises, with near names
    from genzoo.data.files import load_path  # numpy's readers, only when asked for

    unknown = [key for key in options if key not in ("levels", "labels")]
    if unknown:
        raise UnknownNameError("option of a data file", unknown[0], ("levels", "labels"))
    return load_path(path, **options)


def check_reference(registry: Registry, reference: Reference) -> None:
    """Raise what `load_reference` would raise for a name, without loading anything."""
    if reference.name not in registry.datasets and not Path(reference.name).expanduser().exists():
        load_reference(registry, reference)
