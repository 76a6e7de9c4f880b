"""Plugins: one that fails in any of the ways there are leaves the rest working, and says what it was and why."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from genzoo import builtin, loading
from genzoo.builtin import KNOWN_PLUGINS
from genzoo.cards import Card, DatasetCard, MetricCard, ModelCard
from genzoo.errors import PluginError, UnknownNameError, UsageError
from genzoo.loading import check_targets
from genzoo.registry import load_registry
from genzoo.text import plain

if TYPE_CHECKING:
    from conftest import Site

MODEL: dict[str, Any] = {"name": "m", "summary": "s", "family": "f", "target": "module:Model"}
DATASET: dict[str, Any] = {"name": "d", "summary": "s", "target": "module:load", "data": "real", "event_shape": (2,)}
METRIC: dict[str, Any] = {"name": "t", "summary": "s", "target": "module:metric"}

# Module of the fixture: stage, and words of the cause.
FAILURES = {
    "bad_import": ("import", "ModuleNotFoundError: No module named 'a_package_that_is_not_there'"),
    "bad_exit": ("import", "SystemExit: 3"),
    "bad_print": ("import", "printed to stdout: 'hello from a plugin'"),
    "bad_signature": ("register", "declared in the hookimpl but can not be found in the hookspec"),
    "bad_hook_name": ("register", "unknown hook 'genzoo_model'"),
    "bad_no_hook": ("register", "no hook found in module"),
    "bad_hook": ("hook", "ValueError: \\x1b[31mred\\x1b[0m; genzoo: all is well"),
    "bad_none": ("hook", "genzoo_models returned None; expected a list of ModelCard"),
    "bad_name": ("card", "card name 'Bad-Name' is not of the form"),
    "bad_api": ("card", "card 'bad_api' has api 2; this genzoo reads api 1"),
}


@pytest.mark.parametrize("module", FAILURES)
def test_a_failure_has_distribution_version_stage_and_cause_and_the_rest_works(site: Site, module: str) -> None:
    stage, words = FAILURES[module]
    site.install("good", module)
    registry = load_registry()
    (failure,) = registry.failures
    assert (failure.distribution, failure.version) == (f"genzoo-{module.replace('_', '-')}", "1.2")
    assert failure.stage == stage
    assert words in failure.cause
    assert failure.cause.isprintable()
    assert registry.model("good").family == "test family"
    assert {"good_data", "moons"} <= registry.datasets.keys()
    assert {"good_metric", "mmd"} <= registry.metrics.keys()
    with pytest.raises(PluginError) as raised:
        registry.model(module)
    assert failure.cause in str(raised.value)


def test_all_failures_together_leave_the_rest_working(site: Site) -> None:
    site.install("good", *FAILURES)
    registry = load_registry()
    assert {failure.origin.entry_point for failure in registry.failures} == FAILURES.keys()
    assert registry.models.keys() == {"gaussian", "good"}


def test_what_a_failing_plugin_prints_stays_off_both_streams(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("bad_print", "bad_stderr")
    load_registry()
    assert capsys.readouterr() == ("", "")


def test_one_failing_hook_leaves_the_others_of_the_same_plugin(site: Site) -> None:
    site.install("bad_hook")
    assert load_registry().dataset("survivor").summary == "works"


def test_what_is_no_card_of_the_sort_is_told_and_the_card_beside_it_kept(site: Site) -> None:
    site.install("bad_item")
    registry = load_registry()
    assert "kept" in registry.models
    assert "misplaced" not in registry.metrics
    assert [(failure.stage, failure.cause) for failure in registry.failures] == [
        ("card", "genzoo_models returned int in its list; expected ModelCard"),
        ("card", "genzoo_models returned MetricCard in its list; expected ModelCard"),
    ]


def test_a_clash_between_plugins_names_both_and_uses_neither(site: Site) -> None:
    site.install("clash_one", "clash_two", "good")
    registry = load_registry()
    assert [failure.distribution for failure in registry.failures] == ["genzoo-clash-one", "genzoo-clash-two"]
    assert all(failure.stage == "clash" for failure in registry.failures)
    with pytest.raises(PluginError, match=r"brought by genzoo-clash-one 1\.2 and by genzoo-clash-two 1\.2: neither"):
        registry.model("same")
    assert "good" in registry.models


def test_the_hosts_names_cannot_be_taken_over(site: Site) -> None:
    site.install("clash_host")
    registry = load_registry()
    assert registry.model("gaussian").target == "genzoo.baseline:Gaussian"
    (failure,) = registry.failures
    assert (failure.distribution, failure.stage) == ("genzoo-clash-host", "clash")
    assert "the host's own is used" in failure.cause


def test_notes_are_not_failures(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("bad_stderr", "bad_slow")
    monkeypatch.setattr(loading, "SLOW", 0.04)
    registry = load_registry()
    assert registry.failures == ()
    assert {"bad_stderr", "bad_slow"} <= registry.models.keys()
    notes = {plugin.origin.entry_point: plugin.notes for plugin in registry.plugins}
    assert notes["bad_stderr"] == ("wrote to stderr at import: careful",)
    assert notes["bad_slow"][0].startswith("slow: 0.1 s to import")
    assert notes["genzoo"] == ()


def test_a_lying_card_is_found_by_its_target(site: Site) -> None:
    site.install("good", "lying_card")
    registry = load_registry()
    assert registry.failures == ()
    plugins = tuple(plugin for plugin in registry.plugins if plugin.origin.entry_point != "genzoo")
    found = check_targets(plugins, Card.locate)  # the module is there only for lying_card: good_model is not copied
    assert [failure.names for failure in found if failure.distribution == "genzoo-lying-card"] == [
        (("model", "lying_card"),)
    ]
    with pytest.raises(PluginError, match="cannot load model 'lying_card' from lying_card:Missing: AttributeError"):
        registry.model("lying_card").resolve()
    with pytest.raises(PluginError, match="ModuleNotFoundError"):
        registry.model("good").locate()


@pytest.mark.parametrize(
    ("entry_points", "stage"),
    [
        ("[genzoo]\nno equals sign\n", "metadata"),
        ("[genzoo]\nx = not a module!\n", "import"),
        ("[genzoo]\nx = \n", "import"),
        ("[genzoo]\nx = json:nothing_there\n", "import"),
    ],
)
def test_broken_entry_points_are_failures(site: Site, entry_points: str, stage: str) -> None:
    site.dist_info("genzoo-x", entry_points)
    site.install("good")
    registry = load_registry()
    assert [(failure.distribution, failure.stage) for failure in registry.failures] == [("genzoo-x", stage)]
    assert "good" in registry.models


def test_broken_distributions_without_plugins_are_passed_over(site: Site) -> None:
    site.dist_info("other", "[console_scripts]\nno equals sign\n")
    site.dist_info("nameless", "[genzoo]\ngood = good\n", metadata="")
    site.install("good")
    registry = load_registry()
    assert registry.failures[0].stage == "clash"  # the same module, by the nameless and by the named one
    assert "good" not in registry.models


def test_control_characters_in_metadata_are_neutralised(site: Site) -> None:
    site.install("good", version="1.2\x1b[2J\u202e")
    origin = load_registry().origin(load_registry().model("good"))
    assert str(origin) == r"genzoo-good 1.2\x1b[2J\u202e"


def test_unknown_names_say_which_near_ones_exist(site: Site) -> None:
    registry = load_registry()
    for find, name, near in (
        (registry.model, "gausian", "unknown model 'gausian': did you mean gaussian"),
        (registry.dataset, "moon", "unknown data set 'moon': did you mean moons"),
        (registry.metric, "mdm", "unknown metric 'mdm': did you mean mmd"),
    ):
        with pytest.raises(UnknownNameError, match=near):
            find(name)


@pytest.mark.parametrize("name", KNOWN_PLUGINS)
def test_a_known_plugin_that_is_not_installed_is_answered_with_the_line_that_installs_it(site: Site, name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"not installed: pip install {KNOWN_PLUGINS[name]}$"):
        load_registry().model(name)
    assert load_registry().missing == KNOWN_PLUGINS


def test_a_failed_plugin_that_is_known_answers_for_its_models(site: Site) -> None:
    site.dist_info("genzoo-pyro", "[genzoo]\npyro_zoo = a_package_that_is_not_there\n")
    registry = load_registry()
    with pytest.raises(PluginError, match=r"'pyro_mixture' cannot be used: plugin genzoo-pyro 1\.2 failed at import"):
        registry.model("pyro_mixture")
    with pytest.raises(UnknownNameError, match=r"genzoo-pyro failed to load, see genzoo doctor"):
        registry.model("something_else")


def test_unknown_name_errors_cross_process_boundaries() -> None:
    error = UnknownNameError("model", "flwo", ["flow"], "hint")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.known, copy.exit_code) == (str(error), ["flow"], 2)


def test_a_single_file_plugin_is_loaded_and_its_target_resolves(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "my-first try.py"
    source = (Path(__file__).parent / "fixtures" / "plugins" / "good.py").read_text()
    file.write_text(source.replace('"good_model:Good"', 'f"{__name__}:Good"') + "\n\nclass Good:\n    ...\n")
    registry = load_registry([file])
    assert registry.failures == ()
    assert registry.model("good").resolve().__name__ == "Good"
    assert "good" not in load_registry().models


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("random.py", "", "there is another module called random: rename the file"),
        ("mine.txt", "", "its name must end in .py"),
        ("mine.py", "def f(:\n", "SyntaxError"),
    ],
)
def test_a_single_file_plugin_fails_as_any_other(
    site: Site, tmp_path: Path, name: str, source: str, words: str
) -> None:
    file = tmp_path / name
    file.write_text(source)
    registry = load_registry([file])
    (failure,) = registry.failures
    assert (failure.distribution, failure.stage) == (str(file), "import")
    assert words in failure.cause
    with pytest.raises(PluginError, match="failed at import"):
        registry.model(file.stem)


PACKAGE = {
    "genzoo_parts/__init__.py": "from .cards import genzoo_models",
    "genzoo_parts/cards.py": """
from genzoo.cards import ModelCard
from genzoo.hookspecs import hookimpl

@hookimpl
def genzoo_models():
    return [ModelCard(name="parts", summary="s", family="f", target="genzoo_parts.model:Parts")]
""",
    "genzoo_parts/model.py": "from genzoo_parts import cards\n\nclass Parts:\n    there = cards",
}


@pytest.mark.parametrize("given", ["genzoo_parts", "genzoo_parts/__init__.py"])
def test_a_package_is_a_plugin_and_its_modules_can_be_imported(site: Site, tmp_path: Path, given: str) -> None:
    for name, source in PACKAGE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    registry = load_registry([tmp_path / given])
    assert registry.failures == ()
    assert registry.model("parts").resolve().__name__ == "Parts"
    assert str(registry.origin(registry.model("parts"))).endswith("genzoo_parts/__init__.py")


def test_a_package_that_fails_leaves_no_part_behind(site: Site, tmp_path: Path) -> None:
    package = tmp_path / "genzoo_half"
    package.mkdir()
    (package / "__init__.py").write_text("from . import good\nimport a_module_that_is_not_there")
    (package / "good.py").write_text("")
    (failure,) = load_registry([package]).failures
    assert (failure.stage, "a_module_that_is_not_there" in failure.cause) == ("import", True)
    assert not [name for name in sys.modules if name.startswith("genzoo_half")]


def test_a_project_folder_is_answered_with_the_package_in_it(site: Site, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"is no plugin: expected a Python file or a package, a folder with __init__\.py$"
    ):
        load_registry([tmp_path])
    package = tmp_path / "src" / "genzoo_mine"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    words = f"such as {re.escape(str(package))}; or install it: pip install -e {re.escape(str(tmp_path))}$"
    with pytest.raises(UsageError, match=words):
        load_registry([tmp_path])


def test_a_plugin_file_that_is_not_there_is_a_usage_error(site: Site) -> None:
    with pytest.raises(UsageError, match=r"no plugin file .*nowhere\.py"):
        load_registry(["nowhere.py"])


def test_the_registry_is_loaded_once(site: Site) -> None:
    assert load_registry() is load_registry()


def test_the_host_has_what_the_design_names_and_no_failure(site: Site) -> None:
    registry = load_registry()
    assert registry.failures == ()
    assert [*registry.models] == ["gaussian"]
    planes = ["moons", "8gaussians", "2spirals", "checkerboard", "rings", "circles", "pinwheel", "swissroll"]
    planes += ["four_circles", "diamond"]
    assert [*registry.datasets] == [*planes, "digits", "mnist", "mnist_binary", "mnist_binary_static"]
    assert [name for name, card in registry.datasets.items() if card.truth] == planes
    assert [*registry.metrics] == ["sliced_wasserstein", "mmd", "c2st"]
    assert all(origin.distribution == "genzoo" for origin in registry.origins.values())


HOST_CARDS = [*builtin.genzoo_models(), *builtin.genzoo_datasets(), *builtin.genzoo_metrics()]


@pytest.mark.parametrize("card", HOST_CARDS, ids=lambda card: card.name)
def test_every_target_of_the_host_is_there(card: ModelCard | DatasetCard | MetricCard) -> None:
    assert callable(card.resolve())


@pytest.mark.parametrize(
    ("sort", "base", "change", "words"),
    [
        (ModelCard, MODEL, {"name": "a" * 33}, "card name"),
        (ModelCard, MODEL, {"name": "ok\n"}, "card name"),
        (ModelCard, MODEL, {"target": "module"}, "'module:attribute'"),
        (ModelCard, MODEL, {"summary": None}, "summary to be a string"),
        (ModelCard, MODEL, {"api": True}, "has api True"),
        (ModelCard, MODEL, {"data": "real"}, "data to be a tuple of real, binary, discrete"),
        (ModelCard, MODEL, {"data": ("grey",)}, "data to be a tuple of real, binary, discrete"),
        (ModelCard, MODEL, {"min_dims": 3, "max_dims": 2}, "max_dims to be None or >= min_dims"),
        (ModelCard, MODEL, {"adapters": {"grey": {}}}, "adapters to be a mapping"),
        (ModelCard, MODEL, {"num_samples": {"real": 0}}, "num_samples to be a mapping"),
        (ModelCard, MODEL, {"kind": "bound"}, "kind to be one of exact, weights, lower_bound"),
        (DatasetCard, DATASET, {"data": "grey"}, "data to be one of"),
        (DatasetCard, DATASET, {"event_shape": [2]}, "event_shape to be a tuple of positive integers"),
        (DatasetCard, DATASET, {"options": {"a b": 1}}, "options to be a mapping"),
        (DatasetCard, DATASET, {"truth": 1}, "truth to be True or False"),
        (MetricCard, METRIC, {"max_dims": 0}, "max_dims to be None or a positive integer"),
        (MetricCard, METRIC, {"lower_is_better": None}, "lower_is_better to be True or False"),
    ],
)
def test_cards_refuse_what_is_not_of_their_form(
    sort: type[ModelCard | DatasetCard | MetricCard], base: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    sort(**base)
    with pytest.raises(PluginError, match=words):
        sort(**(base | change))


def test_plain_text_is_one_printable_line() -> None:
    assert plain("a\x1b[1m\n\n b\tc\u202e\x9b") == r"a\x1b[1m; b c\u202e\x9b"
    assert plain("x" * 20, 10) == "xxxxxxx..."
