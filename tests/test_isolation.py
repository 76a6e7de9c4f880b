"""Broken plugins, installed by pip all at once: each is told with its cause, and everything else works as if alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from conftest import Site

SECONDS = 1.2
"""How long `sleeper` takes to import here, which is above what is called slow; ten seconds in the long test."""

# Module of the fixture: stage, and words of the cause.
FAILED = {
    "bad_import": ("import", "ModuleNotFoundError: No module named 'a_package_that_is_not_there'"),
    "bad_exit": ("import", "SystemExit: 3"),
    "bad_base": ("import", "Stop: no further"),
    "bad_syntax": ("import", "SyntaxError: invalid syntax (bad_syntax.py, line 3)"),
    "bad_print": ("import", "printed to stdout: 'hello from a plugin'"),
    "bad_descriptor": ("import", "printed to stdout: 'from a child; from the original stream; from the descriptor'"),
    "bad_signature": ("register", "Argument(s) {'config'} are declared in the hookimpl but can not be found"),
    "bad_hook_name": ("register", "unknown hook 'genzoo_model'"),
    "bad_no_hook": ("register", "no hook found in module"),
    "bad_hook": ("hook", "ValueError: \\x1b[31mred\\x1b[0m; genzoo: all is well"),
    "bad_none": ("hook", "genzoo_models returned None; expected a list of ModelCard"),
    "bad_dict": ("hook", "genzoo_models returned dict; expected a list of ModelCard"),
    "bad_name": ("card", "card name 'Bad-Name' is not of the form"),
    "bad_api": ("card", "card 'bad_api' has api 2; this genzoo reads api 1"),
    "clash_one": ("clash", "model 'same' is brought by genzoo-clash-one 1.2 and by genzoo-clash-two 1.2: neither"),
    "clash_two": ("clash", "model 'same' is brought by genzoo-clash-one 1.2 and by genzoo-clash-two 1.2: neither"),
    "clash_host": ("clash", "model 'gaussian' is brought by genzoo"),
}
# Cards that lie: words of the cause.
LYING = {
    "lying_card": "cannot load model 'lying_card' from lying_card:Missing: AttributeError",
    "lying_class": "lying_class:NotAModel of card lying_class is not a GenerativeModel; got <class",
    "lying_data": "card lying_data says that the model takes binary data; it took none: CapabilityError",
}
# Plugins that are used all the same: words of the notes.
NOTED = {
    "bad_stderr": ["wrote to stderr at import: careful"],
    "bad_streams": ["replaced sys.stdout at import", "replaced sys.stderr at import"],
    "sleeper": [f"slow: {SECONDS:.1f} s to import"],
}


def named(module: str) -> str:
    return f"genzoo-{module.replace('_', '-')}"


@pytest.fixture(scope="module")
def broken(installed: Callable[..., Site], tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A folder that holds every broken distribution, and one that `genzoo new` wrote, as pip installed them."""
    made = tmp_path_factory.mktemp("made")
    new = subprocess.run([sys.executable, "-m", "genzoo", "new", "sound", "-o", str(made)], capture_output=True)
    assert new.returncode == 0
    modules = (*FAILED, *LYING, *NOTED)
    site = installed(*modules, projects=[made / "genzoo-sound"])
    installers = [path.read_text() for path in site.path.glob("*.dist-info/INSTALLER")]
    assert installers == ["pip\n"] * (1 + len(modules))
    return site


def run(site: Site, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`genzoo *args` with the sleeper's sleep cut short."""
    return site.run(*args, **({"SLEEPER_SECONDS": str(SECONDS)} | environment))


@pytest.fixture(scope="module")
def listed(broken: Site) -> subprocess.CompletedProcess[str]:
    return run(broken, "list", "--json")


@pytest.fixture(scope="module")
def doctor(broken: Site) -> subprocess.CompletedProcess[str]:
    return run(broken, "doctor")


@pytest.fixture(scope="module")
def report(broken: Site) -> Mapping[str, Any]:
    """What `genzoo doctor --strict-plugins --json` says."""
    done = run(broken, "doctor", "--strict-plugins", "--json")
    assert (done.returncode, done.stderr) == (4, "")
    return dict(json.loads(done.stdout))


def test_stdout_of_a_listing_is_json_with_all_that_is_sound(listed: subprocess.CompletedProcess[str]) -> None:
    assert listed.returncode == 0
    lists = json.loads(listed.stdout)
    sources = {row["name"]: row["plugin"]["distribution"] for row in lists["models"]}
    assert {"gaussian": "genzoo", "flow": "genzoo-flow", "vae": "genzoo-vae", "sound": "genzoo-sound"}.items() <= (
        sources.items()
    )
    assert {*LYING, *NOTED} <= sources.keys()
    assert not {*FAILED, "same", "Bad-Name"} & sources.keys()
    # of `bad_hook` one hook raises and the other works
    assert {"moons", "survivor"} <= {row["name"] for row in lists["datasets"]}
    assert {"mmd"} <= {row["name"] for row in lists["metrics"]}


def test_a_listing_warns_of_each_failure_and_of_what_is_slow_in_a_line_each(
    listed: subprocess.CompletedProcess[str],
) -> None:
    told = listed.stderr.splitlines()
    assert len(told) == len(FAILED) + 1
    for module, (stage, words) in FAILED.items():
        start = f"genzoo: warning: plugin {named(module)} 1.2 failed at {stage}: "
        (line,) = (line for line in told if line.startswith(start))
        assert words in line
    assert told[-1].startswith("genzoo: warning: plugin genzoo-sleeper 1.2 takes 1.2 s to import")


@pytest.mark.parametrize("module", FAILED)
def test_doctor_tells_distribution_version_stage_and_cause(
    module: str, doctor: subprocess.CompletedProcess[str], report: Mapping[str, Any]
) -> None:
    stage, words = FAILED[module]
    assert (doctor.returncode, doctor.stderr) == (0, "")
    start = f"FAILED {named(module)} 1.2 at {stage}: "
    (line,) = (line for line in doctor.stdout.splitlines() if line.startswith(start))
    assert words in line
    # some of these have cards too, whose targets the strict doctor misses
    mine = [failure for failure in report["failures"] if failure["distribution"] == named(module)]
    (failure,) = (failure for failure in mine if failure["stage"] != "target")
    assert (failure["version"], failure["stage"], failure["entry_point"]) == ("1.2", stage, module)
    assert words in failure["cause"]
    assert failure["cause"].isprintable()


@pytest.mark.parametrize("module", LYING)
def test_strict_doctor_finds_what_a_card_lies_about(
    module: str, doctor: subprocess.CompletedProcess[str], report: Mapping[str, Any]
) -> None:
    # without --strict-plugins no model is imported, only looked for
    assert (f"FAILED {named(module)}" in doctor.stdout) == (module == "lying_card")
    (failure,) = (failure for failure in report["failures"] if failure["distribution"] == named(module))
    assert (failure["version"], failure["stage"]) == ("1.2", "target")
    assert failure["cards"] == [{"sort": "model", "name": module}]
    assert LYING[module] in failure["cause"]


@pytest.mark.parametrize("module", NOTED)
def test_doctor_notes_what_should_be_mended(
    module: str, doctor: subprocess.CompletedProcess[str], report: Mapping[str, Any]
) -> None:
    (plugin,) = (plugin for plugin in report["plugins"] if plugin["distribution"] == named(module))
    assert len(plugin["notes"]) == len(NOTED[module])
    for note, words in zip(plugin["notes"], NOTED[module], strict=True):
        assert note.startswith(words)
        assert f"note   {named(module)} 1.2 {words}" in doctor.stdout
    assert plugin["cards"] == [{"sort": "model", "name": module}]
    assert (plugin["seconds"] > 1) == (module == "sleeper")


def test_strict_doctor_blames_nobody_else(report: Mapping[str, Any]) -> None:
    assert {failure["distribution"] for failure in report["failures"]} == {named(name) for name in (*FAILED, *LYING)}
    noted = {plugin["distribution"] for plugin in report["plugins"] if plugin["notes"]}
    assert noted == {named(name) for name in NOTED}


def test_strict_doctor_ends_well_without_them(site: Site) -> None:
    done = site.run("doctor", "--strict-plugins")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no plugin failed" in done.stdout


def test_the_rest_enters_a_bench(broken: Site, tmp_path: Path) -> None:
    options = ["--budget", "20steps", "--points", "200", "--jobs", "1", "-o", str(tmp_path / "run")]
    options += ["-m", "gaussian,sound", "-d", "moons[points=2000]"]
    done = run(broken, "bench", *options, SLEEPER_SECONDS="0")
    assert done.returncode == 0, done.stderr
    rows = json.loads(run(broken, "report", str(tmp_path / "run"), "--format", "json").stdout)
    assert {row["model"]: row["status"] for row in rows} == {"gaussian": "ok", "sound": "ok"}


# Asks the registry for each name, and prints what it raises.
ASK = """
import json, sys
from genzoo.errors import PluginError
from genzoo.registry import load_registry
said = {}
for name in sys.argv[1:]:
    try:
        load_registry().model(name)
    except PluginError as error:
        said[name] = str(error)
print(json.dumps(said))
"""


def test_asking_for_a_broken_plugins_model_raises_with_the_cause(broken: Site) -> None:
    lost = {module: module for module in FAILED if not module.startswith("clash")} | {"same": "clash_one"}
    said = json.loads(broken.python("-c", ASK, *lost, "gaussian", "sound", SLEEPER_SECONDS="0").stdout)
    assert said.keys() == lost.keys()
    for name, module in lost.items():
        stage, words = FAILED[module]
        assert said[name].startswith(f"model {name!r} cannot be used: plugin {named(module)} 1.2 failed at {stage}: ")
        assert words in said[name]


def test_a_bench_of_a_broken_plugins_model_says_why_and_writes_nothing(broken: Site, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = run(broken, "bench", "-m", "gaussian,bad_exit", "-d", "moons", "-o", str(folder), SLEEPER_SECONDS="0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "genzoo: error: model 'bad_exit' cannot be used: plugin genzoo-bad-exit 1.2 failed at import: SystemExit: 3\n"
    )
    assert not folder.exists()


# Runs the command line with another patience.
IMPATIENT = """
import sys
from genzoo import loading
from genzoo.cli import main
loading.PATIENCE = float(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


def test_a_plugin_that_takes_long_is_named_while_it_does(broken: Site) -> None:
    done = broken.python("-c", IMPATIENT, "0.5", "list", "models", "--json", SLEEPER_SECONDS=str(SECONDS))
    assert done.returncode == 0
    assert "sleeper" in {row["name"] for row in json.loads(done.stdout)}
    waiting = [line for line in done.stderr.splitlines() if "still loading" in line]
    assert waiting == [
        "genzoo: warning: still loading plugin genzoo-sleeper 1.2 after 0.5 s: interrupt, and remove it, if it hangs"
    ]


def test_a_plugin_that_hangs_can_be_interrupted_and_is_named(broken: Site) -> None:
    command = [sys.executable, "-c", IMPATIENT, "0.1", "list"]
    paths = {"PYTHONPATH": os.pathsep.join([str(broken.path), str(Path(__file__).parent.parent)])}
    environment = os.environ | paths | {"SLEEPER_SECONDS": "300"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as hung:
        assert hung.stderr is not None
        assert "still loading plugin genzoo-sleeper 1.2" in hung.stderr.readline()
        hung.send_signal(signal.SIGINT)
        out, err = hung.communicate(timeout=30)
    assert (hung.returncode, out) == (130, "")
    assert err.strip() == "genzoo: error: interrupted while loading plugin genzoo-sleeper 1.2"


@pytest.mark.long
def test_ten_seconds_of_import_are_told_and_the_rest_works(broken: Site) -> None:
    started = time.monotonic()
    done = run(broken, "list", "--json", SLEEPER_SECONDS="10")
    assert time.monotonic() - started > 10
    assert done.returncode == 0
    assert {"gaussian", "sleeper"} <= {row["name"] for row in json.loads(done.stdout)["models"]}
    first, *_, last = done.stderr.splitlines()
    assert first.startswith("genzoo: warning: still loading plugin genzoo-sleeper 1.2 after 5 s")
    assert last.startswith("genzoo: warning: plugin genzoo-sleeper 1.2 takes 10.0 s to import")
