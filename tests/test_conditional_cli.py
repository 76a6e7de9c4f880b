"""`genzoo sample --given`: in-painting and denoising from the command line, of test examples and of one's own."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest
import torch

from genzoo import api
from genzoo.cli import main
from genzoo.errors import DataError, UsageError
from genzoo.observations import mask_of, read_observation
from genzoo.records import CellFolder, find_cells
from genzoo.report.figures import SEEN
from genzoo.spec import DataSpec
from genzoo.training import points_of

Streams = pytest.CaptureFixture[str]
FAST = ("--budget", "20steps", "--points", 16, "--num-samples", 2)


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("given")


@pytest.fixture
def cells(folder: Path, tiny: Path, inline: Executor) -> dict[str, CellFolder]:
    """gaussian and vae on points, gaussian on labelled points, ddpm on images; trained once."""
    wanted = {
        "points": ("gaussian,vae[hidden=[8]]", "points.npz"),
        "labelled": ("gaussian", "labelled.npz[labels=true]"),
        "images": ("ddpm[steps=8,width=16,particles=2]", "images.npz"),
    }
    found = {}
    for name, (models, data) in wanted.items():
        if not (folder / name).exists():
            assert run("bench", "-m", models, "-d", tiny / data, *FAST, "-o", folder / name) == 0
        found |= {f"{cell.record.model} {name}": cell for cell in find_cells(folder / name)}
    return found


def test_vectors_are_filled_in(cells: dict[str, CellFolder], tmp_path: Path, capsys: Streams) -> None:
    cell, out = cells["gaussian points"], tmp_path / "x.npy"
    assert run("sample", cell.path, "--given", "half", "--examples", 3, "-n", 5, "--seed", 2, "-o", out) == 0
    assert capsys.readouterr().out.strip().endswith("x.npy")
    drawn = np.load(out)
    assert drawn.shape == (3, 5, 2)
    x = points_of(api.cell_dataset(cell), "test", 3).x.numpy()
    np.testing.assert_array_equal(drawn[:, :, 0], np.repeat(x[:, :1], 5, 1))
    assert len(np.unique(drawn[:, :, 1])) == 15
    assert run("sample", cell.path, "--given", "half", "-o", tmp_path / "x.png") == 2
    assert "ends in .npy" in capsys.readouterr().err


def test_own_rows_are_taken_as_they_stand(cells: dict[str, CellFolder], tmp_path: Path) -> None:
    """Without noise a drawn row agrees with the file where the mask, one an example, is True; with noise nowhere."""
    cell = cells["gaussian points"]
    rows, mask = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), np.array([[True, False], [False, True]])
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "mask.npy", mask)
    args = ("sample", cell.path, "--from", tmp_path / "rows.npy", "--given", tmp_path / "mask.npy", "-n", 2)
    assert run(*args, "-o", tmp_path / "a.npy") == 0
    drawn = np.load(tmp_path / "a.npy")
    assert drawn.shape == (2, 2, 2)
    assert [(drawn == rows[:, None])[i].all(0).tolist() for i in range(2)] == mask.tolist()
    assert run(*args, "--noise", 0.5, "-o", tmp_path / "b.npy") == 0
    assert not (np.load(tmp_path / "b.npy") == rows[:, None]).any()


def test_images_go_to_a_picture_of_rows(cells: dict[str, CellFolder], tmp_path: Path) -> None:
    import struct

    cell, out = cells["ddpm images"], tmp_path / "x.png"
    assert run("sample", cell.path, "--given", "half", "--examples", 2, "-n", 3, "-o", out) == 0
    # two rows of original, seen and three draws; a pixel between images of 8x8; enlarged to be seen
    side = SEEN // (5 * 9 - 1)
    assert struct.unpack(">II", out.read_bytes()[16:24]) == (side * (5 * 9 - 1), side * (2 * 9 - 1))
    array = tmp_path / "x.npy"
    assert run("sample", cell.path, "--noise", 40, "--examples", 2, "-n", 1, "-o", array) == 0
    drawn = np.load(array)
    assert (drawn.shape, drawn.dtype) == ((2, 1, 3, 8, 8), np.uint8)
    noisy = np.random.default_rng(0).normal(128, 80, (2, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "noisy.npy", noisy)
    assert run("sample", cell.path, "--noise", 40, "--from", tmp_path / "noisy.npy", "-n", 1, "-o", array) == 0
    assert np.load(array).shape == (2, 1, 3, 8, 8)


def test_labels_are_the_examples_own_or_the_one_asked_for(cells: dict[str, CellFolder], tmp_path: Path) -> None:
    cell, drawn = cells["gaussian labelled"], []
    for extra in ((), ("--label", 0), ("--label", 1)):
        args = ("sample", cell.path, "--given", "half", "--examples", 4, "-n", 1, *extra)
        assert run(*args, "-o", tmp_path / "x.npy") == 0
        drawn.append(np.load(tmp_path / "x.npy"))
    y = points_of(api.cell_dataset(cell), "test", 4).y
    assert y is not None
    for label in (0, 1):
        same = (drawn[0] == drawn[1 + label]).all((1, 2))
        assert same.tolist() == (y == label).tolist()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--given", "third"), "expected half, all or an existing .npy"),
        (("--given", "all"), "nothing is left to draw"),
        (("--noise", "-1"), "--noise of at least 0; got -1"),
        (("--noise", "nan"), "--noise of at least 0; got nan"),
        (("--from", "rows.npy"), "say which part"),
    ],
)
def test_usage(
    args: tuple[str, ...], message: str, cells: dict[str, CellFolder], tmp_path: Path, capsys: Streams
) -> None:
    assert run("sample", cells["gaussian points"].path, *args, "-o", tmp_path / "x.npy") == 2
    assert message in capsys.readouterr().err


def test_a_model_that_cannot_names_those_that_can(
    cells: dict[str, CellFolder], tmp_path: Path, capsys: Streams
) -> None:
    assert run("sample", cells["vae points"].path, "--given", "half", "-o", tmp_path / "x.npy") == 2
    err = capsys.readouterr().err
    start = "genzoo: error: vae[hidden=[8]] can neither fill in nor denoise; models that can: "
    assert start in err
    named = err.partition(start)[2].partition(" (")[0].split(", ")
    assert {"ddim", "ddpm", "gaussian", "gmm", "transformer"} <= set(named)
    assert not {"vae", "flow", "pyro_vae"} & set(named)


def test_masks(tmp_path: Path) -> None:
    assert mask_of("half", DataSpec((3,))).tolist() == [True, True, False]
    image = mask_of("half", DataSpec((2, 4, 3)))
    assert bool(image[:, :2].all())
    assert not bool(image[:, 2:].any())
    np.save(tmp_path / "codes.npy", np.ones((3,), np.uint8))
    with pytest.raises(DataError, match=r"booleans, \(3,\) or \('N', 3\), True where seen; got \(3,\) uint8"):
        mask_of(str(tmp_path / "codes.npy"), DataSpec((3,)))
    np.save(tmp_path / "rows.npy", np.zeros((2, 3), np.float32))
    masks = torch.tensor([[True, False, False]] * 3)
    with pytest.raises(DataError, match="each of 2 examples, or one for all; got 3"):
        read_observation(tmp_path / "rows.npy", DataSpec((3,)), masks, 0.0, None)
    with pytest.raises(UsageError, match="nothing is left"):
        read_observation(tmp_path / "rows.npy", DataSpec((3,)), torch.ones(3, dtype=torch.bool), 0.0, None)
