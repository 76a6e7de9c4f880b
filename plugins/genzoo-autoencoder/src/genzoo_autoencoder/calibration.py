"""The noise t of the head and the width L of q(z given x) (`proposal.py`), fitted to validation examples.

    argmax over t, L of E log (1/K) sum_k w_k,   z_k ~ q(z given x)

by Adam on draws of its own, with e, g and p(z) as they are. L_ii = s_i exp(a_i), L_ij = s_i exp(a_i) U_ij below, s the
standard deviations of the codes. K draws want a wider q than one draw does, which keeps the weights' tails light.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genzoo.spec import Batch

if TYPE_CHECKING:
    from genzoo_autoencoder.autoencoder import Autoencoder

STEPS, EXAMPLES, DRAWS = 120, 64, 4
"""Of Adam, and what each step looks at."""
RATE = 0.15
FIRST = 0.1
"""Width at the start, in standard deviations of the codes."""
SMALLEST = 1e-3
"""t, in units of the data's scale, and width, in standard deviations of the codes."""


def fit_noise_and_width(model: Autoencoder, batch: Batch, codes: Tensor) -> None:
    """Set the model's `log_noise` and `width`; `codes (N, d)` are those of `batch`."""
    scale = codes.std(0, correction=0).clamp(min=1e-6)
    log_noise = torch.zeros_like(model.log_noise).requires_grad_()
    log_width = torch.full_like(scale, math.log(FIRST)).requires_grad_()
    below = torch.zeros_like(model.width).requires_grad_()
    parameters = [log_noise, log_width, below]
    adam = torch.optim.Adam(parameters, betas=(0.8, 0.9))  # a short memory: the first gradients are far larger
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        rows = torch.randint(len(codes), (EXAMPLES,), device=codes.device)
        with torch.enable_grad():
            label = None if batch.y is None else batch.y[rows]
            width = _factor(scale, log_width, below)
            parts = model.log_weights_at(batch.x[rows], model.law(codes[rows], width, label), DRAWS, log_noise)
            bound = torch.stack(list(parts.values())).sum(0).logsumexp(0).mean()
            gradients = torch.autograd.grad(bound, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = -gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        adam.step()
        with torch.no_grad():
            log_noise.clamp_(min=math.log(SMALLEST))
            log_width.clamp_(min=math.log(SMALLEST))
    model.log_noise.copy_(log_noise.detach())
    model.width.copy_(_factor(scale, log_width, below).detach())


def _factor(scale: Tensor, log_width: Tensor, below: Tensor) -> Tensor:
    """L `(d, d)`."""
    eye = torch.eye(len(scale), dtype=scale.dtype, device=scale.device)
    return (scale * log_width.exp())[:, None] * (below.tril(-1) + eye)
