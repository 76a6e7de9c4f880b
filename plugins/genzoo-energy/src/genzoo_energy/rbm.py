"""Restricted Boltzmann machine for binary data (the path of annealing: `genzoo_energy.machine`).

    p(v) = f(v) / Z,     log f(v) = b.v + sum_j log(1 + exp(c_j + v W_j))              hidden units h summed over

Where one side has at most 16 units Z is known by enumeration: `log_likelihood` is exact, and `sample` draws from that
very table. Otherwise the model that is scored, and drawn from, is the annealed sampler of Burda et al. (2015,
arXiv:1412.8566): `lower` is RAISE's bound for it, and both ends of the field itself are the estimator `bracket`, which
is indicative, since its reverse chains begin at a Markov chain's states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from genzoo.ais import annealed_log_weights, energy_bracket, forward, linear, reverse
from genzoo.config import Config, TrainSettings
from genzoo.errors import CapabilityError
from genzoo.interface import Estimator, GenerativeModel, Learner, ModelEstimator
from genzoo.likelihood import LogLikelihood
from genzoo.nn import condition_features, condition_width
from genzoo.seeding import evaluating, seeded
from genzoo.spec import DataSpec
from genzoo_energy.contrastive import ContrastiveLearner
from genzoo_energy.machine import FieldPath, Machine, gibbs

NUMBERS = 1 << 22
"""Hidden units of all chains held at once."""

BURN_IN = 1000
"""Gibbs steps from the annealed sampler's draws to the states at which reverse chains of the bracket begin."""


BATCH, VALIDATED = 100, 64
"""Examples of RAISE between two looks at the clock, and to validate a training."""


class ChainsConfig(Config):
    """How machines are trained and, where Z is out of reach, annealed."""

    distributions: int = Field(500, ge=1, description="temperatures of the annealed sampler, part of the model")
    method: Literal["cd", "pcd", "tempering"] = Field(
        "pcd",
        description="negative phase: chains from the data, persistent, or persistent at several temperatures",
    )
    steps: int = Field(1, ge=1, description="k: Gibbs sweeps of the negative phase a training step")
    chains: int = Field(100, ge=2, description="persistent chains")
    temperatures: int = Field(10, ge=2, description="of parallel tempering")


class RBMConfig(ChainsConfig):
    """Configuration of `RBM`."""

    hidden: int = Field(500, ge=1, description="hidden units; up to 16, Z is exact")


class RBM(GenerativeModel):
    """See the module. Raises CapabilityError for data that is not binary."""

    Config = RBMConfig
    config: RBMConfig
    base: Tensor

    def __init__(self, spec: DataSpec, config: RBMConfig | None = None) -> None:
        super().__init__(spec, config)
        if spec.levels != 2:
            raise CapabilityError(f"rbm takes binary data; got {spec.describe()}")
        hidden, classes = self.config.hidden, condition_width(spec)
        self.weights = nn.Parameter(0.01 * torch.randn(spec.dims, hidden))
        self.visible = nn.Parameter(torch.zeros(spec.dims))
        self.hidden = nn.Parameter(torch.zeros(hidden))
        self.of_class = nn.Parameter(torch.zeros(classes, spec.dims + hidden)) if classes else None
        self.register_buffer("base", torch.zeros(spec.dims))

    def machine(self, condition: Tensor | None, n: int) -> Machine:
        """The machine of each of n examples, or one for all without labels."""
        if self.of_class is None:
            return Machine(self.weights, self.visible[None], self.hidden[None], self.base)
        shift = condition_features(self.spec, condition, n, self.of_class) @ self.of_class
        visible, hidden = shift[:, : self.spec.dims], shift[:, self.spec.dims :]
        return Machine(self.weights, self.visible + visible, self.hidden + hidden, self.base)

    @property
    def exact(self) -> bool:
        """Whether Z is summed over."""
        return min(self.weights.shape) <= 16

    def turn(self, below: RBM) -> None:
        """Become `below` turned over, its hidden units as the visible ones of this: W transposed, b and c exchanged.
        Both have the same law of these units, but for what small random weights hidden units beyond keep. Where there
        are too few, nothing changes."""
        pixels, units = below.spec.dims, self.spec.dims
        if len(self.hidden) < pixels:
            return
        self.weights[:, :pixels] = below.weights.T
        self.visible.copy_(below.hidden)
        self.hidden[:pixels] = below.visible
        if self.of_class is not None and below.of_class is not None:
            self.of_class[:, :units] = below.of_class[:, pixels:]
            self.of_class[:, units : units + pixels] = below.of_class[:, :pixels]

    def _flat(self, x: Tensor) -> Tensor:
        return x.flatten(1).to(self.weights.dtype)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        v = self._flat(x)
        machine = self.machine(condition, len(v))
        if self.exact:
            if self.spec.classes is None:
                log_z = machine.log_z()
            else:
                every = torch.arange(self.spec.classes, device=v.device)
                log_z = self.machine(every, self.spec.classes).log_z()[condition]
            return LogLikelihood.exact(machine.log_f(v) - log_z)
        betas = linear(self.config.distributions)
        rows = max(1, NUMBERS // (len(self.hidden) * num_samples))
        parts = []
        for at in range(0, len(v), rows):
            some = v[at : at + rows]
            path = FieldPath(
                self.machine(None if condition is None else condition[at : at + rows], len(some)), len(some)
            )
            parts.append(LogLikelihood.weights(annealed_log_weights(path, gibbs, betas, some, num_samples)))
        return LogLikelihood.concat(parts)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        if not self.exact:
            return self._shaped(self.annealed(n, condition)[1])
        if condition is None:
            return self._shaped(self.machine(None, 1).sample(n))
        v = self.weights.new_empty(n, self.spec.dims)
        for k in torch.unique(condition).tolist():  # type: ignore[no-untyped-call]
            rows = condition == k
            v[rows] = self.machine(condition[rows][:1], 1).sample(int(rows.sum()))
        return self._shaped(v)

    def annealed(self, n: int, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """n runs of the annealed sampler: log weights `(n,)`, of mean exponential Z / Z_0, and ends `(n, D)`."""
        log_w, v = forward(FieldPath(self.machine(condition, n), n), gibbs, linear(self.config.distributions), 1)
        return log_w[0], v[0]

    def _shaped(self, v: Tensor) -> Tensor:
        return v.view(len(v), *self.spec.event_shape).to(self.spec.dtype)

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        """The default: `exact`, or `raise[distributions=T]`, which is about the annealed sampler; and `bracket`, both
        ends of the field."""
        name = "exact" if self.exact else f"raise[distributions={self.config.distributions}]"
        found: dict[str, Callable[[], Estimator]] = {name.partition("[")[0]: lambda: by_chains(name, self)}
        if self.spec.classes is None:
            found["bracket"] = lambda: FieldBracket(self)
        return found

    def learner(self, settings: TrainSettings) -> Learner:
        """Contrastive divergence."""
        return ContrastiveLearner(self, settings)

    def default_training(self) -> TrainSettings:
        """Plain gradient steps, the rate falling to zero."""
        return TrainSettings(learning_rate=0.05, batch_size=100, ema=0.99)


def by_chains(name: str, model: GenerativeModel) -> Estimator:
    """The model's own likelihood, in parts, and on few validation examples, where each takes chains."""
    estimator = ModelEstimator(name, model)
    if name.startswith("raise"):
        estimator.batch_size, estimator.validated = BATCH, VALIDATED
    return estimator


def anneal_both_ways(model: RBM, betas: Sequence[float], chains: int) -> tuple[Tensor, Tensor]:
    """Log weights `(C, 1)` of the field without labels, forward and reverse (see `genzoo.ais`), of mass Z / Z_0.

    Reverse chains begin at exact draws where Z is enumerable, otherwise at states of a Markov chain.
    """
    path = FieldPath(model.machine(None, 1), 1)
    log_w, _ = forward(path, gibbs, betas, chains)
    if model.exact:
        start = path.machine.sample(chains)
    else:
        start = model.annealed(chains, None)[1]
        for _ in range(BURN_IN):
            start = path.machine.draw_visible(path.machine.draw_hidden(start))
    return log_w, reverse(path, gibbs, betas, start[:, None])


class FieldBracket(Estimator):
    """Both ends of log p(v) of the field itself. `num_samples` is the chains of each direction.

    Where Z is enumerable the reverse chains begin at exact draws, and the bracket is certified; otherwise at states of
    a Markov chain, and it is indicative.

    Args:
        model: without labels.
        distributions: of either direction.
    """

    suggested_samples = 100

    def __init__(self, model: RBM, distributions: int = 1000) -> None:
        self.model = model
        self.betas = linear(distributions)
        self.name = f"bracket[distributions={distributions}]"

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """See GenerativeModel.log_likelihood."""
        model = self.model
        model._check(x, condition)
        with torch.no_grad(), evaluating(model), seeded(seed, model.device):
            log_w, back = anneal_both_ways(model, self.betas, num_samples)
            machine = model.machine(None, 1)
            log_f = machine.log_f(model._flat(x)) - machine.log_base_mass()
            return energy_bracket(log_f, log_w, back, model.exact)
