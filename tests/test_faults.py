"""Faults at every write: a full disk, a read-only folder, a failing rename. And no write goes round the one writer."""

from __future__ import annotations

import ast
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genzoo import records
from genzoo.cli import main
from genzoo.data import download
from genzoo.errors import DataError, StorageError
from genzoo.records import RunRecord, find_cells, remove_temporaries, write_arrays
from genzoo.training import CHECKPOINTS

ROOT = Path(__file__).parent.parent
Streams = pytest.CaptureFixture[str]

# what is allowed to write


ALLOWED = {
    ("genzoo/records.py", "os.open"): "the atomic writer",
    ("genzoo/records.py", "os.fdopen"): "the atomic writer",
    ("genzoo/records.py", "os.replace"): "the atomic writer",
    ("genzoo/records.py", "np.savez_compressed"): "into the file of the atomic writer",
    ("genzoo/locking.py", "os.open"): "the lock, whose content is for a message",
    ("genzoo/locking.py", "os.ftruncate"): "the same",
    ("genzoo/locking.py", "os.write"): "the same",
    ("genzoo/cells.py", "open"): "progress.jsonl, a line at a time; no result depends on it",
    ("genzoo/cells.py", "os.open"): "the same",
    ("genzoo/cells.py", "safetensors.torch.save"): "to bytes",
    ("genzoo/state.py", "safetensors.torch.save"): "to bytes",
    ("genzoo/cli/sample.py", "np.save"): "to memory",
    ("genzoo/report/plots.py", "pages.savefig"): "to memory",
    ("genzoo/report/plots.py", "figure.savefig"): "to memory",
    ("genzoo/data/pictures.py", "open"): "a picture, for reading",
    ("genzoo/guard.py", "open"): "the null device",
    ("genzoo/cli/events.py", "os.open"): "the null device",
    ("genzoo/cells.py", "record.save"): "RunRecord's own",
    ("genzoo/bench.py", "record.save"): "RunRecord's own",
    ("genzoo/safe_files.py", "os.open"): "for reading",
    ("genzoo/safe_files.py", "os.fdopen"): "for reading",
    ("genzoo/safe_arrays.py", "open"): "a member of an archive, for reading",
    ("genzoo/safe_arrays.py", "np.memmap"): "read only",
}
"""Calls that may write to files, each with its reason. All other files go through `genzoo.records`."""
WRITERS = {
    *("write_text", "write_bytes", "touch", "rename", "symlink_to", "hardlink_to", "tofile", "to_csv"),
    *("save", "savez", "savez_compressed", "savetxt", "save_file", "savefig", "imsave", "imwrite", "memmap"),
    *("fdopen", "ftruncate", "truncate", "copyfile", "copy2", "copyfileobj", "copytree", "mkstemp"),
    *("NamedTemporaryFile", "extractall", "extract"),
}
OWNERS = {
    "os": {"open", "write", "replace", "pwrite", "sendfile", "link"},
    "shutil": {"copy", "move"},
    "json": {"dump"},
}
OURS = {"write_bytes", "write_json", "write_arrays", "save_state"}
"""Names that, called as functions, are the writers of `genzoo.records` and `genzoo.state`."""


def writes(source: str) -> Iterator[str]:
    """The calls in a source that write, or may write, to a file: `os.replace`, `open`, ..."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            last = name.rpartition(".")[2]
            owner = name.rpartition(".")[0]
            if isinstance(node.func, ast.Name) and name in OURS:
                continue
            if last in ("open", "TarFile", "ZipFile", "GzipFile") and owner != "os":
                mode = _mode(node, 0 if isinstance(node.func, ast.Attribute) and owner not in LIBRARIES else 1)
                if mode is None or set(mode) & set("wax+"):
                    yield "open" if last == "open" and owner not in LIBRARIES else name
            elif last in WRITERS or last in OWNERS.get(owner, ()):
                yield name


LIBRARIES = {"gzip", "tarfile", "zipfile", "io", "bz2", "lzma", "codecs"}
"""Whose `open` takes the path first."""


def _mode(node: ast.Call, at: int) -> str | None:
    """The mode of a call of `open`; "r" where there is none, None where it is computed."""
    given = [keyword.value for keyword in node.keywords if keyword.arg == "mode"] or node.args[at : at + 1]
    if not given:
        return "r"
    return str(given[0].value) if isinstance(given[0], ast.Constant) else None


def test_no_write_goes_round_the_atomic_writer() -> None:
    """The very list: a new write fails it, and so does a reason that is no longer needed."""
    sources = [*ROOT.glob("genzoo/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    assert len(sources) > 80
    sources = [path for path in sources if "templates" not in path.parts]
    found = {(str(path.relative_to(ROOT)), call) for path in sources for call in writes(path.read_text())}
    assert found == ALLOWED.keys()


@pytest.mark.parametrize(
    "source",
    [
        "open(path, 'w')",
        "open(path, mode='ab')",
        "path.open('r+')",
        "path.open(mode)",
        "io.open(path, 'x')",
        "gzip.open(path, 'wb')",
        "zipfile.ZipFile(path, 'w')",
        "path.write_text('')",
        "path.write_bytes(b'')",
        "np.save(path, x)",
        "np.savez(path, x=x)",
        "torch.save(x, path)",
        "safetensors.torch.save_file(x, path)",
        "figure.savefig(path)",
        "json.dump(x, file)",
        "os.replace(a, b)",
        "path.rename(b)",
        "shutil.copy(a, b)",
        "tempfile.NamedTemporaryFile()",
        "archive.extractall(path)",
    ],
)
def test_a_write_that_goes_round_would_be_seen(source: str) -> None:
    assert len(list(writes(f"def f():\n    {source}"))) == 1


@pytest.mark.parametrize(
    "source", ["open(path)", "path.open('rb')", "write_bytes(path, b'')", "text.replace('a', 'b')", "gzip.open(path)"]
)
def test_what_only_reads_is_not_taken_for_a_write(source: str) -> None:
    assert list(writes(source)) == []


# faults


class Leaky:
    """A file on a disk that is full after half of the first write."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, data: Any) -> int:
        content = bytes(data)
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __enter__(self) -> Leaky:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


FAULTS = {
    "disk full at write": errno.ENOSPC,
    "disk full at sync": errno.ENOSPC,
    "read-only folder": errno.EROFS,
    "rename fails": errno.EACCES,
}


@dataclass
class Fault:
    """What it hit; `mended` ends it."""

    hit: list[str] = field(default_factory=list)
    mended: bool = False


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Fault]:
    """`fault(kind, name)`: writes of files whose name begins with `name` fail so, until the disk is mended."""

    def inject(kind: str, name: str) -> Fault:
        found = Fault()
        opened, fdopen, fsync, replace = os.open, os.fdopen, os.fsync, os.replace

        def ours(path: Any) -> bool:
            return not found.mended and Path(path).name.startswith(f".{name}")

        def of(handle: int) -> str:
            return os.readlink(f"/proc/self/fd/{handle}")

        def fail(path: Any) -> None:
            found.hit.append(str(path))
            raise OSError(FAULTS[kind], os.strerror(FAULTS[kind]))

        def open_(path: Any, flags: int, *args: Any, **options: Any) -> int:
            if kind == "read-only folder" and flags & os.O_CREAT and ours(path):
                fail(path)
            return opened(path, flags, *args, **options)

        def fdopen_(handle: int, *args: Any, **options: Any) -> Any:
            file = fdopen(handle, *args, **options)
            if kind == "disk full at write" and ours(of(handle)):
                found.hit.append(of(handle))
                return Leaky(file)
            return file

        def fsync_(handle: int) -> None:
            if kind == "disk full at sync" and ours(of(handle)):
                fail(of(handle))
            fsync(handle)

        def replace_(source: Any, target: Any) -> None:
            if kind == "rename fails" and ours(source):
                fail(target)
            replace(source, target)

        for at, broken in {"open": open_, "fdopen": fdopen_, "fsync": fsync_, "replace": replace_}.items():
            monkeypatch.setattr(os, at, broken)
        return found

    return inject


def files(folder: Path) -> dict[str, bytes]:
    """All files under `folder` by name, but for the progress of cells."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "progress.jsonl"
    }


def bench_of(tiny: Path, folder: Path) -> list[str]:
    return [
        *("bench", "-m", "gaussian,flow[layers=1,hidden=8,bins=4]", "-d", str(tiny / "points.npz")),
        *("--budget", "4steps", "--points", "16", "-o", str(folder)),
    ]


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("master") / "run"


@pytest.fixture
def finished(master: Path, tiny: Path, tmp_path: Path, inline: Executor) -> Path:
    """A finished run of two cells, to be written to."""
    if not master.exists():
        assert main(bench_of(tiny, master)) == 0
    shutil.copytree(master, tmp_path / "run")
    return tmp_path / "run"


# the name of the file that a command writes, and the command, in a folder that holds a finished run, `run`
COMMANDS: dict[str, tuple[str, list[str]]] = {
    "report": ("report.html", ["report", "run"]),
    "report to a file": ("x.md", ["report", "run", "--format", "md", "-o", "x.md"]),
    "report for a paper": ("x.pdf", ["report", "run", "--format", "pdf", "-o", "x.pdf"]),
    "reading": ("readings.json", ["eval", "CELL"]),
    "samples": ("x.npy", ["sample", "CELL", "-n", "4", "-o", "x.npy"]),
    "picture": ("x.png", ["sample", "CELL", "-n", "4", "-o", "x.png"]),
    "scores": ("x.npz", ["score", "CELL", "DATA", "-o", "x.npz"]),
    "scaffold": ("pyproject.toml", ["new", "mine"]),
}


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("site", COMMANDS)
def test_a_command_that_cannot_write_says_so_and_leaves_all_as_it_was(
    site: str, kind: str, finished: Path, tiny: Path, fault: Any, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    name, command = COMMANDS[site]
    (cell, _) = find_cells(finished)
    monkeypatch.chdir(finished.parent)
    before = files(finished.parent)
    places = {"CELL": str(cell.path), "DATA": str(tiny / "points.npz")}
    found = fault(kind, name)
    capsys.readouterr()
    assert main([places.get(word, word) for word in command]) == 2
    assert found.hit
    _, err = capsys.readouterr()
    assert "genzoo: error: cannot write " in err
    assert f"{name}: {os.strerror(FAULTS[kind])}; what was written before is intact: " in err
    after = files(finished.parent)
    assert {path: after.get(path) for path in before} == before
    assert name not in {Path(path).name for path in after.keys() - before.keys()}
    assert not [path for path in after if path.endswith(".tmp")]


CELL_FILES = {"a checkpoint": "checkpoint-", "the weights": "model.safetensors", "the arrays": "arrays.npz"}


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("what", CELL_FILES)
def test_a_cell_that_cannot_write_has_failed_and_is_run_again(
    what: str, kind: str, tiny: Path, tmp_path: Path, inline: Executor, fault: Any
) -> None:
    """Its record, which is small, says why; the other cells, which fail alike, do so by records too."""
    found = fault(kind, CELL_FILES[what])
    assert main(bench_of(tiny, tmp_path)) == 3
    assert len(found.hit) == 2
    for cell in find_cells(tmp_path):
        assert cell.record.status == "failed"
        assert cell.record.error is not None
        assert cell.record.error["type"] == "StorageError"
        assert f"cannot write {cell.path}/{CELL_FILES[what]}" in cell.record.error["message"]
        assert not list(cell.path.glob(f"{CELL_FILES[what]}*"))
        assert not list(cell.path.glob(".*"))
    assert (tmp_path / "report.html").exists()
    found.mended = True
    assert main(bench_of(tiny, tmp_path)) == 0
    assert [cell.record.status for cell in find_cells(tmp_path)] == ["ok", "ok"]
    assert not list(tmp_path.rglob(CHECKPOINTS))


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("name", ["record.json", "plan.toml"])
def test_a_bench_that_cannot_write_its_records_ends_and_goes_on_later(
    name: str, kind: str, tiny: Path, tmp_path: Path, inline: Executor, fault: Any, capsys: Streams
) -> None:
    """Exit code 2, one line; the same command then finishes from the last checkpoint."""
    folder = tmp_path / "run"
    found = fault(kind, name)
    assert main(bench_of(tiny, folder)) == 2
    assert found.hit
    err = capsys.readouterr().err
    assert f"{name}: {os.strerror(FAULTS[kind])}" in err
    assert not list(folder.rglob(name))
    assert not list(folder.rglob(".*"))  # neither temporaries nor locks
    assert bool(list(folder.rglob(CHECKPOINTS))) == (name == "record.json")
    found.mended = True
    assert main(bench_of(tiny, folder)) == 0
    assert [cell.record.status for cell in find_cells(folder)] == ["ok", "ok"]


@pytest.mark.parametrize("kind", FAULTS)
def test_the_cache_of_downloads(kind: str, tmp_path: Path, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "cache_folder", lambda: tmp_path)
    fault(kind, "b")
    with pytest.raises(DataError, match=rf"the cache {tmp_path} cannot be written: .*{os.strerror(FAULTS[kind])}"):
        download._keep({"a": b"whole", "b": b"never"})
    assert files(tmp_path) == {"a": b"whole"}


def test_the_kernel_itself_refuses(tmp_path: Path) -> None:
    """No fake: a limit on the size of files, so that a write ends in the middle."""
    code = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from genzoo.errors import StorageError
from genzoo.records import write_arrays
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    write_arrays(Path(sys.argv[1]), {"x": np.random.default_rng(0).standard_normal(100_000)})
except StorageError as error:
    print(error)
"""
    path = tmp_path / "arrays.npz"
    write_arrays(path, {"x": np.zeros(3)})
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert f"cannot write {path}: {os.strerror(errno.EFBIG)}" in done.stdout
    assert files(tmp_path) == {"arrays.npz": before}


def test_a_full_disk_does_not_hide_the_cause(tmp_path: Path, fault: Any) -> None:
    fault("disk full at write", "record.json")
    record = RunRecord(cell="a", status="ok", model="a", label="a", dataset="b", seed=0)
    with pytest.raises(StorageError, match="free some space and run the same command again") as caught:
        record.save(tmp_path)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    keep = [".lock", ".hidden.tmp", "record.json", ".x.0123456789ab.tmp.txt", "x.0123456789ab.tmp"]
    for name in [*keep, ".record.json.0123456789ab.tmp", ".checkpoint-000000001.safetensors.ffffffffffff.tmp"]:
        (tmp_path / name).touch()
    remove_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(keep)
    with records.atomic(tmp_path / "y"):  # that is the form of the names that the writer gives
        assert len([*tmp_path.glob(records.TEMPORARY)]) == 1
