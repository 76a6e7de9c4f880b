"""Importance weights of whole paths of the chain.

    log w = log p(x_T) - log q(x_T given x_0) + sum_{t=2}^T log p(x_{t-1} given x_t) - log q(x_{t-1} given x_t, x_0)
            + log p(x_0 given x_1),   x_1..x_T ~ q(x_1..x_T given x_0)

E w = p(x_0), and E log w is the variational bound. The path is drawn from x_T down, by q's posteriors: the forward
process in the other direction, for every eta, and only two of its points are held at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genzoo.likelihood import LogLikelihood, WeightSums
from genzoo_ddpm.decoders import LevelsDecoder

if TYPE_CHECKING:
    from genzoo_ddpm.diffusion import Diffusion


Path = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Encoded data `(R, D)` and labels to the parts `(R,)` float64 of log w along one path of each row."""


def path_weights(path: Path, rows: int, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
    """Of `num_samples` paths an example, a few at a time: as many as the network takes `rows` at once."""
    sums = WeightSums()
    while sums.count < num_samples:
        k = min(max(1, rows // max(1, len(z))), num_samples - sums.count)
        parts = [torch.split(part, rows) for part in (z.repeat(k, 1), labels.repeat(k, 1))]
        pieces = [path(x, label) for x, label in zip(*parts, strict=True)]
        terms = {name: torch.cat([piece[name] for piece in pieces]).view(k, -1) for name in pieces[0]}
        log_w = torch.stack(list(terms.values())).sum(0)
        sums.add(log_w, {name: term.mean(0) for name, term in terms.items()})
    return sums.result()


def gaussian_path(model: Diffusion, z: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """A Path of a Gaussian chain."""
    chain = model.chain
    signal, noise = float(chain.signal[-1]), float(chain.noise[-1])
    eps = torch.randn_like(z)
    x = signal * z + noise * eps
    spread = noise**2 + signal**2 * model.denoiser.variances.double()
    shift = (x - signal * model.denoiser.loc).double()
    prior = 0.5 * (eps.double().square() - shift.square() / spread - (spread / noise**2).log()).sum(1)
    diffusion = torch.zeros_like(prior)
    for t in range(len(chain) - 1, 0, -1):
        denoised, log_variance = model._denoised(x, t, labels)
        keep, pull, b = float(chain.keep[t]), float(chain.pull[t]), float(chain.variance[t])
        eps = torch.randn_like(z)
        # x_{t-1} less the mean of p; log q needs only the noise it was drawn with
        shift = (pull * (z - denoised) + math.sqrt(b) * eps).double()
        ratio = eps.double().square() - shift.square() * (-log_variance).exp() + math.log(b) - log_variance
        diffusion = diffusion + 0.5 * ratio.expand_as(z).sum(1)
        x = keep * x + pull * z + math.sqrt(b) * eps
    return {"prior": prior, "diffusion": diffusion, "decoder": log_decoder(model, z, x, labels)}


def log_decoder(model: Diffusion, z: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """log p(x_0 given x_1) `(R,)` float64, nats, of `z` given `x`, both `(R, D)`."""
    if isinstance(model.decoder, LevelsDecoder):
        return model.decoder.log_prob(z, x / float(model.chain.signal[0])).double().sum(1)
    mean, log_variance = model._denoised(x, 0, labels)
    square = (z - mean).double().square() * (-log_variance).exp()
    return -0.5 * (square + log_variance + math.log(2 * math.pi)).sum(1)
