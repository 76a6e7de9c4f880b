"""The spline against nflows and zuko, and the couplings against nflows with the same networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from genzoo_flow.layers import Chain, SplineCoupling
from genzoo_flow.spline import MINIMUM, UNIT_SLOPE, rational_quadratic
from genzoo_flow.vector import spline_couplings
from nflows.transforms import CompositeTransform, PiecewiseRationalQuadraticCouplingTransform
from nflows.transforms.splines import unconstrained_rational_quadratic_spline
from torch import Tensor, nn
from torch.nn import functional as F

BINS, BOUND = 8, 4.0
Spline = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def ours(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    return rational_quadratic(x, raw, BOUND)


def planted(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """One per cent too much in the slopes."""
    return rational_quadratic(x, torch.cat([raw[: 2 * BINS], raw[2 * BINS :] * 1.01]), BOUND)


def case(dtype: torch.dtype, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Points inside, outside and on the edges, with parameters for each."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, generator=generator, dtype=torch.float64) * 2.5
    x[:3] = torch.tensor([-BOUND, BOUND, 0.0], dtype=torch.float64)
    raw = torch.randn(3 * BINS - 1, 2000, generator=generator, dtype=torch.float64) * spread
    return x.to(dtype), raw.to(dtype)


def nflows_spline(x: Tensor, raw: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    widths, heights, slopes = raw.T.split([BINS, BINS, BINS - 1], 1)
    y, ladj = unconstrained_rational_quadratic_spline(
        x, widths, heights, slopes.clone(), inverse=inverse, tails="linear", tail_bound=BOUND
    )
    return y, ladj


def error_against_nflows(spline: Spline, dtype: torch.dtype) -> float:
    x, raw = case(dtype)
    (y, ladj), (y_, ladj_) = spline(x, raw), nflows_spline(x, raw)
    return max(float((y - y_).abs().max()), float((ladj - ladj_).abs().max()))


def test_spline_is_that_of_nflows() -> None:
    # float64: rounding alone, far below the 1e-5 that is promised
    assert error_against_nflows(ours, torch.float64) < 1e-10
    assert error_against_nflows(planted, torch.float64) > 1e-3


def test_inverse_spline_is_that_of_nflows() -> None:
    x, raw = case(torch.float64)
    (y, ladj), (y_, ladj_) = rational_quadratic(x, raw, BOUND, inverse=True), nflows_spline(x, raw, inverse=True)
    assert float((y - y_).abs().max()) < 1e-10
    assert float((ladj - ladj_).abs().max()) < 1e-10


def test_float32_loses_no_more_than_nflows() -> None:
    x, raw = case(torch.float32)
    truth = nflows_spline(x.double(), raw.double())
    mine, theirs = (
        max(float((a.double() - b).abs().max()) for a, b in zip(answer, truth, strict=True))
        for answer in (ours(x, raw), nflows_spline(x, raw))
    )
    # Largest error over 2,000 random splines: each is dominated by its single worst bin, so a factor of 3.
    assert mine < 3 * theirs


def test_spline_against_zuko() -> None:
    """zuko's transform with the same knots and slopes; its own parametrisation is bypassed."""
    zuko = pytest.importorskip("zuko")
    x, raw = case(torch.float64)
    transform = zuko.transforms.MonotonicRQSTransform(*(torch.zeros(len(x), n) for n in (BINS, BINS, BINS - 1)))

    def knots(part: Tensor) -> Tensor:
        sizes = MINIMUM + (1 - BINS * MINIMUM) * part.softmax(0)
        return F.pad(2 * BOUND * sizes.cumsum(0) - BOUND, (0, 0, 1, 0), value=-BOUND).T

    transform.horizontal, transform.vertical = knots(raw[:BINS]), knots(raw[BINS : 2 * BINS])
    transform.derivatives = F.softplus(F.pad(raw[2 * BINS :].T, (1, 1), value=UNIT_SLOPE)) + MINIMUM

    def error(spline: Spline) -> float:
        (y, ladj), y_ = spline(x, raw), transform(x)
        interior = x.abs() < BOUND  # at the very edge zuko takes the tail, we the bin
        ladj_ = transform.log_abs_det_jacobian(x, y_)
        return max(float((y - y_).abs().max()), float((ladj - ladj_)[interior].abs().max()))

    assert error(ours) < 1e-9
    assert error(planted) > 1e-3


def nflows_twin(couplings: Chain) -> CompositeTransform:
    """nflows' own couplings for two dimensions, around the very networks of `couplings`."""

    def twin(layer: SplineCoupling) -> PiecewiseRationalQuadraticCouplingTransform:
        mask = [int(layer.start <= i < layer.stop) for i in range(2)]

        def network(*_: int) -> nn.Module:
            return layer.network

        return PiecewiseRationalQuadraticCouplingTransform(
            mask, network, num_bins=BINS, tails="linear", tail_bound=BOUND
        )

    return CompositeTransform([twin(layer) for layer in couplings._sequence() if isinstance(layer, SplineCoupling)])


def test_couplings_are_those_of_nflows() -> None:
    torch.manual_seed(0)
    couplings = spline_couplings(2, 0, layers=6, hidden=64, bins=BINS, bound=BOUND, temperature=64**0.5)
    with torch.no_grad():
        for parameter in couplings.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    twin = nflows_twin(couplings)
    x = 1.5 * torch.randn(500, 2)
    with torch.no_grad():
        (z, ladj), (z_, ladj_) = couplings(x), twin(x)
        assert float((z - z_).abs().max()) < 1e-5
        assert float((ladj - ladj_).abs().max()) < 1e-5
        planted = couplings.layers[3]
        assert isinstance(planted, SplineCoupling)
        planted.temperature *= 1.01
        assert float((couplings(x)[1] - ladj_).abs().max()) > 1e-4
