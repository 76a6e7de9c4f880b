"""Forward processes against their own moments, and the command that draws a picture on its way to noise."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

from genzoo import api
from genzoo.cli.trajectory import command
from genzoo.data.pictures import read_picture
from genzoo.errors import CapabilityError, DataError, InputError, UnknownNameError, UsageError
from genzoo.noising import GaussianProcess
from genzoo.seeding import seeded
from genzoo.spec import DataSpec

N = 200_000
SPEC = DataSpec((1, 4, 4), 256)
LINEAR = "ddpm[schedule=linear,steps=1000]"


def linear() -> GaussianProcess:
    process = api.forward_process(LINEAR, SPEC)
    assert isinstance(process, GaussianProcess)
    return process


def test_the_linear_schedule_is_that_of_the_paper() -> None:
    """a_t^2 is the product of 1 - beta, beta from 1e-4 to 0.02 over 1,000 steps (Ho et al. 2020, section 4)."""
    process = linear()
    product = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(process.signal.square(), product, rtol=1e-10)
    np.testing.assert_allclose(process.signal.square() + process.noise.square(), 1, rtol=1e-12)


def moments(process: GaussianProcess, times: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Means of N paths from code 255, x_0 = 1, and their covariances over the times; in units of x."""
    with seeded(0, torch.device("cpu")):
        path = torch.stack([*process.path(torch.full((N,), 255, dtype=torch.uint8), times)])
    x = (path.double() - 127.5) / 127.5
    return x.mean(1).numpy(), torch.cov(x).numpy()


def test_frames_have_the_schedules_signal_and_noise() -> None:
    """Mean a_t, variance s_t^2, and covariance r s_t^2 between t and u: a path, not frames drawn apart. Over N paths a
    mean is right within 5 s_t / sqrt(N), a covariance within 5 sqrt(2 / N) of its scale."""
    process, times = linear(), [0, 100, 300, 600, 1000]
    mean, covariance = moments(process, times)
    signal, noise = np.array([process.at(t) for t in times]).T
    assert (mean[0], covariance[0, 0]) == (1, 0)
    expected = np.array(
        [
            [signal[max(i, j)] / signal[min(i, j)] * noise[min(i, j)] ** 2 for j in range(len(times))]
            for i in range(len(times))
        ]
    )
    assert (np.abs(mean - signal) <= 5 * noise / N**0.5 + 1e-6).all()
    scale = np.outer(noise, noise)
    assert (np.abs(covariance - expected) <= 5 * (2 / N) ** 0.5 * scale).all()
    # a planted error of 1 % in the noise would be seen
    wrong, covariance = moments(GaussianProcess(process.signal, 1.01 * process.noise, 256), times)
    assert (np.abs(covariance - expected).diagonal() > 5 * (2 / N) ** 0.5 * scale.diagonal())[1:].all()
    assert len(wrong) == len(times)


def test_real_data_are_taken_as_they_are_and_times_must_rise() -> None:
    process = api.forward_process("ddpm[steps=10]", DataSpec((2,)))
    x = torch.randn(5, 2)
    assert torch.equal(next(process.path(x, [0, 10])), x)
    assert process.times(8) == [0, 1, 3, 4, 6, 7, 9, 10]
    assert process.times(100) == list(range(11))
    for times in ([3, 2], [0, 0], [-1], [11]):
        with pytest.raises(InputError, match=r"expected rising times in 0..10; got \["):
            process.path(x, times)


def test_models_without_one_are_answered_with_those_that_have_one() -> None:
    with pytest.raises(CapabilityError, match=r"gaussian has no forward process .*; models that have: .*ddim, ddpm"):
        api.forward_process("gaussian", SPEC)
    with pytest.raises(UnknownNameError, match="config key of ddpm"):
        api.forward_process("ddpm[shedule=linear]", SPEC)
    with pytest.raises(UsageError, match="leave out dequantization"):
        api.forward_process("ddpm[dequantization=uniform]", SPEC)
    # ddim: the same noise, whatever its sampler
    ddim = api.forward_process("ddim[eta=0,schedule=linear,steps=1000]", SPEC)
    assert isinstance(ddim, GaussianProcess)
    assert torch.equal(ddim.noise, linear().noise)


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (60, 40), **save: object) -> Path:
    """Dark on the left, bright on the right."""
    ramp = np.linspace(0, 255, size[0]).astype(np.uint8)
    pixels = np.broadcast_to(ramp[None, :, None], (size[1], size[0], 3))
    PIL.Image.fromarray(np.ascontiguousarray(pixels)).convert(mode).save(path, **save)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_sort_of_png_is_read(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.png"
    if mode == "I;16":  # 16 bits of grey, of which the upper eight are what is seen
        ramp = np.linspace(0, 65535, 60).astype(np.uint16)
        PIL.Image.fromarray(np.broadcast_to(ramp, (40, 60)).copy()).save(path)
    else:
        picture(path, mode)
    pixels = read_picture(path, 30)
    assert pixels.shape == (1 if mode in ("1", "L", "LA", "I;16") else 3, 20, 30)
    columns = pixels.astype(float).mean((0, 1))
    # halves of a ramp, averaged: within the dithering of two colours, or exact
    assert columns[:15].mean() == pytest.approx(63, abs=8)
    assert columns[15:].mean() == pytest.approx(192, abs=8)
    assert read_picture(path, 1024).shape[1:] == (40, 60)  # none is made larger


def test_a_jpeg_is_turned_as_the_camera_says_and_glass_is_white(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # held upright: a quarter turn
    pixels = read_picture(picture(tmp_path / "x.JPG", exif=exif, quality=95), 60)
    assert pixels.shape == (3, 60, 40)
    assert pixels[:, 0].mean() < 10 < 245 < pixels[:, -1].mean()  # what was left is above
    PIL.Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "glass.png")
    assert (read_picture(tmp_path / "glass.png", 8) == 255).all()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than is unpacked."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_hostile_pictures_are_one_line(tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png").read_bytes()
    bad = {
        "empty": (b"", "no PNG or JPEG"),
        "text": (b"<svg onload=alert(1)>", "no PNG or JPEG"),
        "cut": (good[: len(good) // 2], "broken"),
        "bomb": (bomb(20_000, 20_000), "Image size|pixels; at most"),
        "wide": (bomb(12_000, 10_000), "12,000 x 10,000 pixels; at most 100,000,000"),
        "short": (bomb(1000, 1000), "broken"),
    }
    buffer = io.BytesIO()
    PIL.Image.new("L", (4, 4)).save(buffer, "GIF")
    bad["gif"] = (buffer.getvalue(), "no PNG or JPEG")
    for name, (content, words) in bad.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(content)
        with pytest.raises(DataError, match=words) as caught:
            read_picture(path, 64)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="it is a folder"):
        read_picture(tmp_path, 64)
    generator = np.random.default_rng(0)
    for _ in range(200):  # whatever a byte is changed to: pixels or a DataError
        flipped = bytearray(good)
        flipped[generator.integers(len(good))] = generator.integers(256)
        (tmp_path / "flipped.png").write_bytes(flipped)
        with contextlib.suppress(DataError):
            assert read_picture(tmp_path / "flipped.png", 64).dtype == np.uint8


def test_the_command_draws_the_trajectory(tmp_path: Path) -> None:
    source = picture(tmp_path / "photo.jpg", quality=95)
    call = [str(source), "-m", LINEAR, "--frames", "4", "--side", "32"]
    runner = CliRunner()
    for _ in range(2):
        made = runner.invoke(command, [*call, "-o", str(tmp_path / "x.png")], standalone_mode=False)
        assert made.exception is None, made.exception
        assert made.output.strip() == str(tmp_path / "x.png")
    first = (tmp_path / "x.png").read_bytes()
    made = runner.invoke(command, [*call, "-o", str(tmp_path / "y.png")], standalone_mode=False)
    assert (tmp_path / "y.png").read_bytes() == first  # the same seed, the same file
    with PIL.Image.open(io.BytesIO(first)) as image:
        pixels = np.asarray(image.convert("L"), float)
    # each frame's left and right third, below its title: the ramp in the first, nothing of it in the last
    frames = np.array_split(pixels[-200:-20], 4, axis=1)
    rises = [f[:, -130:-20].mean() - f[:, 20:130].mean() for f in frames]
    assert rises[0] > 150 > rises[1] > 40
    assert abs(rises[-1]) < 20
    made = runner.invoke(command, [*call, "-o", str(tmp_path / "x.svg")], standalone_mode=False)
    text = (tmp_path / "x.svg").read_text()
    assert text.count("<image") == 4
    for wrong, words in ((["-o", "x.gif"], "expected a name ending in .png, .pdf, .svg"),):
        made = runner.invoke(command, [*call, *wrong], standalone_mode=False)
        assert isinstance(made.exception, UsageError)
        assert words in str(made.exception)
