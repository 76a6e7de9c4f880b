"""Models that several test modules evaluate: the exact one of a Gaussian, and a small one trained on 8gaussians."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from genzoo_ddpm.ddpm import DDIM, DDPM
from genzoo_ddpm.diffusion import Diffusion
from genzoo_ddpm.variances import Analytic
from torch import Tensor

from genzoo.config import TrainSettings
from genzoo.data.splits import TensorSplit
from genzoo.data.toy import DENSITIES
from genzoo.spec import Batch, DataSpec

Train = Callable[..., Diffusion]
ExactModel = Callable[..., Diffusion]


@pytest.fixture(scope="session")
def exact_model() -> ExactModel:
    """(variance, steps, loc (D,), covariance (D, D), eta, lam_T) -> the exact eps network of that Gaussian, float64.

    It is the denoiser in closed form, whose network f is still zero. Analytic variances and the decoder are the optimum
    for D = 1.
    """

    def make(
        variance: str, steps: int, loc: Tensor, covariance: Tensor, eta: float = 1.0, lowest: float = -5.0
    ) -> Diffusion:
        config = {"steps": steps, "variance": variance, "width": 8, "eta": eta, "log_snr_min": lowest}
        spec = DataSpec((len(loc),))
        model = DDIM(spec, DDIM.Config.parse(config, "ddim")).double().eval()  # type: ignore[arg-type]
        spectrum, basis = torch.linalg.eigh(covariance)
        model.denoiser.loc.copy_(loc)
        model.denoiser.basis.copy_(basis)  # type: ignore[union-attr]
        model.denoiser.spectrum.copy_(spectrum)  # type: ignore[union-attr]
        signal, noise = model.chain.signal, model.chain.noise
        error = spectrum[0] * noise**2 / (signal**2 * spectrum[0] + noise**2)  # Var(x_0 given x_t), every t
        if isinstance(model.variance, Analytic):
            model.variance.ratio.copy_(error)
        model.decoder.fit(error[0])
        return model

    return make


@pytest.fixture(scope="session")
def train() -> Train:
    """(model, x, y, steps, batch) -> the model, trained."""

    def run(model: Diffusion, x: Tensor, y: Tensor | None, steps: int, batch: int = 256) -> Diffusion:
        learner = model.learner(TrainSettings(learning_rate=2e-3, betas=(0.9, 0.99), ema=0.99))
        split = TensorSplit(x, y)
        learner.start(split)
        for i in range(steps):
            index = torch.randint(0, len(x), (batch,))
            learner.step(Batch(x[index], None if y is None else y[index]), i / steps)
        learner.finish(split, split)
        trained = learner.evaluated()
        assert isinstance(trained, Diffusion)
        return trained

    return run


@pytest.fixture(scope="session")
def trained(train: Train) -> tuple[Diffusion, Tensor, Tensor]:
    """A small model of 8gaussians, test points and their true log-densities, in standardised units."""
    density = DENSITIES["8gaussians"]
    x, test = density.sample(20_000, 0), density.sample(2_000, 1)
    scale = x.std()
    torch.manual_seed(0)
    model = DDPM(DataSpec((2,)), DDPM.Config.parse({"steps": 64, "width": 64, "blocks": 2}, "ddpm"))
    return train(model, x / scale, None, 500), test / scale, density.log_prob(test) + 2 * math.log(float(scale))
