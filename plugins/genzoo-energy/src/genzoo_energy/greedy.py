"""Training of deep belief networks layer by layer (Hinton, Osindero and Teh 2006, section 4).

    log p(v) >= E_q [log p(v given h_1) + log p(h_1)] + H(q)

With the first machine frozen only log p(h_1) is left to raise: the likelihood of the next machine about draws of
q(h_1 given v), which that machine learns as any other. Turned over, the first machine is a second one under which the
bound is its own log p(v), since q is then the exact posterior: from there on a better second machine raises the bound.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genzoo.config import TrainSettings
from genzoo.interface import Learner
from genzoo.seeding import derive_seed
from genzoo.spec import Batch, Split
from genzoo_energy.contrastive import ContrastiveLearner, log_odds

if TYPE_CHECKING:
    from genzoo_energy.dbn import DBN

MARGINALS = 5_000
"""Examples behind the marginals at which the path to the top begins."""


class GreedyLearner(Learner):
    """A `ContrastiveLearner` for each machine, one after the other; the layers below are the averaged ones, frozen."""

    def __init__(self, model: DBN, settings: TrainSettings) -> None:
        self.model = model
        self.settings = settings
        layers = [*model.sigmoid_layers, model.top]
        self.learners = [
            ContrastiveLearner(layer, settings.model_copy(update={"seed": derive_seed("layer", at, settings.seed)}))
            for at, layer in enumerate(layers)
        ]
        self._begun = 0
        self._average = copy.deepcopy(model)

    def start(self, train: Split) -> None:
        """Begin the first layer; the others begin at the batch with which their turn comes."""
        self.learners[0].start(train)
        self._begun = 1

    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """One step of the layer whose turn it is."""
        at = min(int(progress * len(self.learners)), len(self.learners) - 1)
        labels = batch.y if self.model.spec.classes is not None else None
        model = self.evaluated()
        with torch.no_grad():
            v = batch.x.flatten(1).to(torch.float32)
            while self._begun <= at:
                below = model.sigmoid_layers[self._begun - 1]
                self.learners[self._begun].begin(model.lift(v, labels, self._begun), below)
                self._begun += 1
                model = self.evaluated()
            h = model.lift(v, labels, at)
        return self.learners[at].step(Batch(h, batch.y), progress * len(self.learners) - at)

    def finish(self, train: Split, valid: Split) -> None:
        """Begin the averaged top's path at the marginals of its units, drawn by q."""
        rows = torch.randperm(len(train))[:MARGINALS]
        x, y = train.batch(rows, torch.Generator().manual_seed(0))
        model = self.evaluated()
        labels = None if model.spec.classes is None or y is None else y.to(model.device)
        with torch.no_grad():
            v = x.flatten(1).to(model.device, torch.float32)
            for learner in self.learners:
                learner.finish(train, valid)
            model.top.base.copy_(log_odds(model.lift(v, labels, len(self.learners) - 1)))

    def evaluated(self) -> DBN:
        """The averaged machines."""
        for at, learner in enumerate(self.learners):
            self._average.layers[at] = learner.evaluated()
        return self._average

    def state_dict(self) -> dict[str, Any]:
        """Every layer's, and how many have begun."""
        return {"layers": [learner.state_dict() for learner in self.learners], "begun": self._begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        for learner, its in zip(self.learners, state["layers"], strict=True):
            learner.load_state_dict(its)
        self._begun = state["begun"]
