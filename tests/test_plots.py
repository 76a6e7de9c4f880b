"""The PDF of figures: one page a group of results, from records alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from genzoo.cli.report import command
from genzoo.records import RunRecord, write_arrays
from genzoo.report.plots import pdf


def save(run: Path, model: str, dataset: str, shape: list[int], **arrays: np.ndarray) -> None:
    """One evaluated cell."""
    folder = run / "cells" / f"{model}-{dataset}"
    folder.mkdir(parents=True)
    record = RunRecord(cell=folder.name, status="ok", model=model, label=model, dataset=dataset, seed=0, nll=1.0)
    record.event_shape, record.kind, record.protocol = shape, "exact", {"dataset": dataset}
    record.save(folder)
    write_arrays(folder / "arrays.npz", arrays)


def run_of_two(folder: Path) -> Path:
    grid = np.linspace(-3, 3, 40)
    log_density = -0.5 * (grid[:, None] ** 2 + grid[None] ** 2)
    points = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    curve = {"valid_seconds": np.array([1.0, 2.0]), "valid_nll": np.array([3.0, 2.5])}
    plane = {"grid_x": grid, "grid_y": grid, "grid_truth": log_density, "grid_model": log_density, "samples": points}
    save(folder, "one", "plane", [2], **plane, **curve)
    save(folder, "two", "plane", [2], **curve)  # a cell without pictures leaves its panel empty
    images = np.random.default_rng(0).integers(0, 256, (9, 1, 8, 8)).astype(np.uint8)
    save(folder, "one", "digits", [1, 8, 8], samples=images, reference=images, **curve)
    return folder


def test_a_page_for_each_group_and_the_same_bytes_twice(tmp_path: Path) -> None:
    run = run_of_two(tmp_path / "run")
    first = pdf([run])
    assert first.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", first)) == 2
    assert pdf([run]) == first


def test_the_command_writes_figures_into_the_run(tmp_path: Path) -> None:
    run = run_of_two(tmp_path / "run")
    done = CliRunner().invoke(command, [str(run), "--format", "pdf"])
    assert done.exit_code == 0, done.output
    assert (run / "figures.pdf").read_bytes().startswith(b"%PDF")
