"""Expectation-maximisation (Dempster et al. 1977) as a learner, on full batches or on running averages of small ones.

A step takes responsibilities r_nk = pi_k p_k(x_n) / p(x_n), averages the sufficient statistics s of its batch, and
maximises. On a full batch the likelihood never falls. On small ones (Cappe and Moulines 2009, arXiv:0712.4273) the
statistics are averaged over steps, s <- (1 - g_t) s + g_t s_t with g_t = (t + 2)^-0.7.

It starts from k-means++ (Arthur and Vassilvitskii 2007) and a few rounds of Lloyd's on a subset; of `restarts` starts
the one with the best likelihood after some rounds of EM goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genzoo.config import TrainSettings
from genzoo.interface import Learner
from genzoo.seeding import derive_seed, seeded
from genzoo.spec import Batch, Split
from genzoo_mixture.components import Statistics

if TYPE_CHECKING:
    from genzoo_mixture.models import Mixture

LLOYD, ROUNDS = 10, 10
"""Rounds of Lloyd's algorithm and of EM behind each start."""
MOST, OF_EACH, NUMBERS = 10_000, 20, 1 << 21
"""Examples behind each start: at most so many; fewer where they hold more than so many numbers, but so many of each
component. On images the start, which counts as training, takes a quarter of the time of one from them all."""
ROWS = 4096
DECAY = 0.7


class EMLearner(Learner):
    """EM on a `Mixture`, in place."""

    loss_in_nats = True

    def __init__(self, model: Mixture, settings: TrainSettings) -> None:
        self.model = model
        self.settings = settings
        self.examples = 0
        self._steps = 0
        self._average: Statistics = {}
        self._last: float | None = None

    def start(self, train: Split) -> None:
        """Choose the best of several starts."""
        self.examples = len(train)
        generator = torch.Generator().manual_seed(derive_seed("em", self.settings.seed))
        k = self.model.components.count
        size = min(MOST, max(OF_EACH * k, NUMBERS // self.model.spec.dims))
        rows = torch.randperm(len(train), generator=generator)[:size]
        x, y = train.batch(rows, generator)
        flat = x.flatten(1).to(self.model.device, torch.float64)
        labels = None if self.model.spec.classes is None or y is None else y.to(self.model.device)
        self.model.components.begin(flat)
        first = {name: value.clone() for name, value in self.model.state_dict().items()}
        best: tuple[float, dict[str, Tensor]] | None = None
        with seeded(derive_seed("k-means", self.settings.seed), self.model.device):
            for _ in range(self.model.options.restarts):
                self.model.load_state_dict(first)
                value = self._attempt(flat, labels)
                if best is None or value > best[0]:
                    best = value, {name: held.clone() for name, held in self.model.state_dict().items()}
        assert best is not None
        self.model.load_state_dict(best[1])

    def _attempt(self, x: Tensor, labels: Tensor | None) -> float:
        """One start: k-means, then EM on the subset; its log-likelihood, nats an example."""
        k = self.model.components.count
        assigned = torch.nn.functional.one_hot(cluster(x, k), k).to(torch.float64)
        self.model.components.start(x, assigned)
        self._maximise(self._add({}, x, labels, assigned), len(x))
        value = -torch.inf
        for _ in range(ROUNDS):
            value, sums = self._expect(x, labels)
            self._maximise(sums, len(x))
        return float(value)

    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """One round of EM; the loss is that before it."""
        x = batch.x.flatten(1).to(torch.float64)
        labels = batch.y if self.model.spec.classes is not None else None
        value, sums = self._expect(x, labels)
        if len(x) >= self.examples:
            self._maximise(sums, len(x))
            gain = None if self._last is None else value - self._last
            self.converged = gain is not None and gain < self.model.options.tolerance
            self._last = value
        else:
            share = (self._steps + 2) ** -DECAY if self._average else 1.0
            for name, total in sums.items():
                mean = total / len(x)
                held = self._average.get(name)
                self._average[name] = mean if held is None else held + share * (mean - held)
            self._maximise(self._average, 1)
        self._steps += 1
        return {"loss": torch.tensor(-value, dtype=torch.float64)}

    def _expect(self, x: Tensor, labels: Tensor | None) -> tuple[float, Statistics]:
        """Mean log-likelihood, and the statistics under the responsibilities."""
        total, sums = 0.0, Statistics()
        for at in range(0, len(x), ROWS):
            rows = slice(at, at + ROWS)
            some = None if labels is None else labels[rows]
            joint = self.model.joint(x[rows], some)
            log_p = joint.logsumexp(1)
            total += float(log_p.sum())
            sums = self._add(sums, x[rows], some, (joint - log_p[:, None]).exp())
        return total / len(x), sums

    def _add(self, sums: Statistics, x: Tensor, labels: Tensor | None, responsibility: Tensor) -> Statistics:
        found = self.model.components.statistics(x, responsibility)
        classes = len(self.model.log_weights)
        label = torch.zeros(len(x), dtype=torch.int64, device=x.device) if labels is None else labels
        of_class = torch.zeros(classes, responsibility.shape[1], dtype=torch.float64, device=x.device)
        found["classes"] = of_class.index_add(0, label, responsibility)
        return {name: sums[name] + value if name in sums else value for name, value in found.items()}

    def _maximise(self, sums: Mapping[str, Tensor], examples: int) -> None:
        """Weights and components; `sums` over so many examples, which smoothing counts against the whole split."""
        n = sums["classes"]
        floor = 1e-9 * n.sum().clamp(min=1e-300)
        self.model.log_weights.copy_(((n + floor) / (n + floor).sum(1, keepdim=True)).log())
        # one example of the training split, in the units of `sums`
        unit = torch.as_tensor(examples / max(1, self.examples), dtype=torch.float64)
        self.model.components.maximise({**sums, "one_example": unit})

    def evaluated(self) -> Mixture:
        """The model itself."""
        return self.model

    def state_dict(self) -> dict[str, Any]:
        """The model's, and the running averages."""
        return {
            "model": self.model.state_dict(),
            "average": dict(self._average),
            "steps": self._steps,
            "examples": self.examples,
            "last": self._last,
            "converged": self.converged,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.model.load_state_dict(state["model"])
        self._average = dict(state["average"])
        self._steps, self.examples = state["steps"], state["examples"]
        self._last, self.converged = state["last"], state["converged"]


def cluster(x: Tensor, k: int) -> Tensor:
    """k-means++ and Lloyd's rounds: cluster of each row of `x (N, D)`, `(N,)` in 0..k-1; draws from the global RNG.

    With fewer different rows than clusters, rows are taken again.
    """
    centres = x[torch.randint(len(x), (1,))]
    nearest = (x - centres).square().sum(1)
    for _ in range(1, k):
        chance = nearest if float(nearest.sum()) > 0 else torch.ones_like(nearest)
        new = x[torch.multinomial(chance, 1)]
        centres = torch.cat([centres, new])
        nearest = torch.minimum(nearest, (x - new).square().sum(1))
    for _ in range(LLOYD):
        which = torch.cdist(x, centres).argmin(1)
        counts = torch.bincount(which, minlength=k).to(x.dtype)[:, None]
        sums = torch.zeros_like(centres).index_add(0, which, x)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return torch.cdist(x, centres).argmin(1)
