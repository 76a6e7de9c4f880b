"""Types of a record's fields, with the limits that a record of a stranger is held to when it is read. No torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, cast

from pydantic import AfterValidator, Field

from genzoo.safe_arrays import AXES

LARGEST = 1e150
"""Of a record's numbers, so that their squares are numbers too; no density of float32 data comes near."""

DIMENSIONS = 2**31
"""Numbers in one example, at most."""

THREADS = 1024
"""Of a cell, at most: torch starts as many as it is told."""


def _folder_name(name: str) -> str:
    if name in ("", ".", "..") or any(c in "/\\" or not c.isprintable() for c in name):
        raise ValueError("expected the name of a folder, without a path")
    return name


def _shape(shape: list[int]) -> list[int]:
    if len(shape) > AXES or math.prod(shape) > DIMENSIONS:
        raise ValueError(f"expected at most {AXES} axes and {DIMENSIONS:,} numbers")
    return shape


def knows(**sorts: type) -> AfterValidator:
    """Of a dict: these keys, where they are there and not None, are of these types, and whole numbers not negative."""

    def fits(value: Any, sort: type[Any]) -> bool:
        return value is None or (type(value) is sort and (sort is not int or 0 <= cast(int, value) < 2**63))

    def check(values: dict[str, Any]) -> dict[str, Any]:
        for key, sort in sorts.items():
            if not fits(values.get(key), sort):
                form = "a whole number, not negative" if sort is int else f"a {sort.__name__}"
                raise ValueError(f"expected {key} to be {form}")
        return values

    return AfterValidator(check)


Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[int, Field(ge=1, lt=2**63)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Threads = Annotated[int, Field(ge=1, le=THREADS)]
Levels = Annotated[int, Field(ge=2, le=256)]
Classes = Annotated[int, Field(ge=1, lt=2**31)]
Shape = Annotated[list[Size], AfterValidator(_shape)]
FolderName = Annotated[str, AfterValidator(_folder_name)]
SplitName = Annotated[str, Field(pattern=r"^(test|valid)$")]
StoredConfig = Annotated[dict[str, Any], knows(adapters=dict)]
StoredTraining = Annotated[dict[str, Any], knows(total_steps=int)]
StoredEvaluation = Annotated[
    dict[str, Any], knows(estimator=str, kind=str, num_samples=int, points=int, seed=int, calls=int)
]
