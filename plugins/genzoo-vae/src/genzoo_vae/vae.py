"""Variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114; Rezende et al. 2014, arXiv:1401.4082).

    p(x) = integral of p(x given z) p(z) dz        q(z given x) = N(m(x), L(x) L(x)^T)
    ELBO = E_q log p(x given z) - KL(q(z given x), p(z)) <= log p(x)
    IWAE_K = E log (1/K) sum_k w_k,  w_k = p(x given z_k) p(z_k) / q(z_k given x)     (Burda et al., arXiv:1509.00519)

x data (B, *event_shape), z latent (K, B, d), K draws. p(x given z) is a head of `genzoo.heads`, p(z) is N(0, I) or a
learned mixture (`genzoo_vae.prior`); all values in nats. The evaluation, `log_likelihood`, is IWAE_K; the estimator
`elbo` is the ELBO, with its KL in closed form where the prior has one. Tighter ones, `refined` and `ais`, are the
host's (`genzoo.latent`), for which this model gives p(x, z) and q.

Real vectors of few dimensions have defaults of their own (mixture, full covariances, identity skips): their densities
have separate thin parts. `vae[prior=normal,train_samples=1,skip=false,head=gaussian]` is the classic model there too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Distribution

from genzoo.config import Config, TrainSettings
from genzoo.heads import FULL_DIMS, HeadName, head_for
from genzoo.interface import Estimator, LatentVariableModel, ModelEstimator
from genzoo.latent import AnnealedImportance, LatentJoint, RefinedELBO
from genzoo.likelihood import LogLikelihood
from genzoo.nn import MLP, Decoder, condition_features, condition_width
from genzoo.seeding import evaluating, seeded
from genzoo.spec import DataSpec, Split
from genzoo_vae.interpolation import shares, way_to_next
from genzoo_vae.posterior import GaussianPosterior
from genzoo_vae.prior import GaussianMixture, Prior, StandardNormal


class VAEConfig(Config):
    """Configuration of `VAE`. Where a key is none its value depends on the data, as its description says."""

    latents: int | None = Field(None, ge=1, description="d; none: the data's dimensions, at most 40")
    hidden: tuple[int, ...] | None = Field(
        None,
        description="widths of the encoder's hidden layers, reversed in the decoder; "
        "none: three of 64 for vectors, two of 512 for images",
    )
    head: HeadName = Field(
        "auto",
        description="p(x given z): gaussian, full_gaussian, bernoulli, categoricals or logistics; "
        f"auto: the first for real data, the second for real vectors up to {FULL_DIMS} dimensions, the third for two "
        "levels, the fourth for more; rings, 4,000 steps: 0.077 nats from the truth with full_gaussian, 0.169 with "
        "gaussian",
    )
    components: int = Field(12, ge=2, description="components of a mixture over levels")
    pixel_features: int = Field(
        4,
        ge=1,
        description="decoder outputs a dimension, from which one linear map, shared by all dimensions, makes "
        "the head's parameters where it has more than two: that layer is the widest",
    )
    prior: Literal["auto", "normal", "mixture"] = Field(
        "auto",
        description="p(z): N(0, I), or a mixture of Gaussians learned with the networks; auto: the mixture for real "
        f"vectors up to {FULL_DIMS} dimensions, since a continuous image of one Gaussian has no separate parts",
    )
    prior_components: int = Field(64, ge=1, description="Gaussians in a mixture prior")
    skip: bool | None = Field(
        None,
        description="identity maps beside both networks at the start, x to the mean of q and z to the mean of x; "
        f"none: for real vectors up to {FULL_DIMS} dimensions; rings: 0.99 nats from the truth without "
        "them after 2,500 steps, 0.077 with them after 4,000",
    )
    posterior: Literal["auto", "diagonal", "full"] = Field(
        "auto",
        description="covariance of q(z given x); auto: full up to 8 latents; "
        "8gaussians by the ELBO, 3,000 steps: 0.28 nats from the truth against 0.98",
    )
    train_samples: int | None = Field(
        None,
        ge=1,
        description="K of the training bound; 1 is the ELBO; none: 1 for images, 8 for vectors, where the "
        "ELBO ends further from the truth: 8gaussians, 3,000 steps, 0.28 nats against 0.08",
    )
    kl_warmup: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the training in which beta rises from 0 to 1; none: 0 with a mixture prior, which learns "
        "nothing while beta is 0, otherwise 0.2; "
        "binary MNIST, 1,500 steps: IWAE-100 is 97.4 nats against 100.6 without",
    )


def layers_for(spec: DataSpec) -> tuple[int, ...]:
    """Hidden widths by default: three of 64 for vectors, two of 512 for images."""
    return (64, 64, 64) if len(spec.event_shape) == 1 else (512, 512)


START_SCALE = 0.15
"""Scale of q(z given x) at the start beside identity maps: that at which the Gaussian heads start."""


class SkipMLP(nn.Module):
    """An MLP plus a linear map that starts as the identity from the inputs to the first outputs.

    Args:
        inputs, outputs, hidden: as in MLP.
        ones: how many dimensions the identity has.
    """

    def __init__(self, inputs: int, outputs: int, hidden: tuple[int, ...], ones: int) -> None:
        super().__init__()
        self.net = MLP(inputs, outputs, hidden)
        self.linear = nn.Linear(inputs, outputs)
        with torch.no_grad():
            self.linear.bias.zero_()
            self.linear.weight.zero_()[:ones, :ones].fill_diagonal_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """`(*S, inputs)` to `(*S, outputs)`."""
        return self.net(x) + self.linear(x)  # type: ignore[no-any-return]


class VAE(LatentVariableModel, LatentJoint):
    """Variational autoencoder; conditional on labels by one-hot inputs to both networks.

    Args:
        spec: any; real data should have scale 1, which the card's `standardize` sees to.
        config: see VAEConfig.

    Raises:
        CapabilityError: a head for another kind of data.
    """

    Config = VAEConfig
    config: VAEConfig

    def __init__(self, spec: DataSpec, config: VAEConfig | None = None) -> None:
        super().__init__(spec, config)
        config = self.config
        vector = len(spec.event_shape) == 1
        few = vector and spec.levels is None and spec.dims <= FULL_DIMS
        # The widest layer of an image decoder leaves the cache above this: decodes a second on one core at 512, 1,024
        # and 4,096 rows: 8-bit 6,000, 4,600, 3,900; binary 32,000, 36,000, 30,000.
        self.rows = 4096 if vector else 512 if spec.kind == "discrete" else 1024
        d = self.latents = config.latents or min(spec.dims, 40)
        self.full = config.posterior == "full" or (config.posterior == "auto" and d <= 8)
        self.train_samples = config.train_samples or (8 if vector else 1)
        mixture = few if config.prior == "auto" else config.prior == "mixture"
        self.kl_warmup = (0.0 if mixture else 0.2) if config.kl_warmup is None else config.kl_warmup
        self.head = head_for(spec, "full_gaussian" if few and config.head == "auto" else config.head, config.components)
        parameters = self.head.parameters_per_dim
        features = parameters if few or parameters <= 2 else min(parameters, config.pixel_features)
        hidden = layers_for(spec) if config.hidden is None else config.hidden
        encoder = spec.dims + condition_width(spec), GaussianPosterior.outputs_for(d, self.full), hidden
        decoder = d + condition_width(spec), features * spec.dims, hidden[::-1]
        skip = few if config.skip is None else config.skip
        ones = min(d, spec.dims)
        self.encoder = SkipMLP(*encoder, ones) if skip else MLP(*encoder)
        self.decoder = Decoder(SkipMLP(*decoder, ones) if skip else MLP(*decoder), spec.dims, parameters, features)
        if isinstance(self.encoder, SkipMLP):
            nn.init.constant_(self.encoder.linear.bias[d : 2 * d], math.log(START_SCALE))
        self.prior: Prior = GaussianMixture(d, config.prior_components) if mixture else StandardNormal(d)

    def log_ratio(self, q: GaussianPosterior, z: Tensor, eps: Tensor) -> Tensor:
        """log p(z) - log q(z given x), `(K, B)` float64."""
        return self.prior.log_prob(z) - q.log_prob(eps)

    def default_training(self) -> TrainSettings:
        """Adam at 4e-3: binary MNIST, 1,500 steps, IWAE-100 is 96.1 nats against 97.4 at 2e-3."""
        return TrainSettings(learning_rate=4e-3, batch_size=128)

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        """`iwae`, the default, `elbo`, `refined` and `ais`."""
        return {
            "iwae": lambda: ModelEstimator("iwae", self),
            "elbo": lambda: ELBO(self),
            "refined": lambda: RefinedELBO(self),
            "ais": lambda: AnnealedImportance(self),
        }

    def encode(self, x: Tensor, condition: Tensor | None) -> GaussianPosterior:
        """q(z given x) for `x (B, *event_shape)`."""
        h = x.flatten(1).to(self.decoder.bias.dtype)
        if self.spec.levels is not None:
            h = h * (2 / (self.spec.levels - 1)) - 1  # codes to [-1, 1]
        outputs = self.encoder(torch.cat([h, condition_features(self.spec, condition, len(h), h)], 1))
        return GaussianPosterior(outputs, self.latents, self.full)

    def decode(self, z: Tensor, condition: Tensor | None) -> Tensor:
        """The head's parameters `(*S, B, P, D)` at `z (*S, B, d)`."""
        label = condition_features(self.spec, condition, z.shape[-2], z)
        return self.decoder(torch.cat([z, label.expand(*z.shape[:-1], -1)], -1))  # type: ignore[no-any-return]

    def _log_weights(self, x: Tensor, num_samples: int, condition: Tensor | None) -> Mapping[str, Tensor]:
        q = self.encode(x, condition)
        z, eps = q.draw(num_samples)
        ratio = self.prior.log_prob_per_latent(z) - q.log_prob_per_latent(eps)  # (K, B, d)
        return {"reconstruction": self.head.log_prob(self.decode(z, condition), x), "kl_per_latent": ratio}

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        """The negative ELBO, or IWAE_K, with log p(z) - log q(z given x) weighted by beta: in nats once beta is 1."""
        beta = min(1.0, progress / self.kl_warmup) if self.kl_warmup else 1.0
        q, k = self.encode(x, condition), self.train_samples
        z, eps = q.draw(k)
        reconstruction = self.head.log_prob(self.decode(z, condition), x)  # (K, B)
        closed = self.prior.kl_per_latent(q) if k == 1 else None
        if closed is not None:
            return beta * closed.sum(1) - reconstruction[0]
        return math.log(k) - (reconstruction + beta * self.log_ratio(q, z, eps)).logsumexp(0)

    def _initialise(self, train: Split) -> None:
        """Start the decoder at the marginals of the dimensions, so that training begins at independent dimensions,
        and a mixture prior at encoded examples."""
        batch = train.batch(torch.randperm(len(train))[:10_000], torch.Generator().manual_seed(0))
        self.decoder.bias.copy_(self.head.marginal_parameters(batch.x))
        some = slice(None, 1000)
        self.prior.initialise(self.encode(batch.x[some], None if batch.y is None else batch.y[some]).loc)

    def proposal(self, x: Tensor, condition: Tensor | None) -> Distribution:
        """See LatentJoint: q(z given x)."""
        return self.encode(x, condition).law()

    def log_joint(self, x: Tensor, z: Tensor, condition: Tensor | None) -> Tensor:
        """See LatentJoint: log p(x given z) + log p(z)."""
        params = self.decode(z.to(self.decoder.bias.dtype), condition)
        return self.head.log_prob(params, x) + self.prior.log_prob(z)

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        return self.sample_joint(n, condition)[0]

    def sample_joint(self, n: int, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """See LatentJoint."""
        z = self.prior.draw(n, self.decoder.bias)
        parts = []
        for at in range(0, max(n, 1), self.rows):
            rows = slice(at, at + self.rows)
            parts.append(self.head.sample(self.decode(z[rows], None if condition is None else condition[rows])))
        return torch.cat(parts), z

    def traces(self, x: Tensor, n: int, seed: int) -> dict[str, Tensor]:
        """`reconstructions (n, 2, *event_shape)`: n examples and E[x given z] at a draw z of q(z given x), float; of
        images also `interpolation (n, frames, *event_shape)`: E[x given z] from z straight to that of the next."""
        if self.spec.classes is not None:
            return {}  # the labels of `x` are not known here
        with torch.no_grad(), evaluating(self), seeded(seed, self.device):
            shown = x[:n]
            z = self.encode(shown, None).draw(1)[0][0]
            made = {"reconstructions": torch.stack([shown.float(), self.head.mean(self.decode(z, None))], 1)}
            if len(self.spec.event_shape) == 3:
                made["interpolation"] = self.head.mean(self.decode(way_to_next(z), None)).transpose(0, 1)
                made["interpolation_at"] = shares()
        return made


class ELBO(Estimator):
    """The ELBO: one draw is unbiased for a bound, and is never exponentiated. `variance` is None with one draw.

    Terms `reconstruction` and `kl` (minus the KL). A standard normal prior has the KL in closed form, and the array
    `kl_per_latent (B, d)`, a unit's share of that term, zero where the unit is unused. With a mixture prior the term is
    named `kl_sampled`: the mean of log p(z) - log q(z given x) over the same draws.
    """

    name = "elbo"

    def __init__(self, model: VAE) -> None:
        self.model = model

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """See GenerativeModel.log_likelihood."""
        model = self.model
        model.spec.check(x, condition)
        reconstruction = ratio = squares = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        with torch.no_grad(), evaluating(model), seeded(seed, model.device):
            q = model.encode(x, condition)
            per_latent = model.prior.kl_per_latent(q)
            closed = None if per_latent is None else -per_latent.sum(1)
            chunk, done = max(1, model.rows // max(1, len(x))), 0
            while done < num_samples:
                k = min(chunk, num_samples - done)
                z, eps = q.draw(k)
                draws = model.head.log_prob(model.decode(z, condition), x)  # (k, B)
                ratios = model.log_ratio(q, z, eps) if closed is None else closed.expand(k, -1)
                reconstruction, ratio = reconstruction + draws.sum(0), ratio + ratios.sum(0)
                squares, done = squares + ((draws + ratios) ** 2).sum(0), done + k
        reconstruction, ratio = reconstruction / num_samples, ratio / num_samples
        spread = (squares / num_samples - (reconstruction + ratio) ** 2).clamp(min=0)
        return LogLikelihood.lower_bound(
            reconstruction + ratio,
            num_samples=num_samples,
            variance=spread / (num_samples - 1) if num_samples > 1 else None,
            terms={"reconstruction": reconstruction, "kl" if closed is not None else "kl_sampled": ratio},
            arrays={} if per_latent is None else {"kl_per_latent": -per_latent},
        )
