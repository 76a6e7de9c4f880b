"""Files and texts of strangers: each hostile one is a clear, short, typed error that names the file, soon and in little
memory; nothing in them is executed, and nothing is written. What `benchmarks/fuzz.py` found is here by name."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.torch
import torch

import genzoo
from genzoo.cells import _log, last_progress
from genzoo.cli import main
from genzoo.config import Budget, Reference
from genzoo.data import load_path
from genzoo.data.files import load_points
from genzoo.errors import BudgetError, ConfigError, DataError, GenzooError, PlanError, RunError
from genzoo.locking import locked
from genzoo.plan import Plan
from genzoo.provenance import versions
from genzoo.records import CellFolder, RunRecord, find_cells, finite, read_arrays, read_json
from genzoo.report import render
from genzoo.safe_build import Allowance, TooLargeError
from genzoo.safe_json import parse_json
from genzoo.safe_tensors import SIZES
from genzoo.safe_toml import parse_toml
from genzoo.spec import DataSpec
from genzoo.state import load_state, save_state

if TYPE_CHECKING:
    from conftest import Site

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
FLOW = next(GOLDEN.glob("moons/cells/flow-*"))
RECORD = json.loads((FLOW / "record.json").read_text())


@contextmanager
def bounded(seconds: float = 1.0, size: int = 512 * 2**20) -> Iterator[None]:
    """No more than a second of processor time inside, and 512 MiB on top of the address space that is there."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    there = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (there + size, before[1]))
    start = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - start < seconds


def refused(path: Path, read: Callable[[Path], object], error: type[GenzooError], words: str) -> None:
    """Reading `path` is one short error with these words that names the file; the folder is as before."""
    before = sorted(path.parent.iterdir())
    with bounded(), pytest.raises(error, match=words) as caught:
        read(path)
    said = str(caught.value)
    assert path.name in said
    assert len(said) < 1500
    assert sorted(path.parent.iterdir()) == before


def npy(shape: str = "(20, 2)", descr: str = "'<f8'", data: bytes = bytes(320), header: str | None = None) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}" if header is None else header
    raw = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw) % 2**16) + raw + data


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, data)
    return stream.getvalue()


def lying(data: bytes, **fields: int) -> bytes:
    """An archive of one member whose local and central headers both say other sizes, flags or methods."""
    at = {
        "flags": (6, 8, "<H"),
        "method": (8, 10, "<H"),
        "crc": (14, 16, "<I"),
        "packed": (18, 20, "<I"),
        "size": (22, 24, "<I"),
    }
    content, central = bytearray(data), data.index(b"PK\x01\x02")
    for name, value in fields.items():
        local, directory, form = at[name]
        struct.pack_into(form, content, local, value)
        struct.pack_into(form, content, central + directory, value)
    return bytes(content)


GOOD = npy()
X = ("x.npy", GOOD)
ARRAYS: dict[str, tuple[str, bytes, str]] = {
    "npy of a terabyte": ("a.npy", npy("(1000000000000, 2)"), "in 16,000,000,000,000 bytes; there are 320"),
    "npy beyond any size": ("a.npy", npy("(9999999999999999999, 9999999999999999999)"), "is none of an array"),
    "npy empty beyond any size": ("a.npy", npy("(0, 4611686018427387904, 4)", data=b""), "is none of an array"),
    "npy of nothing, often": ("a.npy", npy("(1000000000000, 2)", "'<U0'", b""), "is none of an array"),
    "npy of many axes": ("a.npy", npy(f"({'1, ' * 65})", data=bytes(8)), "its shape of 65 axes"),
    "npy negative": ("a.npy", npy("(20, -2)"), "its header is broken"),
    "npy of objects": (
        "a.npy",
        npy(descr="'|O'", data=pickle.dumps([1])),
        "it holds Python objects, which are not read",
    ),
    "npy that calls": ("a.npy", npy(descr="__import__('os').system('touch pwned')"), "its header is broken"),
    "npy of fields": ("a.npy", npy(descr="[('a', '<f8')]"), "it holds records of named fields"),
    "npy of dates": ("a.npy", npy(descr="'<M8[s]'"), "it holds '<M8\\[s\\]'; expected numbers"),
    "npy nested": ("a.npy", npy(header="(" * 9000), "its header is broken"),
    "npy of minus signs": ("a.npy", npy(header="-" * 9000 + "1"), "its header is broken"),
    "npy of a long header": ("a.npy", npy(header="{" + " " * 20000), "its header is 20,002 bytes long"),
    "npy of version 9": ("a.npy", GOOD.replace(b"NUMPY\x01", b"NUMPY\x09"), "it is not a NumPy file of numbers"),
    "npy key twice": ("a.npy", npy(header="{'descr': '<f8', 'shape': (2,), }"), "its header is broken"),
    "npz bomb": ("a.npz", zipped(("x.npy", npy("(20, 500000)", data=bytes(80_000_000)))), "unpacks to 80,000,"),
    "npz size lies up": ("a.npz", lying(zipped(X), size=2**32 - 1), "it unpacks to 4,294,967,295 bytes"),
    "npz size lies down": ("a.npz", lying(zipped(X), size=100), "x: Bad CRC-32"),
    "npz packed size lies": ("a.npz", lying(zipped(X), packed=5), "broken"),
    "npz checksum": ("a.npz", lying(zipped(X), crc=1), "x: Bad CRC-32"),
    "npz encrypted": ("a.npz", lying(zipped(X), flags=1), "is encrypted, or packed in a way"),
    "npz lzma": ("a.npz", lying(zipped(X), method=14), "is encrypted, or packed in a way"),
    "npz climbs": ("a.npz", zipped(X, ("../y.npy", GOOD)), "points out of the archive"),
    "npz climbs on Windows": ("a.npz", zipped(X, ("..\\y.npy", GOOD)), "points out of the archive"),
    "npz absolute": ("a.npz", zipped(X, ("/etc/y.npy", GOOD)), "points out of the archive"),
    "npz other files": ("a.npz", zipped(X, ("run.sh", b"touch pwned")), "its member 'run.sh' is no .npy"),
    "npz many": ("a.npz", zipped(*((f"{i}.npy", b"") for i in range(1001)), method=0), "it has 1,001 members"),
    "npz of objects": ("a.npz", zipped(("x.npy", npy(descr="'|O'"))), "x: it holds Python objects"),
    "npz of a terabyte": ("a.npz", zipped(("x.npy", npy("(1000000000000, 2)"))), "x: its header says"),
    "npz names": (
        "a.npz",
        zipped(*((f"{i}\x1b[31m.npy", GOOD) for i in range(20))),
        r"got 0\\x1b\[31m, .* and 10 more",
    ),
    "idx of many axes": ("a-ubyte", b"\0\0\x08\xff" + b"\0\0\0\x01" * 255 + b"\7", "an array of 255 axes"),
    "idx empty beyond any size": ("a-ubyte", b"\0\0\x08\4" + bytes(4) + b"\xff" * 12, "which no array can be"),
    "idx of a terabyte": (
        "a-ubyte",
        b"\0\0\x0e\3" + b"\0\1\0\0" * 3 + bytes(99),
        "in 2,251,799,813,685,264 bytes; it has 115",
    ),
    "idx bomb": (
        "a-ubyte.gz",
        gzip.compress(b"\0\0\x08\1" + b"\x7f\0\0\0" + bytes(8 * 10**7), 1),
        "unpacks to more than",
    ),
    "idx bomb behind a header": (
        "a-ubyte.gz",
        gzip.compress(b"\0\0\x08\1\0\0\0\2" + bytes(8 * 10**7), 1),
        "10 bytes; it has 11 or more",
    ),
    "idx checksum": ("a-ubyte.gz", gzip.compress(b"\0\0\x08\1\0\0\0\2\1\1")[:-5] + b"12345", "cannot read"),
    "csv wide": ("a.csv", b"1," * 1_000_000, "expected numbers"),
    "csv of one line": ("a.csv", b"9" * 2_000_000, "1 inf in 1 of 1 rows|1 rows, too few"),
    "csv of bytes": ("a.csv", b"1,2\n\xff\n", "cannot be read"),
    "csv of surrogates": ("a.csv", "1,2\n\ud800".encode("utf-8", "surrogatepass"), "cannot be read"),
    "csv labels": ("a.csv", b"a,b,label\n" + b"1.5,2,999999999\n" * 20, "expected labels below 65,536"),
}


@pytest.mark.parametrize(("name", "content", "words"), ARRAYS.values(), ids=ARRAYS)
def test_data(name: str, content: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, lambda path: load_path(path, labels="labels" in words), DataError, words)


def test_an_archive_with_a_name_twice(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = zipped(X, X)
    (tmp_path / "a.npz").write_bytes(content)
    refused(tmp_path / "a.npz", load_path, DataError, "more than one array called 'x'")
    refused(tmp_path / "a.npz", read_arrays, RunError, "more than one array called 'x'")


def test_a_link_in_an_archive_is_read_as_what_it_holds(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("x.npy")
    info.external_attr = 0xA1FF << 16
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path / "a.npz", load_path, DataError, "x: it is not a NumPy file of numbers")


def test_what_is_large_and_honest_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((100_000, 64)))  # 51 MB, a thousandth of it packed
    assert len(load_path(tmp_path / "a.npz").train) == 80_000
    for version in ((1, 0), (2, 0), (3, 0)):
        with (tmp_path / "a.npy").open("wb") as file:
            np.lib.format.write_array(file, np.asfortranarray(np.arange(60.0).reshape(20, 3) + 0.5), version)
        x = load_points(tmp_path / "a.npy", DataSpec((3,))).x
        assert x[0].tolist() == [0.5, 1.5, 2.5]


@pytest.mark.parametrize("read", [load_path, read_json, Plan.read, read_arrays, load_state])
def test_pipes_and_devices_are_not_waited_for(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    refused(tmp_path / "a.npy", read, GenzooError, "it is not a regular file")
    with pytest.raises(GenzooError, match=r"it is a folder, not a file|expected IDX files"):
        read(tmp_path)
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    with bounded(), pytest.raises(GenzooError, match=r"zero.csv.*it is not a regular file"):
        read(tmp_path / "zero.csv")


def test_labels_of_points_to_score(tmp_path: Path) -> None:
    spec = DataSpec((2,), classes=3)
    for y, words in (
        (np.zeros(19, np.int64), r"labels have shape \(19,\); expected one for each example, \(20,\)"),
        (np.zeros(0, np.int64), r"labels have shape \(0,\)"),
        (np.full(20, 3), r"expected labels 0\.\.2; got 3"),
        (np.full(20, 2**63, np.uint64), "expected labels below 65,536"),
    ):
        np.savez(tmp_path / "a.npz", x=np.zeros((20, 2)), y=y)
        refused(tmp_path / "a.npz", lambda path: load_points(path, spec), DataError, words)
    np.savez(tmp_path / "a.npz", train=np.zeros((20, 2)), test=np.zeros((20, 3)))
    refused(tmp_path / "a.npz", lambda path: load_points(path, DataSpec((2,))), DataError, "rows of 2 numbers.* got 3")
    np.save(tmp_path / "a.npy", np.arange(40.0).reshape(20, 2).astype(">f8"))  # torch knows no big-endian numbers
    assert load_points(tmp_path / "a.npy", DataSpec((2,))).x[1].tolist() == [2.0, 3.0]


BAD_JSON = {
    "NaN": ("NaN", "NaN is no JSON"),
    "infinity": ("-Infinity", "-Infinity is no JSON"),
    "beyond a double": ("1e999", "1e999 does not fit in a double"),
    "beyond 64 bits": ("18446744073709551616", "does not fit in 64 bits"),
    "a million digits": ("9" * 1_000_000, "does not fit in 64 bits"),
    "deep": ("[" * 65 + "]" * 65, "nested more than 64 levels"),
    "deeper": ("[" * 100_000, "nested more than 64 levels"),
    "key twice": ('{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice"),
    "half a pair": ('"\\ud800"', "half of a surrogate pair"),
    "half a pair as a key": ('{"\\uDFFF": 1}', "half of a surrogate pair"),
}


@pytest.mark.parametrize(("text", "words"), BAD_JSON.values(), ids=BAD_JSON)
def test_json(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(f'{{"x": {text}}}')
    refused(
        tmp_path / "a.json", read_json, RunError, f"is not valid JSON .*{words}.*; delete it and run the same command"
    )
    assert parse_json('["\\ud83d\\ude00", 18446744073709551615, -9223372036854775808]') == ["😀", 2**64 - 1, -(2**63)]


BAD_RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "newer": ({"schema": 2}, "has schema 2; this genzoo reads up to 1: install a newer one"),
    "true for a number": ({"schema": True}, "it has no schema number"),
    "cell climbs": ({"cell": "../../x"}, "cell='../../x': .*expected the name of a folder, without a path"),
    "cell absolute": ({"cell": "/etc"}, "expected the name of a folder"),
    "cell of escapes": ({"cell": "a\x1b[31m"}, "expected the name of a folder"),
    "status": ({"status": "fine"}, "status='fine': input should be 'ok', 'failed' or 'skipped'"),
    "number as text": ({"nll": "1.5"}, "nll='1.5': input should be a valid number"),
    "number too large": ({"kl": 1e200}, "kl=1e\\+200: input should be less than or equal to 1000"),
    "shape of a terabyte": ({"event_shape": [10**6, 10**6]}, "at most 32 axes and 2,147,483,648 numbers"),
    "shape of nothing": ({"event_shape": [0]}, "event_shape.0=0"),
    "levels": ({"levels": 10**9}, "levels=1000000000"),
    "threads": ({"threads": 10**6}, "threads=1000000: input should be less than or equal to 1024"),
    "adapters": ({"config": {"adapters": 5}}, "expected adapters to be a dict"),
    "effort": ({"evaluation": {"num_samples": "many"}}, "expected num_samples to be a whole number, not negative"),
    "points": ({"evaluation": {"points": -1}}, "expected points to be a whole number"),
    "split": ({"split": "train"}, "split='train'"),
    "terms": ({"terms": {"kl": []}}, "terms.kl=\\[\\]"),
    "many": ({key: [] for key in RECORD if key not in ("schema", "event_shape", "notes")}, "and \\d+ more"),
}


@pytest.mark.parametrize(("change", "words"), BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_records(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(RECORD | change))
    refused(path, lambda path: find_cells(path.parent), RunError, words)


def test_readings_are_held_to_the_same(tmp_path: Path) -> None:
    shutil.copytree(FLOW, tmp_path / "cell")
    path = tmp_path / "cell" / "readings.json"
    for content, words in (
        ('{"a": 1}', "is not a list of readings"),
        ('[{"nll": []}]', "readings.json is not a record: nll="),
    ):
        path.write_text(content)
        (cell,) = find_cells(tmp_path / "cell")
        with pytest.raises(RunError, match=words):
            cell.readings()
        with pytest.raises(RunError, match=words):
            render([tmp_path / "cell"], "html")


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    """A number that a record may not hold is written as none: no bench makes a run that it then refuses."""
    values = RECORD | {"nll": 1e200, "kl": float("nan"), "terms": {"a": float("inf")}}
    RunRecord(**values).save(tmp_path)
    read = RunRecord.load(tmp_path)
    assert (read.nll, read.kl, read.terms) == (None, None, {"a": None})
    assert finite([1e150, -1e151]) == [1e150, None]


BAD_TOML = {
    "quadratic": ("a" + ".a" * 60_000 + " = 1", "a dotted key has more than 32 parts"),
    "quadratic in quotes": ('"="' + '."="' * 50 + " = 1", "more than 32 parts"),
    "quadratic behind a string": ('x = ["""a"""", {' + "a." * 50 + 'a = 1}, "b"]', "more than 32 parts"),
    "quadratic behind a comment": ("# it's\n[" + "a . " * 50 + "a]", "more than 32 parts"),
    "deep": ("x = " + "[" * 65 + "]" * 65, "nested more than 64 levels"),
    "deeper": ("x = " + "[" * 100_000, "nested more than 64 levels"),
    "long number": ("x = " + "9" * 5000, "Exceeds the limit"),
    "large": ("#" * 300_000, "300,000 characters; at most 262,144"),
    "seeds": ('models = ["flow"]\nseeds = 1000000000000', "expected at most 10,000 seeds"),
    "cells": ('models = ["a", "b"]\ndatasets = ["a", "b", "c"]\nseeds = 5000', "30,000 cells; expected at most 10,000"),
    "seed": (f'models = ["flow"]\nseeds = [{10**30}]', "seeds.0=1000"),
    "threads": ('models = ["flow"]\nthreads = 100000', "threads=100000"),
    "device": ('models = ["flow"]\ndevice = "cuda:99999999999999999999"', "device='cuda:999"),
    "training": ('models = ["flow"]\n[training]\nseed = 99999999999999999999', r"\[training\]: seed=9999"),
    "samples": ('models = ["flow"]\n[evaluation]\nsamples = 1000000000000', "samples=1000000000000"),
    "key": (f'models = ["flow"]\n{"y" * 5000} = 1', r"unknown config key of plan .* 'y{100}\.\.\.'"),
    "budget": (f'models = ["flow"]\nbudget = "{"9" * 9000}s"', "is not a budget"),
    "bytes": ("models = ['\udc80']", "not valid TOML"),
    "date": ("models = [1979-05-27]", "models.0="),
}


@pytest.mark.parametrize(("text", "words"), BAD_TOML.values(), ids=BAD_TOML)
def test_plans(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(tmp_path / "plan.toml", Plan.read, PlanError, words)


def test_dots_in_strings_and_numbers_are_no_keys() -> None:
    text = (
        "x = ["
        + ", ".join(['"../a.npz"', "1.5", "'.'", '""".."""'] * 50)
        + "] # "
        + "." * 99
        + '\ny = "'
        + "." * 99
        + '"'
    )
    assert len(parse_toml(text)["x"]) == 200


BAD_INLINE = {
    "cubic": (" " * 4000 + "a" + " " * 4000 + "]", "expected name or name"),
    "long": ("a[" + "x=1," * 9000 + "]", "36,003 characters; at most 10,000"),
    "deep": ("a[x=" + "[" * 4000 + "]" * 4000 + "]", "cannot read value"),
    "quadratic": ("a[x={" + "a." * 3000 + "a=1}]", "cannot read value"),
    "two values": ("a[x=1\ny=2]", "cannot read value"),
    "half a character": ("a\udc80", "expected name or name"),
    "nothing": ("", "expected name or name"),
    "twice": ("a[x=1,x=2]", "key 'x' stands twice"),
    "call": ("a[x=__import__('os')]", "cannot read value"),
}


@pytest.mark.parametrize(("text", "words"), BAD_INLINE.values(), ids=BAD_INLINE)
def test_inline_configs(text: str, words: str) -> None:
    with bounded(), pytest.raises(ConfigError, match=words) as caught:
        Reference.parse(text)
    assert len(str(caught.value)) < 500


def test_budgets_of_many_digits() -> None:
    for text in ("9" * 100_000 + "s", "1." + "0" * 100_000 + "s", " " * 100_000, "٣s"):
        with bounded(), pytest.raises(BudgetError, match="is not a budget") as caught:
            Budget.parse(text)
        assert len(str(caught.value)) < 300


def tensors(header: Any, body: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def entry(dtype: str = "F32", shape: Any = (1,), at: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": at}


BAD_TENSORS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is no safetensors file"),
    "header of exabytes": (b"\xff" * 8 + b"{}", "its header would have 18,446,744,073,709,551,615 of 10 bytes"),
    "nested header": (tensors(b"[" * 100_000), "nested more than 64 levels"),
    "list": (tensors([]), "its header is no object"),
    "name twice": (
        tensors(b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}", bytes(4)),
        "stands twice",
    ),
    "overlap": (
        tensors({"a": entry(), "b": entry(at=(2, 6))}, bytes(6)),
        "tensor 'b' starts at byte 2; expected 4, the end of the one before",
    ),
    "out of the file": (
        tensors({"a": entry(shape=(10**9,), at=(0, 4 * 10**9))}, bytes(4)),
        "promises 4,000,000,000 bytes",
    ),
    "hole": (tensors({"a": entry(at=(4, 8))}, bytes(8)), "starts at byte 4"),
    "shape lies": (tensors({"a": entry(shape=(10**12,))}, bytes(4)), "another size"),
    "shape negative": (tensors({"a": entry(shape=(-1,))}, bytes(4)), "expected sizes"),
    "shape empty beyond any size": (tensors({"a": entry("U8", (0, 2**62, 2**62), (0, 0))}), "expected sizes"),
    "many axes": (tensors({"a": entry(shape=(1,) * 40)}, bytes(4)), "at most 32 axes"),
    "type": (tensors({"a": entry("PYOBJECT")}, bytes(4)), "is of type 'PYOBJECT'"),
    "type of half a byte": (tensors({"a": entry("F4", (2,), (0, 1))}, bytes(1)), "is of type 'F4'"),
    "type that is no text": (tensors({"a": entry([1])}, bytes(4)), "is of type"),
    "trailing bytes": (tensors({"a": entry()}, bytes(9)), "promises 4 bytes of tensors; there are 9"),
    "metadata": (tensors({"__metadata__": {"a": 1}}), "its metadata is not of strings"),
}


@pytest.mark.parametrize(("content", "words"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_safetensors(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    refused(tmp_path / "a.safetensors", load_state, RunError, words)
    # and as the weights of a model
    cell = tmp_path / "cell"
    shutil.copytree(FLOW, cell)
    (cell / "model.safetensors").write_bytes(content)
    refused(cell / "model.safetensors", lambda path: genzoo.load(path.parent), RunError, words)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ('{"$tensor": []}', "points to a tensor that is not there"),
        ('{"$tensor": "9"}', "points to a tensor that is not there"),
        ('{"$int_keys": []}', r"\$int_keys is no object"),
        ('{"$int_keys": {"a": 1}}', "invalid literal for int"),
        ('{"$tuple": 5}', r"\$tuple is no list"),
        ("[" * 50_000, "nested more than 64 levels"),
        ("{", "Expecting property name"),
    ],
)
def test_state_trees_that_lie_under_a_right_checksum(
    tree: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genzoo.state.json.dumps", lambda value: tree)
    save_state(tmp_path / "a.safetensors", {})
    monkeypatch.undo()
    refused(tmp_path / "a.safetensors", load_state, RunError, words)


@pytest.mark.parametrize("tree", [[1, 2], 5, {"of": [1]}, {"learner": 3}, {"learner": {}, "curve": [1], "best": 2}])
def test_a_checkpoint_that_is_none_is_passed_over(tree: Any, tmp_path: Path) -> None:
    save_state(tmp_path / "checkpoint-000000002.safetensors", tree)
    data = genzoo.load_dataset(np.random.default_rng(0).standard_normal((40, 2)))
    curve = genzoo.fit(genzoo.build_model("gaussian", data.spec), data, budget="3steps", folder=tmp_path)
    assert curve[-1].nll is not None


def test_state_of_a_newer_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genzoo.state.FORM", "2")
    save_state(tmp_path / "a.safetensors", {})
    monkeypatch.undo()
    refused(
        tmp_path / "a.safetensors", load_state, RunError, "has form '2'; this genzoo reads '1': install a newer one"
    )


def test_sizes_of_types_are_those_of_torch() -> None:
    kinds = {"BOOL": torch.bool, "U8": torch.uint8, "I64": torch.int64, "F64": torch.float64, "BF16": torch.bfloat16}
    kinds |= {"F8_E4M3": torch.float8_e4m3fn, "C64": torch.complex64, "U16": torch.uint16, "F32": torch.float32}
    for name, dtype in kinds.items():
        assert SIZES[name] == torch.zeros(1, dtype=dtype).element_size()
    for name in SIZES:  # each of them is one that can be read
        content = tensors({"a": entry(name, (1,), (0, SIZES[name]))}, bytes(SIZES[name]))
        assert safetensors.torch.load(content)["a"].element_size() == SIZES[name]


def stolen(tmp_path: Path, **changes: Any) -> CellFolder:
    """The golden flow under a record that says something else of it."""
    shutil.copytree(FLOW, tmp_path / "cell")
    (tmp_path / "cell" / "record.json").write_text(json.dumps(RECORD | changes))
    (cell,) = find_cells(tmp_path / "cell")
    return cell


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": {"hidden": 1024, "layers": 64, "adapters": {}}}, "describes a model many times as large"),
        (
            {"model": "gaussian", "config": {"adapters": {}}, "event_shape": [40_000]},
            "describes a model many times as large",
        ),
        ({"config": {"layers": 10**9}}, "record.json: config of flow: layers=1000000000"),
        ({"config": {"lairs": 3}}, "record.json: unknown config key of flow 'lairs': did you mean layers?"),
        ({"config": {"adapters": {"logit": "x"}}}, "record.json: config of flow: logit='x'"),
        ({"model": "__main__"}, "record.json: unknown model '__main__'"),
        ({"event_shape": []}, "says nothing of the data"),
        ({"event_shape": [3]}, "model.safetensors does not fit its record"),
    ],
)
def test_a_record_that_lies_about_its_model(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    cell = stolen(tmp_path, **changes)
    genzoo.load(FLOW)  # what is imported on first use counts for nobody
    with bounded(), pytest.raises(RunError, match=words):
        genzoo.load(cell.path)


def test_weights_of_another_type(tmp_path: Path) -> None:
    cell = stolen(tmp_path)
    path = cell.path / "model.safetensors"
    weights = {name: tensor.to(torch.complex64) for name, tensor in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(weights, path)
    with pytest.raises(RunError, match=r"does not fit its record: .* is torch.complex64; expected torch.float32"):
        genzoo.load(cell.path)


@pytest.mark.parametrize(
    ("make", "fits"),
    [
        (lambda: torch.zeros(10, 10), True),
        (lambda: torch.zeros((1000, 1000)), False),
        (lambda: torch.empty(size=(1000, 1000)), False),
        (lambda: torch.full((1000, 1000), 1.0), False),
        (lambda: torch.randint(0, 9, (1000, 1000)), False),
        (lambda: torch.eye(1000), False),
        (lambda: torch.arange(10**9), False),
        (lambda: torch.arange(0, 10, 1e-8), False),
        (lambda: torch.arange(end=10), True),
        (lambda: torch.linspace(0, 1, 10**9), False),
        (lambda: torch.ones(1).repeat(1000, 1000), False),
        (lambda: torch.ones(1).new_zeros(1000, 1000), False),
        (lambda: torch.nn.Linear(1000, 1000), False),
        (lambda: [torch.ones(1) for _ in range(101)], False),
    ],
)
def test_an_allowance_is_told_before_anything_is_made(make: Callable[[], object], fits: bool) -> None:
    with bounded(size=64 * 2**20):
        if fits:
            with Allowance(100_000, 100):
                make()
        else:
            with pytest.raises(TooLargeError), Allowance(100_000, 100):
                make()


def test_arrays_that_are_not_what_a_page_expects(tmp_path: Path) -> None:
    """Any shape and type under any name: the page is drawn without them, or says why."""
    cell = stolen(tmp_path)
    names = list(read_arrays(FLOW / "arrays.npz"))
    for odd in (
        np.zeros((3, 3), bool),
        np.full(20, np.nan),
        np.zeros((0, 2)),
        np.array(1e300),
        np.zeros((2, 1, 2, 2), "f2"),
    ):
        np.savez(cell.path / "arrays.npz", **dict.fromkeys(names, odd))
        for form in ("html", "md"):
            assert "flow" in render([cell.path], form)
    np.savez(cell.path / "arrays.npz", index=np.array(["a"]))
    assert "index holds &lt;U1; expected numbers" in render([cell.path], "html")


def test_markup_in_a_record_is_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\x1b[31m\u202e"
    changes = dict.fromkeys(
        ("label", "dataset", "family", "summary", "paper", "plugin", "budget", "device", "commit"), evil
    )
    cell = stolen(
        tmp_path, **changes, notes=[evil], terms={evil: 1.0}, versions={evil: evil}, metrics={evil: {"value": 1.0}}
    )
    for form in ("html", "md"):
        text = render([cell.path], form)
        assert "<script>alert" not in text
        assert not {"\x1b", "\u202e"} & set(text)


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle under every name that is read, and records that name code."""
    monkeypatch.chdir(tmp_path)

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return open, ("pwned", "w")

    for name, read in {
        "a.npy": load_path,
        "a.npz": load_path,
        "a.csv": load_path,
        "a-ubyte": load_path,
        "record.json": read_json,
        "plan.toml": Plan.read,
        "arrays.npz": read_arrays,
        "x.safetensors": load_state,
    }.items():
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
        with pytest.raises(GenzooError, match=re.escape(name)):
            read(tmp_path / name)
    np.save(tmp_path / "b.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects"):
        load_path(tmp_path / "b.npy")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("cut", [True, False])
def test_every_file_of_a_run_cut_or_flipped(cut: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Anywhere in any file of a run: eval, report and sample work, or say one line and exit with 2."""
    generator = np.random.default_rng(0)
    for name in ("record.json", "readings.json", "arrays.npz", "model.safetensors"):
        whole = (FLOW / name).read_bytes()
        for at in generator.integers(0, len(whole), 4).tolist():
            cell = tmp_path / f"{name}-{at}" / "cell"
            shutil.copytree(FLOW, cell)
            (cell / name).write_bytes(whole[:at] if cut else whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
            for command in (["eval", str(cell), "--dry"], ["report", str(cell), "--format", "json"]):
                capsys.readouterr()
                code = main(command)
                err = capsys.readouterr().err.splitlines()
                assert code in (0, 2), err
                assert code == 0 or err[-1].startswith("genzoo: error: ")
                assert code == 0 or name in err[-1] or "record" in err[-1]


def test_a_short_campaign_finds_nothing(tmp_path: Path) -> None:
    """A thousandth of `make fuzz`; another seed than zero is printed as the line that makes it again."""
    script = ROOT / "benchmarks" / "fuzz.py"
    done = subprocess.run(
        [sys.executable, str(script), "--scale", "0.0005", "--jobs", "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 crashes" in done.stdout


def test_the_campaign_sees_crashes(tmp_path: Path) -> None:
    """A parser that lets a ValueError through, one that is slow and one that takes too much memory are all told."""
    code = """
import sys
sys.path.insert(0, "benchmarks")
import fuzz
from genzoo.data import idx
from genzoo.errors import DataError
def parser(run):
    return fuzz.Parser(run, "a-ubyte", fuzz.readers, "read_idx", 1)
def slow(path):
    while True: pass
def large(path):
    return bytearray(2**30)
def wrong(path):
    raise ValueError("oops")
def silent(path):
    raise DataError("something is wrong")
def writes(path):
    (path.parent / "more").touch()
fuzz.SECONDS = 0.05
for number, run in enumerate((slow, large, wrong, silent, writes)):
    fuzz.PARSERS = {"idx": parser(run)}
    if not number: fuzz.prepare_signals(); fuzz.limit_memory()
    _, tally = fuzz.campaign("idx", 0, 1, fuzz.Path(sys.argv[1]) / "at")
    print(run.__name__, tally.crashes[0]["fault"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["slow", "large", "wrong", "silent", "writes"], done.stderr
    for line, words in zip(
        lines, ("TooSlow", "MemoryError", "ValueError: oops", "does not name the file", "wrote"), strict=True
    ):
        assert words in line


def test_a_broken_entry_point_elsewhere_costs_no_run(site: Site) -> None:
    """What one distribution says of itself is read alone: versions stand in every record."""
    site.dist_info("genzoo-broken", "[genzoo]\nx = a b ???\n[genzoo\n= =\n")
    site.dist_info("genzoo-nameless", "[genzoo]\nx = nameless\n", metadata="")
    site.dist_info(
        "genzoo-evil", "[genzoo]\nx = evil\n", version="1\x1b[31m", metadata="Name: genzoo-evil\nVersion: 1\x1b[31m\n"
    )
    versions.cache_clear()
    try:
        said = versions()
    finally:
        versions.cache_clear()
    assert said["genzoo-evil"] == "1\\x1b[31m"
    assert set(said) <= {"python", "genzoo", "torch", "numpy", "genzoo-evil", "genzoo-broken"}


def test_links_in_a_run_folder_are_not_written_through(tmp_path: Path) -> None:
    """A lock and a line of progress that were links would empty or lengthen a file of the user's."""
    mine = tmp_path / "mine"
    mine.write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").symlink_to(mine)
    (run / "progress.jsonl").symlink_to(mine)
    with pytest.raises(GenzooError, match=r"\.lock"), locked(run):
        pass
    _log(run, {"step": 1})
    assert mine.read_text() == "precious"


@pytest.mark.parametrize("said", ["[" * 990, '{"pid": "x"}', "[]", '{"pid": 1e999}', "x" * 9999])
def test_a_lock_that_says_nonsense(said: str, tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / ".lock").write_text(said)
        with pytest.raises(GenzooError, match="is in use by another process"), locked(tmp_path):
            pass


def test_progress_of_a_stranger(tmp_path: Path) -> None:
    for text in ("[" * 100_000, "\udc80", "NaN", "[]", '{"a": 1}\n{"a": '):
        (tmp_path / "progress.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
        assert last_progress(tmp_path) == ({"a": 1} if "{" in text else {})
