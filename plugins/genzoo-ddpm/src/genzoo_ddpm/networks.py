"""Noise prediction: a Gaussian denoiser in closed form plus a network for what is not Gaussian.

    eps_hat(x_t) = s_t (a_t^2 C + s_t^2 I)^{-1} (x_t - a_t m) + a_t f(x_t, lam_t)

m and C are the data's mean and covariance, so that the first term is the exact E[eps given x_t] of a Gaussian (the
Wiener filter). f starts at zero: the untrained model is the Gaussian baseline. For m = 0, C = I the sum is the
v-parameterisation (Salimans & Ho 2022, arXiv:2202.00512), whose error in eps vanishes with a_t at the noisy end.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from genzoo.nn import ResidualMLP, SinusoidalEmbedding

LOG_SNR_SCALE = 20.0
"""Log-SNRs stay within +-20; the embeddings see lam / 20."""


class GaussianDenoiser(nn.Module):
    """E[eps given x_t] for data N(m, C); buffers are set by `fit` (before: m = 0, C = I)."""

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

    def forward(self, x: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        """`(R, D)` at x_t `(R, D)`, a_t and s_t `(R, 1)`."""
        along = (x - signal * self.loc) @ self.basis
        return (along * (noise / (signal.square() * self.spectrum + noise.square()))) @ self.basis.T


class VectorNetwork(nn.Module):
    """A residual MLP over x_t, its Fourier features, an embedding of log-SNR and the label: `(R, D)` to `(R, outputs)`.

    Args:
        dims, outputs, classes: features in and out, one-hot label features.
        width, blocks: of the residual MLP.
    """

    rows = 4096
    """Rows evaluated at once; larger batches leave the cache (SPEED)."""
    frequencies: Tensor

    def __init__(self, dims: int, outputs: int, classes: int, width: int, blocks: int) -> None:
        super().__init__()
        # of data of scale 1: periods from 12 down to 0.8. A plain layer of x learns edges and modes very slowly.
        self.register_buffer("frequencies", 2.0 ** torch.arange(-1, 4), persistent=False)
        self.embedding = SinusoidalEmbedding(32, 1.0, 100.0)
        inputs = dims * (1 + 2 * len(self.frequencies)) + 32 + classes
        self.body = ResidualMLP(inputs, outputs, width, blocks, zero_last=True)

    def forward(self, x: Tensor, log_snr: Tensor, condition: Tensor) -> Tensor:
        """x_t `(R, D)`, lam_t `(R,)`, labels one-hot `(R, classes)`."""
        angles = (x[:, :, None] * self.frequencies).flatten(1)  # (R, D F)
        features = [x, angles.sin(), angles.cos(), self.embedding(log_snr / LOG_SNR_SCALE), condition]
        return cast(Tensor, self.body(torch.cat(features, 1)))
