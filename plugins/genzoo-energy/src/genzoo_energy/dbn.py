"""Deep belief network (Hinton, Osindero and Teh 2006, doi:10.1162/neco.2006.18.7.1527) for binary data.

    p(v) = sum over h_1..h_{L-1} of p(v given h_1) p(h_1 given h_2) ... p(h_{L-2} given h_{L-1}) p_top(h_{L-1})
    q(h given v) = q(h_1 given v) q(h_2 given h_1) ... q(h_{L-1} given h_{L-2})
    log p(v) >= E_q [log p(v given h_1) + ... + log f_top(h_{L-1})] - log Z_top + H(q)
    log w = log p(v, h) - log q(h given v),  E w = p(v),  log (1/K) sum_k w_k tends to log p(v) from below

L restricted Boltzmann machines, each of the units below it (`machine.py`): their conditionals downwards are the sigmoid
layers p, those upwards q, and the top one, whose law of h_{L-1} is f_top / Z_top, is the prior. With K = 1 the mean is
the bound of the third line; K draws tighten it as they do an importance-weighted autoencoder's.

What Z_top is decides what the answer speaks of:

- the top has at most 16 units on a side: Z_top is summed over, and w is unbiased for p(v).
- else the prior is the top's annealed sampler, as for `rbm`: each draw has a RAISE weight in place of f_top / Z_top,
  and w is unbiased for the p(v) of that model, from which `sample` draws. Kind `weights` in both cases.
- the estimator `field` is about the network itself, by an estimated log Z_top (Salakhutdinov and Murray 2008,
  doi:10.1145/1390156.1390266): annealing finds log Z_top too small, which is optimistic, and q lies below log p(v), so
  that together they have no direction: kind `estimate`, never ranked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from genzoo.ais import linear, log_mean_inverse
from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.interface import Estimator, GenerativeModel, Learner
from genzoo.likelihood import LogLikelihood, WeightSums
from genzoo.seeding import derive_seed, evaluating, seeded
from genzoo.spec import DataSpec, Split
from genzoo_energy.greedy import GreedyLearner
from genzoo_energy.machine import log_bernoulli
from genzoo_energy.rbm import RBM, ChainsConfig, RBMConfig, anneal_both_ways, by_chains

NUMBERS = 1 << 22
"""Units of one layer over all draws and examples at once."""

TopLaw = Callable[[Tensor, Tensor | None], Tensor]
"""Units `(R, D)` below the top, and labels, to their log probability `(R,)` float64."""


class DBNConfig(ChainsConfig):
    """Configuration of `DBN`."""

    hidden: tuple[int, ...] = Field(
        (500, 1000),
        min_length=2,
        description="units of each hidden layer, at least two; one that is no narrower than the layer two below begins "
        "as the machine between them turned over, whose law it then betters; up to 16 in one of the last two: Z_top is "
        "exact",
    )


class DBN(GenerativeModel):
    """See the module. Labels give each class biases of its own in every layer. Raises CapabilityError for data that is
    not binary."""

    Config = DBNConfig
    config: DBNConfig

    def __init__(self, spec: DataSpec, config: DBNConfig | None = None) -> None:
        super().__init__(spec, config)
        if spec.levels != 2:
            raise CapabilityError(f"dbn takes binary data; got {spec.describe()}")
        chains = self.config.model_dump(exclude={"hidden"})
        self.layers = nn.ModuleList(
            RBM(DataSpec((below,), 2, spec.classes), RBMConfig(hidden=above, **chains))
            for below, above in pairwise((spec.dims, *self.config.hidden))
        )

    @property
    def sigmoid_layers(self) -> list[RBM]:
        """From the pixels up, all but the top."""
        return [cast(RBM, layer) for layer in self.layers][:-1]

    @property
    def top(self) -> RBM:
        """The prior."""
        return cast(RBM, self.layers[-1])

    def lift(self, v: Tensor, condition: Tensor | None, layers: int) -> Tensor:
        """A draw of q of the units of that layer, given `v (N, D)` float; `v` itself for 0."""
        for layer in self.sigmoid_layers[:layers]:
            v = layer.machine(condition, len(v)).draw_hidden(v)
        return v

    def draws(self, x: Tensor, k: int, condition: Tensor | None, top: TopLaw) -> tuple[Tensor, Tensor]:
        """k draws h of q for each of `x (B, *event_shape)`: log p(v given h_1) `(k, B)`, and of each layer above
        log p(h_i given h_{i+1}) - log q(h_i given h_{i-1}) `(k, B, L - 1)`, whose last p is `top`'s."""
        below = x.flatten(1).to(self.top.weights.dtype).expand(k, -1, -1)
        log_p, log_q = [], []
        for layer in self.sigmoid_layers:
            machine = layer.machine(condition, len(x))
            inputs = machine.inputs(below)
            h = torch.bernoulli(inputs.sigmoid())
            log_q.append(log_bernoulli(h, inputs))
            log_p.append(log_bernoulli(below, machine.outputs(h)))
            below = h  # (k, B, H)
        labels = None if condition is None else condition.repeat(k)
        log_p.append(top(below.flatten(0, 1), labels).view(k, len(x)))
        return log_p[0], torch.stack([p - q for p, q in zip(log_p[1:], log_q, strict=True)], -1)

    def weights(self, x: Tensor, num_samples: int, condition: Tensor | None, top: TopLaw) -> LogLikelihood:
        """The log-mean of w over draws, a part of them at a time."""
        sums = WeightSums()
        chunk = max(1, NUMBERS // (max(self.config.hidden) * max(1, len(x))))
        for at in range(0, num_samples, chunk):
            reconstruction, ratios = self.draws(x, min(chunk, num_samples - at), condition, top)
            kl = ratios.sum(-1)
            terms = {"reconstruction": reconstruction.mean(0), "kl": kl.mean(0)}
            sums.add(reconstruction + kl, terms, {"kl_per_layer": ratios.mean(0)})
        return sums.result()

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        # one chain a draw: an exact value, or a RAISE weight, whose exponential is unbiased for the sampler's law
        return self.weights(x, num_samples, condition, lambda h, y: self.top._log_likelihood(h, 1, y).lower)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        h = self.top._sample(n, condition).to(self.top.weights.dtype)
        for layer in reversed(self.sigmoid_layers):
            h = layer.machine(condition, n).draw_visible(h)
        return h.view(n, *self.spec.event_shape).to(self.spec.dtype)

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        """The default: `importance`, or `raise[distributions=T]`, about the annealed sampler; there also `field`."""
        name = "importance" if self.top.exact else f"raise[distributions={self.config.distributions}]"
        found: dict[str, Callable[[], Estimator]] = {name.partition("[")[0]: lambda: by_chains(name, self)}
        if self.spec.classes is None and not self.top.exact:
            found["field"] = lambda: FieldEstimate(self)
        return found

    def learner(self, settings: TrainSettings) -> Learner:
        """Layer by layer, each for an equal share of the steps."""
        return GreedyLearner(self, settings)

    def default_training(self) -> TrainSettings:
        """As for `rbm`."""
        return self.top.default_training()


class FieldEstimate(Estimator):
    """log p(v) of the network itself by an estimated log Z_top. `num_samples` is the draws of q; see the module.

    Array `with_reverse (B,)`: the same with log Z_top by reverse annealing, which is a lower bound if the Markov chain
    at whose states that begins has mixed, and indicates one otherwise.

    Args:
        model: without labels.
        distributions, chains: of annealing either way.
    """

    suggested_samples = 100
    another = True

    def __init__(self, model: DBN, distributions: int = 1000, chains: int = 100) -> None:
        self.model = model
        self.betas = linear(distributions)
        self.chains = chains
        self.name = f"field[chains={chains},distributions={distributions}]"
        self._ends: tuple[Tensor, Tensor] | None = None

    def start(self, valid: Split, seed: int) -> None:
        """Anneal once, for all batches."""
        model = self.model
        with torch.no_grad(), evaluating(model), seeded(derive_seed("log Z", seed), model.device):
            self._ends = anneal_both_ways(model.top, self.betas, self.chains)

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """See GenerativeModel.log_likelihood."""
        model = self.model
        model._check(x, condition)
        with torch.no_grad(), evaluating(model), seeded(seed, model.device):
            forward, back = self._ends or anneal_both_ways(model.top, self.betas, self.chains)
            machine = model.top.machine(None, 1)
            of_field = model.weights(x, num_samples, None, lambda h, _: machine.log_f(h) - machine.log_base_mass())
        log_mass = LogLikelihood.weights(forward)
        assert log_mass.variance is not None
        return LogLikelihood.estimate(
            of_field.lower - log_mass.lower,
            num_samples=num_samples,
            variance=of_field.variance,
            shared_variance=log_mass.variance.squeeze(0),
            arrays={**of_field.arrays, "with_reverse": of_field.lower - log_mean_inverse(back)[0]},
        )
