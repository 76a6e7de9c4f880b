"""Diffusion of codes with few levels by a discrete forward process, and its bound (terms: `genzoo_ddpm.kernels`).

    -log p(x_0) <= sum_{t=1}^T E KL(q(x_{t-1} given x_t, x_0), p(x_{t-1} given x_t))      Austin et al. 2021, eq. 1

The network sees x_t alone (a mask as the middle of the range, which codes and masks are, and what independent pixels
would believe) and adds to the log-probabilities of independent pixels: untrained, the model is about those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from genzoo.config import Config, TrainSettings
from genzoo.config import Config as BaseConfig
from genzoo.errors import CapabilityError
from genzoo.interface import Estimator
from genzoo.likelihood import LogLikelihood
from genzoo.nn import condition_features, condition_width
from genzoo.noising import ForwardProcess, Noising
from genzoo.spec import DataSpec, Split
from genzoo_ddpm.bound import drawn_bound, pilot, subset
from genzoo_ddpm.estimators import FullBound, ModelBound, PathWeights
from genzoo_ddpm.frames import traced
from genzoo_ddpm.kernels import SCHEDULES, Absorbing, AnyOrder, Kernel, Uniform, taken
from genzoo_ddpm.networks import VectorNetwork
from genzoo_ddpm.objectives import VariationalBound
from genzoo_ddpm.stepwise import StepModel
from genzoo_ddpm.stratified import StratifiedBound
from genzoo_ddpm.terms import Terms
from genzoo_ddpm.unet import FREQUENCIES, PatchUNet

MOST_LEVELS = 32
"""A network for a logit a level is too wide beyond, and codes are no longer unlike their neighbours: ddpm's ground."""

FIT_EXAMPLES = 50_000
"""Training examples behind the histograms, at most."""


class D3PMConfig(Config):
    """Configuration of a discrete diffusion. Defaults come from short trainings on binary MNIST."""

    kernel: Literal["uniform", "absorbing", "any_order"] = Field(
        "uniform",
        description="uniform: codes are drawn anew; absorbing: masked; any_order: masked one by one. On binary MNIST "
        "uniform was 2 to 3 nats ahead of any_order after 100, 200 and 300 steps, and samples in fewer",
    )
    steps: int = Field(
        256, ge=2, description="T of uniform and absorbing; any_order has a step for each dimension, whatever this says"
    )
    schedule: Literal["linear", "cosine"] = Field(
        "cosine", description="abar_t of absorbing and uniform: 1 - t/T, or cos^2(pi t / 2T), finer at both ends"
    )
    width: int | None = Field(None, ge=8, description="features of the network; none: 128 for vectors, 48 for images")
    blocks: int = Field(3, ge=1, description="residual blocks of the network for vectors")


def kernel_of(spec: DataSpec, config: D3PMConfig) -> Kernel:
    """The forward process of `config` on `spec`."""
    if spec.levels is None or spec.levels > MOST_LEVELS:
        got = "real data" if spec.levels is None else f"{spec.levels} levels"
        raise CapabilityError(f"d3pm takes codes with at most {MOST_LEVELS} levels; got {got}: use ddpm")
    if config.kernel == "any_order":
        return AnyOrder(spec.levels, spec.dims)
    kept = SCHEDULES[config.schedule](config.steps)
    return Absorbing(spec.levels, kept) if config.kernel == "absorbing" else Uniform(spec.levels, kept)


@final
class D3PM(StepModel, Noising):
    """Discrete denoising diffusion (Austin et al. 2021, arXiv:2107.03006; Hoogeboom et al. 2022, arXiv:2110.02037)."""

    Config: ClassVar[type[Config]] = D3PMConfig
    mass: Tensor

    def __init__(self, spec: DataSpec, config: D3PMConfig | None = None) -> None:
        super().__init__(spec, config)
        c = self.options
        self.kernel = kernel_of(spec, c)
        self.levels, shape = self.kernel.levels, spec.event_shape
        self.register_buffer("mass", torch.full((spec.dims, self.levels), 1 / self.levels))
        self.terms = KernelTerms(self)
        self.allocation = self.terms.allocation()
        self.objective = VariationalBound()
        sides, classes = 2 + self.kernel.masks, condition_width(spec)
        # the value of one of two or three codes says all there is to know; of more, neighbours need telling apart
        frequencies = FREQUENCIES if self.levels > 3 else ()
        self.network: PatchUNet | VectorNetwork = (
            PatchUNet((shape[0], shape[1], shape[2]), sides, self.levels, classes, c.width or 48, frequencies)
            if len(shape) == 3
            else VectorNetwork(spec.dims, sides, self.levels * spec.dims, classes, c.width or 128, c.blocks)
        )

    @property
    def options(self) -> D3PMConfig:
        """The config, typed."""
        assert isinstance(self.config, D3PMConfig)
        return self.config

    def default_training(self) -> TrainSettings:
        """As ddpm's."""
        images = len(self.spec.event_shape) == 3
        return TrainSettings(
            learning_rate=2e-3, batch_size=64 if images else 512, betas=(0.9, 0.99), clip=None, ema=0.999
        )

    def _encoded(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        z = x.flatten(1).to(self.mass.dtype)
        return z, condition_features(self.spec, condition, len(z), z)

    def _initialise(self, train: Split) -> None:
        """Histograms; one further example is spread over all levels."""
        codes = self._encoded(*subset(train, FIT_EXAMPLES, self.device))[0].to(torch.int64)
        counts = torch.stack([(codes == k).sum(0) for k in range(self.levels)], 1).double()
        self.mass.copy_((counts + 1 / self.levels) / (len(codes) + 1))

    def _calibrate(self, train: Split, valid: Split) -> None:
        """Fit the allocation; on training data, so that validation data speak of what was chosen without them."""
        fitted = pilot(self.terms, train)
        self.allocation.load_state_dict(fitted.state_dict())

    # the network

    def log_probs(self, x_t: Tensor, step: Tensor, labels: Tensor) -> Tensor:
        """log p~(k given x_t) `(R, D, L)` at states `x_t (R, D)`."""
        scale = 2 / (self.levels - 1)
        masked = x_t == self.levels
        value = (scale * x_t.to(self.mass.dtype) - 1).masked_fill(masked, 0.0)
        believed = self.kernel.believed(x_t, step, self.mass)
        values = scale * torch.arange(self.levels, dtype=self.mass.dtype, device=x_t.device) - 1
        mean = believed @ values
        spread = ((believed @ values.square()) - mean.square()).clamp(min=0).sqrt()
        side = torch.cat([mean, spread, *([masked.to(value.dtype)] if self.kernel.masks else [])], 1)
        told = self.kernel.clarity(x_t, step).to(value.dtype)
        output: Tensor = self.network(value, side, told, labels).view(len(x_t), self.levels, -1)  # (R, L, D)
        return (believed.clamp(min=1e-30).log() + output.transpose(1, 2)).log_softmax(2)

    # the bound

    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        z, labels = self._encoded(x, condition)
        terms = self.terms
        step = self.objective.draw(len(z), terms.first, terms.count, z.device)
        nats = terms(z, step, step, terms.noise(z), labels)
        return (terms.count * nats).to(z.dtype)

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        return drawn_bound(self.terms, self.allocation, *self._encoded(x, condition), num_samples)

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        """vlb: from drawn steps. full: over all. weights: of whole paths. stratified: the mean alone."""
        c, count = self.options, self.kernel.count
        choice = f"kernel={c.kernel}"
        if c.kernel != "any_order":
            choice = f"{choice},schedule={c.schedule},steps={count}"
        return {
            "vlb": lambda: ModelBound(self, f"vlb[{choice}]"),
            "full": lambda: FullBound(self.terms, f"full[{choice}]"),
            "weights": lambda: PathWeights(self, self._path, f"weights[{choice}]", count),
            "stratified": lambda: StratifiedBound(self.terms, f"stratified[{choice}]"),
        }

    def _path(self, z: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """A Path: x_T to x_0 by q's posteriors."""
        x, count = z.to(torch.int64), self.kernel.count
        last = torch.full((len(x),), count - 1, device=x.device)
        x_t = self.kernel.noised(x, last, torch.rand(x.shape, device=x.device))
        prior = torch.zeros(len(x), dtype=torch.float64, device=x.device)  # p(x_T) is q(x_T)
        diffusion, ratio = prior, prior
        for t in range(count - 1, -1, -1):
            diffusion = diffusion + ratio
            x_t, ratio = self.kernel.back(x, x_t, t, self.log_probs(x_t, torch.full_like(last, t), labels))
        return {"prior": prior, "diffusion": diffusion, "decoder": ratio}

    # sampling

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        labels = condition_features(self.spec, condition, n, self.mass)
        parts = []
        for some in torch.split(labels, self.network.rows):
            *_, x = self._trajectory(some)
            parts.append(x)
        return torch.cat(parts).to(self.spec.dtype).view(n, *self.spec.event_shape)

    def _trajectory(self, labels: Tensor) -> Iterator[Tensor]:
        """x_T, ..., x_0, each `(n, D)` int64."""
        x = self.kernel.start(len(labels), self.spec.dims, labels.device)
        yield x
        for t in range(self.kernel.count - 1, -1, -1):
            step = torch.full((len(x),), t, device=x.device)
            x = self.kernel.reverse(x, t, self.log_probs(x, step, labels))
            yield x

    @classmethod
    def forward_process(cls, spec: DataSpec, config: BaseConfig) -> KernelProcess:
        """See Noising."""
        assert isinstance(config, D3PMConfig)
        return KernelProcess(kernel_of(spec, config))

    def traces(self, x: Tensor, n: int, seed: int) -> dict[str, Tensor]:
        """See `genzoo_ddpm.frames`."""
        process = KernelProcess(self.kernel)

        def reverse(labels: Tensor, times: Sequence[int]) -> list[Tensor]:
            back = list(self._trajectory(labels))
            return [process.shown(back[process.steps - t]) for t in times]

        return traced(self, process, reverse, self.mass, x, n, seed)


class KernelProcess(ForwardProcess):
    """A kernel as the host sees it: in data units, a mask as mid-grey."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.steps = kernel.count

    def describe(self, time: int) -> str:
        """The share that is lost."""
        return f"{100 * self.kernel.lost(time):.0f} % {'masked' if self.kernel.masks else 'drawn anew'}"

    def shown(self, x_t: Tensor) -> Tensor:
        """States int64 in data units, float32."""
        levels = self.kernel.levels
        return torch.where(x_t == levels, (levels - 1) / 2, x_t.to(torch.float32))

    def _path(self, data: Tensor, times: Sequence[int]) -> Iterator[Tensor]:
        codes = data.flatten(1).round().to(torch.int64)
        return (self.shown(x_t).view_as(data) for x_t in self.kernel.path(codes, times))


class KernelTerms(Terms):
    """KL_t of a kernel's steps, the last of which is the decoder; noise is u in [0, 1)."""

    model: D3PM
    first, alone, spread = 0, 0, None

    def __init__(self, model: D3PM) -> None:
        self.model = model
        self.count = model.kernel.count

    def __call__(self, z: Tensor, index: Tensor, place: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        """See Terms; a step has no inside."""
        model, parts = self.model, []
        for rows in torch.split(torch.arange(len(z), device=z.device), model.network.rows):
            x, step = z[rows].to(torch.int64), index[rows]
            x_t = model.kernel.noised(x, step, noise[rows])
            parts.append(model.kernel.nats(x, x_t, step, model.log_probs(x_t, step, labels[rows])))
        return torch.cat(parts)

    def noise(self, like: Tensor, even: Tensor | None = None) -> Tensor:
        """See Terms."""
        u = torch.rand_like(like)
        if even is not None:
            u[:, : even.shape[1]] = even.to(like.dtype)
        return u

    def mirror(self, noise: Tensor) -> Tensor:
        """See Terms: what was kept last goes first."""
        return 1 - noise

    def excess(self, z: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """See Terms: by what independent pixels say of each code."""
        model, x = self.model, z.to(torch.int64)
        cost = -taken(model.mass.log().expand(len(x), -1, -1), x)
        pair = [model.kernel.excess(x, index, u, cost) for u in (noise, self.mirror(noise))]
        return (pair[0] + pair[1]) / 2

    def prior(self, z: Tensor) -> Tensor:
        """See Terms: nothing, since nothing of x_0 is left in x_T."""
        return torch.zeros(len(z), dtype=torch.float64, device=z.device)

    def decoder(self, z: Tensor) -> Tensor:
        """See Terms: it is index 0."""
        raise NotImplementedError
