"""The map of log p - log q: where a model puts too little mass, and where too much."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genzoo.report.figures import Image, image

REACH = 1.0
"""Nats at the ends of the colour scale."""
SEEN = 0.01
"""Share of the truth's largest density below which, in both, a place is left empty: there the ratio says nothing."""
SHADES = 64
"""Few, so that the picture stays small."""
COLOURS = np.array([(30, 84, 160), (120, 170, 215), (245, 245, 242), (235, 150, 110), (170, 40, 34)], dtype=np.float64)
"""Blue to red, linear between them."""


def ratio_map(truth: NDArray[Any] | None, model: NDArray[Any] | None, alt: str) -> Image | None:
    """log p - log q from the logs on one grid `(g, g)`, first axis y upwards; None where either is missing."""
    if truth is None or model is None or truth.shape != model.shape or truth.ndim != 2 or min(truth.shape) < 2:
        return None
    p, q = (np.nan_to_num(logs.astype(np.float64), nan=-np.inf) for logs in (truth, model))
    with np.errstate(invalid="ignore"):
        share = (np.clip(np.nan_to_num(p - q, posinf=REACH, neginf=-REACH), -REACH, REACH) + REACH) / (2 * REACH)
    pixels = np.empty((*p.shape, 4), np.uint8)
    pixels[..., :3] = diverging((share * SHADES).round() / SHADES)
    pixels[..., 3] = np.where(np.maximum(p, q) < p.max() + np.log(SEEN), 0, 255)
    pixels[pixels[..., 3] == 0] = 0
    return image(np.flipud(pixels), alt)


def diverging(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours `(..., 3)` of shares in [0, 1]: blue, where q > p; white; red, where q < p."""
    place = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(share, place, COLOURS[:, i]) for i in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def ratio_bar() -> Image:
    """The colour scale, low to high."""
    return image(diverging(np.linspace(0, 1, 128)[None, :]), "colour scale from more density than the truth to less")
