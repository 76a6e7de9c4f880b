"""zuko's neural spline flow (Rozet et al., github.com/probabilists/zuko) as a genzoo model."""

import zuko
from torch import Tensor

from genzoo import DataSpec, GradientModel, LogLikelihood, hookimpl
from genzoo.cards import ModelCard
from genzoo.config import Config, TrainSettings
from genzoo.nn import condition_features, condition_width


class ZukoFlow(GradientModel):
    def __init__(self, spec: DataSpec, config: Config | None = None) -> None:
        super().__init__(spec, config)
        classes = condition_width(spec)
        self.flow = zuko.flows.NSF(spec.dims, classes, transforms=3, hidden_features=(32, 32))

    def _distribution(self, n: int, condition: Tensor | None, like: Tensor):
        label = condition_features(self.spec, condition, n, like)
        return self.flow(label if self.spec.classes else None)

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return -self._distribution(len(x), condition, x).log_prob(x.flatten(1))

    def _log_likelihood(
        self, x: Tensor, num_samples: int, condition: Tensor | None
    ) -> LogLikelihood:
        return LogLikelihood.exact(-self._loss(x, 1.0, condition))

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        shape = () if self.spec.classes else (n,)
        like = next(self.parameters())
        x = self._distribution(n, condition, like).sample(shape)
        return x.view(n, *self.spec.event_shape)

    def default_training(self) -> TrainSettings:
        return TrainSettings(learning_rate=5e-3)


@hookimpl
def genzoo_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="zuko_flow",
            summary="zuko's neural spline flow",
            family="normalizing flow",
            target=f"{__name__}:ZukoFlow",
            data=("real",),
            adapters={"real": {"standardize": True}},
        )
    ]
