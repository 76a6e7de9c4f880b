"""Denoisers in closed form, and a network for what they leave.

    x0_hat(x_t) = mean(x_t) + scale(x_t) f(x_t, lam_t)

mean is the exact E[x_0 given x_t] of a simple model of the data: of N(m, C) with the data's mean and covariance (the
Wiener filter) for real data, of independent pixels (pixels.py) for codes. f starts at zero, so that the untrained model
is about that simple model. For the Gaussian scale = s_t, which for m = 0, C = I is the v-parameterisation (Salimans &
Ho 2022, arXiv:2202.00512), whose error in eps vanishes with a_t at the noisy end.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from genzoo.nn import ResidualMLP, SinusoidalEmbedding

LOG_SNR_SCALE = 20.0
"""Log-SNRs stay within +-20; the embeddings see lam / 20."""


class Denoised(NamedTuple):
    """A denoiser's answer at x_t `(R, D)`.

    mean: E[x_0 given x_t] `(R, D)`. scale: unit of the network's output, `(R, D or 1)`. variance: of x_0 given x_t up
    to a factor that is fitted, `(R, D or 1)`. side: further inputs of the network, `(R, sides * D)`.
    """

    mean: Tensor
    scale: Tensor
    variance: Tensor
    side: Tensor


class GaussianDenoiser(nn.Module):
    """x_0 given x_t for data N(m, C); buffers are set by `fit` (before: m = 0, C = I)."""

    sides = 0
    prior_ratio = 0.0
    loc: Tensor
    basis: Tensor
    spectrum: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(dims))
        self.register_buffer("basis", torch.eye(dims))
        self.register_buffer("spectrum", torch.ones(dims))

    def fit(self, x: Tensor) -> None:
        """Mean and eigenbasis of the covariance of `x (N, D)`."""
        x = x.to(torch.float64)
        loc = x.mean(0)
        centred = x - loc
        spectrum, basis = torch.linalg.eigh(centred.T @ centred / max(1, len(x) - 1))
        self.loc.copy_(loc)
        self.basis.copy_(basis)
        self.spectrum.copy_(spectrum.clamp(min=0))

    @property
    def variances(self) -> Tensor:
        """Variance of each dimension `(D,)`."""
        return (self.basis.square() * self.spectrum).sum(1)

    def forward(self, x: Tensor, signal: Tensor, noise: Tensor) -> Denoised:
        """At x_t `(R, D)`, a_t and s_t `(R, 1)`."""
        along = (x - signal * self.loc) @ self.basis
        gain = signal * self.spectrum / (signal.square() * self.spectrum + noise.square())
        mean = self.loc + (along * gain) @ self.basis.T
        return Denoised(mean, noise, torch.ones_like(noise), x[:, :0])


class VectorNetwork(nn.Module):
    """A residual MLP over x_t, its Fourier features, an embedding of log-SNR and the label: `(R, outputs)`.

    Args:
        dims, sides, outputs, classes: features in, further inputs a dimension, features out, one-hot label features.
        width, blocks: of the residual MLP.
    """

    rows = 4096
    """Rows evaluated at once; larger batches leave the cache (SPEED)."""
    frequencies: Tensor

    def __init__(self, dims: int, sides: int, outputs: int, classes: int, width: int, blocks: int) -> None:
        super().__init__()
        # of data of scale 1: periods from 12 down to 0.8. A plain layer of x learns edges and modes very slowly.
        self.register_buffer("frequencies", 2.0 ** torch.arange(-1, 4), persistent=False)
        self.embedding = SinusoidalEmbedding(32, 1.0, 100.0)
        inputs = dims * (1 + 2 * len(self.frequencies) + sides) + 32 + classes
        self.body = ResidualMLP(inputs, outputs, width, blocks, zero_last=True)

    def forward(self, x: Tensor, side: Tensor, log_snr: Tensor, condition: Tensor) -> Tensor:
        """x_t `(R, D)`, further inputs `(R, sides * D)`, lam_t `(R,)`, labels one-hot `(R, classes)`."""
        angles = (x[:, :, None] * self.frequencies).flatten(1)  # (R, D F)
        features = [x, angles.sin(), angles.cos(), side, self.embedding(log_snr / LOG_SNR_SCALE), condition]
        return cast(Tensor, self.body(torch.cat(features, 1)))
