"""Guarded calls: whatever foreign code does comes back as a value, and both streams are as before."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

from genzoo.guard import PrintedError, descriptor_to, guarded


def test_a_value_and_silence() -> None:
    outcome = guarded(lambda: 3)
    assert (outcome.value, outcome.error, outcome.stderr, outcome.replaced) == (3, None, "", ())


@pytest.mark.parametrize("raised", [ValueError("x"), SystemExit(3), GeneratorExit(), BaseException("x")], ids=repr)
def test_an_error_is_a_value(raised: BaseException) -> None:
    def call() -> NoReturn:
        raise raised

    assert guarded(call).error is raised


@pytest.mark.parametrize(
    "write",
    [
        lambda: print("words"),
        lambda: os.write(1, b"words\n"),
        lambda: sys.__stdout__.write("words\n"),  # type: ignore[union-attr]
        lambda: subprocess.run(["echo", "words"], check=True),
    ],
    ids=["print", "descriptor", "original", "child"],
)
def test_what_is_printed_is_an_error_and_goes_nowhere(write: object, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = guarded(write)  # type: ignore[arg-type, var-annotated]
    assert isinstance(outcome.error, PrintedError)
    assert str(outcome.error) == "printed to stdout: 'words'"
    os.write(1, b"after\n")
    print("after")
    assert capfd.readouterr() == ("after\nafter\n", "")


def test_an_interrupt_passes_and_the_descriptor_is_put_back(capfd: pytest.CaptureFixture[str]) -> None:
    def call() -> NoReturn:
        os.write(1, b"inside\n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded(call)
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"


def test_a_replaced_stream_is_put_back_and_told() -> None:
    before = sys.stdout, sys.stderr

    def call() -> None:
        sys.stdout = sys.stderr
        del sys.stderr

    assert guarded(call).replaced == ("stdout", "stderr")
    assert (sys.stdout, sys.stderr) == before


def test_without_a_place_for_files_what_is_printed_is_dropped(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full() -> NoReturn:
        raise OSError("no space")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    outcome = guarded(lambda: os.write(1, b"words\n"))
    assert (outcome.value, outcome.error) == (6, None)
    assert capfd.readouterr().out == ""


def test_the_descriptor_leads_where_it_is_pointed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "file").open("wb") as file, descriptor_to(file.fileno()):
        os.write(1, b"inside\n")
    assert (tmp_path / "file").read_text() == "inside\n"
    assert capfd.readouterr().out == ""


def test_a_closed_stdout_is_no_obstacle() -> None:
    command = f'"{sys.executable}" -m genzoo list models >&-'
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr
