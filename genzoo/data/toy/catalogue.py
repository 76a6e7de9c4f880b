"""The ten 2D data sets, with the constants of their public definitions.

Each is the i.i.d. version of the usual code, which often takes equal counts of each class and equally spaced angles, so
that its points are not independent. The entropies are recomputed by quadrature in tests/test_toy.py.

- FFJORD, lib/toy_data.py (Grathwohl et al. 2019, arXiv:1810.01367): moons, 8gaussians, 2spirals, circles, pinwheel,
  swissroll; rings and checkerboard as in residual flows (Chen et al. 2019, arXiv:1906.02735).
- Neural spline flows, data/plane.py (Durkan et al. 2019, arXiv:1906.04032): four_circles, diamond (without the jitter
  of up to 1e-3 that its code draws once for the centres).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from genzoo.data.toy.laws import Checkerboard, Lattice, NoisyCurve, Points, Rings
from genzoo.data.toy.noise import BoxGaussian, Gaussian
from genzoo.data.toy.pinwheel import Pinwheel
from genzoo.data.toy.plane import PlaneDensity
from genzoo.data.toy.rules import Rule, gauss_panels, midpoint, product

Bounds = tuple[tuple[float, float], tuple[float, float]]


def _grid(bounds: Bounds, step: float) -> Rule:
    """Midpoint grid, for smooth densities. The tests hold mass and entropy at these steps to 1e-5."""
    return product(midpoint(*bounds[0], step), midpoint(*bounds[1], step))


def _square(half: float) -> Bounds:
    return (-half, half), (-half, half)


def _checkerboard_rule() -> Rule:
    # Edges of the density are edges of panels; four panels to a square follow a model that is steep at the edges.
    axis = gauss_panels(torch.linspace(-4, 4, 17, dtype=torch.float64), 16)
    return product(axis, axis)


def _diamond_rule(half: float) -> Rule:
    # A grid along the lattice, turned with it.
    axis = midpoint(-half, half, 0.0108)
    nodes, weights = product(axis, axis)
    return Lattice.turn(nodes), weights


def moons_curve(s: Tensor) -> Tensor:
    """make_moons * 2 + (-1, -0.2): two half circles of radius 2."""
    cos, sin = (math.pi * s).cos(), (math.pi * s).sin()
    return torch.stack([torch.stack([2 * cos - 1, 2 * sin - 0.2], 1), torch.stack([1 - 2 * cos, 0.8 - 2 * sin], 1)])


def spirals_curve(s: Tensor) -> Tensor:
    """Arms +-(-n cos n, n sin n)/3 with n = 3 pi s, at the centre of the box noise +-[0, 1/6]^2."""
    n = 3 * math.pi * s
    arm = torch.stack([-n * n.cos(), n * n.sin()], 1) / 3 + 1 / 12
    return torch.stack([arm, -arm])


def swissroll_curve(s: Tensor) -> Tensor:
    """make_swiss_roll[:, [0, 2]]/5: t (cos t, sin t)/5 with t = 1.5 pi (1 + 2 s)."""
    t = 1.5 * math.pi * (1 + 2 * s)
    return torch.stack([t * t.cos(), t * t.sin()], 1)[None] / 5


def _octagon() -> Tensor:
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    return 4 * torch.stack([angle.cos(), angle.sin()], 1) / 1.414


def _vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _concentric(radii: Tensor, scale: float) -> Rings:
    return Rings(torch.zeros(len(radii), 2, dtype=torch.float64), radii, scale)


def _panels(count: int, even: float) -> Tensor:
    """Edges s `(count + 1,)` at equal steps of even * s + (1 - even) * s^2.

    `even` = 1 suits a curve of constant speed; less of it makes panels of a spiral about equally long.
    """
    k = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    return 2 * k / (even + (even**2 + 4 * (1 - even) * k).sqrt())


def _smooth(law: Points | Rings | NoisyCurve | Pinwheel, entropy: float, bounds: Bounds, step: float) -> PlaneDensity:
    return PlaneDensity(law, entropy, bounds, partial(_grid, bounds, step))


_CORNERS = torch.cartesian_prod(_vector(-1, 1), _vector(-1, 1))
_LINE = torch.linspace(-2.5, 2.5, 20, dtype=torch.float64)[:, None]

# Bounds lie six deviations of the noise outside the centres (ring and arm). The panels of the curves give log p to 1e-6
# nats within the bounds; far outside, where p < 1e-300, log p is right to 1e-3 of its value.
DENSITIES: dict[str, PlaneDensity] = {
    "moons": _smooth(
        NoisyCurve(moons_curve, 1, Gaussian(0.2), _panels(3, 1.0)), 2.3938792, ((-4.2, 4.2), (-2.4, 3.0)), 0.03
    ),
    "8gaussians": _smooth(Points(_octagon(), Gaussian(0.5 / 1.414)), 2.8318804, _square(5.0), 0.04),
    "2spirals": _smooth(
        NoisyCurve(spirals_curve, 2, BoxGaussian(0.1, 1 / 12), _panels(8, 0.3)),
        2.6454503,
        ((-3.92, 3.92), (-3.45, 3.45)),
        0.025,
    ),
    "checkerboard": PlaneDensity(Checkerboard(), math.log(32), _square(4.0), _checkerboard_rule),
    "rings": _smooth(_concentric(_vector(3, 2.25, 1.5, 0.75), 0.08), 2.6231828, _square(3.5), 0.02),
    "circles": _smooth(_concentric(_vector(3, 1.5), 0.24), 3.2681357, _square(4.44), 0.03),
    "pinwheel": _smooth(Pinwheel(), 2.3177880, _square(5.2), 0.03),
    "swissroll": _smooth(
        NoisyCurve(swissroll_curve, 1, Gaussian(0.2), _panels(8, 0.5)), 2.6696462, ((-3.15, 3.75), (-3.45, 4.05)), 0.03
    ),
    "four_circles": _smooth(
        Rings(_CORNERS, torch.full((4,), 2.0, dtype=torch.float64), 0.1), 2.8708190, _square(3.6), 0.02
    ),
    "diamond": PlaneDensity(
        Lattice(Points(_LINE, Gaussian(0.04))), 2.3860830, _square(3.88), partial(_diamond_rule, 3.88 / math.sqrt(2))
    ),
}
