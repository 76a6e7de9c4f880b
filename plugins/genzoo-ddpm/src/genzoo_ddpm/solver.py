"""Ordinary differential equations of many rows at once, each row with a step size of its own.

Dormand & Prince's pair of orders 5 and 4 (1980), the higher order kept, its last slope the next step's first. A row's
step is accepted where the pair differ by less than the tolerance, and scaled by its difference to the power -1/5. Rows
do not know of each other, so that an answer does not depend on its batch; states and sums are float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genzoo.errors import NumericsError

NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
SLOPES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERRORS = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""Weights of the difference between the two orders."""

FIRST_STEP = 1e-3
"""Of the whole way; a smooth row is at its own step size four steps later."""

LEAST, MOST, SAFETY = 0.2, 10.0, 0.9
"""Most that a step size shrinks and grows at once, and its margin (Hairer et al. 1993, II.4)."""

MOST_STEPS = 20_000
"""Attempts of a row."""

Field = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(state `(R, S)`, time `(R,)`, which rows `(R,)` int64) to its derivative `(R, S)`; all float64."""

Size = Callable[[Tensor, Tensor], Tensor]
"""(difference `(R, S)`, state `(R, S)`) to its size `(R,)`, in units in which the tolerance is meant."""


def integrate(field: Field, state: Tensor, start: float, end: float, tolerance: float, size: Size) -> Tensor:
    """State `(R, S)` float64 at time `end`, from `state` at `start`.

    Raises:
        NumericsError: a derivative that is not finite, or a row that takes more than MOST_STEPS.
    """
    done = state.to(torch.float64).clone()
    rows = torch.arange(len(done), device=done.device)
    way, state = end - start, done
    time = torch.full((len(done),), start, dtype=torch.float64, device=done.device)
    step = torch.full_like(time, FIRST_STEP * way)
    slope = field(state, time, rows)
    for _ in range(MOST_STEPS):
        if not len(rows):
            return done
        last = (time + step - end) * way >= 0
        h = torch.where(last, end - time, step)[:, None]
        slopes = [slope]
        for node, weights in zip(NODES[1:], SLOPES[1:], strict=True):
            moved = state + h * _weighted(weights, slopes)
            slopes.append(field(moved, time + node * h[:, 0], rows))
        # the last node's state is the answer of order 5
        error = size(h * _weighted(ERRORS, slopes), state) / tolerance
        if not bool(error.isfinite().all()):
            at = float(time[~error.isfinite()][0])
            raise NumericsError(f"the ODE has a derivative that is not finite near t = {at:.6g}; expected numbers")
        good = error <= 1
        state, slope = (torch.where(good[:, None], new, old) for new, old in ((moved, state), (slopes[-1], slope)))
        time = torch.where(good, time + h[:, 0], time)
        step = h[:, 0] * (SAFETY * error.clamp(min=1e-12) ** -0.2).clamp(LEAST, MOST)
        ended = good & last
        if bool(ended.any()):
            done[rows[ended]] = state[ended]
            rows, state, slope, time, step = (part[~ended] for part in (rows, state, slope, time, step))
    raise NumericsError(
        f"{len(rows)} rows of the ODE took more than {MOST_STEPS} steps of tolerance {tolerance:g}; the first stands "
        f"at t = {float(time[0]):.6g} on its way from {start:.6g} to {end:.6g}"
    )


def _weighted(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """sum_i weights_i slopes_i."""
    return torch.stack([w * k for w, k in zip(weights, slopes, strict=True) if w]).sum(0)
