"""scikit-learn's Gaussian mixture as a genzoo model: a learner whose first step does it all."""

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from genzoo import DataSpec, GenerativeModel, Learner, LogLikelihood, hookimpl
from genzoo.cards import ModelCard
from genzoo.config import Config, TrainSettings

FITTED = ("weights_", "means_", "covariances_", "precisions_cholesky_")


class SklearnMixture(GenerativeModel):
    def __init__(self, spec: DataSpec, config: Config | None = None, k: int = 8) -> None:
        super().__init__(spec, config)
        eye = torch.eye(spec.dims).repeat(k, 1, 1)
        for name, start in zip(
            FITTED, (torch.full((k,), 1 / k), torch.zeros(k, spec.dims), eye, eye), strict=True
        ):
            self.register_buffer(name, start.double())

    def _mixture(self) -> GaussianMixture:
        mixture = GaussianMixture(len(self.weights_), random_state=int(torch.randint(2**31, ())))
        for name in FITTED:
            setattr(mixture, name, getattr(self, name).numpy())
        return mixture

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: None) -> LogLikelihood:
        return LogLikelihood.exact(torch.from_numpy(self._mixture().score_samples(x.double())))

    def _sample(self, n: int, condition: None) -> Tensor:
        return torch.from_numpy(self._mixture().sample(n)[0]).float()

    def learner(self, settings: TrainSettings) -> Learner:
        return EM(self, settings.model_copy(update={"batch_size": None}))


class EM(Learner):
    def __init__(self, model: SklearnMixture, settings: TrainSettings) -> None:
        self.model, self.settings = model, settings

    def step(self, batch, progress: float) -> dict[str, Tensor]:
        mixture = GaussianMixture(len(self.model.weights_), random_state=self.settings.seed)
        mixture.fit(batch.x.double())
        self.load_state_dict({name: torch.as_tensor(getattr(mixture, name)) for name in FITTED})
        self.converged = True
        return {"loss": torch.tensor(-mixture.lower_bound_)}

    evaluated = lambda self: self.model  # noqa: E731
    state_dict = lambda self: self.model.state_dict()  # noqa: E731
    load_state_dict = lambda self, state: self.model.load_state_dict(state)  # noqa: E731


@hookimpl
def genzoo_models() -> list[ModelCard]:
    make = {"family": "mixture", "target": f"{__name__}:SklearnMixture", "data": ("real",)}
    return [ModelCard(name="sklearn_mixture", summary="scikit-learn's mixture", **make)]
