"""Student's t against scipy's, whose incomplete beta is another implementation; tolerance 1e-9 relative."""

from __future__ import annotations

import itertools
import math

import pytest
import scipy.stats

from genzoo import student

DEGREES = (0.5, 1, 1.7, 2, 3.3, 7, 30, 999.5, 99_999, math.inf)


@pytest.mark.parametrize(("dof", "t"), [*itertools.product(DEGREES, (0.0, 0.01, 0.7, 1.96, -2.5, 6.0, 25.0))])
def test_p_values(dof: float, t: float) -> None:
    truth = 2 * scipy.stats.t.sf(abs(t), dof)
    assert student.p_value(t, dof) == pytest.approx(truth, rel=1e-8, abs=1e-300)
    assert truth == 1 or student.p_value(1.01 * t, dof) != pytest.approx(truth, rel=1e-8, abs=1e-300)


@pytest.mark.parametrize(("dof", "level"), [*itertools.product(DEGREES, (0.5, 0.95, 0.995, 1 - 1e-6))])
def test_quantiles(dof: float, level: float) -> None:
    assert student.quantile(level, dof) == pytest.approx(scipy.stats.t.isf((1 - level) / 2, dof), rel=1e-7)


def test_far_values_do_not_overflow() -> None:
    assert student.p_value(1e200, 3) == 0.0
    assert student.p_value(math.inf, 3) == 0.0
    assert 0 < student.p_value(1e100, 2) < 1e-190
    assert student.p_value(5.0, 1e7) == pytest.approx(2 * scipy.stats.t.sf(5.0, 1e7), rel=2e-4)


def test_degrees_of_a_sum() -> None:
    assert student.degrees([(2.0, 4.0)]) == 4.0
    assert student.degrees([(1.0, 5.0), (1.0, 5.0)]) == pytest.approx(10.0)
    # Welch's formula as it is printed, S_a = 3, S_b = 5
    expected = (0.7 + 0.2) ** 2 / (0.7**2 / 2 + 0.2**2 / 4)
    assert student.degrees([(0.7, 2), (0.2, 4)]) == pytest.approx(expected)
    assert student.degrees([(1.0, 3.0), (1.0, math.inf)]) == pytest.approx(12.0)
    assert student.degrees([(0.0, 1.0)]) == math.inf
    assert student.degrees([(math.inf, 1.0)]) == math.inf
    assert student.degrees([]) == math.inf
