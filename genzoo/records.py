"""What a bench leaves on disk: run folders, cell folders, records, arrays. No torch.

    <run>/plan.toml, report.html
    <run>/cells/<model>-<dataset>-<seed>-<hash>/
        record.json         schema 1: sorted keys, no NaN (null and a status instead)
        arrays.npz          per-example values, samples, grids, curves, traces, extreme images; never pickled
        model.safetensors   the evaluated model
        readings.json       later evaluations (`genzoo eval`), appended and counted
        checkpoint-*        while training

Every write goes to a temporary file beside its target, is synced, and renamed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from genzoo.errors import RunError, StorageError
from genzoo.safe_arrays import read_npz
from genzoo.safe_fields import (
    LARGEST,
    Classes,
    Count,
    FolderName,
    Levels,
    Number,
    Seed,
    Shape,
    Size,
    SplitName,
    StoredConfig,
    StoredEvaluation,
    StoredTraining,
    Threads,
)
from genzoo.safe_files import open_regular, read_limited, reason
from genzoo.safe_json import parse_json
from genzoo.text import complaints

SCHEMA = 1
MAX_JSON = 8 * 2**20
"""Bytes of a JSON file: a record has some five thousand, a reading one; parsed, eight megabytes may take thirty times
that."""

TEMPORARY = ".*." + "[0-9a-f]" * 12 + ".tmp"
"""Names of files that are being written, as a glob."""

TRACE, MARKS = "trace_", "_at"
"""What arrays begin with that come from a model's `traces`, and what those end in that say where frames stand."""

Status = Literal["ok", "failed", "skipped"]


@dataclass(kw_only=True)
class RunRecord:
    """One cell: one model trained on one data set from one seed, evaluated once.

    Numbers are nats unless their name says otherwise; None where a number does not exist or is infinite.

    Attributes:
        cell: folder name. model: registered name. label: name with inline options, as asked for.
        nll: minus the bound, the mean over the points; nll_lower: minus the other end of a bracket.
        infinite, nan: how many values are -inf or NaN.
        kl: mean of log p - bound over the test points where the truth is known; kl_stderr its paired standard error;
            kl_quadrature: the integral of p log(p/q), for exact models; mass: the integral of q over the grid.
        below_floor: the bound beats the truth by more than 4 paired standard errors: a bug, and reported as one.
        metrics: sample metrics `{name: {"value": v, "reference": value of a second real sample}}`.
        classifier: of a conditional model, by Bayes' rule: accuracy, log_loss and more; see classification.py.
        evaluation: estimator, num_samples, points, precision, seed, calls.
        samples: how many were drawn; seconds_*: wall time of the measured call alone.
        reading: 1 for the first look at the test set, counted from there.
        split: "test", or "valid" for a run with --no-test.
        error: `{"type", "message", "traceback"}` of a failed or skipped cell.
        notes: sentences a reader must know (stand-in data, capped evaluation).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    schema: int = SCHEMA
    cell: FolderName
    status: Status
    model: str
    label: str
    dataset: str
    seed: Seed
    family: str = ""
    summary: str = ""
    paper: str = ""
    plugin: str = ""
    config: StoredConfig = field(default_factory=dict)
    training: StoredTraining = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    event_shape: Shape = field(default_factory=list)
    levels: Levels | None = None
    classes: Classes | None = None
    budget: str = ""
    threads: Threads = 1
    device: str = "cpu"
    kind: str | None = None
    certified: bool = False
    nll: Number | None = None
    nll_lower: Number | None = None
    infinite: Count = 0
    nan: Count = 0
    bits_per_dim: Number | None = None
    stderr: Number | None = None
    stderr_data: Number | None = None
    stderr_mc: Number | None = None
    entropy: Number | None = None
    kl: Number | None = None
    kl_stderr: Number | None = None
    kl_quadrature: Number | None = None
    mass: Number | None = None
    below_floor: bool = False
    terms: Mapping[str, Number | None] = field(default_factory=dict)
    metrics: dict[str, dict[str, Number | None]] = field(default_factory=dict)
    classifier: dict[str, bool | Number | str | None] = field(default_factory=dict)
    evaluation: StoredEvaluation = field(default_factory=dict)
    split: SplitName = "test"
    reading: Size = 1
    steps: Count | None = None
    parameters: Count | None = None
    samples: Count | None = None
    seconds_train: Number | None = None
    seconds_eval: Number | None = None
    seconds_sample: Number | None = None
    started: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: dict[str, str] | None = None

    def save(self, folder: Path) -> None:
        """Write `record.json` atomically."""
        write_json(folder / "record.json", finite(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> RunRecord:
        """Read `record.json`; RunError, naming the file, for anything that is not a record of a schema known here."""
        path = folder / "record.json"
        return cls.parse(read_json(path), path)

    @classmethod
    def parse(cls, data: Any, path: Path) -> RunRecord:
        """The record that parsed JSON holds, every field of its type and in its range; keys of later versions are
        passed over. Raises RunError naming `path`."""
        if not isinstance(data, dict):
            raise RunError(f"{path} is not a record: expected a JSON object; got {type(data).__name__}")
        schema = data.get("schema")
        if type(schema) is not int or schema < 1:
            raise RunError(f"{path} is not a record: it has no schema number")
        if schema > SCHEMA:
            raise RunError(f"{path} has schema {schema}; this genzoo reads up to {SCHEMA}: install a newer one")
        missing = {"cell", "status", "model", "label", "dataset", "seed"} - data.keys()
        if missing:
            raise RunError(f"{path} is not a record: it lacks {', '.join(sorted(missing))}")
        try:
            # as JSON again: pydantic's strict mode makes a dataclass from an object there, and of nothing else
            return _validator().validate_json(json.dumps(data))
        except ValidationError as error:
            raise RunError(f"{path} is not a record: {complaints(error.errors(), 'record')}") from None


@functools.cache
def _validator() -> TypeAdapter[RunRecord]:
    """Made when the first record is read: it takes a hundredth of a second."""
    return TypeAdapter(RunRecord)


@dataclass(frozen=True)
class CellFolder:
    """A finished or failed cell on disk."""

    path: Path
    record: RunRecord

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """What `arrays.npz` holds; empty when there is none."""
        path = self.path / "arrays.npz"
        return read_arrays(path) if path.exists() else {}

    def readings(self) -> list[dict[str, Any]]:
        """Later evaluations of the same checkpoint, oldest first: each a partial record."""
        path = self.path / "readings.json"
        readings = read_json(path) if path.exists() else []
        if not isinstance(readings, list) or not all(isinstance(reading, dict) for reading in readings):
            raise RunError(f"{path} is not a list of readings")
        whole = asdict(self.record)
        for reading in readings:
            RunRecord.parse({**whole, **reading}, path)
        return readings


def find_cells(run: Path) -> list[CellFolder]:
    """Cells of a run folder (or of one cell folder), by name; RunError when there is none."""
    if (run / "record.json").exists():
        return [CellFolder(run, RunRecord.load(run))]
    cells = sorted((run / "cells").glob("*/record.json"))
    if not cells:
        raise RunError(f"no cells in {run}: expected a bench folder with cells/*/record.json, or one cell folder")
    return [CellFolder(path.parent, RunRecord.load(path.parent)) for path in cells]


def cell_name(model: str, dataset: str, seed: int, identity: Mapping[str, Any]) -> str:
    """`<model>-<dataset>-<seed>-<hash>`, the hash ten hex digits of SHA-256 over `identity` as JSON."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:10]
    safe = "".join(c if c.isalnum() or c in "._" else "_" for c in dataset)[:40]
    return f"{model}-{safe}-{seed}-{digest}"


def finite(value: Any) -> Any:
    """The same tree with NaN, infinities and what is beyond `LARGEST` as None, so that it is strict JSON."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not abs(value) <= LARGEST:
        return None
    return value


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[io.BufferedWriter]:
    """A binary file that appears under `path` whole or not at all: temporary file, sync, rename, sync of the folder.

    Raises StorageError, which is an OSError, where the system refuses any of these.
    """
    try:
        with _atomic(path) as file:
            yield file
    except OSError as error:
        raise StorageError.of(path, error) from error


@contextlib.contextmanager
def _atomic(path: Path) -> Iterator[io.BufferedWriter]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.urandom(6).hex()}.tmp"
    # not tempfile, whose files only their owner may read: the umask decides, as for any other file
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_temporaries(folder: Path) -> None:
    """Delete what writers that were killed have left in `folder`, which nobody else may be writing to."""
    for path in folder.glob(TEMPORARY):
        with contextlib.suppress(OSError):
            path.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` atomically."""
    with atomic(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON with sorted keys, atomically."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_bytes(path, text.encode() + b"\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file; RunError naming it when it is missing, too large or broken."""
    try:
        return parse_json(read_limited(path, MAX_JSON))
    except OSError as error:
        raise RunError(f"cannot read {path}: {reason(error)}") from None
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}); delete it and run the same command again") from None


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write an npz (compressed, no pickle) atomically."""
    with atomic(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read an npz of numbers, without pickle; RunError naming the file when it is broken or unpacks to too much."""
    try:
        with open_regular(path) as file:
            arrays = read_npz(file, os.fstat(file.fileno()).st_size)[1]
        strange = [name for name, array in arrays.items() if array.dtype.kind not in "buif"]
        if strange:
            raise ValueError(f"{strange[0]} holds {arrays[strange[0]].dtype}; expected numbers")
        # numbers, for whoever draws: truth values cannot be subtracted
        return {name: array.astype(np.uint8) if array.dtype.kind == "b" else array for name, array in arrays.items()}
    except OSError as error:
        raise RunError(f"cannot read {path}: {reason(error)}") from None
    except ValueError as error:
        raise RunError(f"{path} is not a valid npz ({error})") from None


ROW_KEYS = (
    "model",
    "dataset",
    "seed",
    "status",
    "nll",
    "infinite",
    "nan",
    "bits_per_dim",
    "kind",
    "certified",
    "nll_lower",
    "kl",
    "kl_stderr",
    "kl_quadrature",
    "stderr",
    "stderr_data",
    "stderr_mc",
    "terms",
    "metrics",
    "seconds_train",
    "seconds_eval",
    "seconds_sample",
    "samples",
    "steps",
    "parameters",
    "budget",
    "threads",
    "device",
    "config",
    "protocol",
    "estimator",
    "reading",
    "versions",
    "commit",
    "cell",
    "error",
)
"""Keys of a row of `genzoo report --format json`, in order."""


def row(record: RunRecord, reading: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The public row of a record, or of a later reading of it."""
    values = {**asdict(record), **(reading or {})}
    values["estimator"] = values["evaluation"]
    return {key: values.get(key) for key in ROW_KEYS}
