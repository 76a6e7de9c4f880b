"""The denoiser of independent pixels against enumeration and a closed form."""

from __future__ import annotations

import pytest
import torch
from genzoo_ddpm.pixels import MERGED, NEAR, WIDER, PixelDenoiser
from torch import Tensor


def fitted(dims: int, levels: int) -> tuple[PixelDenoiser, Tensor]:
    """A float64 denoiser of uneven histograms, and the codes `(500, dims)` behind it."""
    generator = torch.Generator().manual_seed(0)
    codes = (torch.rand(500, dims, generator=generator, dtype=torch.float64) ** 3 * levels).to(torch.int64)
    codes[:, 0] = 0  # a pixel that is always empty
    denoiser = PixelDenoiser(dims, levels).double()
    denoiser.fit(codes * denoiser.spacing - 1)
    return denoiser, codes


def enumerated(denoiser: PixelDenoiser, y: Tensor, sigma: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_0 given y `(R, D)` by the sum over all levels, noise off by `factor`."""
    scores = -0.5 * ((y[..., None] - denoiser.values) / (factor * sigma[..., None])).square()
    weights = (denoiser.mass.log() + scores).softmax(-1)  # (R, D, L)
    mean = (weights * denoiser.values).sum(-1)
    return mean, (weights * (denoiser.values - mean[..., None]).square()).sum(-1)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize("ratio", [0.15, 0.6, 1.9, 2.1, 7.0, 15.0, 17.0, 60.0, 70.0, 500.0])
def test_posterior_is_the_sum_over_levels(levels: int, ratio: float) -> None:
    """float64. Unmerged: 1e-6 of the noise (levels beyond 8 deviations); merged, 0.5 % of it."""
    denoiser, codes = fitted(6, levels)
    sigma = torch.full((len(codes), 1), ratio * denoiser.spacing, dtype=torch.float64)
    signal = (1 / (1 + sigma.square())).sqrt()
    noise = sigma * signal
    generator = torch.Generator().manual_seed(1)
    eps = torch.randn(codes.shape, generator=generator, dtype=torch.float64)
    x = signal * (codes * denoiser.spacing - 1) + noise * eps
    mean, variance = enumerated(denoiser, x / signal, sigma)
    answer = denoiser(x, signal, noise)
    scale = min(1.0, float(sigma[0]))
    merged = levels == 256 and ratio >= WIDER * MERGED[0]
    tolerance = (5e-3 if merged else 1e-6) * scale
    torch.testing.assert_close(answer.mean, mean, atol=tolerance, rtol=0)
    torch.testing.assert_close(answer.variance, variance, atol=tolerance * scale, rtol=0)
    if not merged:  # twin: 1 % more noise
        wrong, _ = enumerated(denoiser, x / signal, sigma, 1.01)
        assert float((answer.mean - wrong).abs().max()) > tolerance


def test_two_levels_are_a_tanh() -> None:
    """x_0 in {-1, 1} with probability p of 1: E = tanh(y / sigma^2 + logit(p) / 2), Var = 1 - E^2; float64, 1e-12."""
    denoiser = PixelDenoiser(1, 2).double()
    denoiser.fit(torch.tensor([[1.0]] * 30 + [[-1.0]] * 70, dtype=torch.float64))
    p = float(denoiser.mass[0, 1])
    assert p == pytest.approx(30.5 / 101, abs=1e-7)
    y = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]
    signal, noise = torch.full_like(y, 0.8), torch.full_like(y, 0.6)

    def closed(sigma: float) -> Tensor:
        return torch.tanh(y / sigma**2 + 0.5 * torch.logit(torch.tensor(p, dtype=torch.float64)))

    answer = denoiser(0.8 * y, signal, noise)
    torch.testing.assert_close(answer.mean, closed(0.75), atol=1e-12, rtol=0)
    torch.testing.assert_close(answer.variance, 1 - closed(0.75).square(), atol=1e-12, rtol=0)
    assert float((answer.mean - closed(0.75 * 1.01)).abs().max()) > 1e-3


@pytest.mark.parametrize("far", [-50.0, 50.0])
@pytest.mark.parametrize("ratio", [0.01, NEAR / 2, 5.0, 100.0])
def test_nothing_underflows(far: float, ratio: float) -> None:
    """float32, observations far outside the values and between two of them."""
    denoiser = PixelDenoiser(3, 256)
    x = torch.tensor([[far, 0.0, 0.5 * denoiser.spacing]])
    answer = denoiser(x, torch.ones(1, 1), torch.full((1, 1), ratio * denoiser.spacing))
    assert all(bool(part.isfinite().all()) for part in answer)
    assert float(answer.mean[0, 0]) == pytest.approx(1.0 if far > 0 else -1.0, abs=0.35)
