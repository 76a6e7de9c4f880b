"""The straight way between the codes of examples, for a report."""

from __future__ import annotations

import torch
from torch import Tensor

FRAMES = 8


def shares() -> Tensor:
    """How much of the way lies behind each frame: `(FRAMES,)` from 0 to 1."""
    return torch.linspace(0, 1, FRAMES)


def way_to_next(codes: Tensor) -> Tensor:
    """`(FRAMES, n, ...)`: from each of the codes `(n, ...)` to the one after it, from the last to the first; the ends
    are the codes themselves, bit for bit."""
    share = shares().to(codes).view(-1, *[1] * codes.ndim)
    return torch.lerp(codes[None], codes.roll(-1, 0)[None], share)
