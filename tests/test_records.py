"""What is on disk: strict JSON, schemas, atomic writes, arrays without pickle, and the keys of a row."""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genzoo import records, safe_files
from genzoo.errors import RunError
from genzoo.records import ROW_KEYS, RunRecord, atomic, find_cells, finite, read_arrays, row, write_arrays, write_json

# DESIGN section 7, word for word.
DOCUMENTED = """
model, dataset, seed, status, nll, infinite, nan, bits_per_dim, kind, certified, nll_lower, kl, kl_stderr,
kl_quadrature, stderr, stderr_data, stderr_mc, terms, metrics, seconds_train, seconds_eval, seconds_sample, samples,
steps, parameters, budget, threads, device, config, protocol, estimator, reading, versions, commit, cell, error
"""


def record(**values: object) -> RunRecord:
    base = {"cell": "a-b-0-x", "status": "ok", "model": "a", "label": "a", "dataset": "b", "seed": 0}
    return RunRecord(**{**base, **values})  # type: ignore[arg-type]


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} in JSON")


def test_a_record_is_read_back(tmp_path: Path) -> None:
    made = record(nll=1.5, terms={"kl": 0.25}, event_shape=[1, 28, 28], notes=["ä"], error={"type": "x"})
    made.save(tmp_path)
    assert RunRecord.load(tmp_path) == made


def test_records_are_strict_json_with_sorted_keys(tmp_path: Path) -> None:
    record(nll=math.inf, stderr=math.nan, terms={"kl": -math.inf}, metrics={"m": {"value": math.nan}}).save(tmp_path)
    data = json.loads((tmp_path / "record.json").read_text(), parse_constant=no_constant)
    assert (data["nll"], data["stderr"], data["terms"], data["metrics"]) == (
        None,
        None,
        {"kl": None},
        {"m": {"value": None}},
    )
    assert list(data) == sorted(data)
    assert data["schema"] == 1


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=12,
)


@given(trees)
def test_finite_trees_are_strict_json(tree: object) -> None:
    json.loads(json.dumps(finite(tree), allow_nan=False), parse_constant=no_constant)


def test_json_refuses_what_finite_would_have_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"nll": math.nan})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"schema": 2}', "has schema 2; this genzoo reads up to 1: install a newer one"),
        ('{"schema": "1"}', "is not a record: it has no schema number"),
        ("{}", "is not a record: it has no schema number"),
        ('{"schema": 1, "cell": "x"}', "it lacks dataset, label, model, seed, status"),
        ("[]", "expected a JSON object; got list"),
        ('{"schema": 1', "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("\xff", "is not valid JSON"),
    ],
)
def test_what_is_no_record(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=f"record.json.*{words}"):
        RunRecord.load(tmp_path)


def test_fields_of_later_minor_versions_are_passed_over(tmp_path: Path) -> None:
    record().save(tmp_path)
    data = json.loads((tmp_path / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps(data | {"colour": "blue"}))
    assert RunRecord.load(tmp_path) == record()


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record().save(tmp_path)
    monkeypatch.setattr(records, "MAX_JSON", 10)
    with pytest.raises(RunError, match="bytes; at most 10 are read"):
        RunRecord.load(tmp_path)


def test_a_missing_record(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot read .*record.json: No such file"):
        RunRecord.load(tmp_path)
    with pytest.raises(RunError, match="no cells in"):
        find_cells(tmp_path)


def test_cells_are_found_by_name_from_the_run_or_alone(tmp_path: Path) -> None:
    for name in ("b", "a"):
        record(cell=name).save(tmp_path / "cells" / name)
    assert [cell.record.cell for cell in find_cells(tmp_path)] == ["a", "b"]
    assert [cell.record.cell for cell in find_cells(tmp_path / "cells" / "b")] == ["b"]


@pytest.mark.parametrize("broken", ["write", "replace", "fsync"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if broken != "write":
        monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="No space left"), atomic(path) as file:
        (fail if broken == "write" else file.write)(b"half")
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]
    assert path.read_bytes() == b"old"


def test_nothing_stands_under_the_name_before_the_write_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.bin"
    with atomic(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"half"


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_the_umask_decides_who_may_read(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        record().save(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "record.json").stat().st_mode) == 0o666 & ~mask


def test_arrays_are_read_back(tmp_path: Path) -> None:
    arrays = {"lower": np.arange(3.0), "samples": np.zeros((2, 1, 3, 3), np.uint8), "empty": np.zeros((0, 2))}
    write_arrays(tmp_path / "arrays.npz", arrays)
    back = read_arrays(tmp_path / "arrays.npz")
    assert back.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype == value.dtype


def test_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}], dtype=object)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        write_arrays(tmp_path / "arrays.npz", {"x": objects})
    assert list(tmp_path.iterdir()) == []
    np.savez(tmp_path / "evil.npz", x=objects)  # pickles
    with pytest.raises(RunError, match=r"evil.npz is not a valid npz \(x: it holds Python objects, which are not read"):
        read_arrays(tmp_path / "evil.npz")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_files, "UNPACKED_FREE", 1000)
    write_arrays(tmp_path / "bomb.npz", {"x": np.zeros(1_000_000)})
    size = (tmp_path / "bomb.npz").stat().st_size
    assert size < 10_000
    words = rf"bomb.npz .*it unpacks to 8,000,128 bytes, from {size:,}; at most {100 * size:,} are read"
    with pytest.raises(RunError, match=words):
        read_arrays(tmp_path / "bomb.npz")


@pytest.mark.parametrize("cut", [0, 10, 100, 200])
def test_a_truncated_npz(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    write_arrays(path, {"x": np.arange(100.0)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RunError, match=r"arrays.npz is not a valid npz"):
        read_arrays(path)


def test_a_flipped_byte_in_an_npz(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.arange(100.0))
    data = bytearray(buffer.getvalue())
    data[300] ^= 1
    (tmp_path / "arrays.npz").write_bytes(data)
    with pytest.raises(RunError, match="Bad CRC-32"):
        read_arrays(tmp_path / "arrays.npz")
    assert zipfile.is_zipfile(tmp_path / "arrays.npz")


def test_a_row_has_the_documented_keys() -> None:
    assert list(ROW_KEYS) == re.findall(r"\w+", DOCUMENTED)
    made = row(record(evaluation={"estimator": "iwae"}), {"nll": 2.0, "reading": 2})
    assert list(made) == list(ROW_KEYS)
    assert (made["estimator"], made["nll"], made["reading"]) == ({"estimator": "iwae"}, 2.0, 2)
