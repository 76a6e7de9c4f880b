"""What the models of this family share: data along a path to noise, a denoiser, and the two ends.

    x = a x_0 + s eps (interpolants.py),   x0_hat(x, lam) = closed form + network (networks.py, unet.py)

At the noisy end the prior p(x_T) = N(a_T m, a_T^2 diag C + s_T^2), m and C the data's mean and covariance, and at the
fine end a decoder p(x_0 given x_1) (decoders.py). `chain` holds log-SNRs between them, at indices 0..T-1.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from genzoo.config import TrainSettings
from genzoo.nn import condition_features, condition_width
from genzoo.spec import Split
from genzoo_ddpm.bound import subset
from genzoo_ddpm.decoders import GaussianDecoder, LevelsDecoder
from genzoo_ddpm.interpolants import Interpolant, Point
from genzoo_ddpm.networks import GaussianDenoiser, VectorNetwork
from genzoo_ddpm.ode import Flow
from genzoo_ddpm.options import NetworkConfig
from genzoo_ddpm.pixels import PixelDenoiser
from genzoo_ddpm.schedules import Chain
from genzoo_ddpm.stepwise import StepModel
from genzoo_ddpm.unet import PatchUNet

FIT_EXAMPLES = 50_000
"""Training examples behind the denoiser in closed form, at most."""

DECODER_VECTORS, DECODER_IMAGES = 1 << 14, 1 << 9
"""Training examples behind the decoder's variance, two network calls each."""


class Denoising(StepModel):
    """The denoiser and the two ends, which a constructor assembles after it has read its config."""

    def _assemble(
        self,
        chain: Chain,
        interpolant: Interpolant,
        *,
        decoder_variance: float | None = None,
        outputs: int = 1,
        eta: float = 1.0,
    ) -> None:
        """Make the parts.

        Args:
            chain, interpolant: see the module's head.
            decoder_variance: v_1 of the decoder; none: fitted (real data), s_1^2 / a_1^2 (codes).
            outputs: numbers that the network gives a dimension.
            eta: noise of the reverse process over that of Ho et al.'s; a bound needs some.
        """
        spec = self.spec
        assert isinstance(self.config, NetworkConfig)
        width, blocks, levels = self.config.width, self.config.blocks, spec.levels
        self.chain, self.interpolant, self.outputs, self.eta = chain, interpolant, outputs, eta
        self.decoder: GaussianDecoder | LevelsDecoder = (
            GaussianDecoder(chain, decoder_variance)
            if levels is None
            else LevelsDecoder(chain, decoder_variance, levels)
        )
        self.first = 0 if self.decoder.uses_network else 1
        self.denoiser: GaussianDenoiser | PixelDenoiser = (
            GaussianDenoiser(spec.dims) if levels is None else PixelDenoiser(spec.dims, levels)
        )
        sides, classes, shape = self.denoiser.sides, condition_width(spec), spec.event_shape
        self.network: PatchUNet | VectorNetwork = (
            PatchUNet((shape[0], shape[1], shape[2]), sides, outputs, classes, width or 48)
            if len(shape) == 3
            else VectorNetwork(spec.dims, sides, outputs * spec.dims, classes, width or 128, blocks)
        )

    @abstractmethod
    def flow(self) -> Flow:
        """The ODE with the path's marginals (ode.py)."""

    @abstractmethod
    def _draw(self, labels: Tensor) -> Tensor:
        """One draw for each of `labels (n, classes)`, `(n, *event_shape)` in data units."""

    def default_training(self) -> TrainSettings:
        """Found on the toys and on MNIST in short trainings; not a search."""
        if len(self.spec.event_shape) == 3:
            return TrainSettings(learning_rate=2e-3, batch_size=64, betas=(0.9, 0.99), clip=None, ema=0.999)
        return TrainSettings(learning_rate=2e-3, batch_size=512, betas=(0.9, 0.99), clip=None, ema=0.999)

    # the denoiser

    def _predict_from(self, x: Tensor, point: Point, condition: Tensor) -> tuple[Tensor, Tensor]:
        """x0_hat `(R, D)` at the path's x, and its variance up to a factor or the network's second output."""
        denoised = self.denoiser(x, point.signal, point.noise)
        output = self.network(x, denoised.side, point.told, condition)
        mean, *rest = output.chunk(self.outputs, dim=1)
        return denoised.mean + denoised.scale * mean, rest[0] if rest else denoised.variance

    def _predict_at(self, x: Tensor, log_snr: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The same at any log-SNR `(R,)` float64."""
        return self._predict_from(x, self.interpolant.at(log_snr, x.dtype), condition)

    def _errors_at(self, x: Tensor, log_snr: Tensor, eps: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0 - x0_hat)^2 `(R, D)` and the second answer, in batches of the network's size."""
        squares, cues = [], []
        for rows in torch.split(torch.arange(len(x), device=x.device), self.network.rows):
            point = self.interpolant.at(log_snr[rows], x.dtype)
            mean, cue = self._predict_from(point.signal * x[rows] + point.noise * eps[rows], point, condition[rows])
            squares.append((x[rows] - mean).square())
            cues.append(cue)
        return torch.cat(squares), torch.cat(cues)

    # the ends

    def _encoded(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        z = self.decoder.encode(x).flatten(1)
        return z, condition_features(self.spec, condition, len(z), z)

    def _prior(self, z: Tensor) -> Tensor:
        """KL(q(x_T given x_0), p(x_T)) `(B,)`, float64."""
        signal, noise = self.chain.signal[-1], self.chain.noise[-1]
        ratio = noise**2 / (noise**2 + signal**2 * self.denoiser.variances.double())
        shift = signal * (z.double() - self.denoiser.loc.double())
        return 0.5 * (ratio - 1 - ratio.log() + shift.square() / noise**2 * ratio).sum(1)

    def _decoder_nats(self, square: Tensor) -> Tensor:
        """-log p(x_0 given x_1) `(R,)` float64 of real data; `square (R, D)` float64 holds (x_0 - x0_hat)^2."""
        log_variance = self.decoder.log_variance
        return 0.5 * (log_variance + math.log(2 * math.pi) + square * (-log_variance).exp()).sum(1)

    def _decoder_constant(self) -> Tensor:
        """1/2 D log(2 pi v_1) where the decoder is one of the drawn steps, else 0."""
        constant = 0.5 * self.spec.dims * (math.log(2 * math.pi) + self.decoder.log_variance)
        return constant if self.decoder.uses_network else torch.zeros_like(constant)

    def _decoder_loss(self, z: Tensor) -> Tensor:
        """-log p(codes given x_1) `(B,)` from a random 1 in 16 of the dimensions: it has no gradient, and is small."""
        if not isinstance(self.decoder, LevelsDecoder):
            return torch.zeros(len(z), device=z.device)
        dims = self.spec.dims
        some = torch.randperm(dims, device=z.device)[: max(1, dims // 16)]
        return -self._decoder_draw(z[:, some]) * (dims / len(some))

    def _decoder_draw(self, z: Tensor) -> Tensor:
        """log p(codes given x_1) `(B,)` float64 with a fresh x_1."""
        assert isinstance(self.decoder, LevelsDecoder)
        mean = z + torch.randn_like(z) * float(self.chain.noise[0] / self.chain.signal[0])
        return self.decoder.log_prob(z, mean).double().sum(1)

    # fitted to data

    def _initialise(self, train: Split) -> None:
        self.denoiser.fit(self._encoded(*subset(train, FIT_EXAMPLES, self.device))[0])

    def _fit_decoder(self, train: Split) -> None:
        """v_1 of the decoder of real data from the error of x0_hat at t = 1, with a noise and its mirror."""
        if not self.decoder.uses_network:
            return
        most = DECODER_VECTORS if self.network.rows > 1000 else DECODER_IMAGES
        z, labels = self._encoded(*subset(train, most, self.device))
        eps, log_snr = torch.randn_like(z), self.chain.log_snr[0].expand(len(z))
        squares = [self._errors_at(z, log_snr, sign * eps, labels)[0] for sign in (1, -1)]
        self.decoder.fit(torch.stack(squares).double().mean())

    # sampling

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        labels = condition_features(self.spec, condition, n, self.denoiser.loc)
        return torch.cat([self._draw(label) for label in torch.split(labels, self.network.rows)])

    def _start(self, n: int) -> Tensor:
        """x_T of a variance-preserving path `(n, D)`."""
        signal, noise = self.chain.signal[-1], self.chain.noise[-1]
        scale = (noise**2 + signal**2 * self.denoiser.variances).sqrt().to(self.denoiser.loc.dtype)
        eps = torch.randn(n, self.spec.dims, dtype=scale.dtype, device=scale.device)
        return signal.to(scale.dtype) * self.denoiser.loc + scale * eps

    def _decoder_mean(self, x: Tensor, labels: Tensor) -> Tensor:
        """What the decoder draws around, given the x_1 of a variance-preserving path: `(n, D)`."""
        if not self.decoder.uses_network:
            return x / float(self.chain.signal[0])
        return self._predict_at(x, self.chain.log_snr[0].expand(len(x)), labels)[0]

    def _last(self, x: Tensor, labels: Tensor) -> Tensor:
        """A draw of the decoder given that x_1, in data units `(n, D)`."""
        return self.decoder.sample(self._decoder_mean(x, labels))
