"""GradientLearner against torch's own AdamW, bit for bit; its average, its resume, its errors."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from genzoo.config import Config, TrainSettings
from genzoo.data.splits import TensorSplit
from genzoo.errors import NumericsError
from genzoo.interface import GradientModel
from genzoo.learners import GradientLearner
from genzoo.likelihood import LogLikelihood
from genzoo.spec import Batch, DataSpec, Split
from genzoo.state import flatten, unflatten

SPEC = DataSpec((2,))


class Small(GradientModel):
    """A loss with noise, a frozen parameter, a buffer that counts, and hooks that show when they are called."""

    seen: Tensor
    centre: Tensor

    def __init__(self, spec: DataSpec, config: Config | None = None) -> None:
        super().__init__(spec, config)
        self.network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
        self.fixed = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("centre", torch.zeros(2))
        self.register_buffer("calibrated", torch.zeros(()))

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        self.seen += 1
        return (self.network(x + 0.1 * torch.randn_like(x)) - self.fixed * self.centre).square().sum(1)

    def _initialise(self, train: Split) -> None:
        self.centre.copy_(train.batch(torch.arange(len(train)), torch.Generator()).x.mean(0) + torch.rand(()))

    def _calibrate(self, train: Split, valid: Split) -> None:
        self.calibrated.fill_(float(self.seen) + torch.rand(()))

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return LogLikelihood.estimate(-self._loss(x, 1.0, condition))

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return torch.zeros(n, 2)


def make(**settings: object) -> GradientLearner:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return GradientLearner(Small(SPEC), TrainSettings.parse(settings, "test"))


def batches(n: int = 12) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [Batch(torch.randn(16, 2, generator=generator) + 1, None) for _ in range(n)]


@pytest.mark.parametrize("clip", [None, 0.5])
def test_equals_plain_adamw_bit_for_bit(clip: float | None) -> None:
    settings = TrainSettings(learning_rate=0.01, weight_decay=0.1, warmup=0.25, ema=0.0, clip=clip)
    learner = make(**settings.model_dump())
    plain = copy.deepcopy(learner.model)
    parameters = [p for p in plain.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01, betas=(0.9, 0.999), weight_decay=0.1, fused=True)
    data = batches()
    torch.manual_seed(3)
    for step, batch in enumerate(data):
        learner.step(batch, step / len(data))
    torch.manual_seed(3)
    for step, batch in enumerate(data):
        progress = step / len(data)
        rate = 0.01 * max(progress / 0.25, 0.01)
        if progress >= 0.25:
            rate = 0.01 * 0.5 * (1 + math.cos(math.pi * (progress - 0.25) / 0.75))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        plain.loss(batch.x, progress).mean().backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()

    def same(model: nn.Module) -> bool:
        return all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))

    assert same(learner.model)
    assert same(learner.evaluated()), "without EMA the evaluated weights are the trained ones"
    with torch.no_grad():
        next(plain.parameters()).mul_(1.01)
    assert not same(learner.model)


def test_average_follows_its_recursion() -> None:
    """To 1e-6: float32 lerps against the recursion in float64."""
    learner = make(ema=0.6, warmup=0.0)
    expected = [p.detach().double().clone() for p in learner.model.parameters()]
    off = [p.clone() for p in expected]
    for step, batch in enumerate(batches()):
        learner.step(batch, step / 12)
        decay = min(0.6, (2 + step) / (11 + step))
        for i, p in enumerate(learner.model.parameters()):
            expected[i] = decay * expected[i] + (1 - decay) * p.detach().double()
            off[i] = 0.99 * decay * off[i] + (1 - 0.99 * decay) * p.detach().double()

    def same(average: list[Tensor]) -> bool:
        found = learner.evaluated().parameters()
        return all(torch.allclose(a.double(), b, atol=1e-6, rtol=0) for a, b in zip(found, average, strict=True))

    assert same(expected)
    assert not same(off)
    assert not any(p.requires_grad for p in learner.evaluated().parameters())
    assert float(learner.evaluated().fixed) == 1.0


def test_resume_equals_uninterrupted_through_files() -> None:
    data = batches()

    def run(learner: GradientLearner, part: slice) -> None:
        for step in range(*part.indices(len(data))):
            learner.step(data[step], step / len(data))

    torch.manual_seed(4)
    whole, first, second = make(ema=0.9), make(ema=0.9), make(ema=0.9)
    torch.manual_seed(5)
    run(whole, slice(0, 12))
    torch.manual_seed(5)
    run(first, slice(0, 6))
    tensors, tree = flatten(first.state_dict())
    with torch.no_grad():
        for p in second.model.parameters():
            p.add_(1.0)
    second.load_state_dict(unflatten(tensors, tree))
    run(second, slice(6, 12))
    for a, b in ((whole.model, second.model), (whole.evaluated(), second.evaluated())):
        for key, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[key]), key
    assert not torch.equal(first.model.network[0].weight, second.model.network[0].weight)


def test_start_and_finish() -> None:
    learner, split = make(seed=3), TensorSplit(torch.randn(50, 2) + 4)
    before = torch.get_rng_state()
    learner.start(split)
    assert torch.equal(learner.evaluated().centre, learner.model.centre)
    assert float(learner.model.centre.min()) > 3
    for batch in batches(3):
        learner.step(batch, 0.0)
    torch.set_rng_state(before)
    learner.finish(split, split)
    assert torch.equal(before, torch.get_rng_state())
    average = learner.evaluated()
    assert float(average.seen) == 3, "buffers are those of the trained model"
    assert 3 <= float(average.calibrated) <= 4
    assert float(learner.model.calibrated) == 0
    kept = float(average.calibrated)
    learner.finish(split, split)
    assert float(average.calibrated) == kept
    assert learner.model.training


def test_metrics_are_detached_scalars() -> None:
    metrics = make().step(batches(1)[0], 0.0)
    assert set(metrics) == {"loss", "gradient_norm"}
    assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())


@pytest.mark.parametrize(("bad", "wrong"), [(math.nan, "loss is nan"), (math.inf, "loss is inf")])
def test_a_loss_that_is_not_finite_names_the_step(bad: float, wrong: str) -> None:
    learner, data = make(), batches(3)
    learner.step(data[0], 0.0)
    learner.step(data[1], 0.1)
    before = [p.detach().clone() for p in learner.model.parameters()]
    learner.model.centre.fill_(bad)
    with pytest.raises(NumericsError, match=f"{wrong} at step 2"):
        learner.step(data[2], 0.2)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.model.parameters(), strict=True))


def test_a_gradient_that_is_not_finite_is_named() -> None:
    class Root(Small):
        def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
            return (self.network(x) * 0).sum(1).sqrt()  # zero, with an infinite slope times zero

    learner = GradientLearner(Root(SPEC), TrainSettings())
    with pytest.raises(NumericsError, match="gradient norm is nan at step 0"):
        learner.step(batches(1)[0], 0.0)
