"""The flow: log-det against autograd, inverse against forward, total mass, samples against density, conditions."""

from __future__ import annotations

import math
from functools import cache
from typing import cast

import pytest
import torch
from genzoo_flow.image import squeeze, unsqueeze
from genzoo_flow.layers import Fitted, SplineCoupling
from genzoo_flow.marginal import Marginal
from genzoo_flow.model import Flow, FlowConfig
from nflows.nn.nets import ResidualNet
from torch import Tensor

from genzoo.data.splits import TensorSplit
from genzoo.errors import CapabilityError
from genzoo.spec import Batch, DataSpec

SHAPES = {
    "one": (1,),
    "plane": (2,),
    "vector": (5,),
    "mnist": (1, 28, 28),
    "colour": (3, 8, 8),
    "digits": (1, 8, 8),
    "odd": (1, 5, 7),
}


def perturbed(shape: tuple[int, ...], classes: int | None = None, hidden: int | None = None) -> tuple[Flow, Batch]:
    """A flow away from its beginning (there image couplings are the identity), and data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = Flow(DataSpec(shape, None, classes), FlowConfig(hidden=hidden))
        x = torch.rand(64, *shape) ** 3 * 4
        y = None if classes is None else torch.arange(64) % classes
        with torch.no_grad():
            flow._initialise(TensorSplit(x, y))
            for parameter in flow.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return flow.eval(), Batch(x, y)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("classes", [None, 3])
def test_inverse_undoes_forward(shape: tuple[int, ...], classes: int | None) -> None:
    flow, (x, y) = perturbed(shape, classes)
    context = flow._context(y, x)
    with torch.no_grad():
        z, ladj = flow.flow(x, context)
        back, ladj_back = flow.flow.inverse(z, context)
        _, parts = flow.flow.parts(x, context)
    # float32 through up to 13 layers: measured 2e-5 on data of size 4
    assert float((back - x).abs().max()) < 1e-4
    assert float((ladj + ladj_back).abs().max()) < 1e-5 * max(100, x[0].numel())
    torch.testing.assert_close(parts.sum(1), ladj, rtol=1e-6, atol=1e-4)


def jacobian_error(flow: Flow, x: Tensor, log_det: Tensor) -> float:
    """Largest difference between `log_det` and log |det| of autograd's Jacobian, all rows from one batched backward."""

    def forward(one: Tensor) -> Tensor:
        z: Tensor = flow.flow(one[None])[0]
        return z.flatten()

    jacobians = [torch.autograd.functional.jacobian(forward, one, vectorize=True).flatten(1) for one in x]
    truth = torch.stack([torch.linalg.slogdet(jacobian).logabsdet for jacobian in jacobians])
    return float((truth - log_det).abs().max())


@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (1, 8, 8), (3, 8, 8)])
def test_log_det_is_that_of_the_jacobian(shape: tuple[int, ...]) -> None:
    flow, (x, _) = perturbed(shape, hidden=8)
    flow, x = flow.double(), x[:2].double()
    with torch.no_grad():
        log_det = flow.flow(x)[1]
    # float64 on both sides; up to 192 dimensions
    assert jacobian_error(flow, x, log_det) < 1e-8
    assert jacobian_error(flow, x, 1.01 * log_det) > 1e-3


@cache
def trained() -> tuple[Flow, Tensor]:
    """A flow after 60 steps on two moons of a sort, and its data."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        angle = math.pi * torch.rand(4000)
        side = torch.arange(4000) % 2 * 2 - 1
        x = torch.stack([angle.cos() + 0.5 * side, side * (angle.sin() - 0.4)], 1) + 0.15 * torch.randn(4000, 2)
        flow = Flow(DataSpec((2,)), FlowConfig(layers=4, hidden=32))
        learner = flow.learner(flow.default_training())
        learner.start(TensorSplit(x))
        for i in range(60):
            learner.step(Batch(x[torch.randint(len(x), (512,))], None), i / 60)
    return flow, x


def test_density_integrates_to_one() -> None:
    flow, _ = trained()
    axis = torch.arange(-6 + 0.03, 6, 0.06)
    mass = float(flow.log_likelihood(torch.cartesian_prod(axis, axis)).lower.exp().sum()) * 0.06**2
    # Midpoint rule on a density whose derivatives have kinks at the knots: measured 0.9997.
    assert mass == pytest.approx(1, abs=1e-3)
    assert mass * 1.01 != pytest.approx(1, abs=1e-3)


def test_samples_follow_the_density() -> None:
    """Shares of samples in the cells of a grid against the integral of the density there: chi-square."""
    flow, _ = trained()
    fine = torch.arange(-4 + 0.025, 4, 0.05)
    density = (
        flow.log_likelihood(torch.cartesian_prod(fine, fine)).lower.exp().view(16, 10, 16, 10).sum((1, 3)) * 0.05**2
    )
    n = 100_000

    def chi_square(x: Tensor) -> tuple[float, int]:
        inside = (x.abs() < 4).all(1)
        cell = ((x[inside] + 4) / 0.5).long()
        counts = torch.bincount(cell[:, 0] * 16 + cell[:, 1], minlength=256).double()
        expected = density.flatten() * n
        enough = expected > 20
        return float(((counts - expected)[enough] ** 2 / expected[enough]).sum()), int(enough.sum())

    value, cells = chi_square(flow.sample(n, seed=0))
    # mean `cells`, deviation sqrt(2 cells): five deviations leave chance below 1e-5
    assert value < cells + 5 * math.sqrt(2 * cells)
    value, cells = chi_square(flow.sample(n, seed=0) * 1.01)
    assert value > cells + 5 * math.sqrt(2 * cells)


def test_terms_and_arrays() -> None:
    flow, x = trained()
    answer = flow.log_likelihood(x[:50])
    assert answer.kind == "exact"
    torch.testing.assert_close(answer.terms["base"] + answer.terms["log_det"], answer.lower)
    torch.testing.assert_close(answer.arrays["log_det_per_layer"].sum(1), answer.terms["log_det"])
    assert answer.arrays["log_det_per_layer"].shape == (50, 5)
    torch.testing.assert_close(flow.loss(x[:50]).double(), -answer.lower, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_layers_lead_from_each_dimension_alone_to_the_sample(shape: tuple[int, ...], classes: int | None) -> None:
    flow, (x, _) = perturbed(shape, classes)
    traces = flow.traces(x, 6, seed=3)
    frames = traces["layers"]
    couplings = sum(isinstance(module, SplineCoupling) for module in flow.modules())
    assert frames.shape == (6, couplings + 1, *shape)
    assert traces["layers_at"].tolist() == list(range(couplings + 1))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        z = torch.randn(6, flow.spec.dims)
        y = None if classes is None else torch.randint(0, classes, (6,))
    # bit for bit: the same operations on the same noise
    assert torch.equal(frames[:, -1], flow.sample(6, 3, y))
    # the first frame is the noise, dimension by dimension, through the first layer alone
    noise, _ = cast(Fitted, flow.flow.layers[0])(frames[:, 0])
    torch.testing.assert_close(noise.flatten(1).sort(1).values, z.sort(1).values, rtol=1e-3, atol=1e-3)
    # one coupling moves one part of the dimensions, and every coupling here moves some
    moved = (frames[:, 1:] != frames[:, :-1]).flatten(2).float().mean((0, 2))
    assert float(moved.min()) > 0
    assert float(moved.max()) < 1 or shape == (1,)


def test_frames_of_couplings_that_do_nothing_are_one_picture() -> None:
    """Couplings for images begin as the identity, and without weights those for vectors are too."""
    flow = Flow(DataSpec((3, 8, 8)))
    for module in flow.modules():
        if isinstance(module, ResidualNet):
            torch.nn.init.zeros_(module.final_layer.weight)
    frames = flow.traces(torch.zeros(1), 4, 0)["layers"]
    torch.testing.assert_close(frames, frames[:, :1].expand_as(frames), rtol=1e-4, atol=1e-4)


def test_label_changes_the_density() -> None:
    flow, (x, y) = perturbed((2,), 3)
    assert y is not None
    one, other = flow.log_likelihood(x, condition=y), flow.log_likelihood(x, condition=(y + 1) % 3)
    assert float((one.lower - other.lower).abs().max()) > 1e-3
    assert flow.sample(6, 0, y[:6]).shape == (6, 2)


def test_conditional_flow_learns_its_classes() -> None:
    """Two classes at -2 and 2 with deviation 0.5: the exact conditional entropy is known."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = torch.arange(4000) % 2
        x = 0.5 * torch.randn(4000, 1) + (4.0 * y - 2)[:, None]
        flow = Flow(DataSpec((1,), None, 2), FlowConfig(layers=2, hidden=16))
        learner = flow.learner(flow.default_training())
        learner.start(TensorSplit(x, y))
        for i in range(150):
            rows = torch.randint(4000, (512,))
            learner.step(Batch(x[rows], y[rows]), i / 150)
    truth = torch.distributions.Normal(4.0 * y - 2, 0.5).log_prob(x[:, 0])
    gap = float(truth.mean() - flow.log_likelihood(x, condition=y).lower.mean())
    # without the label it could not do better than the entropy of the label, 0.69 nats
    assert abs(gap) < 0.05


def test_marginal_starts_as_independent_categorical_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = (torch.rand(3000, 1, 4, 4, generator=generator) ** torch.linspace(0.3, 3, 16).view(1, 4, 4) * 17).floor()
    x = codes + torch.rand(codes.shape, generator=generator).clamp(max=0.999)
    flow = Flow(DataSpec((1, 4, 4)))
    flow._initialise(TensorSplit(x))
    counts = torch.nn.functional.one_hot(codes.long(), 17).double().sum(0)
    pooled = counts.sum((0, 1, 2)) + 1
    table = (counts + pooled / pooled.sum()) / (len(x) + 1)
    truth = table[0].log().gather(-1, codes[:, 0, ..., None].long().permute(1, 2, 3, 0).squeeze(2)).sum((0, 1))
    layer = flow.flow.layers[0]
    assert isinstance(layer, Marginal)
    z, ladj = layer(x.double())
    value = ladj - 0.5 * z.square().sum((1, 2, 3)) - 8 * math.log(2 * math.pi)
    # the tails take 2e-6 of each of 16 pixels
    assert float((value - truth).abs().max()) < 1e-4
    assert float((value - 1.01 * truth).abs().max()) > 1e-2


def test_marginal_beyond_its_data() -> None:
    layer = Marginal((1, 2, 2))
    layer.fit(torch.rand(500, 1, 2, 2))
    x = torch.tensor([-3.0, -0.2, 1.5, 40.0]).view(1, 1, 2, 2).double()
    z, ladj = layer(x)
    back, ladj_back = layer.inverse(z)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(ladj, -ladj_back)
    assert bool((z[0, 0].flatten().diff() > 0).all())


def test_squeeze_keeps_every_pixel() -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    h = squeeze(x)
    assert h.shape == (2, 12, 2, 3)
    assert torch.equal(h[:, :3], x[..., ::2, ::2])
    assert torch.equal(h[:, 3:6], x[..., 1::2, 1::2])
    assert torch.equal(unsqueeze(h), x)


def test_refuses_what_it_cannot_take() -> None:
    with pytest.raises(CapabilityError, match="dequantization=uniform"):
        Flow(DataSpec((1, 8, 8), levels=256))
    with pytest.raises(CapabilityError, match=r"\(D,\) or \(C, H, W\)"):
        Flow(DataSpec((4, 4)))
