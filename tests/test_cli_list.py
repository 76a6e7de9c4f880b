"""The listing side of the command line: quick, without torch, one line an error, results on stdout alone."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import click
import pytest

from genzoo.builtin import KNOWN_PLUGINS
from genzoo.cards import MetricCard
from genzoo.cli import main
from genzoo.cli.entry import COMMANDS
from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError, NumericsError, PluginError, RunError
from genzoo.hookspecs import hookimpl
from genzoo.loading import Origin, Source
from genzoo.plan import EvaluationPlan, Plan

if TYPE_CHECKING:
    from conftest import Site

Streams = pytest.CaptureFixture[str]
LIMIT = 0.3  # seconds that issue 2 allows for help and listings

# Imports what the command line imports, runs the command, and prints which heavy modules that brought in.
HEAVY = """
import sys
from genzoo.cli import main
code = main({args!r})
print("HEAVY", code, [name for name in ("torch", "numpy", "pydantic", "rich", "matplotlib") if name in sys.modules])
"""

# What the cards of `good` point to; the strict check builds the model.
ANY_MODEL = """
from genzoo.interface import GenerativeModel
class Good(GenerativeModel):
    _log_likelihood = _sample = learner = None
load = metric = object
"""


def stub_command(monkeypatch: pytest.MonkeyPatch, body: Callable[[], object]) -> None:
    """Put a command that runs `body` in the place of `genzoo score`."""
    module = ModuleType("genzoo.cli.score")
    module.command = click.command()(body)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "genzoo.cli.score", module)


@pytest.mark.parametrize(
    "args",
    [["--help"], ["list", "models"], ["list", "--json"], ["list", "datasets", "moons"], ["--version"]],
    ids=" ".join,
)
def test_help_and_listings_import_nothing_heavy(site: Site, args: list[str]) -> None:
    site.install("good", "bad_import", "bad_print")
    done = site.python("-c", HEAVY.format(args=args))
    assert done.stdout.splitlines()[-1] == "HEAVY 0 []"


@pytest.mark.parametrize("args", [["doctor"], ["data", "--help"]], ids=" ".join)
def test_doctor_and_data_work_without_torch(site: Site, args: list[str]) -> None:
    site.module("torch", "raise ImportError('torch is broken')")
    site.install("good")
    done = site.run(*args)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_stops_early_is_no_error(site: Site) -> None:
    pipe = f"{sys.executable} -m genzoo list --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        ["bash", "-c", pipe], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "internal error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_check_for_heavy_imports_sees_one(site: Site) -> None:
    site.module("torch", "")  # stands for the real one, which takes a second
    site.install("bad_torch")
    done = site.python("-c", HEAVY.format(args=["list", "models"]))
    assert done.stdout.splitlines()[-1] == "HEAVY 0 ['torch']"
    notes = "from genzoo.registry import load_registry; print([plugin.notes for plugin in load_registry().plugins])"
    assert "imports torch when it is listed" in site.python("-c", notes).stdout


@pytest.mark.parametrize("args", [["--help"], ["list", "models"]], ids=" ".join)
def test_help_and_listings_are_quick(site: Site, args: list[str]) -> None:
    site.install("good")
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert site.run(*args).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # Processor time, which on a free machine is the wall time of one thread that waits for nothing: wall time here
    # would measure the tests that run beside this one.
    assert min(seconds) < LIMIT


def test_help_names_every_command_and_imports_none(capsys: Streams) -> None:
    assert main(["--help"]) == 0
    out, _ = capsys.readouterr()
    for name, line in COMMANDS.items():
        assert name in out
        assert line.split()[0] in out


def test_without_arguments_help_goes_to_stderr_with_exit_2(capsys: Streams) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Commands:" in err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["lst"], "unknown command 'lst': did you mean list?"),
        (["list", "model"], "unknown sort of thing 'model': did you mean models?"),
        (["list", "models", "gausian"], "unknown model 'gausian': did you mean gaussian"),
        (["list", "models", "flow"], "which is not installed: pip install genzoo-flow"),
        (["list", "datasets", "moon"], "unknown data set 'moon': did you mean moons"),
        (["list", "--jsn"], "No such option '--jsn'"),
        (["list", "--plugin", "nowhere.py"], "no plugin file"),
    ],
)
def test_wrong_usage_is_one_line_on_stderr_and_exit_2(site: Site, capsys: Streams, args: list[str], words: str) -> None:
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("genzoo: error: ")
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (RunError("no record\nin \x1b[31mruns"), 2, r"genzoo: error: no record; in \x1b[31mruns"),
        (CapabilityError("cannot"), 2, "genzoo: error: cannot"),
        (NumericsError("NaN at step 3"), 1, "genzoo: error: NaN at step 3"),
        (PluginError("lies"), 1, "genzoo: error: lies"),
        (ZeroDivisionError("oh"), 1, "internal error: ZeroDivisionError: oh (GENZOO_TRACEBACK=1 shows the traceback)"),
        (KeyboardInterrupt(), 130, "genzoo: error: interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_error_has_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: Streams, raised: BaseException, code: int, words: str
) -> None:
    def body() -> None:
        raise raised

    stub_command(monkeypatch, body)
    monkeypatch.delenv("GENZOO_TRACEBACK", raising=False)
    assert main(["score"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip().splitlines()[-1].endswith(words)
    assert "Traceback" not in err
    monkeypatch.setenv("GENZOO_TRACEBACK", "1")
    main(["score"])
    assert ("Traceback" in capsys.readouterr().err) == (not isinstance(raised, KeyboardInterrupt))


def test_a_commands_result_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    stub_command(monkeypatch, lambda: 3)
    assert main(["score"]) == 3
    stub_command(monkeypatch, lambda: None)
    assert main(["score"]) == 0


def test_the_model_table_has_family_data_bound_plugin_and_paper(site: Site, capsys: Streams) -> None:
    site.install("good")
    assert main(["list", "models"]) == 0
    out, err = capsys.readouterr()
    heading, _, good = out.splitlines()
    assert heading.split() == ["name", "family", "data", "bound", "plugin", "paper"]
    assert good == (
        "good      test family  real, binary, discrete  lower_bound  genzoo-good 1.2  Nobody 2020, arXiv:0000.00000"
    )
    assert err == (
        "genzoo: warning: not installed: vae, hvae, flow, ddpm, ddim, d3pm, score_sde, flow_matching, "
        "pyro_vae, pyro_mixture, gmm, bernoulli_mixture, categorical_mixture, naive_bayes, nade, made, pixelcnn, "
        "transformer, rbm, dbn, ebm, gan, wgan, autoencoder (pip install genzoo-autoencoder genzoo-autoregressive "
        "genzoo-ddpm genzoo-energy genzoo-flow genzoo-gan genzoo-mixture genzoo-pyro genzoo-vae)\n"
    )


def test_json_lists_what_the_cards_say(site: Site, capsys: Streams) -> None:
    site.install("good", "bad_exit")
    assert main(["list", "--json"]) == 0
    out, err = capsys.readouterr()
    lists = json.loads(out)
    assert lists.keys() == {"models", "datasets", "metrics"}
    good = lists["models"][1]
    assert good["num_samples"] == {"real": 50}
    assert good["plugin"] == {"distribution": "genzoo-good", "version": "1.2"}
    assert [entry["event_shape"] for entry in lists["datasets"] if entry["name"] == "digits"] == [[1, 8, 8]]
    assert lists["metrics"][-1]["lower_is_better"] is False
    assert err == ("genzoo: warning: plugin genzoo-bad-exit 1.2 failed at import: SystemExit: 3 (see genzoo doctor)\n")
    assert main(["list", "models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == lists["models"]


def test_a_model_by_name_shows_each_key_type_default_and_reason(site: Site, capsys: Streams) -> None:
    site.install("good")
    site.module("good_model", (Path(__file__).parent / "fixtures" / "plugins" / "good_model.py").read_text())
    assert main(["list", "models", "good"]) == 0
    out, err = capsys.readouterr()
    assert "good_model prints" in err
    assert "good_model prints" not in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "paper Nobody 2020, arXiv:0000.00000" in lines
    assert "layers int, >= 1 4 depth; four is enough in the plane" in lines
    assert "schedule linear | cosine linear noise schedule" in lines
    assert "scale float | none, > 0 none none: from the data" in lines
    assert any(line.startswith("dequantization none | uniform | variational none") for line in lines)
    assert main(["list", "models", "good", "--json"]) == 0
    (layers, *_) = json.loads(capsys.readouterr().out)["config"]
    assert layers == {
        "key": "layers",
        "type": "int, >= 1",
        "required": False,
        "default": 4,
        "reason": "depth; four is enough in the plane",
    }


def test_every_model_of_the_zoo_leads_to_its_formula(capsys: Streams) -> None:
    """From a row of a table to p(x), and to the file that computes it, in one command."""
    for name in KNOWN_PLUGINS:
        assert main(["list", "models", name, "--json"]) == 0
        entry = json.loads(capsys.readouterr().out)
        assert re.search(r"p\((x|v|x_0|x, z)\)", entry["maths"]), name
        assert Path(entry["file"]).is_file()
    assert main(["list", "models", "gan"]) == 0
    out = capsys.readouterr().out
    assert "\n    p(x) = integral of p(x given G(z)) N(z; 0, I) dz" in out


def test_every_key_of_a_plan_file_is_listed(site: Site, capsys: Streams) -> None:
    assert main(["list", "plan", "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)
    keys = {name: {entry["key"] for entry in entries} for name, entries in parts.items()}
    assert keys == {
        "plan": {*Plan.model_fields} - {"training", "evaluation"},
        "training": {*TrainSettings.model_fields},
        "evaluation": {*EvaluationPlan.model_fields},
    }
    assert main(["list", "plan"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "budget str 30s 2000steps, 10epochs or 60s a cell" in lines
    assert any(line.startswith("points int, >= 2 | none none test points") for line in lines)  # 2**63 is not said
    assert any(line.startswith("validations tuple[float, > 0, <= 1, ...] 0.03, 0.06") for line in lines)
    assert any(line.startswith("threads int, >= 1, <= 1024 1 ") for line in lines)


def test_a_model_whose_target_is_not_there_is_an_error_with_the_cause(site: Site, capsys: Streams) -> None:
    site.install("lying_card")
    assert main(["list", "models", "lying_card"]) == 1
    assert "cannot load model 'lying_card' from lying_card:Missing" in capsys.readouterr().err


def test_markup_and_control_characters_in_names_are_plain_text(site: Site, capsys: Streams) -> None:
    site.install("good", version="[bold red]1\x1b[2J")
    assert main(["list", "models"]) == 0
    assert r"genzoo-good [bold red]1\x1b[2J" in capsys.readouterr().out


def test_a_single_file_plugin_is_listed(site: Site, capsys: Streams) -> None:
    file = Path(__file__).parent / "fixtures" / "plugins" / "good.py"
    assert main(["list", "metrics", "--plugin", str(file)]) == 0
    assert f"higher  {file}" in capsys.readouterr().out


def test_doctor_tells_each_failure_with_version_stage_and_cause(site: Site, capsys: Streams) -> None:
    site.install("good", "bad_import", "bad_print", "clash_one", "clash_two", "lying_card")
    site.module("good_model", "Good = load = metric = object")
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for line in (
        "FAILED genzoo-bad-import 1.2 at import: ModuleNotFoundError: No module named 'a_package_that_is_not_there'",
        "FAILED genzoo-bad-print 1.2 at import: printed to stdout: 'hello from a plugin'",
        "FAILED genzoo-clash-one 1.2 at clash: model 'same' is brought by genzoo-clash-one 1.2 and by genzoo-clash-two",
        "FAILED genzoo-lying-card 1.2 at target: cannot load model 'lying_card' from lying_card:Missing",
    ):
        assert line in out
    assert "FAILED genzoo-good" not in out


def test_doctor_as_json_has_the_machine_the_plugins_and_tracebacks(
    site: Site, capsys: Streams, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GENZOO_DATA", str(tmp_path / "data"))
    site.install("bad_hook")
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["python"] == sys.version.split()[0]
    assert report["GENZOO_DATA"] == str(tmp_path / "data")
    assert report["cores"] >= 1
    (failure,) = (failure for failure in report["failures"] if failure["stage"] == "hook")
    assert (failure["distribution"], failure["version"]) == ("genzoo-bad-hook", "1.2")
    assert any("bad_hook.py" in line for line in failure["traceback"])
    assert all(line.isprintable() for line in failure["traceback"])
    (plugin,) = (plugin for plugin in report["plugins"] if plugin["distribution"] == "genzoo-bad-hook")
    assert plugin["cards"] == [{"sort": "data set", "name": "survivor"}]


@pytest.mark.parametrize(("module", "code"), [("bad_import", 4), ("bad_stderr", 4), ("lying_card", 4), ("good", 0)])
def test_strict_plugins_exits_4_for_a_failure_a_note_or_a_lie(
    site: Site, capsys: Streams, monkeypatch: pytest.MonkeyPatch, module: str, code: int
) -> None:
    # The host's own targets have a test elsewhere, and import everything.
    @hookimpl
    def genzoo_metrics() -> list[MetricCard]:
        return []

    host = Source(Origin("genzoo"), lambda: SimpleNamespace(genzoo_metrics=genzoo_metrics))
    monkeypatch.setattr("genzoo.registry.host_source", lambda: host)
    site.install(module)
    site.module("good_model", ANY_MODEL)
    assert main(["doctor", "--strict-plugins"]) == code


def test_data_prints_paths_and_verdicts(
    site: Site, capsys: Streams, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GENZOO_DATA", str(tmp_path))
    monkeypatch.setattr("genzoo.data.download.cache_folder", lambda: tmp_path / "cache")
    assert main(["data", "path"]) == 2
    assert "MNIST is not on this machine" in capsys.readouterr().err
    assert main(["data", "verify"]) == 4
    (tmp_path / "mnist").mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "mnist" / f"{name}-ubyte").write_bytes(b"not MNIST")
    capsys.readouterr()
    assert main(["data", "path"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["data", "verify"]) == 4
    assert capsys.readouterr().out.count("WRONG") == 4
