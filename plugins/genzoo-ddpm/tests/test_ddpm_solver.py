"""The solver of ordinary differential equations: closed forms, its order, and rows that do not know of each other."""

from __future__ import annotations

import math

import pytest
import torch
from genzoo_ddpm.solver import integrate
from torch import Tensor

from genzoo.errors import NumericsError

RATES = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)


def largest(difference: Tensor, state: Tensor) -> Tensor:
    return difference.abs().amax(1)


def turning(state: Tensor, time: Tensor, rows: Tensor) -> Tensor:
    """x' = (1 + t) r J x: a turn by r (t + t^2 / 2)."""
    x, y = state.unbind(1)
    return ((1 + time) * RATES[rows])[:, None] * torch.stack([-y, x], 1)


def turned(start: float, end: float) -> Tensor:
    angle = RATES * (end + end**2 / 2 - start - start**2 / 2)
    return torch.stack([angle.cos(), angle.sin()], 1)


EAST = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(3, 2)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, -0.5)])
def test_turns_in_closed_form_there_and_back(start: float, end: float) -> None:
    """Within 100 tolerances at three of them, and no nearer than one of the loosest: it takes no more than it must."""
    errors = []
    for tolerance in (1e-4, 1e-6, 1e-8):
        there = integrate(turning, EAST, start, end, tolerance, largest)
        errors.append(float((there - turned(start, end)).abs().max()))
        assert errors[-1] < 100 * tolerance
        back = integrate(turning, there, end, start, tolerance, largest)
        assert float((back - EAST).abs().max()) < 200 * tolerance
    assert errors[0] > 1e-6


def test_a_row_takes_the_steps_that_it_takes_alone() -> None:
    """Bit for bit, and the stiffest costs the others nothing: each row's derivatives are counted."""
    calls = torch.zeros(3, dtype=torch.int64)

    def counted(state: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        calls.index_add_(0, rows, torch.ones_like(rows))
        return turning(state, time, rows)

    together = integrate(counted, EAST, 0.0, 1.0, 1e-6, largest)
    assert calls.tolist() == sorted(calls.tolist())
    assert int(calls[2]) > 5 * int(calls[0])
    for i in range(3):
        alone = integrate(lambda x, t, rows, i=i: turning(x, t, rows + i), EAST[i : i + 1], 0.0, 1.0, 1e-6, largest)
        assert torch.equal(alone[0], together[i])


def test_the_order_is_five() -> None:
    """Calls grow as tolerance^(-1/5): 4 orders of magnitude for a factor of 6.3."""
    calls = 0

    def counted(state: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return turning(state, time, rows + 2)

    counts = []
    for tolerance in (1e-5, 1e-9):
        calls = 0
        integrate(counted, EAST[:1], 0.0, 1.0, tolerance, largest)
        counts.append(calls)
    assert math.log(counts[1] / counts[0]) == pytest.approx(math.log(1e4) / 5, rel=0.15)


def test_what_cannot_be_solved_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NumericsError, match="derivative that is not finite near t = 0"):
        integrate(lambda x, t, rows: x / t[:, None] * math.inf, EAST, 0.0, 1.0, 1e-6, largest)
    monkeypatch.setattr("genzoo_ddpm.solver.MOST_STEPS", 50)
    with pytest.raises(NumericsError, match="1 rows of the ODE took more than 50 steps of tolerance 1e-08"):
        integrate(turning, EAST, 0.0, 1.0, 1e-8, largest)
    assert integrate(turning, EAST[:0], 0.0, 1.0, 1e-8, largest).shape == (0, 2)
