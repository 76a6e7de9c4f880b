"""Ten distributions over the plane with exact densities and entropies, and the data sets drawn from them."""

from genzoo.data.toy.catalogue import DENSITIES
from genzoo.data.toy.loading import (
    load,
    load_checkerboard,
    load_circles,
    load_diamond,
    load_eight_gaussians,
    load_four_circles,
    load_moons,
    load_pinwheel,
    load_rings,
    load_swissroll,
    load_two_spirals,
)
from genzoo.data.toy.plane import PlaneDensity

__all__ = [
    "DENSITIES",
    "PlaneDensity",
    "load",
    "load_checkerboard",
    "load_circles",
    "load_diamond",
    "load_eight_gaussians",
    "load_four_circles",
    "load_moons",
    "load_pinwheel",
    "load_rings",
    "load_swissroll",
    "load_two_spirals",
]
