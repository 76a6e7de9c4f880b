"""The one scale s of Gaussian noise around a generator, fitted to validation examples by draws from cells near them.

    argmax over s of the mean over x of log of the mean over draws of N(x; G(z), s^2 I) p(z) / q(z given x)

With few draws that lies below log p(x), the further the smaller s is, so the fitted s is too large where draws are too
few. From cells near x (`genzoo_gan.cells`) little of that is left. For more latent dimensions there is
`genzoo_gan.observation`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FITTED, ANNEALED = 500, 150
"""Validation examples on which the noise is fitted, by draws from cells and by annealing."""
DRAWS = 200
"""Draws of z an example."""
ROUNDS = 3
"""Fits of s, each on draws from cells that suit the s before."""
SMALLEST, LARGEST = 0.02, 2.0
"""Values of s that are tried, in units of the data's scale; the smallest is a config's default."""
COARSE, FINE = 25, 13
"""How many: first over the whole range, then between the best one's neighbours, 3 % apart at most."""


def best_log_noise(squares: Tensor, log_ratio: Tensor, dims: int, smallest: float) -> Tensor:
    """log s `()` with the best bound.

    Args:
        squares: |x - G(z)|^2 `(K, B)` of K draws an example of `dims` dimensions.
        log_ratio: log p(z) - log q(z given x), `(K, B)`.
        smallest: s that is tried.
    """
    low, high = math.log(smallest), math.log(LARGEST)
    for tried in (COARSE, FINE):
        values = torch.linspace(low, high, tried, dtype=torch.float64, device=squares.device)
        bounds = torch.stack(
            [(log_ratio - 0.5 * squares * (-2 * log_s).exp()).logsumexp(0).mean() - dims * log_s for log_s in values]
        )
        best = int(bounds.argmax())
        low, high = float(values[max(0, best - 1)]), float(values[min(tried - 1, best + 1)])
    return values[best]
