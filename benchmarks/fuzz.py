"""A million hostile inputs to every parser of files and texts that strangers hand over: `make fuzz`.

    python benchmarks/fuzz.py                              all of them, ten minutes on two cores; the receipt is written
    python benchmarks/fuzz.py --seconds 30                 as many as fit (CI); no receipt
    python benchmarks/fuzz.py --parser npz --seed 1234     one input again, with its traceback

A crash is anything but success or a GenzooError that is short and names the file; more than a second of processor time;
more than 512 MiB (the address space is limited to what the process has after its imports and 512 MiB); a file written.
Exit code 4 for a crash, and where less than a fifth of a parser's inputs get past the header: what that means for each
is the function in `PARSERS` that must have returned.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import fuzz_inputs
import numpy as np
import torch

from genzoo import config, plan, records, safe_arrays, safe_tensors, state
from genzoo.api import load_cell
from genzoo.config import Reference, TrainSettings, split_outside_brackets
from genzoo.data import files, readers
from genzoo.errors import GenzooError
from genzoo.plan import Plan
from genzoo.provenance import commit
from genzoo.records import CellFolder, RunRecord, row
from genzoo.report import FORMATS, render

ROOT = Path(__file__).parent.parent
RECEIPT = ROOT / "benchmarks" / "results" / "fuzz.json"
GOLDEN = next((ROOT / "tests" / "golden").glob("moons/cells/flow-*/record.json"))
CRASH = 4
SECONDS, BYTES = 1.0, 512 * 2**20
PAST = 0.2
"""Share of a parser's inputs that must get past the header."""
CHUNK = 2500
LONGEST = 1500
"""Characters of an error: it is one line of a log."""


@dataclass(frozen=True)
class Parser:
    """`run` reads a file of `fuzz_inputs.MAKERS[name]`; past the header is: `function` of `module` has returned."""

    run: Callable[[Path], object]
    file: str
    module: Any
    function: str
    inputs: int
    named: tuple[str, ...] = ()
    """The files of which an error names one; none: `file`."""


def _state(path: Path) -> object:
    if "genzoo" in state.header(path)[1]:
        return state.load_state(path)
    return state.load_tensors(path)


def _record(path: Path) -> object:
    read = RunRecord.load(path.parent)
    shown = [render([path.parent], form) for form in FORMATS] if zlib.crc32(path.read_bytes()) % 100 == 0 else []
    if any("<script>alert" in page for page in shown[: FORMATS.index("html") + 1]):
        raise AssertionError("markup of a record in the page")
    return row(read)


def _arrays(path: Path) -> object:
    shutil.copy(GOLDEN, path.parent / "record.json")
    try:
        return [render([path.parent], form) for form in ("html", "md")]
    finally:
        (path.parent / "record.json").unlink()


def _cell(path: Path) -> object:
    record, _, weights = path.read_bytes().partition(fuzz_inputs.SPLIT)
    made = path.parent / "cell"
    made.mkdir()
    try:
        (made / "record.json").write_bytes(record)
        (made / "model.safetensors").write_bytes(weights)
        return load_cell(CellFolder(made, RunRecord.load(made)))
    finally:
        shutil.rmtree(made)


def _plan(path: Path) -> object:
    read = Plan.read(path)
    return read.key, read.to_toml(), [cell.name for cell in read.cells(Path("runs"))][:9]


def _inline(path: Path) -> object:
    text = path.read_bytes().decode("utf-8", "surrogatepass")
    made = [Reference.parse(part) for part in split_outside_brackets(text)]
    for reference in made:
        if Reference.parse(str(reference)) != reference and "nan" not in str(reference):
            raise AssertionError(f"{reference} is not read back as it was written")
        TrainSettings.parse(reference.options, "fuzz")
    return made


PARSERS = {
    "idx": Parser(files.load_path, "a-idx3-ubyte", readers, "read_idx", 150_000),
    "npy": Parser(files.load_path, "a.npy", safe_arrays, "_header", 100_000),
    "npz": Parser(files.load_path, "a.npz", safe_arrays, "_header", 130_000),
    "csv": Parser(files.load_path, "a.csv", np, "loadtxt", 110_000),
    "safetensors": Parser(_state, "a.safetensors", safe_tensors, "check_header", 130_000),
    "record": Parser(_record, "record.json", records, "_validator", 130_000),
    "plan": Parser(_plan, "plan.toml", plan, "parse_toml", 110_000),
    "inline": Parser(_inline, "inline.txt", config, "_value", 140_000),
    # slower, since they draw a page or build a model, and beyond the seven
    "arrays": Parser(_arrays, "arrays.npz", records, "read_npz", 500),
    "cell": Parser(_cell, "files", state, "read_header", 3_000, ("record.json", "model.safetensors")),
}


class TooSlow(BaseException):
    """The time of an input is over; no `except Exception` catches it."""


@dataclass
class Tally:
    """What became of the inputs of one parser. Times are the processor's; `growth`: MiB of resident memory."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    past: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    growth: float = 0.0
    crashes: list[dict[str, Any]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        for name in ("inputs", "accepted", "refused", "past", "seconds", "crashes", "errors"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.slowest, self.growth = max(self.slowest, other.slowest), max(self.growth, other.growth)


def limit_memory() -> None:
    """From here on this process gets 512 MiB more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES,) * 2)


@contextlib.contextmanager
def tapped(parser: Parser, seen: list[bool]) -> Iterator[None]:
    """While it lasts, each return of the parser's function sets `seen[0]`."""
    original = getattr(parser.module, parser.function)

    def tap(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        seen[0] = True
        return made

    setattr(parser.module, parser.function, tap)
    try:
        yield
    finally:
        setattr(parser.module, parser.function, original)


def made(name: str, seed: int) -> bytes:
    """The input of a seed."""
    return fuzz_inputs.MAKERS[name](random.Random(f"{name}:{seed}"))


def fault(name: str, path: Path) -> tuple[str, str]:
    """Parse one file: "" or what is wrong with the way it ended; and the error that refused it, or ""."""
    try:
        PARSERS[name].run(path)
    except GenzooError as error:
        words = str(error)
        if len(words) > LONGEST:
            return f"an error of {len(words)} characters", words
        if not any(file in words for file in PARSERS[name].named or (path.name,)) and name != "inline":
            return "the error does not name the file", words
        return "", f"{type(error).__name__}: {words}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:300]}", ""
    return "", ""


def campaign(name: str, first: int, last: int, at: Path) -> tuple[str, Tally]:
    """Seeds `first` to `last` - 1 of one parser, in this process; the seed at work stands in `at`."""
    parser, tally, seen = PARSERS[name], Tally(), [False]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=at.parent))
    path = folder / parser.file
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    marker = os.open(at, os.O_WRONLY | os.O_CREAT)
    try:
        with tapped(parser, seen):
            for seed in range(first, last):
                os.pwrite(marker, f"{name} {seed}".ljust(40).encode(), 0)
                try:
                    path.write_bytes(made(name, seed))
                except Exception as error:  # a mistake here must not end the campaign, nor be passed over
                    tally.crashes.append({"parser": name, "seed": seed, "fault": f"no input was made: {error!r}"})
                    continue
                seen[0] = False
                signal.setitimer(signal.ITIMER_PROF, 10 * SECONDS)
                start = time.process_time()
                wrong, refusal = fault(name, path)
                spent = time.process_time() - start
                signal.setitimer(signal.ITIMER_PROF, 0)
                if not wrong and spent > SECONDS:
                    wrong = f"{spent:.1f} s"
                if not wrong and (seed == last - 1 or seed % 100 == 0) and os.listdir(folder) != [path.name]:
                    wrong = f"wrote {os.listdir(folder)}"
                tally.inputs += 1
                tally.past += seen[0]
                tally.slowest = max(tally.slowest, spent)
                tally.refused += bool(refusal)
                tally.accepted += not refusal and not wrong
                tally.errors[shape_of(refusal)] += bool(refusal)
                if wrong:
                    tally.crashes.append({"parser": name, "seed": seed, "fault": wrong})
    finally:
        os.close(marker)
        shutil.rmtree(folder)
    tally.seconds = time.process_time() - began
    tally.growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return name, tally


def shape_of(refusal: str) -> str:
    """An error without its names and numbers, to count how many sorts there were."""
    return re.sub(r"'.*?'|\".*?\"|/\S+|[\d,.]+", "_", refusal)[:60]


def prepare() -> None:
    """Make this process a worker: one thread, quiet, its imports done, its memory limited."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for name in PARSERS:  # what is imported or cached on first use counts for nobody
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / PARSERS[name].file
            for seed in range(20):
                path.write_bytes(made(name, -1 - seed))
                fault(name, path)
    prepare_signals()
    limit_memory()


def prepare_signals() -> None:
    """Let an input be stopped after ten times the time that it has."""

    def stop(*_: object) -> None:
        raise TooSlow(f"stopped after {10 * SECONDS:g} s")

    signal.signal(signal.SIGPROF, stop)


def chunks(scale: float, names: Sequence[str]) -> list[tuple[str, int, int]]:
    """Parts of the campaigns, the parsers in turn."""
    parts = []
    for name in names:
        total = max(1, round(PARSERS[name].inputs * scale))
        size = max(1, min(CHUNK, total // 40))  # small where inputs are slow, so that all have their turns
        parts += [((first / total, name), name, first, min(first + size, total)) for first in range(0, total, size)]
    return [(name, first, last) for _, name, first, last in sorted(parts)]


def run(scale: float, seconds: float | None, jobs: int, names: Sequence[str]) -> tuple[dict[str, Tally], float]:
    """All chunks, or those that are begun within `seconds`, on `jobs` processes."""
    tallies = {name: Tally() for name in names}
    base = Path(tempfile.mkdtemp(prefix="genzoo-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    start, waiting, running = time.monotonic(), chunks(scale, names), {}
    try:
        with ProcessPoolExecutor(jobs, get_context("spawn"), prepare) as pool:
            while running or waiting:
                late = seconds is not None and time.monotonic() - start > seconds
                while waiting and len(running) < jobs and not late:
                    name, first, last = waiting.pop(0)
                    marker = base / f"{name}-{first}"
                    running[pool.submit(campaign, name, first, last, marker)] = marker
                if not running:
                    break
                for future in wait(running, return_when="FIRST_COMPLETED").done:
                    marker = running.pop(future)
                    try:
                        name, tally = future.result()
                    except BrokenProcessPool:
                        words = (marker.read_text() if marker.exists() else "before its first input").split()
                        name, seed = words[0], int(words[1])
                        tally = Tally(
                            crashes=[{"parser": name, "seed": seed, "fault": "the process died (or beside it)"}]
                        )
                        waiting.clear()
                    tallies[name].add(tally)
    finally:
        shutil.rmtree(base)
    return tallies, time.monotonic() - start


def again(name: str, seed: int) -> int:
    """One input once more: what it is, how it ended."""
    data = made(name, seed)
    print(f"{len(data):,} bytes: {data[:300]!r}")
    prepare()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PARSERS[name].file
        path.write_bytes(data)
        start = time.process_time()
        try:
            print(f"accepted: {str(PARSERS[name].run(path))[:500]}")
        except GenzooError as error:
            print(f"{type(error).__name__}: {error}")
        except BaseException:
            traceback.print_exc()
            return CRASH
        finally:
            print(f"{time.process_time() - start:.3f} s")
    return 0


def main() -> int:
    """Run, print the table, write the receipt where everything was run."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parser", choices=PARSERS, help="this one alone")
    options.add_argument("--seed", type=int)
    options.add_argument("--scale", type=float, default=1.0, help="share of the million inputs")
    options.add_argument("--seconds", type=float, help="begin nothing after so many seconds")
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--receipt", action="store_true", help="write the receipt of a part, too")
    asked = options.parse_args()
    if asked.parser is not None and asked.seed is not None:
        return again(asked.parser, asked.seed)
    tallies, seconds = run(asked.scale, asked.seconds, asked.jobs, [asked.parser] if asked.parser else [*PARSERS])
    titles = f"{'inputs':>9}{'accepted':>10}{'refused':>9}{'past header':>13}{'errors':>8}{'slowest':>10}{'crashes':>9}"
    print(f"{'parser':<12}{titles}")
    for name, tally in tallies.items():
        share = tally.past / max(1, tally.inputs)
        row_ = f"{tally.inputs:>9,}{tally.accepted:>10,}{tally.refused:>9,}{share:>12.1%} {len(tally.errors):>7}"
        print(f"{name:<12}{row_}{tally.slowest * 1000:>7,.0f} ms{len(tally.crashes):>9}")
    crashes = [crash for tally in tallies.values() for crash in tally.crashes]
    for crash in crashes[:20]:
        print(f"CRASH --parser {crash['parser']} --seed {crash['seed']}: {crash['fault']}")
    low = [name for name, tally in tallies.items() if tally.inputs >= 100 and tally.past < PAST * tally.inputs]
    for name in low:
        print(f"{name}: less than {PAST:.0%} of the inputs got past the header")
    total = sum(tally.inputs for tally in tallies.values())
    processor = sum(tally.seconds for tally in tallies.values())
    print(f"{total:,} inputs in {seconds:.0f} s, {processor:.0f} s of the processors, {len(crashes)} crashes")
    if asked.receipt or (asked.scale >= 1 and asked.seconds is None and asked.parser is None):
        _write(tallies, seconds, total)
    return CRASH if crashes or low else 0


def _write(tallies: dict[str, Tally], seconds: float, total: int) -> None:
    parsers = {
        name: {
            **asdict(tally),
            "seconds": round(tally.seconds, 1),
            "past_share": round(tally.past / max(1, tally.inputs), 4),
            "errors": len(tally.errors),
        }
        for name, tally in tallies.items()
    }
    versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
    receipt = {
        "what": "make fuzz: inputs to each parser; growth in MiB of memory; a parser's times are the processor's",
        "inputs": total,
        "seconds": round(seconds),
        "processor_seconds": round(sum(tally.seconds for tally in tallies.values())),
        "crashes": sum(len(tally.crashes) for tally in tallies.values()),
        "parsers": parsers,
        "limits": {"seconds": SECONDS, "bytes": BYTES, "past_header": PAST},
        "commit": commit(),
        "versions": versions,
        "cores": os.cpu_count(),
    }
    RECEIPT.write_text(json.dumps(receipt, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
