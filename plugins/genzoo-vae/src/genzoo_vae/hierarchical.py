"""Hierarchical VAE for images: L groups of latents, the coarsest first, each with a prior learned given those above
(Sonderby et al. 2016, arXiv:1602.02282; residual posteriors: Vahdat & Kautz 2020, arXiv:2007.03898).

    p(x, z) = p(x given z) prod_l p(z_l given z_<l)             q(z given x) = prod_l q(z_l given z_<l, x)
    p(z_l given z_<l) = N(m, s^2)                               q(z_l given z_<l, x) = N(m + s a, (s r)^2)

m, s come from the top-down network, a and r from it and the encoder of x, diagonal both. In the coordinates
w = (z - m) / s = a + r eps of the prior everything is simple:

    log p(z_l) - log q(z_l) = (eps^2 - w^2) / 2 + log r         KL(q, p) = (a^2 + r^2 - 1) / 2 - log r,  per latent

The first group is a vector; the others lie on maps of a quarter and of half the image's sides, since the networks see
patches of 2 x 2 pixels (single pixels where a side is odd, and then the maps are of half the sides and whole). The
decoder tells the pixels of a patch one after another; see staged.py. The training loss is the negative ELBO with the
divergences in closed form given the draws above; the evaluation is IWAE.
Terms `reconstruction`, `kl`; array `kl_per_layer (B, L)`. All values in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from genzoo.config import Config, TrainSettings
from genzoo.errors import CapabilityError
from genzoo.heads import HeadName, head_for
from genzoo.interface import Estimator, LatentVariableModel, ModelEstimator
from genzoo.nn import bfloat16_training, condition_features, condition_width
from genzoo.seeding import derive_seed, evaluating, seeded
from genzoo.spec import DataSpec, Split
from genzoo_vae.interpolation import shares, way_to_next
from genzoo_vae.staged import StagedDecoder

FREQUENCIES = (1.0, 2.0, 4.0)

PIXELS_AT_ONCE = 64 * 28 * 28
"""Of all draws of all images together: their maps stay in cache."""

IWAE_BATCH = 4
"""Images evaluated at once: each is encoded anew for every `rows` rows of draws, so that few images have many draws."""


class HierarchicalConfig(Config):
    """Configuration of `HierarchicalVAE`."""

    width: int = Field(32, ge=8, multiple_of=8, description="channels at half the image's sides; twice as many coarser")
    top: int = Field(16, ge=1, description="latents of the first group, a vector")
    coarse: int = Field(8, ge=1, description="latents a place on the coarse maps, a quarter of the image's sides")
    fine: int = Field(2, ge=1, description="latents a place on the fine maps, half of the image's sides")
    coarse_layers: int = Field(2, ge=0, description="groups on coarse maps")
    fine_layers: int = Field(1, ge=0, description="groups on fine maps")
    head: HeadName = Field(
        "auto", description="p(x given z): bernoulli, categoricals or logistics; auto: by the levels"
    )
    components: int = Field(12, ge=2, description="components of a mixture over levels")
    pixel_features: int = Field(
        6, ge=1, description="network outputs a pixel, from which a shared map makes the head's"
    )
    kl_warmup: float = Field(0.1, ge=0, lt=1, description="share of the training in which the KL's weight rises to 1")


class Block(nn.Module):
    """h + conv(silu(conv(silu(norm(h))))), the last map zero at first: `(R, inputs, H, W)` to `(R, channels, H, W)`."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, inputs)
        self.conv = nn.Conv2d(inputs, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Identity() if inputs == channels else nn.Conv2d(inputs, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, h: Tensor) -> Tensor:
        """See the class."""
        inner = nn.functional.silu(self.conv(nn.functional.silu(self.norm(h))))
        return cast(Tensor, self.skip(h) + self.out(inner))


class Group(nn.Module):
    """One group of latents on a map `(R, channels, H, W)`: what it adds to the map, and log p - log q or the KL."""

    def __init__(self, channels: int, latents: int) -> None:
        super().__init__()
        self.prior = nn.Conv2d(channels, 2 * latents, 1)
        self.posterior = nn.Sequential(Block(2 * channels, channels), nn.SiLU(), nn.Conv2d(channels, 2 * latents, 1))
        self.into = nn.Conv2d(latents, channels, 3, padding=1)
        self.after = Block(channels, channels)
        for last in (self.prior, cast(nn.Conv2d, self.posterior[-1])):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(cast(Tensor, last.bias))

    def forward(
        self, h: Tensor, encoded: Tensor | None, closed: bool, given: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The map with the group's draw w in it; `(R,)`, minus the KL where `closed`, else log p - log q; and w.

        `encoded (R, channels, H, W)` is the encoder's map; None draws from the prior, whose log-ratio is 0, or takes
        `given` for the draw.
        """
        loc, log_scale = self.prior(h).float().chunk(2, 1)
        if encoded is None:
            w = torch.randn_like(loc) if given is None else given
            ratio = loc.new_zeros(len(h))
        else:
            w, ratio = residual_draw(self.posterior(torch.cat([h, encoded], 1)).float(), closed)
        z = loc + bounded(log_scale).exp() * w
        return self.after(h + self.into(z.to(h.dtype))), ratio, w


def bounded(log_scale: Tensor) -> Tensor:
    """Within exp(-6), exp(3): outside float32 and bfloat16 lose the other side."""
    return log_scale.clamp(-6.0, 3.0)


def residual_draw(outputs: Tensor, closed: bool) -> tuple[Tensor, Tensor]:
    """w = a + r eps in the prior's coordinates, and minus the KL or log p - log q, summed over the latents `(R,)`."""
    shift, log_ratio = outputs.chunk(2, 1)
    log_ratio = bounded(log_ratio)
    eps = torch.randn_like(shift)
    w = shift + log_ratio.exp() * eps
    if closed:
        nats = -0.5 * (shift.square() + (2 * log_ratio).exp() - 1) + log_ratio
    else:
        nats = 0.5 * (eps.double().square() - w.double().square()) + log_ratio
    return w, nats.flatten(1).sum(1)


class HierarchicalVAE(LatentVariableModel):
    """Hierarchical VAE of images; conditional on labels by planes added to both networks.

    Raises:
        CapabilityError: events that are not images, or a head for another kind of data.
    """

    Config = HierarchicalConfig
    config: HierarchicalConfig

    def __init__(self, spec: DataSpec, config: HierarchicalConfig | None = None) -> None:
        super().__init__(spec, config)
        c = self.config
        shape = spec.event_shape
        if len(shape) != 3:
            raise CapabilityError(f"expected images (C, H, W) for hvae; got events {shape}")
        channels, height, width = shape
        self.rows = min(1024, max(1, PIXELS_AT_ONCE // spec.dims))
        self.patch = 2 if height % 2 == width % 2 == 0 else 1
        wide = 2 * c.width
        self.fine_size = height // self.patch, width // self.patch
        self.coarse_size = (self.fine_size[0] + 1) // 2, (self.fine_size[1] + 1) // 2
        places = self.coarse_size[0] * self.coarse_size[1]
        self.head = head_for(spec, c.head, c.components)
        parameters = self.head.parameters_per_dim
        features = parameters if parameters <= 2 else min(parameters, c.pixel_features)
        classes = condition_width(spec)
        inputs = channels * (1 + (2 * len(FREQUENCIES) if spec.levels != 2 else 0))
        self.stem = nn.Conv2d(inputs * self.patch**2, c.width, 3, padding=1)
        self.label_in = nn.Linear(classes, c.width, bias=False) if classes else None
        self.label_out = nn.Linear(classes, wide, bias=False) if classes else None
        self.fine_up = nn.Sequential(Block(c.width, c.width), Block(c.width, c.width))
        self.shrink = nn.Conv2d(c.width, wide, 3, stride=2, padding=1)
        self.coarse_up = nn.Sequential(Block(wide, wide), Block(wide, wide))
        self.top_posterior = nn.Sequential(nn.SiLU(), nn.Flatten(), nn.Linear(wide * places, 2 * c.top))
        self.top_into = nn.Linear(c.top, wide * places)
        self.first = Block(wide, wide)
        self.coarse = nn.ModuleList(Group(wide, c.coarse) for _ in range(c.coarse_layers))
        self.grow = nn.Conv2d(wide, c.width, 1)
        self.second = Block(c.width, c.width)
        self.fine = nn.ModuleList(Group(c.width, c.fine) for _ in range(c.fine_layers))
        self.last = Block(c.width, c.width)
        self.decoder = StagedDecoder(channels, features, self.patch, c.width, inputs)
        self.features = features
        self.mix = nn.Parameter(torch.randn(parameters, features) / features**0.5) if features < parameters else None
        self.bias = nn.Parameter(torch.zeros(parameters, spec.dims))
        last = cast(nn.Linear, self.top_posterior[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def default_training(self) -> TrainSettings:
        """Small batches: the budget of a CPU buys more steps."""
        return TrainSettings(learning_rate=4e-3, batch_size=64, betas=(0.9, 0.99), ema=0.999)

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        """`iwae`, the default: with one draw its mean is the ELBO."""

        def iwae() -> Estimator:
            estimator = ModelEstimator("iwae", self)
            estimator.batch_size = IWAE_BATCH
            return estimator

        return {"iwae": iwae}

    # the networks

    def _planes(self, x: Tensor) -> Tensor:
        """An image as the networks see it: `(B, inputs, H, W)`, levels on [-1, 1] and, of many levels, their waves."""
        h = x.to(self.bias.dtype)
        if self.spec.levels is not None:
            h = h * (2 / (self.spec.levels - 1)) - 1
        if self.spec.levels == 2:
            return h
        # what lies between two of many levels is invisible to a linear map of x
        angles = torch.cat([h * (f * torch.pi) for f in FREQUENCIES], 1)
        return torch.cat([h, angles.sin(), angles.cos()], 1)

    def encode(self, planes: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """The encoder's maps of images: `(B, width, H/2, W/2)` and `(B, 2 width, H/4, W/4)`."""
        h = self.stem(nn.functional.pixel_unshuffle(planes, self.patch))
        fine = self.fine_up(self._labelled(h, self.label_in, condition))
        return fine, self.coarse_up(self.shrink(fine))

    def _labelled(self, h: Tensor, layer: nn.Linear | None, condition: Tensor | None) -> Tensor:
        """`h` plus a plane for each channel that tells the label."""
        if layer is None:
            return h
        label: Tensor = layer(condition_features(self.spec, condition, len(h), self.bias))
        return h + label[:, :, None, None]

    def _descend(
        self,
        n: int,
        encoded: tuple[Tensor, Tensor] | None,
        condition: Tensor | None,
        closed: bool,
        given: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """From the first group down to the decoder's map `(n, width, H/2, W/2)`; log-ratios or KLs `(n, L)`; and the
        draws w of the groups, which are those `given` where there is nothing encoded."""
        c, known = self.config, iter(given or ())
        if encoded is None:
            w = next(known) if given else torch.randn(n, c.top, device=self.bias.device)
            ratio = self.bias.new_zeros(n)
        else:
            w, ratio = residual_draw(self.top_posterior(encoded[1]).float(), closed)
        ratios, latents = [ratio], [w]
        h = self.top_into(w.to(self.top_into.weight.dtype)).view(n, -1, *self.coarse_size)
        h = self.first(self._labelled(h, self.label_out, condition))
        for group in self.coarse:
            h, ratio, w = group(h, None if encoded is None else encoded[1], closed, next(known, None))
            ratios.append(ratio)
            latents.append(w)
        h = self.second(nn.functional.interpolate(self.grow(h), size=self.fine_size, mode="nearest"))
        for group in self.fine:
            h, ratio, w = group(h, None if encoded is None else encoded[0], closed, next(known, None))
            ratios.append(ratio)
            latents.append(w)
        return self.last(h), torch.stack(ratios, 1), latents

    def _head_parameters(self, maps: Tensor) -> Tensor:
        """The head's parameters `(R, P, D)` from maps `(R, C, features, H, W)`."""
        params = maps.transpose(1, 2).flatten(2)  # (R, features, D)
        return (params if self.mix is None else self.mix @ params) + self.bias

    def _draw(self, h: Tensor) -> Tensor:
        """Images `(R, *event_shape)` given the decoder's map."""
        return self.decoder.draw(h, lambda maps: self.head.sample(self._head_parameters(maps)), self._planes)

    # the bound

    def _log_weights(self, x: Tensor, num_samples: int, condition: Tensor | None) -> Mapping[str, Tensor]:
        n, k = len(x), num_samples
        planes = self._planes(x)
        encoded = self.encode(planes, condition)
        labels = None if condition is None else condition.repeat(k)
        repeated = encoded[0].repeat(k, 1, 1, 1), encoded[1].repeat(k, 1, 1, 1)
        h, ratios, _ = self._descend(k * n, repeated, labels, closed=False)
        params = self._head_parameters(self.decoder(h, planes))
        reconstruction = self.head.log_prob(params.view(k, n, *params.shape[1:]), x)
        return {"reconstruction": reconstruction, "kl_per_layer": ratios.view(k, n, -1)}

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        """The negative ELBO with its KL weighted by beta: in nats once beta is 1."""
        beta = min(1.0, progress / self.config.kl_warmup) if self.config.kl_warmup else 1.0
        # bfloat16 is safe here: latents, divergences and likelihood are computed in float32 or finer
        with bfloat16_training(self, x.device):
            planes = self._planes(x)
            h, ratios, _ = self._descend(len(x), self.encode(planes, condition), condition, closed=True)
            maps = self.decoder(h, planes)
        params = self._head_parameters(maps)
        return (-self.head.log_prob(params, x) - beta * ratios.sum(1)).to(torch.float32)

    def _initialise(self, train: Split) -> None:
        """Start the decoder at the marginals of the pixels."""
        batch = train.batch(torch.randperm(len(train))[:10_000], torch.Generator().manual_seed(0))
        self.bias.copy_(self.head.marginal_parameters(batch.x))

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        parts = []
        for at in range(0, n, self.rows):
            size = min(self.rows, n - at)
            labels = None if condition is None else condition[at : at + size]
            parts.append(self._draw(self._descend(size, None, labels, closed=True)[0]))
        return torch.cat(parts)

    def traces(self, x: Tensor, n: int, seed: int) -> dict[str, Tensor]:
        """`reconstructions (n, 2, *event_shape)`: n examples, each beside a draw of p(x given z) at a draw of q; and
        `interpolation (n, frames, *event_shape)`: the same with every group's w, in which the prior is standard normal,
        on its way to that of the next example. All frames share the noise of p(x given z)."""
        if self.spec.classes is not None:
            return {}  # the labels of `x` are not known here

        def drawn(h: Tensor) -> Tensor:
            with seeded(derive_seed("p(x given z)", seed), self.device):
                return self._draw(h).to(x.dtype)

        with torch.no_grad(), evaluating(self), seeded(seed, self.device):
            shown = x[:n]
            h, _, latents = self._descend(len(shown), self.encode(self._planes(shown), None), None, closed=True)
            made = {"reconstructions": torch.stack([shown, drawn(h)], 1)}
            ways = zip(*[way_to_next(w) for w in latents], strict=True)
            frames = [drawn(self._descend(len(shown), None, None, closed=True, given=at)[0]) for at in ways]
        return made | {"interpolation": torch.stack(frames, 1), "interpolation_at": shares()}
