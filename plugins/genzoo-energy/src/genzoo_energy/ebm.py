"""Energy-based model (LeCun et al. 2006; Song and Kingma 2021, arXiv:2101.03288): log p(x) = log f(x) - log Z.

    log f(x) = g(x) + log p_0(x)            g a network; p_0 a law that can be drawn, which makes f integrable

In the plane (`plane.py`) p_0 is a Gaussian and Z is found by quadrature: exact. Elsewhere (`annealed.py`) p_0 has the
marginals of the data, and the law that is scored and drawn from is that of an annealed sampler from p_0 to f: RAISE
(Burda et al. 2015, arXiv:1412.8566), a lower bound; both ends of the field itself are the estimator `bracket`. Where
the states are few they are summed over, which is exact. Four ways to train; u is a draw of p_0, v a random direction:

    likelihood   -log f(x) + log Z, Z by a jittered grid at every step                        maximum likelihood
    nce          softplus(-g(x)) + softplus(g(u))                    Gutmann and Hyvarinen 2012: g learns Z as well
    score        v.H v + (v.d log f)^2 / 2 at x, H the Hessian       sliced score matching, Song et al. 2019
    pcd          g(chain) - g(x), chains that persist between steps  Tieleman 2008; Nijkamp et al. 2020
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.interface import Estimator, GradientModel
from genzoo.likelihood import LogLikelihood
from genzoo.spec import DataSpec, Split
from genzoo_energy.annealed import AnnealedField
from genzoo_energy.field import EBMConfig, Field
from genzoo_energy.plane import PlaneField

LEVELS = 32
"""Most levels of codes: a move weighs every level of every dimension, and where it goes the gradient tells less the
farther away a level is."""


class EBM(GradientModel):
    """See the module. Raises CapabilityError for codes of more than LEVELS levels, and for objectives of the plane
    elsewhere."""

    Config = EBMConfig
    config: EBMConfig

    def __init__(self, spec: DataSpec, config: EBMConfig | None = None) -> None:
        super().__init__(spec, config)
        asked, plane = self.config.objective, spec.levels is None and spec.event_shape == (2,)
        if (spec.levels or 0) > LEVELS:
            raise CapabilityError(f"ebm takes codes of up to {LEVELS} levels; got {spec.levels}")
        if not plane and asked not in (None, "pcd"):
            raise CapabilityError(f"objective={asked} is for real points of the plane, (2,); got {spec.describe()}")
        known = self.config.model_copy(update={"objective": asked or ("likelihood" if plane else "pcd")})
        self.field: Field = PlaneField(spec, known) if plane else AnnealedField(spec, known)

    @property
    def loss_in_nats(self) -> bool:
        """True for maximum likelihood."""
        return self.field.loss_in_nats

    def default_training(self) -> TrainSettings:
        """The field's."""
        return self.field.default_training()

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return self.field.loss(x, progress, condition)

    def _initialise(self, train: Split) -> None:
        self.field.initialise(train)

    def _calibrate(self, train: Split, valid: Split) -> None:
        self.field.calibrate(train, valid)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return self.field.log_likelihood(x, num_samples, condition)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return self.field.sample(n, condition)

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        """Exact in the plane; else `raise`, or `exact` by enumeration, and `bracket`."""
        return self.field.estimators(self)
