"""Quadrature rules on a line and on the plane, as (nodes, weights) in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

Rule = tuple[Tensor, Tensor]


def midpoint(low: float, high: float, step: float) -> Rule:
    """Midpoints of equal cells of at most `step`: spectrally accurate for smooth functions that vanish at the ends."""
    cells = math.ceil((high - low) / step)
    width = (high - low) / cells
    nodes = low + width * (torch.arange(cells, dtype=torch.float64) + 0.5)
    return nodes, torch.full_like(nodes, width)


def gauss_panels(edges: Tensor, order: int) -> Rule:
    """Gauss-Legendre of `order` on each panel between successive `edges (P+1,)`: no node lies on an edge."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(order))
    half = edges.diff()[:, None] / 2
    return ((edges[:-1, None] + half) + half * nodes).flatten(), (half * weights).flatten()


def product(first: Rule, second: Rule) -> Rule:
    """Tensor product of two rules on the line: nodes `(M, 2)`, weights `(M,)`."""
    nodes = torch.cartesian_prod(first[0], second[0])
    return nodes, torch.outer(first[1], second[1]).flatten()
