"""Any Pyro program as a zoo model; `genzoo_pyro.program` says what a program is and how it is called.

    PyroModel(spec, model, guide)    latents with a guide: log weights (Bingham et al. 2019, arXiv:1810.09538)
    ExactPyroModel(spec, model)      no latents, or discrete ones that Pyro enumerates: log p(x) itself

Two types, since what a model can answer is its type: importance weights bound log p(x), a sum over latents is log p(x).
"""

from __future__ import annotations

from collections.abc import Mapping

from pyro.nn import PyroModule
from torch import Tensor

from genzoo.config import Config
from genzoo.interface import GradientModel, LatentVariableModel
from genzoo.likelihood import LogLikelihood
from genzoo.spec import DataSpec
from genzoo_pyro.program import draw, examine, log_marginal, log_weights, unvalidated


class PyroModel(LatentVariableModel):
    """A Pyro program with latents, and its guide; trained by the one-draw ELBO (Kingma & Welling, arXiv:1312.6114).

    log w = log p(x given z) + log p(z) - log q(z given x), z ~ q: parts "reconstruction" and "kl".

    Args:
        spec: the data.
        model: `model(x, n, condition)`, a PyroModule with a plate "data".
        guide: samples the latents of `model`, reparameterised.
        config: what the programs were made from, for a model that is registered by name.
        kl_warmup: share of the training in which the weight of "kl" in the loss rises from 0 to 1 (Bowman et al. 2016,
            arXiv:1511.06349), so that z is used before it is priced.

    Raises:
        ConfigError, CapabilityError: see `genzoo_pyro.program.examine`.
    """

    def __init__(
        self,
        spec: DataSpec,
        model: PyroModule,
        guide: PyroModule,
        config: Config | None = None,
        kl_warmup: float = 0.0,
    ) -> None:
        super().__init__(spec, config)
        self.kl_warmup = kl_warmup
        self.sites = examine(spec, model, guide)
        self.model = model
        self.guide = guide

    def _log_weights(self, x: Tensor, num_samples: int, condition: Tensor | None) -> Mapping[str, Tensor]:
        with unvalidated():
            return log_weights(self.model, self.guide, self.sites, x.float(), num_samples, condition)

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        parts = self._log_weights(x, 1, condition)
        weight = 1.0 if progress >= self.kl_warmup else progress / self.kl_warmup
        return -(parts["reconstruction"] + weight * parts["kl"]).squeeze(0)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        with unvalidated():
            return draw(self.spec, self.model, n, condition)


class ExactPyroModel(GradientModel):
    """A Pyro program whose log p(x) is known: all sites observed, or discrete latents with `infer={"enumerate":
    "parallel"}`, over which Pyro's enumeration sums: log p(x) = log sum_k p(k) p(x given k). Trained by -log p(x).

    Args:
        spec, model, config: as in PyroModel.

    Raises:
        ConfigError, CapabilityError: see `genzoo_pyro.program.examine`; also for latents that need a guide.
    """

    def __init__(self, spec: DataSpec, model: PyroModule, config: Config | None = None) -> None:
        super().__init__(spec, config)
        self.sites = examine(spec, model)
        self.model = model

    def _log_prob(self, x: Tensor, condition: Tensor | None) -> Tensor:
        with unvalidated():
            return log_marginal(self.model, self.sites, x.float(), condition)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return LogLikelihood.exact(self._log_prob(x, condition))

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return -self._log_prob(x, condition)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        with unvalidated():
            return draw(self.spec, self.model, n, condition)
