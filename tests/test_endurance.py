"""Long and large: memory is flat over steps, cells and draws; data larger than memory; a listing of fifty plugins."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from genzoo import bench
from genzoo.building import Blueprint, load_reference
from genzoo.config import Budget, Reference
from genzoo.plan import EvaluationPlan, Plan
from genzoo.registry import load_registry
from genzoo.training import Trainer

if TYPE_CHECKING:
    from conftest import Site

MIB = 2**20


def memory() -> int:
    """Bytes of anonymous memory that this process has in use: not the pages of files, which the kernel takes back."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def growth_over_steps(data: Path, brittle: tuple[str, ...], folder: Path, begin: int, end: int) -> int:
    """Bytes gained between two steps of one training with its checkpoints."""
    registry = load_registry(brittle)
    dataset = load_reference(registry, Reference(str(data)))
    model = Blueprint.of(registry, "brittle", {}, dataset.spec).build(0)
    trainer = Trainer(model.learner(model.default_training()), dataset, Budget.parse(f"{end}steps"), folder=folder)
    before = None
    for event in trainer.run():
        if before is None and event.step >= begin:
            before = memory()
    assert before is not None
    assert trainer.step == end
    return memory() - before


def test_memory_is_flat_over_steps(tiny: Path, tmp_path: Path, brittle: tuple[str, ...]) -> None:
    assert growth_over_steps(tiny / "points.npz", brittle, tmp_path, 1000, 4000) < 2 * MIB


@pytest.mark.long
def test_memory_is_flat_over_100_000_steps(tiny: Path, tmp_path: Path, brittle: tuple[str, ...]) -> None:
    assert growth_over_steps(tiny / "points.npz", brittle, tmp_path, 10_000, 100_000) < 4 * MIB


def growth_over_cells(data: Path, executor: Executor, folder: Path, begin: int, end: int) -> float:
    """Bytes gained by each cell of one bench between two of them, in one process that runs them and watches."""
    sizes: list[int] = []
    plan = Plan(
        models=("gaussian",),
        datasets=(str(data),),
        seeds=tuple(range(end)),
        budget="1steps",
        evaluation=EvaluationPlan(points=16, samples=4),
        device="cpu",
    )
    submit = executor.submit

    def counted(*args: object) -> object:
        future = submit(*args)  # type: ignore[arg-type]
        sizes.append(memory())
        return future

    executor.submit = counted  # type: ignore[assignment,method-assign]
    states = bench.run(plan, folder, executor=executor)
    assert [state.status for state in states] == ["ok"] * end
    return (sizes[-1] - sizes[begin]) / (end - begin)


def test_memory_is_flat_over_cells(tiny: Path, tmp_path: Path, inline: Executor) -> None:
    """Each cell leaves its state for the table: some kilobytes."""
    assert growth_over_cells(tiny / "points.npz", inline, tmp_path, 20, 60) < 0.1 * MIB


@pytest.mark.long
def test_memory_is_flat_over_1_000_cells(tiny: Path, tmp_path: Path, inline: Executor) -> None:
    assert growth_over_cells(tiny / "points.npz", inline, tmp_path, 100, 1000) < 0.02 * MIB


# A process that may not have more anonymous memory than so much beyond what its imports took. RLIMIT_DATA counts
# private writable memory, and no map of a file.
LIMITED = """
import resource, sys
from pathlib import Path
import torch
import genzoo
from genzoo.training import points_of
import genzoo_vae.vae
torch.set_num_threads(1)
path, limit = sys.argv[1], int(sys.argv[2])
(line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
limit += int(line.split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    bytearray(int(sys.argv[2]) + 2**20)
except MemoryError:
    print("limited", flush=True)
data = genzoo.load_dataset(path)
model = genzoo.build_model("vae", data.spec, hidden=[8], latents=2)
curve = genzoo.fit(model, data, budget="3steps", batch_size=64)
result = genzoo.evaluate(model, data, points=64, num_samples=2)
print(len(data.train), len(curve), result.points)
"""


def sparse(path: Path, rows: int, side: int) -> None:
    """A npy of `rows` square grey images, all black, which takes no room on disk."""
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, 1, side, side)}
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
        file.truncate(file.tell() + rows * side**2)


@pytest.mark.parametrize(
    ("size", "side", "limit"),
    [(300 * MIB, 32, 160 * MIB), pytest.param(4096 * MIB, 64, 640 * MIB, marks=pytest.mark.long)],
    ids=["300 MiB", "4 GiB"],
)
def test_a_data_set_larger_than_memory(size: int, side: int, limit: int, tmp_path: Path) -> None:
    """Loaded, trained on and evaluated by a process that has less memory than the file is large."""
    rows = size // side**2
    sparse(tmp_path / "black.npy", rows, side)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "black.npy"), str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    limited, rest = done.stdout.splitlines()
    assert limited == "limited"
    assert [*map(int, rest.split())] == [rows - 2 * (rows // 10), 3, 64]


# Peak of memory in an evaluation with many draws beyond that of one with few, of each model in turn.
EVALUATED = """
import resource, sys
import numpy as np
import torch
import genzoo, genzoo.errors
torch.set_num_threads(1)
x = np.random.default_rng(0)
spaces = {
    "points": genzoo.load_dataset(x.standard_normal((160, 4)).astype(np.float32)),
    "images": genzoo.load_dataset(x.integers(0, 256, (160, 1, 8, 8)).astype(np.uint8)),
    "binary": genzoo.load_dataset(x.integers(0, 2, (160, 1, 8, 8)).astype(np.uint8)),
}
small = {"flow": {"layers": 1, "hidden": 8, "bins": 4}, "vae": {"hidden": [8], "latents": 2}}
small |= {name: {"steps": 8, "width": 16, "blocks": 1} for name in ("ddpm", "ddim", "score_sde")}
small |= {"pyro_vae": {"hidden": [8], "latent": 2}, "pyro_mixture": {"components": 2}}
small |= {"d3pm": {"width": 16}, "flow_matching": {"width": 16, "blocks": 1}}
small |= {"hvae": {"width": 8, "top": 2, "coarse": 1}}
small |= {name: {"width": 8, "distributions": 10} for name in ("gan", "wgan", "ebm")}
made = []
for name in sys.argv[2:]:
    for where, data in spaces.items():
        if where == "binary" and made and made[-1][0] == name:  # for models that take nothing else
            continue
        try:
            model = genzoo.build_model(name, data.spec, **small.get(name, {}))
        except genzoo.errors.CapabilityError:  # for images alone
            continue
        genzoo.fit(model, data, budget="1steps", batch_size=32)
        made.append((name, where, model, data))
        genzoo.evaluate(model, data, points=16, num_samples=8)
for name, where, model, data in made:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = genzoo.evaluate(model, data, points=16, num_samples=int(sys.argv[1]))
    print(name, where, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
DRAWS = 6000
"""Draws of each of 16 examples of 64 numbers: 47 MiB in double precision for each tensor that would hold them all."""


DEEP = {"ddpm", "ddim", "d3pm", "score_sde", "hvae"}
"""Models whose draws cost a deep network each."""


@pytest.mark.parametrize(
    ("names", "limit"),
    [
        pytest.param({*load_registry().models} - DEEP, 128, id="shallow", marks=pytest.mark.long),
        pytest.param(DEEP, 512, id="deep", marks=pytest.mark.long),
    ],
)
def test_evaluation_is_in_bounded_memory_whatever_the_number_of_draws(names: set[str], limit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVALUATED, str(DRAWS), *sorted(names)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    gained = {(name, where): int(kib) / 1024 for name, where, kib in map(str.split, done.stdout.splitlines())}
    assert {name for name, _ in gained} == names
    assert sum(gained.values()) < limit, gained  # of all in turn: a peak counts once


SOURCE = """
from genzoo.cards import ModelCard
from genzoo.hookspecs import hookimpl

@hookimpl
def genzoo_models():
    return [ModelCard(name="m{n}", summary="one of many", family="many", target="nowhere:M", data=("real",))]
"""


def test_fifty_plugins_list_half_as_slowly_again_as_three(site: Site) -> None:
    """Processor time of `genzoo list models`, the least of several runs of each in turn; only cards are made."""
    import resource

    def add(first: int, last: int) -> None:
        for n in range(first, last):
            site.module(f"many{n}", SOURCE.format(n=n))
            site.dist_info(f"genzoo-many{n}", f"[genzoo]\nmany{n} = many{n}\n")

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = site.run("list", "models")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("genzoo-many") == count
        return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)

    times = {}
    for count, first in ((3, 0), (50, 3)):
        add(first, count)
        seconds()  # compiles
        times[count] = min(seconds() for _ in range(5))
    assert times[50] < 1.5 * times[3], times
