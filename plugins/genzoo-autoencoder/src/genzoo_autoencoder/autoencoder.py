"""The plain autoencoder (Hinton and Salakhutdinov 2006) with a density fitted afterwards (as Ghosh et al. 2020 do).

    trained      e, g by -log p(x given z = e(x)) at t = 1: squared error, or cross-entropy, and no more
    fitted then  p(z), a mixture of Gaussians, to codes e(x) of training examples (`density.py`)
                 t and L by the bound below, to validation examples (`calibration.py`)
    p(x) = integral of p(x given z) p(z) dz
                 p(x given z): N(g(z), t^2 I) of real data, a head with logits g(z) / t of discrete data
    log w = log p(x given z) + log p(z) - log q(z given x),  E w = p(x)
                 q(z given x): N(e(x), L L^T), up to 8 dimensions beside a share of p(z) (`proposal.py`)

x data (B, *event_shape), z code (K, B, d), K draws, in nats. E log w <= log p(x) is the bound of one draw around the
code; the log-mean of K weights tends to log p(x) from below. `sample` draws z from p(z), and x from p(x given z).

What a variational autoencoder mends can be read off the terms: here nothing made codes follow a simple law, nor g vary
slowly where codes have noise, so that q must be narrow (`kl` is large) and t is what is left over for the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from pydantic import Field
from torch import Tensor

from genzoo.config import Config, TrainSettings
from genzoo.heads import GaussianHead, Head, head_for
from genzoo.interface import Estimator, LatentVariableModel, ModelEstimator
from genzoo.latent import AnnealedImportance, LatentJoint, RefinedELBO
from genzoo.nn import MLP, Decoder, condition_features, condition_width
from genzoo.seeding import evaluating, seeded
from genzoo.spec import Batch, DataSpec, Split
from genzoo_autoencoder.calibration import fit_noise_and_width
from genzoo_autoencoder.density import CodeDensity
from genzoo_autoencoder.proposal import CodeLaw

CODES, HELD = 5_000, 1_000
"""Training examples behind the density of codes, and validation examples behind all that is chosen."""
FEATURES = 4
"""Decoder outputs a dimension where the head has more parameters, which one shared linear map then makes of them."""


class AutoencoderConfig(Config):
    """Configuration of `Autoencoder`."""

    latents: int | None = Field(
        None, ge=1, description="d; none: half the data's dimensions, at most 32: as many as x has need no autoencoder"
    )
    hidden: tuple[int, ...] | None = Field(
        None,
        description="widths of the encoder's hidden layers, reversed in the decoder; none: three of 64 for vectors, "
        "two of 512 for images",
    )
    components: int | None = Field(
        None, ge=1, description="most Gaussians in the density of codes; none: 64 up to 8 latents, else 16"
    )
    prior_share: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="draws of z from p(z), not around the code; none: 0.1 up to 8 latents, then 0",
    )
    tables: int = Field(12, ge=2, description="components of the head's mixture over more than two levels")


class Autoencoder(LatentVariableModel, LatentJoint):
    """See the module. Conditional on labels by one-hot inputs to both networks, and weights of the density's own.

    Args:
        spec: any; real data should have scale 1, which the card's `standardize` sees to.
        config: see AutoencoderConfig.
    """

    Config = AutoencoderConfig
    config: AutoencoderConfig
    log_noise: Tensor
    width: Tensor

    def __init__(self, spec: DataSpec, config: AutoencoderConfig | None = None) -> None:
        super().__init__(spec, config)
        vector, classes = len(spec.event_shape) == 1, condition_width(spec)
        self.rows = 4096 if vector else 512 if spec.kind == "discrete" else 1024  # the widest layer stays in cache
        d = self.latents = self.config.latents or max(1, min(spec.dims // 2, 32))
        hidden = self.config.hidden
        hidden = ((64, 64, 64) if vector else (512, 512)) if hidden is None else hidden
        self.head = self._head(spec)
        parameters = 1 if spec.levels is None else self.head.parameters_per_dim
        features = min(parameters, FEATURES)
        self.encoder = MLP(spec.dims + classes, d, hidden)
        net = MLP(d + classes, features * spec.dims, hidden[::-1])
        self.decoder = Decoder(net, spec.dims, parameters, features)
        self.density = CodeDensity(d, self.config.components or (64 if d <= 8 else 16), max(1, classes))
        share = self.config.prior_share
        self.share = (0.1 if d <= 8 else 0.0) if share is None else share
        self.register_buffer("log_noise", torch.zeros(()))  # log t
        self.register_buffer("width", 0.1 * torch.eye(d))  # L

    def _head(self, spec: DataSpec) -> Head:
        if spec.levels is not None:
            return head_for(spec, components=self.config.tables)
        head = GaussianHead(spec, "output", initial=1.0)  # its scale is t, which comes with the parameters
        return head.requires_grad_(False)

    def count_parameters(self) -> int:
        """Of both networks and a head over levels; of the density, L and t."""
        learned = [self.encoder, self.decoder, *([] if self.spec.levels is None else [self.head])]
        networks = sum(parameter.numel() for module in learned for parameter in module.parameters())
        return networks + self.density.count() + self.latents * (self.latents + 1) // 2 + 1

    def default_training(self) -> TrainSettings:
        """For vectors at a higher rate: one code a point of `moons` was still the first principal component after 1,000
        steps at 1e-3 (t = 0.54), and a curve along both arcs after 2,000 at 3e-3 (t = 0.17)."""
        return TrainSettings(learning_rate=3e-3 if len(self.spec.event_shape) == 1 else 1e-3)

    @property
    def loss_in_nats(self) -> bool:
        """False: p(x given e(x)) is no p(x)."""
        return False

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        """`iwae`, whose single draw is the bound of a Gaussian around the code; the same refined example by example;
        annealing from it."""
        return {
            "iwae": lambda: ModelEstimator("iwae", self),
            "refined": lambda: RefinedELBO(self),
            "ais": lambda: AnnealedImportance(self),
        }

    # the networks

    def encode(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """e(x) `(B, d)`."""
        h = x.flatten(1).to(self.width.dtype)
        if self.spec.levels is not None:
            h = h * (2 / (self.spec.levels - 1)) - 1  # codes to [-1, 1]
        return self.encoder(torch.cat([h, condition_features(self.spec, condition, len(h), h)], 1))  # type: ignore[no-any-return]

    def decode(self, z: Tensor, condition: Tensor | None, log_noise: Tensor) -> Tensor:
        """The head's parameters `(*S, B, P, D)` at `z (*S, B, d)` and noise t."""
        label = condition_features(self.spec, condition, z.shape[-2], z)
        h: Tensor = self.decoder(torch.cat([z, label.expand(*z.shape[:-1], -1)], -1))
        return torch.cat([h, log_noise.expand_as(h)], -2) if self.spec.levels is None else h * (-log_noise).exp()

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        """-log p(x given z = e(x)) at t = 1."""
        params = self.decode(self.encode(x, condition), condition, torch.zeros_like(self.log_noise))
        return -self.head.log_prob(params, x)

    # the likelihood

    def log_weights_at(self, x: Tensor, q: CodeLaw, num_samples: int, log_noise: Tensor) -> dict[str, Tensor]:
        """The parts of log w `(K, B)` at draws of q, for noise t; differentiable in t and in the width of q."""
        z = q.sample(torch.Size((num_samples,)))
        params = self.decode(z.to(self.width.dtype), q.condition, log_noise)
        return {"reconstruction": self.head.log_prob(params, x), "kl": q.log_ratio(z)}

    def _log_weights(self, x: Tensor, num_samples: int, condition: Tensor | None) -> Mapping[str, Tensor]:
        return self.log_weights_at(x, self.proposal(x, condition), num_samples, self.log_noise)

    def proposal(self, x: Tensor, condition: Tensor | None) -> CodeLaw:
        """See LatentJoint: q(z given x)."""
        return self.law(self.encode(x, condition), self.width, condition)

    def law(self, code: Tensor, width: Tensor, condition: Tensor | None) -> CodeLaw:
        """q of examples whose code is given."""
        return CodeLaw(code, width, self.density, condition, self.share)

    def log_joint(self, x: Tensor, z: Tensor, condition: Tensor | None) -> Tensor:
        """See LatentJoint: log p(x given z) + log p(z)."""
        params = self.decode(z.to(self.width.dtype), condition, self.log_noise)
        return self.head.log_prob(params, x) + self.density.log_prob(z, condition)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return self.sample_joint(n, condition)[0]

    def sample_joint(self, n: int, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """See LatentJoint."""
        z = self.density.draw(n, condition).to(self.width.dtype)
        parts = []
        for at in range(0, n, self.rows):
            some = slice(at, at + self.rows)
            label = None if condition is None else condition[some]
            parts.append(self.head.sample(self.decode(z[some], label, self.log_noise)))
        return torch.cat(parts), z

    # what is fitted

    def _initialise(self, train: Split) -> None:
        """Start the decoder at the marginals of the dimensions."""
        batch = train.batch(torch.randperm(len(train))[:10_000], torch.Generator().manual_seed(0))
        self.decoder.bias.copy_(self.head.marginal_parameters(batch.x)[: len(self.decoder.bias)])

    def _calibrate(self, train: Split, valid: Split) -> None:
        """Fit the density of codes, the noise and the width; see the module."""
        known, held = self._some(train, CODES), self._some(valid, HELD)
        codes, held_codes = (torch.cat(self._encoded(batch)) for batch in (known, held))
        self.density.fit(codes, known.y, held_codes, held.y)
        fit_noise_and_width(self, held, held_codes)

    def _some(self, split: Split, most: int) -> Batch:
        x, y = split.batch(torch.randperm(len(split))[:most], torch.Generator().manual_seed(0))
        labels = None if self.spec.classes is None or y is None else y.to(self.device)
        return Batch(x.to(self.device), labels)

    def _encoded(self, batch: Batch) -> list[Tensor]:
        labels = [None] * len(batch.x) if batch.y is None else torch.split(batch.y, self.rows)
        return [self.encode(x, y) for x, y in zip(torch.split(batch.x, self.rows), labels, strict=False)]

    def traces(self, x: Tensor, n: int, seed: int) -> dict[str, Tensor]:
        """`reconstructions (n, 2, *event_shape)`: n examples and E[x given z = e(x)], float."""
        if self.spec.classes is not None:
            return {}  # the labels of `x` are not known here
        with torch.no_grad(), evaluating(self), seeded(seed, self.device):
            shown = x[:n]
            mean = self.head.mean(self.decode(self.encode(shown, None), None, self.log_noise))
            return {"reconstructions": torch.stack([shown.float(), mean], 1)}
