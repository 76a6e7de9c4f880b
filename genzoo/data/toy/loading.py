"""Fixed data sets drawn from the 2D densities."""

from __future__ import annotations

from functools import partial

from genzoo.data.splits import TensorSplit, fingerprints
from genzoo.data.toy.catalogue import DENSITIES
from genzoo.errors import ConfigError, UnknownNameError
from genzoo.spec import DataProtocol, Dataset, DataSpec

POINTS = 100_000


def load(name: str, *, points: int = POINTS) -> Dataset:
    """Independent draws: `points` to train (seed 0), a tenth of that to validate (seed 1), 100,000 to test (seed 2).

    Args:
        name: a key of `DENSITIES`.
        points: training points, at least 10. The test set does not depend on it.

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
    train, valid, test = (TensorSplit(density.sample(n, seed)) for seed, n in enumerate(sizes))
    protocol = DataProtocol(
        dataset=name if points == POINTS else f"{name}[points={points}]",
        data_hash=fingerprints(train, valid),
        test_hash=test.fingerprint,
        split=f"{'/'.join(map(str, sizes))} i.i.d. by seeds 0, 1, 2",
    )
    return Dataset(
        name=name, spec=DataSpec((2,)), protocol=protocol, train=train, valid=valid, test=test, truth=density
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
