"""A correct variational autoencoder over codes (Kingma and Welling, arXiv:1312.6114), and mutants with one thing wrong.

    z ~ N(0, 1),    x_i given z ~ Categorical(softmax f(z)_i),    q(z given x) = N(m(x), s(x)^2)
    log w = log p(x given z) + log p(z) - log q(z given x)

Estimators: `iwae`, the default, and `elbo` with the KL in closed form. Attributes of a mutant: see `mutant_flow.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from genzoo import DataSpec, Estimator, LatentVariableModel, LogLikelihood, hookimpl
from genzoo.cards import ModelCard
from genzoo.config import Config, TrainSettings
from genzoo.interface import ModelEstimator
from genzoo.nn import MLP
from genzoo.seeding import evaluating, seeded

LATENTS, WIDTH = 2, 32


def log_normal(z: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """log N(z; loc, scale^2) summed over the last axis."""
    return (-0.5 * ((z - loc) * (-log_scale).exp()).square() - log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)


class TwinVAE(LatentVariableModel):
    """The correct one."""

    def __init__(self, spec: DataSpec, config: Config | None = None) -> None:
        super().__init__(spec, config)
        assert spec.levels is not None
        self.levels = spec.levels
        self.encoder = MLP(spec.dims, 2 * LATENTS, [WIDTH], nn.Tanh)
        self.decoder = MLP(LATENTS, spec.dims * self.levels, [WIDTH], nn.Tanh)

    def default_training(self) -> TrainSettings:
        return TrainSettings(learning_rate=0.02)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log deviation `(B, LATENTS)` of q(z given x)."""
        loc, log_scale = self.encoder(2 * x.flatten(1).float() / (self.levels - 1) - 1).chunk(2, -1)
        return loc, log_scale.clamp(-5, 2)

    def decode(self, z: Tensor) -> Tensor:
        """Log-probabilities `(..., D, levels)`."""
        logits: Tensor = self.decoder(z)
        return logits.unflatten(-1, (self.spec.dims, self.levels)).log_softmax(-1)

    def reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x given z), `(K, B)`, of `x (B, ...)` and `z (K, B, LATENTS)`."""
        log_p = self.decode(z)
        codes = x.flatten(1).long()[None, ..., None].expand(*log_p.shape[:-1], 1)
        return log_p.gather(-1, codes)[..., 0].sum(-1)

    def combined(self, log_prior: Tensor, log_posterior: Tensor) -> Tensor:
        """log p(z) - log q(z given x)."""
        return log_prior - log_posterior

    def _log_weights(self, x: Tensor, num_samples: int, condition: Tensor | None) -> Mapping[str, Tensor]:
        loc, log_scale = self.encode(x)
        z = loc + log_scale.exp() * torch.randn(num_samples, *loc.shape)
        log_prior = log_normal(z, torch.zeros(()), torch.zeros(()))
        return {
            "reconstruction": self.reconstruction(x, z),
            "kl": self.combined(log_prior, log_normal(z, loc, log_scale)),
        }

    def kl(self, x: Tensor) -> Tensor:
        """KL(q(z given x), p(z)) in closed form, `(B,)`."""
        loc, log_scale = self.encode(x)
        return (0.5 * (loc.square() + (2 * log_scale).exp() - 1) - log_scale).sum(-1)

    def loss_kl(self, x: Tensor) -> Tensor:
        """The KL that is trained on."""
        return TwinVAE.kl(self, x)

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        return self.loss_kl(x) - self._log_weights(x, 1, condition)["reconstruction"][0]

    def elbo(self, x: Tensor) -> LogLikelihood:
        """One draw of the bound with the KL in closed form."""
        return LogLikelihood.lower_bound(self._log_weights(x, 1, None)["reconstruction"][0] - self.kl(x))

    def prior_sample(self, n: int) -> Tensor:
        return torch.randn(n, LATENTS)

    def emit(self, z: Tensor) -> Tensor:
        """Codes `(n, D)` given latents `(n, LATENTS)`."""
        return torch.multinomial(self.decode(z).exp().flatten(0, 1), 1).view(len(z), self.spec.dims)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return self.emit(self.prior_sample(n)).view(n, *self.spec.event_shape).to(torch.uint8)

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        return {"iwae": lambda: ModelEstimator("iwae", self), "elbo": lambda: Elbo(self)}


class Elbo(Estimator):
    name = "elbo"

    def __init__(self, model: TwinVAE) -> None:
        self.model = model

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        self.model.spec.check(x, condition)
        with torch.no_grad(), evaluating(self.model), seeded(seed, self.model.device):
            return self.model.elbo(x)


class HalfKL(TwinVAE):
    """Half the KL in the log weights: the bound of a beta-VAE with beta = 1/2 passed off as a likelihood."""

    caught_by: ClassVar[str] = "mass_is_one[binary]"
    effect: ClassVar[float] = 0.1

    def combined(self, log_prior: Tensor, log_posterior: Tensor) -> Tensor:
        return 0.5 * (log_prior - log_posterior)


class NoEntropy(TwinVAE):
    """log q(z given x), the entropy term, is left out."""

    caught_by: ClassVar[str] = "mass_is_one[binary]"
    effect: ClassVar[float] = 0.1

    def combined(self, log_prior: Tensor, log_posterior: Tensor) -> Tensor:
        return log_prior


class GreyCrossEntropy(TwinVAE):
    """Binary cross-entropy on grey pixels, as if a fraction were a binary outcome."""

    caught_by: ClassVar[str] = "mass_is_one[levels_image]"
    effect: ClassVar[float] = 0.1

    def reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        log_p = self.decode(z)
        grey = (x.flatten(1).float() / (self.levels - 1)).expand(log_p.shape[:-1])
        return (grey * log_p[..., -1] + (1 - grey) * (1 - log_p[..., -1].exp()).clamp(min=1e-6).log()).sum(-1)


class MeanOfLogs(TwinVAE):
    """The mean of the log weights where the log of their mean should stand."""

    caught_by: ClassVar[str] = "draws_tighten[binary]"
    effect: ClassVar[float] = 0.1

    def _log_likelihood(  # type: ignore[misc]  # a mutant may do what the interface forbids
        self, x: Tensor, num_samples: int, condition: Tensor | None
    ) -> LogLikelihood:
        log_w = torch.stack(list(self._log_weights(x, num_samples, condition).values())).sum(0)
        return LogLikelihood.weights(log_w.mean(0).expand(num_samples, -1))


class BoundCalledExact(TwinVAE):
    """One draw of the ELBO, labelled exact."""

    caught_by: ClassVar[str] = "exact_has_no_noise[binary]"
    effect: ClassVar[float] = 0.1

    def _log_likelihood(  # type: ignore[misc]
        self, x: Tensor, num_samples: int, condition: Tensor | None
    ) -> LogLikelihood:
        return LogLikelihood.exact(self.elbo(x).lower)


class KLSign(TwinVAE):
    """The KL of the estimator `elbo` has the wrong sign."""

    caught_by: ClassVar[str] = "estimators_agree[binary]"
    effect: ClassVar[float] = 0.1
    measure: ClassVar[str] = "elbo"

    def kl(self, x: Tensor) -> Tensor:
        return -super().kl(x)


class LossWithoutKL(TwinVAE):
    """A loss without its KL that is still said to be in nats."""

    caught_by: ClassVar[str] = "loss_is_a_bound[binary]"
    effect: ClassVar[float] = 0.1
    measure: ClassVar[str] = "loss"

    def loss_kl(self, x: Tensor) -> Tensor:
        return 0 * super().loss_kl(x)


class NoDecoderNoise(TwinVAE):
    """Samples are the decoder's most probable codes, without its noise."""

    caught_by: ClassVar[str] = "samples_match[binary]"
    effect: ClassVar[float] = 0.1
    measure: ClassVar[str] = "samples"

    def emit(self, z: Tensor) -> Tensor:
        return self.decode(z).argmax(-1)


class WidePrior(TwinVAE):
    """Samples from a prior of 1.6 times the deviation of the one that is scored."""

    caught_by: ClassVar[str] = "samples_match[binary]"
    effect: ClassVar[float] = 0.03
    measure: ClassVar[str] = "samples"

    def prior_sample(self, n: int) -> Tensor:
        return 1.6 * super().prior_sample(n)


@hookimpl
def genzoo_models() -> list[ModelCard]:
    names = {
        "twin_vae": TwinVAE,
        "vae_half_kl": HalfKL,
        "vae_no_entropy": NoEntropy,
        "vae_grey_cross_entropy": GreyCrossEntropy,
        "vae_mean_of_logs": MeanOfLogs,
        "vae_bound_called_exact": BoundCalledExact,
        "vae_kl_sign": KLSign,
        "vae_loss_without_kl": LossWithoutKL,
        "vae_no_decoder_noise": NoDecoderNoise,
        "vae_wide_prior": WidePrior,
    }
    return [
        ModelCard(
            name=name,
            summary=(model.__doc__ or "").strip(),
            family="variational autoencoder",
            target=f"{__name__}:{model.__name__}",
            data=("binary", "discrete"),
            num_samples={"binary": 64, "discrete": 64},
            kind="exact" if model is BoundCalledExact else "weights",
        )
        for name, model in names.items()
    ]
