"""Ways to evaluate one trained diffusion; each says in its name what decides its number.

vlb         the model's own bound, from drawn steps; of the chain that `sample` runs
full        the same, summed over all T
weights     importance-weighted whole paths of that chain (paths.py)
stratified  the mean of vlb over the examples from few draws each (stratified.py)
vlb_n       the bound of a chain of n of the T steps with the same network: of another model
continuous  the bound of the chain with infinitely many steps: of another model
ode         the likelihood of the probability-flow ODE: of another model, an estimate (ode.py)
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genzoo.errors import InputError
from genzoo.interface import Estimator
from genzoo.likelihood import LogLikelihood
from genzoo.seeding import evaluating, seeded
from genzoo.spec import Split
from genzoo_ddpm.bound import drawn_bound, full_bound, pilot
from genzoo_ddpm.ode import flow_likelihood, flow_name
from genzoo_ddpm.paths import Path, gaussian_path, path_weights
from genzoo_ddpm.schedules import Chain, Subsequence
from genzoo_ddpm.stepwise import StepModel
from genzoo_ddpm.stratified import StratifiedBound
from genzoo_ddpm.terms import ContinuousTerms, StepTerms, Terms
from genzoo_ddpm.variances import VARIANCES

if TYPE_CHECKING:
    from genzoo_ddpm.denoising import Denoising
    from genzoo_ddpm.diffusion import Diffusion

FEWER_STEPS = (10, 25, 50, 100)
"""Lengths of the shorter chains whose bounds are estimators."""

EFFORT: dict[str, tuple[tuple[int, int | None], tuple[int, int | None]]] = {
    "full": ((1, 1000), (1, 100)),
    "weights": ((16, 1000), (4, 32)),
    "drawn": ((32, None), (4, 1000)),
    "ode": ((1, 1000), (1, 16)),
    "flow": ((1, None), (1, 64)),
}
"""Draws an example and points (None: all) that suit each, of vectors and of images: about half a minute of one core."""


class ModelBound(Estimator):
    """The model's default estimate, whose allocation is part of the model."""

    def __init__(self, model: StepModel, name: str) -> None:
        self.model = model
        self.name = name
        self.calls = 2

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """See GenerativeModel.log_likelihood."""
        return self.model.log_likelihood(x, num_samples, seed, condition)


class DiffusionEstimator(Estimator):
    """An estimate about encoded data, made by a leaf under the model's seed, mode and checks.

    Args:
        model: what it is of.
        name: of the estimate, with what decides it.
        calls: network evaluations of one example for one draw, where their number is fixed.
        effort: which of EFFORT suits it.
        another: whether it is of another model than the one that `sample` draws from.
    """

    def __init__(self, model: StepModel, name: str, calls: int | None, effort: str, another: bool = False) -> None:
        images = model.network.rows < 1000
        self.model = model
        self.name = name
        self.calls = calls
        self.another = another
        self.batch_size = model.network.rows if images else 1000
        self.suggested_samples, self.suggested_points = EFFORT[effort][images]

    @abstractmethod
    def _answer(self, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
        """Of encoded data `(B, D)` with one-hot `labels (B, classes)`."""

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """See GenerativeModel.log_likelihood."""
        model = self.model
        model._check(x, condition)
        if num_samples < 1:
            raise InputError(f"expected num_samples >= 1; got {num_samples}")
        with torch.no_grad(), evaluating(model), seeded(seed, model.device):
            return self._answer(*model._encoded(x, condition), num_samples)


class FullBound(DiffusionEstimator):
    """The sum over all T; `num_samples` draws cost T times as many network calls."""

    def __init__(self, terms: Terms, name: str) -> None:
        super().__init__(terms.model, name, terms.count - terms.first, "full")
        self.terms = terms

    def _answer(self, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
        self.model._need_noise()
        return full_bound(self.terms, z, labels, num_samples)


class DrawnBound(DiffusionEstimator):
    """The sum of `terms` from drawn indices, with an allocation of its own, fitted to validation data."""

    def __init__(self, terms: Terms, name: str) -> None:
        super().__init__(terms.model, name, 2, "drawn", another=True)
        self.terms = terms
        self.allocation = terms.allocation()

    def start(self, valid: Split, seed: int) -> None:
        """Fit the allocation in a pilot; unfitted, it is uniform: as unbiased, and noisier."""
        model = self.model
        with torch.no_grad(), evaluating(model), seeded(seed, model.device):
            self.allocation = pilot(self.terms, valid)

    def _answer(self, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
        self.model._need_noise()
        return drawn_bound(self.terms, self.allocation, z, labels, num_samples)


class PathWeights(DiffusionEstimator):
    """Importance weights of `num_samples` whole paths, T network calls each."""

    def __init__(self, model: StepModel, path: Path, name: str, calls: int) -> None:
        super().__init__(model, name, calls, "weights")
        self.path = path

    def _answer(self, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
        self.model._need_noise()
        return path_weights(self.path, self.model.network.rows, z, labels, num_samples)


class FlowLikelihood(DiffusionEstimator):
    """The model's flow; `num_samples` probes of its divergence where it is not exact."""

    def __init__(self, model: Denoising, name: str, effort: str, another: bool = False) -> None:
        super().__init__(model, name, None, effort, another)
        self.denoising = model

    def _answer(self, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
        return flow_likelihood(self.denoising, z, labels, num_samples)


def estimators_of(model: Diffusion) -> Mapping[str, Callable[[], Estimator]]:
    """By name; see the module's head."""
    c, count = model.options, len(model.chain) - model.first
    fitted = c.decoder_variance is None and model.decoder.uses_network
    decoder = "fitted" if fitted else f"{float(model.decoder.log_variance.exp()):.3g}"
    ends = f"decoder={decoder},schedule={c.schedule}"
    choice = f"variance={c.variance},{ends},steps={c.steps}"
    flow = flow_name(model, "data with the noise of t=1")

    def shorter(steps: int) -> Callable[[], Estimator]:
        name = f"vlb_{steps}[another model: steps={steps} of {c.steps},variance={c.variance},{ends}]"
        return lambda: DrawnBound(StepTerms(thinned(model, steps)), name)

    return {
        "vlb": lambda: ModelBound(model, f"vlb[{choice}]"),
        "full": lambda: FullBound(StepTerms(model), f"full[{choice}]"),
        "weights": lambda: PathWeights(model, partial(gaussian_path, model), f"weights[{choice}]", count),
        "stratified": lambda: StratifiedBound(StepTerms(model), f"stratified[{choice}]"),
        **{f"vlb_{steps}": shorter(steps) for steps in FEWER_STEPS if steps < c.steps},
        "continuous": lambda: DrawnBound(ContinuousTerms(model), f"continuous[another model: steps=infinite,{ends}]"),
        "ode": lambda: FlowLikelihood(model, f"ode[another model: {flow}]", "ode", another=True),
    }


def thinned(model: Diffusion, steps: int) -> Diffusion:
    """The chain of `steps` of the model's steps, both ends among them, with the same network, prior and decoder.

    A reverse variance that is fitted speaks of the denoiser's error at a log-SNR, so that it stays the optimum.
    """
    index = torch.linspace(0, len(model.chain) - 1, steps, dtype=torch.float64).round().to(torch.int64)
    shorter = copy.deepcopy(model)
    device = model.device
    shorter.chain = Chain(Subsequence(steps, tuple(model.chain.log_snr[index].tolist())), model.eta)
    shorter.variance = VARIANCES[model.options.variance](shorter.chain, 0.0).to(device)
    shorter.chain.to(device)
    shorter.variance.load_state_dict({name: table[index] for name, table in model.variance.state_dict().items()})
    shorter.allocation = StepTerms(shorter).allocation()
    return shorter
