"""What is installed: every plugin loaded alone, its cards by name, and what failed, with the cause.

A plugin that fails to import, exits, prints, hooks wrongly or clashes by name is a `PluginFailure`; the rest works, and
asking for one of its models raises PluginError with that cause. How one plugin is loaded is in `genzoo.loading`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from glob import glob
from types import MappingProxyType
from typing import TypeVar

from genzoo import builtin
from genzoo.cards import Card, DatasetCard, MetricCard, ModelCard
from genzoo.errors import PluginError, UnknownNameError, UsageError
from genzoo.loading import (
    HOST,
    PACKAGE,
    Origin,
    PluginFailure,
    PluginLoad,
    Source,
    file_source,
    host_source,
    installed_sources,
    load_source,
    normal,
)

__all__ = ["Origin", "PluginFailure", "PluginLoad", "Registry", "load_registry", "reset_registry"]

C = TypeVar("C", bound=Card)


@dataclass(frozen=True)
class Registry:
    """The cards by name, where each came from, every plugin that was met, and every failure."""

    models: Mapping[str, ModelCard]
    datasets: Mapping[str, DatasetCard]
    metrics: Mapping[str, MetricCard]
    origins: Mapping[tuple[str, str], Origin]
    plugins: tuple[PluginLoad, ...]
    failures: tuple[PluginFailure, ...]

    def model(self, name: str) -> ModelCard:
        """The model's card. Raises UnknownNameError with near names or the line that installs it; PluginError when
        the plugin that brings it failed."""
        return self._find(self.models, ModelCard.what, name, builtin.KNOWN_PLUGINS)

    def dataset(self, name: str) -> DatasetCard:
        """The data set's card. Raises as `model` does."""
        return self._find(self.datasets, DatasetCard.what, name, {})

    def metric(self, name: str) -> MetricCard:
        """The metric's card. Raises as `model` does."""
        return self._find(self.metrics, MetricCard.what, name, {})

    def origin(self, card: Card) -> Origin:
        """The distribution that brought `card`."""
        return self.origins[card.what, card.name]

    @property
    def missing(self) -> dict[str, str]:
        """Models that known plugins would bring, and the distribution of each, where that is not installed."""
        met = {normal(plugin.origin.distribution) for plugin in self.plugins}
        known = builtin.KNOWN_PLUGINS
        return {name: distribution for name, distribution in known.items() if normal(distribution) not in met}

    def _find(self, table: Mapping[str, C], what: str, name: str, known_plugins: Mapping[str, str]) -> C:
        if name in table:
            return table[name]
        for failure in self.failures:
            if failure.concerns(what, name, known_plugins.get(name)):
                raise PluginError(f"{what} {name!r} cannot be used: {failure}")
        missing = self.missing if known_plugins else {}
        if name in missing:
            raise UnknownNameError(
                what, name, [], f"it comes with {missing[name]}, which is not installed: pip install {missing[name]}"
            )
        failed = sorted({failure.origin.distribution for failure in self.failures})
        hint = f"({', '.join(failed)} failed to load, see genzoo doctor)" if failed else ""
        raise UnknownNameError(what, name, {*table, *missing}, hint)


def load_registry(extra_files: Iterable[str | os.PathLike[str]] = ()) -> Registry:
    """Load every plugin of the entry-point group `genzoo`, and the single-file plugins and packages at `extra_files`.

    Cached per process and set of files. Raises UsageError for a file that is not there, and for a folder that is no
    package; everything else that goes wrong is in `failures`.
    """
    return _load(tuple(_python_file(path) for path in extra_files))


def _python_file(path: str | os.PathLike[str]) -> str:
    """The real path of a Python file, for a package that of its `__init__.py`."""
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        if not os.path.isfile(real):
            raise UsageError(f"no plugin file {real}: --plugin takes a Python file with genzoo hooks, or a package")
        return real
    if os.path.isfile(file := os.path.join(real, PACKAGE)):
        return file
    advice = f"a folder with {PACKAGE}"
    for inside in sorted(glob(f"src/*/{PACKAGE}", root_dir=real) + glob(f"*/{PACKAGE}", root_dir=real))[:1]:
        advice += f", such as {os.path.join(path, os.path.dirname(inside))}; or install it: pip install -e {path}"
    raise UsageError(f"{real} is no plugin: expected a Python file or a package, {advice}")


def reset_registry() -> None:
    """Forget what was loaded, so that the next `load_registry` looks again (for tests)."""
    _load.cache_clear()


@functools.cache
def _load(paths: tuple[str, ...]) -> Registry:
    sources: list[Source] = [host_source()]
    failures: list[PluginFailure] = []
    for found in installed_sources():
        if isinstance(found, PluginFailure):
            failures.append(found)
        else:
            sources.append(found)
    sources.extend(file_source(path) for path in paths)
    plugins = [load_source(source) for source in sources]
    for plugin in plugins:
        failures.extend(plugin.failures)
    claims: dict[tuple[str, str], list[tuple[Origin, Card]]] = {}
    for plugin in plugins:
        for card in plugin.cards:
            claims.setdefault((card.what, card.name), []).append((plugin.origin, card))
    cards, origins = {}, {}
    for key, claimants in claims.items():
        # The host's names cannot be taken over; between plugins nobody can say which one was meant.
        own = [claim for claim in claimants if claim[0].distribution == HOST] or claimants
        if len(own) == 1:
            origins[key], cards[key] = own[0]
        failures.extend(_clashes(key, [origin for origin, _ in claimants], len(own) == 1))
    return Registry(
        models=_of(cards, ModelCard),
        datasets=_of(cards, DatasetCard),
        metrics=_of(cards, MetricCard),
        origins=MappingProxyType(origins),
        plugins=tuple(plugins),
        failures=tuple(failures),
    )


def _of(cards: Mapping[tuple[str, str], Card], sort: type[C]) -> Mapping[str, C]:
    return MappingProxyType({name: card for (_, name), card in cards.items() if isinstance(card, sort)})


def _clashes(key: tuple[str, str], origins: list[Origin], host_wins: bool) -> list[PluginFailure]:
    if len(origins) == 1:
        return []
    what, name = key
    rule = "the host's own is used" if host_wins else "neither is used; uninstall or rename one"
    cause = f"{what} {name!r} is brought by {' and by '.join(map(str, origins))}: {rule}"
    losers = dict.fromkeys(origin for origin in origins if not (host_wins and origin.distribution == HOST))
    return [PluginFailure(origin=origin, stage="clash", cause=cause, names=(key,)) for origin in losers]
