"""The last step p(x_0 given x_1), with a variance of its own: v_1 is not one of the reverse variances.

Data live on the scale of the chain: real data as they come, codes 0..L-1 at the values 2 k / (L - 1) - 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from genzoo_ddpm.schedules import Chain

ROWS = 1 << 24
"""Level scores computed at once (64 MiB in float32)."""


LEAST_VARIANCE = 1e-10
"""Of the decoder of real data of scale 1: far below what float32 resolves of the data."""


class Decoder(nn.Module, ABC):
    """log p(x_0 given x_1) and its draws. `uses_network`: whether it needs x0_hat, and so a network call."""

    uses_network: bool
    unit: float = 1.0
    """What one unit of the data is on the chain's scale."""
    log_variance: Tensor

    def __init__(self, chain: Chain, variance: float | None) -> None:
        super().__init__()
        self.fitted = variance is None
        # where p(x_0) is flat on the scale of the noise, x_0 given x_1 has variance s_1^2 / a_1^2 = exp(-lam_1)
        start = -chain.log_snr[0] if variance is None else torch.tensor(variance, dtype=torch.float64).log()
        self.register_buffer("log_variance", start.clone())

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Data `(B, *)` to the chain's scale, float32."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """The inverse of `encode` for trajectories: float32 in data units, not rounded."""

    @abstractmethod
    def sample(self, mean: Tensor) -> Tensor:
        """Draws in data units `(R, D)` around `mean (R, D)`."""

    @abstractmethod
    def log_given(self, mean: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """log of the density (mass) of y = x_0 + noise eps around `mean (*, D)`, by dimension, up to a constant.

        `y (*, D)` is on the chain's scale, as is `noise (D,)`; 0 is no noise.
        """

    @abstractmethod
    def sample_given(self, mean: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """Draws in data units `(R, D)` around `mean (R, D)`, given `y`; arguments as for `log_given`."""

    def fit(self, mean_square: Tensor) -> None:
        """Set v_1 from `mean_square ()`, the error of x0_hat at t = 1, where that is what it should be."""


class GaussianDecoder(Decoder):
    """N(x0_hat(x_1), v_1 I) for real data; v_1 is given, or fitted as the mean square error of x0_hat at t = 1."""

    uses_network = True

    def encode(self, x: Tensor) -> Tensor:
        """See Decoder."""
        return x

    def decode(self, x: Tensor) -> Tensor:
        """See Decoder."""
        return x

    def sample(self, mean: Tensor) -> Tensor:
        """See Decoder."""
        return mean + math.exp(0.5 * float(self.log_variance)) * torch.randn_like(mean)

    def log_given(self, mean: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """See Decoder."""
        variance = self.log_variance.exp() + noise.square()
        return -0.5 * ((y - mean).square() / variance + variance.log())

    def sample_given(self, mean: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """See Decoder."""
        variance = self.log_variance.exp()
        gain = variance / (variance + noise.square())
        scale = ((1 - gain) * variance).sqrt().to(mean.dtype)
        return mean + gain.to(mean.dtype) * (y - mean) + scale * torch.randn_like(mean)

    def fit(self, mean_square: Tensor) -> None:
        """See Decoder; v_1 that was given stays."""
        if self.fitted:
            # data that are one point have no error, and an infinite density
            self.log_variance.copy_(mean_square.clamp(min=LEAST_VARIANCE).log())


class LevelsDecoder(Decoder):
    """p(k) proportional to exp(-(x_1 / a_1 - value_k)^2 / 2 v_1), normalised over all levels, per dimension.

    VDM's decoder (Kingma et al. 2021, arXiv:2107.00630, section 3.4 and appendix): no network, v_1 = s_1^2 / a_1^2. At
    log-SNR 13.6 and 256 levels half a level is 3.5 standard deviations, and the term costs 0.001 bits a dimension.
    """

    uses_network = False

    def __init__(self, chain: Chain, variance: float | None, levels: int) -> None:
        super().__init__(chain, variance)
        self.levels = levels
        self.unit = 2 / (levels - 1)

    def encode(self, x: Tensor) -> Tensor:
        """See Decoder."""
        return x.to(torch.float32) * self.unit - 1

    def decode(self, x: Tensor) -> Tensor:
        """See Decoder."""
        return (x + 1) * ((self.levels - 1) / 2)

    def log_probs(self, mean: Tensor) -> Tensor:
        """Log-probabilities `(*, levels)` in nats around `mean = x_1 / a_1`, `(*,)`."""
        values = self.encode(torch.arange(self.levels, device=mean.device)).to(mean.dtype)
        scores = (mean[..., None] - values).square() * (-0.5 * math.exp(-float(self.log_variance)))
        return scores.log_softmax(-1)

    def log_prob(self, x: Tensor, mean: Tensor) -> Tensor:
        """Per dimension `(R, D)`, nats, of the encoded `x (R, D)`."""
        code = self.decode(x).round().to(torch.int64)[..., None]
        parts = [
            self.log_probs(m).gather(-1, k)[..., 0] for m, k in zip(self._chunks(mean), self._chunks(code), strict=True)
        ]
        return torch.cat(parts)

    def sample(self, mean: Tensor) -> Tensor:
        """See Decoder."""
        return torch.cat([_drawn(self.log_probs(m)) for m in self._chunks(mean)])

    def log_given(self, mean: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """See Decoder."""
        rows = mean.flatten(0, -2), y.expand_as(mean).flatten(0, -2)
        return torch.cat([s.logsumexp(-1) for s in self._scores(*rows, noise)]).view_as(mean)

    def sample_given(self, mean: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """See Decoder."""
        return torch.cat([_drawn(scores) for scores in self._scores(mean, y, noise)])

    def _scores(self, mean: Tensor, y: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """log p(k given x_1) N(y; value_k, noise^2) up to a constant, in chunks of `(r, D, levels)`."""
        # a twentieth of a level tells them apart as surely as none
        precision = -0.5 / noise.clamp(min=self.unit / 20).square()[:, None]
        values = self.encode(torch.arange(self.levels, device=mean.device))
        for m, o in zip(self._chunks(mean), self._chunks(y), strict=True):
            yield self.log_probs(m) + precision * (o[..., None] - values).square()

    def _chunks(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, max(1, ROWS // (x.shape[1] * self.levels)))


def _drawn(scores: Tensor) -> Tensor:
    """A level from the softmax of scores `(*, levels)`: the largest of scores plus Gumbel noise."""
    return (scores - torch.empty_like(scores).exponential_().log()).argmax(-1).to(torch.uint8)
