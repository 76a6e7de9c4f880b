"""genzoo: a zoo of generative models that says which is better, by how much, and whether the number can be trusted.

    >>> import genzoo
    >>> data = genzoo.load_dataset("moons")
    >>> model = genzoo.build_model("gaussian", data.spec)
    >>> curve = genzoo.fit(model, data, budget="1steps")
    >>> genzoo.evaluate(model, data).kind
    'exact'

Everything here is imported when it is first used, so that `import genzoo` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genzoo.api import build_model, evaluate, fit, load, load_dataset
    from genzoo.hookspecs import hookimpl
    from genzoo.interface import (
        ConditionalSampler,
        Estimator,
        GenerativeModel,
        GradientModel,
        LatentVariableModel,
        Learner,
    )
    from genzoo.latent import LatentJoint
    from genzoo.likelihood import LogLikelihood
    from genzoo.spec import Dataset, DataSpec

_HOMES = {
    "build_model": "genzoo.api",
    "evaluate": "genzoo.api",
    "fit": "genzoo.api",
    "load": "genzoo.api",
    "load_dataset": "genzoo.api",
    "hookimpl": "genzoo.hookspecs",
    "ConditionalSampler": "genzoo.interface",
    "Estimator": "genzoo.interface",
    "GenerativeModel": "genzoo.interface",
    "GradientModel": "genzoo.interface",
    "LatentJoint": "genzoo.latent",
    "LatentVariableModel": "genzoo.interface",
    "Learner": "genzoo.interface",
    "LogLikelihood": "genzoo.likelihood",
    "DataSpec": "genzoo.spec",
    "Dataset": "genzoo.spec",
}

__all__ = [
    "ConditionalSampler",
    "DataSpec",
    "Dataset",
    "Estimator",
    "GenerativeModel",
    "GradientModel",
    "LatentJoint",
    "LatentVariableModel",
    "Learner",
    "LogLikelihood",
    "build_model",
    "evaluate",
    "fit",
    "hookimpl",
    "load",
    "load_dataset",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'genzoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
