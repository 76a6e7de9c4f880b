"""Fields outside the plane: trained by persistent chains, scored and drawn from by annealing, or summed over.

    log f(x) = g(x) + log p_0(x)            f_b = p_0^(1 - b) f^b,  0 = b_0 < ... < b_T = 1

What `log_likelihood` and `sample` speak of is the law of the annealed sampler's last state: RAISE's lower bound for it,
kind `weights`, is that of `genzoo.ais`. Both ends of the field itself are the estimator `bracket`. Its lower end rests
on reverse chains, which begin at the annealed sampler's draws after BURN_IN more moves: indicative. Codes of few states
are summed over, and then everything is exact, the bracket certified.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from genzoo.ais import Path, annealed_log_weights, energy_bracket, forward, linear, reverse
from genzoo.config import TrainSettings
from genzoo.interface import Estimator, GenerativeModel, ModelEstimator
from genzoo.likelihood import LogLikelihood
from genzoo.nn import condition_features
from genzoo.seeding import evaluating, seeded
from genzoo.spec import DataSpec, Split
from genzoo_energy.field import EBMConfig, Field
from genzoo_energy.spaces import Codes, Reals, Space
from genzoo_energy.tilts import tilt_for

MARGINALS = 20_000
"""Examples behind p_0."""
NUMBERS = 1 << 20
"""Of all chains held at once, one for each level of a dimension."""
BATCH = 20
"""Examples scored between two looks at the clock."""
VALIDATED, LARGE, FEW = 25, 256, 100
"""Few examples suit a bound that costs a chain of network gradients each: VALIDATED of a validation, and above LARGE
dimensions FEW of a test."""
BURN_IN = 100
MOVES, CHAINS = 5, 500


class AnnealedField(Field):
    """See the module."""

    log_z: Tensor
    chains: Tensor

    def __init__(self, spec: DataSpec, config: EBMConfig) -> None:
        super().__init__(spec, config)
        image = len(spec.event_shape) == 3
        blocks, width = (1, 16) if image else (3, 128)
        self.network = tilt_for(spec, config.width or width, config.blocks or blocks)
        self.space: Space = Reals(spec, config.langevin_size) if spec.levels is None else Codes(spec, config.changes)
        states = math.inf if spec.levels is None else float(spec.levels) ** spec.dims
        self.exact = states <= config.enumerated
        self.register_buffer("log_z", torch.zeros(spec.classes or 1, dtype=torch.float64))
        dtype = torch.float32 if spec.levels is None else torch.int64
        count = (config.chains or CHAINS) * (spec.classes or 1)
        self.register_buffer("chains", torch.zeros(count, spec.dims, dtype=dtype))

    def default_training(self) -> TrainSettings:
        """Small batches, each of whose examples takes a chain some moves on; momentum would outrun the chains."""
        return TrainSettings(learning_rate=1e-3, batch_size=32, betas=(0.5, 0.95))

    # the field

    def tilt(self, states: Tensor, condition: Tensor | None) -> Tensor:
        """g `(R,)` at states `(R, D)`, codes or one-hot codes `(R, D, L)`."""
        x = self.space.inputs(states)
        return self.network(x, condition_features(self.spec, condition, len(x), x))  # type: ignore[no-any-return]

    def path(self, condition: Tensor | None, examples: int) -> Path[Any]:
        """From p_0 to the field of each example's label; its mass is Z."""

        def tilt(z: Tensor) -> Tensor:
            label = None if condition is None else condition.repeat(len(z))
            return self.tilt(z.flatten(0, 1), label).view(z.shape[:2])

        return self.space.path(tilt, examples)

    # training

    def initialise(self, train: Split) -> None:
        """p_0 by the data's marginals; chains begin at p_0."""
        rows = torch.randperm(len(train))[:MARGINALS]
        self.space.initialise(train.batch(rows, torch.Generator().manual_seed(0)).x.to(self.log_z.device))
        self.chains.copy_(self.path(self._first_label(), 1).draw(len(self.chains)).z[:, 0])

    def loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        """g(chain) - g(x); every class has chains of its own."""
        classes = self.spec.classes or 1
        at = torch.randint(len(self.chains) // classes, (len(x),), device=x.device) * classes
        at = at if condition is None else at + condition
        moves = self.config.langevin_steps or MOVES
        ghosts = self.space.walk(self.path(condition, len(x)), self.chains[at][None], moves)[0]
        if self.training:
            self.chains[at] = ghosts
        return self.tilt(ghosts, condition) - self.tilt(self.space.states(x), condition)

    def calibrate(self, train: Split, valid: Split) -> None:
        """Z where it can be summed; else the sizes of the annealed sampler's moves."""
        if self.exact:
            for k in range(len(self.log_z)):
                self.log_z[k] = self._table(k)[1].logsumexp(0)
            return
        self.space.tune(self.path(self._first_label(), 1), self._betas())

    def _first_label(self) -> Tensor | None:
        """For what is the same, or good enough, for all labels: p_0, and the sizes of moves."""
        return None if self.spec.classes is None else torch.zeros(1, dtype=torch.int64, device=self.log_z.device)

    # the likelihood

    def _betas(self) -> list[float]:
        return linear(self.config.distributions)

    def _table(self, label: int) -> tuple[Tensor, Tensor]:
        """Every state `(S, D)`, and log f of each `(S,)` float64."""
        levels = self.spec.levels or 2
        places = levels ** torch.arange(self.spec.dims, device=self.log_z.device)
        states = torch.arange(levels**self.spec.dims, device=places.device)[:, None] // places % levels
        labels = None if self.spec.classes is None else torch.full((len(states),), label, device=places.device)
        return states, self.path(labels, len(states)).at(states[None]).log_prob(1.0)[0]

    def log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        """Exact, or RAISE's bound by `num_samples` chains."""
        states, parts, held = self.space.states(x), [], self._held()
        rows = max(1, held // (1 if self.exact else num_samples))
        for at in range(0, len(states), rows):
            some = states[at : at + rows]
            label = None if condition is None else condition[at : at + rows]
            path = self.path(label, len(some))
            if self.exact:
                log_z = self.log_z[0].expand(len(some)) if label is None else self.log_z[label]
                parts.append(LogLikelihood.exact(path.at(some[None]).log_prob(1.0)[0] - log_z))
            else:
                move, together = self.space.transition(path), max(1, held // len(some))
                log_w = annealed_log_weights(path, move, self._betas(), some, num_samples, together)
                parts.append(LogLikelihood.weights(log_w))
        return LogLikelihood.concat(parts)

    def sample(self, n: int, condition: Tensor | None) -> Tensor:
        """From the table of all states, or by the annealed sampler."""
        if not self.exact:
            return self.space.data(torch.cat([self._anneal(*part)[1] for part in self._parts(n, condition)]))
        drawn = torch.empty(n, self.spec.dims, dtype=torch.int64, device=self.log_z.device)
        labels = torch.zeros(n, dtype=torch.int64, device=drawn.device) if condition is None else condition
        for k in torch.unique(labels).tolist():  # type: ignore[no-untyped-call]
            rows = labels == k
            states, log_f = self._table(k)
            drawn[rows] = states[torch.multinomial(log_f.softmax(0), int(rows.sum()), replacement=True)]
        return self.space.data(drawn)

    def _held(self) -> int:
        """Chains that are run together."""
        return max(1, NUMBERS // ((self.spec.levels or 1) * self.spec.dims))

    def _parts(self, n: int, condition: Tensor | None) -> Iterator[tuple[int, Tensor | None]]:
        rows = self._held()
        for at in range(0, n, rows):
            yield min(rows, n - at), None if condition is None else condition[at : at + rows]

    def _anneal(self, n: int, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """n runs of the annealed sampler: log weights `(n,)` of mean exponential Z, and ends `(n, D)`."""
        path = self.path(condition, n)
        log_w, ends = forward(path, self.space.transition(path), self._betas(), 1)
        return log_w[0], ends[0]

    def estimators(self, model: GenerativeModel) -> Mapping[str, Callable[[], Estimator]]:
        """`exact`, or `raise[distributions=T]`, which is about the annealed sampler; and `bracket`, of the field."""

        def first() -> Estimator:
            if self.exact:
                return ModelEstimator("exact", model)
            estimator = ModelEstimator(f"raise[distributions={self.config.distributions}]", model)
            estimator.batch_size = BATCH
            estimator.validated, estimator.suggested_points = VALIDATED, FEW if self.spec.dims > LARGE else None
            return estimator

        found: dict[str, Callable[[], Estimator]] = {"exact" if self.exact else "raise": first}
        if self.spec.classes is None:
            found["bracket"] = lambda: FieldBracket(model, self)
        return found


class FieldBracket(Estimator):
    """Both ends of log p(x) of the field itself. `num_samples` is the chains of each direction.

    Args:
        model: whose field it is, without labels. distributions: of either direction.
    """

    suggested_samples = 100

    def __init__(self, model: GenerativeModel, field: AnnealedField, distributions: int = 1000) -> None:
        self.model = model
        self.field = field
        self.betas = linear(distributions)
        self.name = f"bracket[distributions={distributions}]"

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """See GenerativeModel.log_likelihood."""
        model, field = self.model, self.field
        model._check(x, condition)
        with torch.no_grad(), evaluating(model), seeded(seed, model.device):
            path = field.path(None, 1)
            move = field.space.transition(path)
            log_w, ends = forward(path, move, self.betas, num_samples)
            if field.exact:
                states, log_f = field._table(0)
                ends = states[torch.multinomial(log_f.softmax(0), num_samples, replacement=True)][:, None]
            else:
                point = path.at(ends)
                for _ in range(BURN_IN):
                    point = move(point, 1.0)
                ends = point.z
            back = reverse(path, move, self.betas, ends)
            states = field.space.states(x)
            log_f = field.path(None, len(states)).at(states[None]).log_prob(1.0)[0]
            return energy_bracket(log_f, log_w, back, field.exact)
