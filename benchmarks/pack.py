"""A run folder as one archive in at most 8 parts under 16 MiB each, and back: for machines that carry no more.

    python benchmarks/pack.py pack RUN -o FOLDER       writes NAME.DIGEST.1of3, ... into FOLDER, for RUN's own name
    python benchmarks/pack.py unpack FOLDER -o RUN     puts the files of the parts into RUN

Either may be stopped and run again: parts that are there are kept, files appear whole or not at all. The same folder
gives the same parts. The archive holds what a bench goes on from: plan, records, arrays, weights, progress, and the
newest checkpoint of each unfinished cell; no page, no lock, no temporary file.
"""

from __future__ import annotations

import argparse
import fnmatch
import gzip
import hashlib
import io
import re
import sys
import tarfile
from pathlib import Path, PurePosixPath

from genzoo.errors import GenzooError, RunError
from genzoo.records import TEMPORARY, write_bytes

MOST, PART = 8, 15 * 2**20
LEFT_OUT = (TEMPORARY, ".lock", "*.html", "*.pdf")
CHECKPOINT = "checkpoint-*"
NAMED = re.compile(r"(?P<run>[\w.-]+)\.(?P<digest>[0-9a-f]{16})\.(?P<part>[1-8])of(?P<parts>[1-8])")


def pack(run: Path, folder: Path, size: int = PART) -> list[Path]:
    """Write the parts of `run` into `folder`, and remove those of an earlier state of it; their paths, in order.

    Raises:
        RunError: no run folder, or more than `MOST` parts of `size` bytes.
    """
    archive = archived(run)
    digest, count = hashlib.sha256(archive).hexdigest()[:16], -(-len(archive) // size)
    if count > MOST:
        raise RunError(f"{run} packs into {len(archive):,} bytes; expected at most {MOST} parts of {size:,}")
    paths = [folder / f"{run.resolve().name}.{digest}.{i + 1}of{count}" for i in range(count)]
    for i, path in enumerate(paths):
        piece = archive[i * size : (i + 1) * size]
        if not path.exists() or path.read_bytes() != piece:
            write_bytes(path, piece)
    for path in folder.iterdir():
        named = NAMED.fullmatch(path.name)
        if named and named["run"] == run.resolve().name and path not in paths:
            path.unlink()
    return paths


def unpack(folder: Path, run: Path) -> list[Path]:
    """Put the files of the one archive whose parts lie in `folder` into `run`; their paths.

    Raises:
        RunError: no parts, parts of several archives, missing or damaged ones, or a file that would lie outside `run`.
    """
    found = {path: named for path in sorted(folder.glob("*")) if (named := NAMED.fullmatch(path.name))}
    archives = {(named["run"], named["digest"], named["parts"]) for named in found.values()}
    if len(archives) != 1:
        raise RunError(f"expected the parts of one archive in {folder}; got those of {len(archives)}")
    ((name, digest, parts),) = archives
    pieces = {int(named["part"]): path for path, named in found.items()}
    missing = [f"{name}.{digest}.{i}of{parts}" for i in range(1, int(parts) + 1) if i not in pieces]
    if missing:
        raise RunError(f"{folder} lacks {', '.join(missing)}: copy them again")
    archive = b"".join(pieces[i].read_bytes() for i in range(1, int(parts) + 1))
    if hashlib.sha256(archive).hexdigest()[:16] != digest:
        raise RunError(f"the parts of {name} in {folder} are damaged: their digest is not {digest}; copy them again")
    made = []
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive))) as tar:
        for member in tar:
            place = PurePosixPath(member.name)
            if not member.isreg() or place.is_absolute() or ".." in place.parts:
                raise RunError(f"{name} holds {member.name!r}, which is no file of a run folder")
            file = tar.extractfile(member)
            assert file is not None
            write_bytes(run / place, file.read())
            made.append(run / place)
    return made


def archived(run: Path) -> bytes:
    """The files of a run folder as a gzipped tar, the same for the same files."""
    if not (run / "plan.toml").exists():
        raise RunError(f"expected a bench folder with a plan.toml; {run} has none")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in carried(run):
            data = path.read_bytes()
            member = tarfile.TarInfo(path.relative_to(run).as_posix())  # owner and time of no machine
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(out.getvalue(), 6, mtime=0)


def carried(run: Path) -> list[Path]:
    """Which files travel, by name: of checkpoints, the newest of each cell."""
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and not path.is_symlink()]
    files = [path for path in files if not any(fnmatch.fnmatch(path.name, left_out) for left_out in LEFT_OUT)]
    newest = {path.parent: path for path in files if fnmatch.fnmatch(path.name, CHECKPOINT)}  # names sort by step
    return [path for path in files if not fnmatch.fnmatch(path.name, CHECKPOINT) or newest[path.parent] == path]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A run folder in parts under 16 MiB, and back.")
    parser.add_argument("verb", choices=["pack", "unpack"])
    parser.add_argument("source", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        made = (
            pack(options.source, options.output) if options.verb == "pack" else unpack(options.source, options.output)
        )
    except GenzooError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for path in made:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
