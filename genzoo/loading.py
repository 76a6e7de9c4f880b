"""Loading one plugin, guarded: whatever it does becomes a `PluginFailure` with the stage and the cause.

The stock loader of pluggy stops at the first ImportError; here each entry point has a plugin manager of its own, is
imported alone with its output held back, and each of its hooks is called alone. A plugin that hangs is named on stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO, TypeVar

import pluggy

from genzoo import builtin, hookspecs
from genzoo.cards import Card, DatasetCard, MetricCard, ModelCard
from genzoo.errors import PluginError
from genzoo.guard import PrintedError, cause_of, guarded, traceback_of
from genzoo.hookspecs import GROUP
from genzoo.text import plain

HOST = "genzoo"
HOOKS: tuple[tuple[str, type[Card]], ...] = (
    ("genzoo_models", ModelCard),
    ("genzoo_datasets", DatasetCard),
    ("genzoo_metrics", MetricCard),
)
PACKAGE = "__init__.py"
SLOW = 1.0  # seconds of import from which a plugin is told to be slow: listings promise 0.3 s for everything
PATIENCE = 5.0  # seconds after which stderr names the plugin that is still loading

T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """Where cards come from: a distribution with its version and the name of its entry point, or a file."""

    distribution: str
    version: str = ""
    entry_point: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".rstrip()


@dataclass(frozen=True, kw_only=True)
class PluginFailure:
    """What went wrong with a plugin, or with some of its cards.

    Args:
        origin: distribution, version, entry point.
        stage: "metadata", "import", "register" (the hooks' names and signatures), "hook" (a call), "card", "clash" or
            "target" (a card's target cannot be imported; found only by `check_targets`).
        cause: one line of printable text.
        names: (sort, name) of the cards concerned, where they are known.
        traceback: of the exception, for the plugin's author.
    """

    origin: Origin
    stage: str
    cause: str
    names: tuple[tuple[str, str], ...] = ()
    traceback: str = ""

    @property
    def distribution(self) -> str:
        return self.origin.distribution

    @property
    def version(self) -> str:
        return self.origin.version

    def __str__(self) -> str:
        return f"plugin {self.origin} failed at {self.stage}: {self.cause}"

    def concerns(self, what: str, name: str, distribution: str | None) -> bool:
        """Whether this is why the card `name` is not there: it names the card, or lost cards that nobody could read
        and belongs to `distribution`, which is known to bring it, or is called after it."""
        if self.names:
            return (what, name) in self.names
        own = normal(self.origin.distribution)
        stem = own.removeprefix(f"{HOST}-").replace("-", "_")
        return own == normal(distribution or "") or name in (stem, self.origin.entry_point)


@dataclass(frozen=True, kw_only=True)
class PluginLoad:
    """One plugin as it was loaded.

    Args:
        origin: distribution, version, entry point.
        cards: those that are of the right form; a clash of names is not known here.
        seconds: wall time of import and hooks.
        notes: what does no harm to the rest but should be mended: slow, imports torch, writes to stderr, takes a
            standard stream.
        failures: what went wrong.
        slow: whether it makes every listing slow.
    """

    origin: Origin
    cards: tuple[Card, ...]
    seconds: float
    notes: tuple[str, ...]
    failures: tuple[PluginFailure, ...]
    slow: bool = False


@dataclass(frozen=True)
class Source:
    """A plugin before it is loaded.

    Args:
        load: imports it and returns the object that holds the hooks.
        installed: whether every command loads it; a single file holds its model, so that it may import torch.
    """

    origin: Origin
    load: Callable[[], object]
    installed: bool = True


def normal(distribution: str) -> str:
    """A distribution's name as indexes compare it: small letters, runs of `-_.` as one hyphen."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def host_version() -> str:
    """genzoo's version, or "uninstalled" where it runs from a source tree."""
    try:
        return importlib.metadata.version(HOST)
    except importlib.metadata.PackageNotFoundError:
        return "uninstalled"


def host_source() -> Source:
    """The host's own cards."""
    return Source(Origin(HOST, host_version(), HOST), lambda: builtin)


def installed_sources() -> Iterator[Source | PluginFailure]:
    """One source for each entry point of the group, in the order of the distributions' names.

    Distributions are read one by one, since a single malformed entry_points.txt makes
    `importlib.metadata.entry_points` raise for all. The first of a name on the path hides later ones, as in imports.
    """
    found: dict[str, tuple[importlib.metadata.Distribution, str]] = {}
    for distribution in importlib.metadata.distributions():
        with contextlib.suppress(Exception):  # unreadable: no plugin of ours can be told from it
            if re.search(rf"^\s*\[\s*{GROUP}\s*\]", distribution.read_text("entry_points.txt") or "", re.MULTILINE):
                name = _metadata(distribution, "Name") or f"(distribution {len(found)} without a name)"
                found.setdefault(normal(name), (distribution, name))
    for key, (distribution, name) in sorted(found.items()):
        if key == HOST:
            continue  # its own cards come first, as `host_source`, installed or not
        version = _metadata(distribution, "Version") or "(no version)"
        try:
            entry_points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception as error:
            cause = f"entry_points.txt cannot be read: {cause_of(error)}"
            yield PluginFailure(origin=Origin(name, version), stage="metadata", cause=cause)
            continue
        for point in entry_points:
            yield Source(Origin(name, version, plain(point.name)), point.load)


def _metadata(distribution: importlib.metadata.Distribution, key: str) -> str:
    try:
        return plain(distribution.metadata[key] or "", 80)
    except Exception:  # no METADATA, or one that is not text
        return ""


def file_source(path: str) -> Source:
    """A single-file plugin, or a package by its `__init__.py`. The module takes the name of the file, or of the
    package's folder, so that targets and spawned workers can import it."""
    file = Path(path)
    package = file.name == PACKAGE
    name = re.sub(r"\W", "_", file.parent.name if package else file.stem)

    def load() -> object:
        if _is_taken(name, path):
            raise PluginError(f"there is another module called {name}: rename the {'folder' if package else 'file'}")
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise PluginError("not a Python file: its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            for half in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
                del sys.modules[half]
            raise
        return module

    return Source(Origin(plain(path), "", name), load, installed=False)


def _is_taken(name: str, path: str) -> bool:
    if name in sys.modules:
        origin = getattr(sys.modules[name], "__file__", None)
    else:
        spec = importlib.util.find_spec(name)
        if spec is None:
            return False
        origin = spec.origin
    return origin is None or os.path.realpath(origin) != path


class _Watch:
    """Names on stderr the plugin that is loading for long: one thread for all of them, which ends when none is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loading: list[tuple[Origin, float, TextIO]] = []  # one inside the other, should a plugin load plugins
        self._watched = False

    def begin(self, origin: Origin) -> None:
        with self._lock:
            self._loading.append((origin, time.monotonic() + PATIENCE, sys.stderr))
            if not self._watched:
                self._watched = True
                threading.Thread(target=self._watch, args=(PATIENCE,), daemon=True).start()

    def end(self) -> None:
        with self._lock:
            self._loading.pop()

    def _watch(self, patience: float) -> None:
        told = None
        while True:
            time.sleep(patience / 5)
            with self._lock:
                if not self._loading:
                    self._watched = False
                    return
                origin, end, stderr = entry = self._loading[-1]
            if time.monotonic() >= end and entry is not told:
                told = entry
                words = f"still loading plugin {origin} after {patience:g} s: interrupt, and remove it, if it hangs"
                stderr.write(f"genzoo: warning: {words}\n")
                stderr.flush()


_watch = _Watch()


@contextlib.contextmanager
def _named(origin: Origin) -> Iterator[None]:
    """Name the plugin on stderr when loading it takes long, and in an interrupt: one that hangs cannot say itself."""
    _watch.begin(origin)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"while loading plugin {origin}") from None
    finally:
        _watch.end()


def load_source(source: Source) -> PluginLoad:
    """Import one plugin, check its hooks, call each, and keep the cards that are of the right form."""
    started, had_torch = time.perf_counter(), "torch" in sys.modules
    with _named(source.origin):
        cards, notes, failures = _load(source)
    seconds = time.perf_counter() - started
    slow = source.installed and seconds > SLOW
    if slow:
        notes.append(f"slow: {seconds:.1f} s to import; move heavy imports behind the cards' targets")
    if source.installed and "torch" in sys.modules and not had_torch:
        notes.append("imports torch when it is listed; move that import behind the cards' targets")
    return PluginLoad(
        origin=source.origin,
        cards=tuple(cards),
        seconds=seconds,
        notes=tuple(notes),
        failures=tuple(failures),
        slow=slow,
    )


def _load(source: Source) -> tuple[list[Card], list[str], list[PluginFailure]]:
    cards: list[Card] = []
    failures: list[PluginFailure] = []
    notes: list[str] = []

    def attempt(stage: str, call: Callable[[], T]) -> T | None:
        outcome = guarded(call)
        if outcome.stderr:
            notes.append(f"wrote to stderr at {stage}: {outcome.stderr}")
        notes.extend(f"replaced sys.{name} at {stage}, which was undone" for name in outcome.replaced)
        if outcome.error is not None:
            trace = "" if isinstance(outcome.error, PrintedError) else traceback_of(outcome.error)
            where = "card" if isinstance(outcome.error, PluginError) and stage == "hook" and trace else stage
            failures.append(
                PluginFailure(origin=source.origin, stage=where, cause=cause_of(outcome.error), traceback=trace)
            )
            return None
        return outcome.value

    plugin = attempt("import", source.load)
    if not failures:
        manager = attempt("register", partial(_register, plugin, source.origin))
        if manager is not None:
            for hook, sort in HOOKS:
                for item in attempt("hook", partial(_call, manager, hook, sort)) or []:
                    if type(item) is sort:  # a subclass could carry code; a card is data
                        cards.append(item)
                    else:
                        cause = f"{hook} returned {_type(item)} in its list; expected {sort.__name__}"
                        failures.append(PluginFailure(origin=source.origin, stage="card", cause=cause))
    return cards, notes, failures


def _register(plugin: object, origin: Origin) -> pluggy.PluginManager:
    """A plugin manager that holds this plugin alone. Raises PluginError for hooks that cannot be called."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name=origin.entry_point)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"wrong hook: {error}; hooks take no arguments, and there is {_hook_names()}") from error
    if not any(getattr(manager.hook, hook).get_hookimpls() for hook, _ in HOOKS):
        raise PluginError(
            f"no hook found in {_type(plugin)}: mark one of {_hook_names()} with genzoo.hookspecs.hookimpl"
        )
    return manager


def _call(manager: pluggy.PluginManager, hook: str, sort: type[Card]) -> list[object]:
    """Everything that the plugin's implementations of one hook return, in one list."""
    caller = getattr(manager.hook, hook)
    results = caller()
    # pluggy drops a None, so a forgotten return would pass for a plugin without cards.
    if len(results) != len(caller.get_hookimpls()):
        raise TypeError(f"{hook} returned None; expected a list of {sort.__name__}")
    for result in results:
        if not isinstance(result, list | tuple):
            raise TypeError(f"{hook} returned {_type(result)}; expected a list of {sort.__name__}")
    return [item for result in results for item in result]


def _hook_names() -> str:
    return ", ".join(hook for hook, _ in HOOKS)


def _type(value: object) -> str:
    return plain(type(value).__name__, 80)


def check_targets(plugins: tuple[PluginLoad, ...], look: Callable[[Card], object]) -> list[PluginFailure]:
    """The cards at whose target `look` raises, guarded, one by one: `Card.locate`, which only looks for the module, or
    something that imports it and finds more."""
    failures = []
    for plugin in plugins:
        for card in plugin.cards:
            with _named(plugin.origin):
                outcome = guarded(partial(look, card))
            if outcome.error is not None and not isinstance(outcome.error, PrintedError):
                cause, names = cause_of(outcome.error), ((card.what, card.name),)
                failures.append(PluginFailure(origin=plugin.origin, stage="target", cause=cause, names=names))
    return failures
