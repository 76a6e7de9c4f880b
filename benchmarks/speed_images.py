"""Images a second in training and in evaluation: each image model of the zoo beside two plain ones.

    zoo      as `genzoo bench` trains it: bfloat16 where the model says it is safe, fused Adam, one tensor of data
    plain    the very same network in the usual loop: float32, Adam, a DataLoader over a data set
    screen   the usual network of its kind, eager, as it stands on one screen below, in that loop

Variants take turns within one process, so that what else the machine does falls on all of them alike; medians are
compared. An evaluation is one draw of the bound in float32 without gradients; a diffusion's is one step of its chain.
Networks differ, so images a second do not say which is better: the bound does (README, benchmarks/results).

    python benchmarks/speed_images.py [--rounds 12] [--threads 1] [-o benchmarks/results/speed_images.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from timing import interleaved, without_grad
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from genzoo.building import Blueprint, load_reference
from genzoo.config import Reference
from genzoo.interface import GradientModel
from genzoo.learners import GradientLearner
from genzoo.registry import load_registry
from genzoo.spec import Dataset

MODELS = {"flow": "mnist", "hvae": "mnist_binary", "ddpm": "mnist"}
"""Each on the data of the committed results."""


class ScreenVAE(nn.Module):
    """Convolutions 32 and 64 with strides, 40 latents, their mirror image, a Bernoulli head: minus the ELBO."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(1, 32, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3136, 80),
        )
        self.decode = nn.Sequential(
            nn.Linear(40, 3136), nn.ReLU(), nn.Unflatten(1, (64, 7, 7)),
            nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        mean, log_variance = self.encode(x).chunk(2, 1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return functional.binary_cross_entropy_with_logits(self.decode(z), x, reduction="none").sum((1, 2, 3)) + kl


class ScreenFlow(nn.Module):
    """Real NVP: uniform dequantization, logit, two scales of four affine couplings, 64 channels: minus log p."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ModuleList(nn.ModuleList(self._net(c) for _ in range(4)) for c in (4, 8))

    @staticmethod
    def _net(channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels // 2, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(64, channels, 3, 1, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        s = 1e-6 + (1 - 2e-6) * (x.float() + torch.rand(x.shape)) / 256
        z, log_p = s.logit(), -(s.log() + (1 - s).log()).sum((1, 2, 3))
        for nets in self.scales:
            z = functional.pixel_unshuffle(z, 2)
            for net in nets:
                kept, moved = z.chunk(2, 1)
                shift, log_scale = net(kept).chunk(2, 1)
                log_scale = log_scale.tanh()
                z = torch.cat([moved * log_scale.exp() + shift, kept], 1)
                log_p = log_p + log_scale.sum((1, 2, 3))
            z, out = z.chunk(2, 1)
            log_p = log_p - 0.5 * out.square().sum((1, 2, 3))
        return -(log_p - 0.5 * z.square().sum((1, 2, 3)))


class ScreenDDPM(nn.Module):
    """Ho's loss with the usual UNet of three resolutions, 32 channels, a time embedding in each block."""

    def __init__(self) -> None:
        super().__init__()
        self.signal = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
        self.time = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 128))
        self.stem, self.out = nn.Conv2d(1, 32, 3, 1, 1), nn.Conv2d(32, 1, 3, 1, 1)
        sizes = [(32, 32), (32, 64), (64, 128), (128, 128), (192, 64), (96, 32)]
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "first": nn.Sequential(nn.GroupNorm(8, i), nn.SiLU(), nn.Conv2d(i, o, 3, 1, 1)),
                "time": nn.Linear(128, o),
                "second": nn.Sequential(nn.GroupNorm(8, o), nn.SiLU(), nn.Conv2d(o, o, 3, 1, 1)),
                "skip": nn.Conv2d(i, o, 1),
            }) for i, o in sizes
        )  # fmt: skip

    def _block(self, i: int, h: Tensor, e: Tensor) -> Tensor:
        block = self.blocks[i]
        inner = block["second"](block["first"](h) + block["time"](e)[:, :, None, None])
        return block["skip"](h) + inner

    def forward(self, x: Tensor) -> Tensor:
        x0 = x.float() / 127.5 - 1
        t = torch.randint(0, 1000, (len(x),))
        a, eps = self.signal[t][:, None, None, None], torch.randn_like(x0)
        angles = t[:, None] * torch.exp(-torch.arange(32) / 3.5)
        e = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        first = self._block(0, self.stem(a.sqrt() * x0 + (1 - a).sqrt() * eps), e)
        second = self._block(1, functional.avg_pool2d(first, 2), e)
        h = self._block(3, self._block(2, functional.avg_pool2d(second, 2), e), e)
        h = self._block(4, torch.cat([functional.interpolate(h, scale_factor=2), second], 1), e)
        h = self._block(5, torch.cat([functional.interpolate(h, scale_factor=2), first], 1), e)
        return (self.out(functional.silu(h)) - eps).square().sum((1, 2, 3))


SCREENS: dict[str, type[nn.Module]] = {"flow": ScreenFlow, "hvae": ScreenVAE, "ddpm": ScreenDDPM}


def zoo_model(name: str, data: Dataset) -> GradientModel:
    """The registered model as `genzoo bench` builds it."""
    reference = Reference.parse(name)
    model = Blueprint.of(load_registry(), reference.name, reference.options, data.spec).build(0)
    assert isinstance(model, GradientModel)
    return model


def zoo_step(model: GradientModel, data: Dataset, size: int) -> Callable[[], None]:
    """A step of the zoo's own learner on shuffled indices of one tensor."""
    learner, noise = GradientLearner(model, model.default_training()), torch.Generator().manual_seed(0)
    learner.start(data.train)

    def step() -> None:
        learner.step(data.train.batch(torch.randint(len(data.train), (size,)), noise), 0.5)

    return step


def plain_step(loss: Callable[[Tensor], Tensor], network: nn.Module, data: Dataset, size: int) -> Callable[[], None]:
    """Float32, Adam, a DataLoader."""
    whole = data.train.batch(torch.arange(10_000), torch.Generator().manual_seed(0)).x
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)

    def forever() -> Iterator[Tensor]:
        while True:
            for (x,) in DataLoader(TensorDataset(whole), size, shuffle=True, drop_last=True):
                yield x

    batches = forever()

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        loss(next(batches)).mean().backward()
        optimizer.step()

    return step


def seconds_of(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call."""
    return {name: statistics.median(times) / 1e3 for name, times in interleaved(calls, rounds).items()}


def in_float32(model: GradientModel) -> Callable[[Tensor], Tensor]:
    """The loss with autocast off, whatever the model says."""

    def loss(x: Tensor) -> Tensor:
        model.eval()  # the models' autocast is for training alone
        return model.loss(x, 0.5, None)

    return loss


def measure(name: str, rounds: int, size: int) -> dict[str, object]:
    """Images a second of the three variants of one model."""
    data = load_reference(load_registry(), Reference.parse(MODELS[name], "data set"))
    zoo, twin, screen = zoo_model(name, data), zoo_model(name, data), SCREENS[name]()
    x = data.test.batch(torch.arange(size), torch.Generator().manual_seed(0)).x

    steps = {
        "zoo": zoo_step(zoo, data, size),
        "plain": plain_step(in_float32(twin), twin, data, size),
        "screen": plain_step(screen, screen, data, size),
    }
    training = seconds_of(dict(steps), rounds)
    evaluation = seconds_of({"zoo": without_grad(in_float32(zoo), x), "screen": without_grad(screen.eval(), x)}, rounds)
    parameters = {"zoo": zoo.count_parameters(), "screen": sum(p.numel() for p in screen.parameters())}
    return {
        "data": MODELS[name],
        "batch": size,
        "parameters": parameters,
        "training_images_a_second": {key: round(size / s, 1) for key, s in training.items()},
        "training_over_plain": round(training["plain"] / training["zoo"], 2),
        "evaluation_images_a_second": {key: round(size / s, 1) for key, s in evaluation.items()},
    }


def main() -> None:
    """Print a table and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("-o", "--output", type=Path, help="also write the JSON here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    load = round(os.getloadavg()[0], 2)
    result: dict[str, object] = {}
    print(f"{'images/s':<8}{'train: zoo':>12}{'plain':>8}{'screen':>8}{'eval: zoo':>12}{'screen':>8}")
    for name in MODELS:
        row = measure(name, args.rounds, args.batch)
        result[name] = row
        train, held = row["training_images_a_second"], row["evaluation_images_a_second"]
        assert isinstance(train, dict)
        assert isinstance(held, dict)
        numbers = [train["zoo"], train["plain"], train["screen"], held["zoo"], held["screen"]]
        print(
            f"{name:<8}" + "".join(f"{v:>{w}.0f}" for v, w in zip(numbers, (12, 8, 8, 12, 8), strict=True)), flush=True
        )
    result |= {
        "rounds": args.rounds,
        "threads": args.threads,
        "versions": {"torch": version("torch"), "genzoo": version("genzoo")},
        "python": platform.python_version(),
        "load_before": load,
    }
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
