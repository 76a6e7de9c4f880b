"""Fixed data sets drawn from the 2D densities."""

from __future__ import annotations

from functools import partial

from genzoo.data.splits import TensorSplit, fingerprints
from genzoo.data.toy.catalogue import DENSITIES
from genzoo.errors import ConfigError, UnknownNameError
from genzoo.spec import DataProtocol, Dataset, DataSpec

POINTS = 100_000
LABELLED = ("moons", "8gaussians", "2spirals", "rings", "circles", "four_circles")
"""Densities that are mixtures of a few parts, each with a density of its own."""


def load(name: str, *, points: int = POINTS, labels: bool = False) -> Dataset:
    """Independent draws: `points` to train (seed 0), a tenth of that to validate (seed 1), 100,000 to test (seed 2).

    Args:
        name: a key of `DENSITIES`.
        points: training points, at least 10. The test set does not depend on it.
        labels: the same points with the part that each comes from, for p(x given y); for densities that have parts.

    Raises:
        UnknownNameError: for another name.
        ConfigError: for fewer than 10 points.
    """
    if name not in DENSITIES:
        raise UnknownNameError("2D data set", name, DENSITIES)
    if points < 10:
        raise ConfigError(f"expected points to be at least 10; got {points}")
    density = DENSITIES[name]
    sizes = (points, points // 10, POINTS)
    if labels and name not in LABELLED:
        raise ConfigError(f"{name} has no labels; these have: {', '.join(LABELLED)}")
    drawn = (density.sample_labelled(n, k) if labels else (density.sample(n, k), None) for k, n in enumerate(sizes))
    train, valid, test = (TensorSplit(x, y) for x, y in drawn)
    options = ([f"points={points}"] if points != POINTS else []) + (["labels=true"] if labels else [])
    protocol = DataProtocol(
        dataset=f"{name}[{','.join(options)}]" if options else name,
        data_hash=fingerprints(train, valid),
        test_hash=test.fingerprint,
        split=f"{'/'.join(map(str, sizes))} i.i.d. by seeds 0, 1, 2",
        target="p(x given y)" if labels else "p(x)",
    )
    labelled = density.labelled if labels else None
    return Dataset(
        name=f"{name}[labels=true]" if labels else name,
        spec=DataSpec((2,), classes=None if labelled is None else len(labelled.log_prior)),
        protocol=protocol,
        train=train,
        valid=valid,
        test=test,
        truth=density,
        labelled=labelled,
    )


load_moons = partial(load, "moons")
load_eight_gaussians = partial(load, "8gaussians")
load_two_spirals = partial(load, "2spirals")
load_checkerboard = partial(load, "checkerboard")
load_rings = partial(load, "rings")
load_circles = partial(load, "circles")
load_pinwheel = partial(load, "pinwheel")
load_swissroll = partial(load, "swissroll")
load_four_circles = partial(load, "four_circles")
load_diamond = partial(load, "diamond")
