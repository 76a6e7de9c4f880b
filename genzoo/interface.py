"""The interface: what a model, a learner and an estimator are. Notation: B examples, K Monte Carlo draws.

Public methods are final: they check shapes, dtypes, devices, seeds and modes once. Authors write underscore methods.

    GenerativeModel         log_likelihood and sample; brings its Learner and its Estimators
    ├── GradientModel       a per-example loss, trained by gradient steps
    │   └── LatentVariableModel   importance weights; the host does chunks, log-mean-exp, effective sample size
    └── ConditionalSampler  in-painting and denoising: sample_given
"""

from __future__ import annotations

import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from genzoo.config import Config as BaseConfig
from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError, ConfigError, InputError
from genzoo.likelihood import LogLikelihood, WeightSums, term_of
from genzoo.means import MeanResult
from genzoo.seeding import derive_seed, evaluating, seeded
from genzoo.signs import alive
from genzoo.spec import Batch, DataSpec, Split


class GenerativeModel(nn.Module, ABC):
    """A distribution over a `DataSpec`, made as `Model(spec, config)`; the constructor sees no data, device or seed.

    `sample` draws from the very distribution that `log_likelihood` speaks of. A model never saves, plots, prints, picks
    a device or sets a global seed. Raise CapabilityError in the constructor for data that the model cannot take.
    """

    Config: ClassVar[type[BaseConfig]] = BaseConfig

    def __init__(self, spec: DataSpec, config: BaseConfig | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.config = self.Config() if config is None else config
        if not isinstance(self.config, self.Config):
            expected, got = self.Config.__qualname__, type(self.config).__qualname__
            raise ConfigError(f"expected a config of type {expected} for {type(self).__name__}; got {got}")

    # what authors write

    @abstractmethod
    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        """The default estimate of log p(x) in nats, with `num_samples` Monte Carlo draws where there are any."""

    @abstractmethod
    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        """`n` draws `(n, *event_shape)` in the spec's dtype."""

    @abstractmethod
    def learner(self, settings: TrainSettings) -> Learner:
        """What trains this model in place."""

    def default_training(self) -> TrainSettings:
        """Training settings that suit this model on its spec."""
        return TrainSettings()

    def estimators(self) -> Mapping[str, Callable[[], Estimator]]:
        """Named ways to evaluate this model; the first is the default and agrees with `log_likelihood`."""
        return {"default": lambda: ModelEstimator("default", self)}

    def traces(self, x: Tensor, n: int, seed: int) -> dict[str, Tensor]:
        """Arrays that a report can draw, `{name: (n, frames, *event_shape)}` in data units, about `x` and draws, and
        under `<name>_at (frames,)` where the frames stand: time steps, layers, shares of a way."""
        return {}

    def count_parameters(self) -> int:
        """How many numbers are learned; a model that keeps them in buffers counts those."""
        return sum(parameter.numel() for parameter in self.parameters())

    # what callers use

    @property
    def device(self) -> torch.device:
        """Where the model's tensors live."""
        tensor: Tensor | None = next(itertools.chain(self.parameters(), self.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    @final
    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """What the model says of each example, in nats.

        Args:
            x: `(B, *event_shape)` in the spec's dtype.
            num_samples: Monte Carlo draws an example; models without draws ignore it.
            seed: forks and restores the global RNG; None draws from it as it stands.
            condition: labels `(B,)` int64 for a conditional model.

        Raises:
            InputError: wrong shape, dtype, range or device, naming what was expected and what came.
        """
        self._check(x, condition)
        if num_samples < 1:
            raise InputError(f"expected num_samples >= 1; got {num_samples}")
        with torch.no_grad(), evaluating(self), seeded(seed, self.device):
            result = self._log_likelihood(x, num_samples, condition)
        if len(result.lower) != len(x):
            raise InputError(f"{type(self).__name__} answered {len(result.lower)} values for {len(x)} examples")
        return result

    @final
    def sample(self, n: int, seed: int | None = None, condition: Tensor | None = None) -> Tensor:
        """`n` draws `(n, *event_shape)` in the spec's dtype, from the distribution `log_likelihood` speaks of."""
        if n < 0:
            raise InputError(f"expected n >= 0 samples; got {n}")
        self.spec.check_condition(condition, n)
        with torch.no_grad(), evaluating(self), seeded(seed, self.device):
            empty = torch.zeros((0, *self.spec.event_shape), dtype=self.spec.dtype, device=self.device)
            x = self._sample(n, condition) if n else empty
        self.spec.check(x, condition)
        return x

    @final
    def _check(self, x: Tensor, condition: Tensor | None) -> None:
        self.spec.check(x, condition)
        self._check_device(x=x, condition=condition)

    @final
    def _check_device(self, **tensors: Tensor | None) -> None:
        for name, tensor in tensors.items():
            if tensor is not None and tensor.device != self.device:
                raise InputError(f"expected {name} on {self.device}, where the model is; got {tensor.device}")


class GradientModel(GenerativeModel):
    """A model trained by gradient steps on a per-example loss."""

    @property
    def loss_in_nats(self) -> bool:
        """Whether the loss is an (estimated) negative log-likelihood bound in nats; False for a weighted objective."""
        return True

    @abstractmethod
    def _loss(self, x: Tensor, progress: float, condition: Tensor | None) -> Tensor:
        """Loss `(B,)`, with gradient; `progress` in [0, 1] is the share of the training done."""

    def _initialise(self, train: Split) -> None:
        """Set buffers and scales from the data, once, before the first step (standardisation, ActNorm)."""

    def _calibrate(self, train: Split, valid: Split) -> None:
        """Fit buffers that belong to the model but are not trained, on a bounded subset; called on the average."""

    @final
    def loss(self, x: Tensor, progress: float = 1.0, condition: Tensor | None = None) -> Tensor:
        """Loss `(B,)`, with gradient, in the mode (train or eval) in which the model stands."""
        self._check(x, condition)
        loss = self._loss(x, progress, condition)
        if loss.shape != (len(x),):
            raise InputError(f"expected a loss ({len(x)},), one an example; got {tuple(loss.shape)}")
        return loss

    def forward(self, x: Tensor, progress: float = 1.0, condition: Tensor | None = None) -> Tensor:
        """`loss`, so that torch's wrappers (compile, data parallel) work."""
        return self.loss(x, progress, condition)

    def learner(self, settings: TrainSettings) -> Learner:
        """A GradientLearner: Adam, warm-up and cosine, clipping, averaged weights."""
        from genzoo.learners import GradientLearner  # which imports this module

        return GradientLearner(self, settings)


class LatentVariableModel(GradientModel):
    """A model whose likelihood is an integral over latents, estimated by importance weights p(x, z) / q(z given x)."""

    rows: int = 4096
    """Decoder rows (draws times examples) evaluated at once; bounds memory. 4,096 stays in cache for small networks; a
    model whose layers are wide may set its own."""

    @abstractmethod
    def _log_weights(self, x: Tensor, num_samples: int, condition: Tensor | None) -> Mapping[str, Tensor]:
        """Named parts `(K, B)` in nats whose sum is log p(x, z) - log q(z given x), with a fresh z for each draw.

        A part named `<term>_per_<part>` is `(K, B, ...)`: its sum over the other dimensions is the term.
        """

    @final
    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        sums = WeightSums()
        chunk = max(1, self.rows // max(1, len(x)))
        while sums.count < num_samples:
            k = min(chunk, num_samples - sums.count)
            parts = {name: part.to(torch.float64) for name, part in self._log_weights(x, k, condition).items()}
            anatomy = {name: parts.pop(name) for name in list(parts) if term_of(name)}
            parts |= {term_of(name): array.flatten(2).sum(2) for name, array in anatomy.items()}
            log_w = torch.stack(list(parts.values())).sum(0)
            sums.add(
                log_w,
                {name: part.mean(0) for name, part in parts.items()},
                {name: array.mean(0) for name, array in anatomy.items()},
            )
        return sums.result()


class ConditionalSampler(GenerativeModel):
    """A model that fills in what is missing and removes noise."""

    @property
    @abstractmethod
    def exact_given(self) -> bool:
        """Whether `sample_given` draws from the exact conditional (or approximates it)."""

    @abstractmethod
    def _sample_given(self, x: Tensor, mask: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        """One draw an example, given `x` where `mask` (both `(B, *event_shape)`) is True.

        `x` is 0 where `mask` is False, and float32 where any `noise` is positive. `noise (*event_shape)`, float64, is
        the standard deviation of the observation in each dimension.
        """

    @final
    def sample_given(
        self,
        x: Tensor,
        mask: Tensor,
        noise: float | Tensor = 0.0,
        seed: int | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Draw from p(x given its observed part): in-painting, or denoising with a full mask and noise > 0.

        Args:
            x: the observation `(B, *event_shape)`; what stands where `mask` is False is ignored. With noise it is the
                noisy one, float32 for codes too.
            mask: bool, `event_shape` or `(B, *event_shape)`; True is observed.
            noise: standard deviation of the Gaussian noise that the observation holds, in data units; one number, or
                one a dimension, `event_shape`. Where it is 0 the observed part comes back as it is.
            seed, condition: as in `log_likelihood`.

        Returns:
            `(B, *event_shape)` in the spec's dtype.
        """
        shape = self.spec.event_shape
        noise = torch.as_tensor(noise, dtype=torch.float64, device=self.device)
        if noise.ndim and tuple(noise.shape) != shape:
            raise InputError(f"expected noise as one number or of shape {shape}; got {tuple(noise.shape)}")
        if not bool((noise >= 0).all()):
            raise InputError(f"expected noise >= 0; got {float(noise.min())}")
        noisy = bool((noise > 0).any())
        if noisy and isinstance(x, Tensor) and x.dtype == torch.float32:
            DataSpec(shape, None, self.spec.classes).check(x, condition)
        else:
            self.spec.check(x, condition)
        if mask.dtype != torch.bool or tuple(mask.shape) not in (shape, tuple(x.shape)):
            got = f"{tuple(mask.shape)} {mask.dtype}"
            raise InputError(f"expected a bool mask of shape {shape} or {tuple(x.shape)}; got {got}")
        self._check_device(x=x, mask=mask, condition=condition)
        observed = x.to(torch.float32 if noisy else x.dtype).masked_fill(~mask, 0)
        with torch.no_grad(), evaluating(self), seeded(seed, self.device):
            drawn = self._sample_given(observed, mask.expand(x.shape), noise.expand(shape), condition)
        self.spec.check(drawn, condition)
        return drawn


class Learner(ABC):
    """Trains one model in place. EM, contrastive divergence and adversarial training are learners like any other."""

    settings: TrainSettings

    loss_in_nats: bool = False
    """Whether the metric "loss" is a negative log-likelihood bound in nats."""

    converged: bool = False
    """Set when another step would change nothing; training then ends before its budget."""

    def start(self, train: Split) -> None:  # noqa: B027
        """Once before the first step, skipped on resume; may leave only buffers and state."""

    @abstractmethod
    def step(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """One update; detached 0-d metrics, "loss" among them. `progress` in [0, 1) is the share done before it."""

    def finish(self, train: Split, valid: Split) -> None:  # noqa: B027
        """Before each validation and after the last step, outside the budget: fit what belongs to the model but is not
        trained, on a bounded subset, so that `evaluated` is ready. The loop seeds the global RNG around it."""

    @abstractmethod
    def evaluated(self) -> GenerativeModel:
        """The model that is evaluated and stored (the averaged weights live here), of the same class and config."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All state, the model's included: nested dicts and lists of tensors, numbers, strings, booleans, None."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state` exactly as if never stopped."""


class Estimator(ABC):
    """One way to evaluate one checkpoint; made for it and thrown away."""

    name: str

    batch_size: int = 1000
    """Examples evaluated at once by `mean`."""

    calls: int | None = None
    """Network evaluations of one example for one draw, where they are counted."""

    another: bool = False
    """Whether it is of another model than `sample` draws from (a shorter chain, an ODE); its name says of which."""

    sharper: bool = False
    """Whether one draw expects more than one of the model's default (a refined posterior, annealed chains), and still
    at most log p(x)."""

    suggested_samples: int = 1
    """Draws an example that suit it, where the caller names none."""

    suggested_points: int | None = None
    """Examples that suit it, where the caller names none; None: as many as any other estimator."""

    validated: int | None = None
    """Most examples on which a training is validated with it, as the model's default; None: as many as any other."""

    def start(self, valid: Split, seed: int) -> None:  # noqa: B027
        """Once, before the first call: tune on validation data (log Z, time-step allocation, step sizes)."""

    @abstractmethod
    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """As `GenerativeModel.log_likelihood`."""

    def mean(
        self,
        x: Tensor,
        num_samples: int = 1,
        seed: int = 0,
        condition: Tensor | None = None,
        *,
        until_se: float | None = None,
        batch_size: int | None = None,
        max_seconds: float | None = None,
    ) -> MeanResult:
        """Mean over the examples `x`, batch by batch, with its errors. Batch i draws from its own seed.

        Args:
            x, num_samples, condition: as in `log_likelihood`.
            seed: of all draws; the same seed and batch size give the same number on the same device.
            until_se: in place of num_samples: the Monte Carlo standard error (nats) to reach. A pilot with num_samples
                draws says how many are needed; its draws are discarded, so stopping does not bias the mean.
            batch_size: examples at once; None for the estimator's own.
            max_seconds: stop after the batch in which this has passed; the values then cover the first points only.

        Returns:
            The mean and its errors; its `calls` leave out the pilot of until_se.

        Raises:
            CapabilityError: until_se where one draw cannot tell its variance.
            NumericsError: NaN or +inf among the values.
        """
        if until_se is not None:
            pilot = self.mean(x, max(2, num_samples), seed + 1, condition, batch_size=batch_size)
            if pilot.stderr_mc is None:
                raise CapabilityError(f"estimator {self.name} does not know its Monte Carlo variance: give num_samples")
            # more draws do not shrink an error that all examples share, such as that of log Z
            shared = float(pilot.result.shared_variance)
            if shared >= until_se**2:
                raise CapabilityError(
                    f"until_se={until_se:g} is below the error that all examples share: {shared**0.5:.3g}"
                )
            wanted = (pilot.stderr_mc**2 - shared) / (until_se**2 - shared)
            num_samples = max(1, math.ceil(pilot.num_samples * wanted))
        size, start = batch_size or self.batch_size, time.monotonic()
        parts = []
        for at in range(0, len(x), size):
            alive()
            y = None if condition is None else condition[at : at + size]
            parts.append(self.log_likelihood(x[at : at + size], num_samples, derive_seed(seed, at // size), y))
            if max_seconds is not None and time.monotonic() - start > max_seconds:
                break
        result = LogLikelihood.concat(parts)
        calls = None if self.calls is None else len(result.lower) * result.num_samples * self.calls
        return MeanResult.of(result, calls)


class ModelEstimator(Estimator):
    """The model's own `log_likelihood`."""

    def __init__(self, name: str, model: GenerativeModel) -> None:
        self.name = name
        self.model = model

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """See GenerativeModel.log_likelihood."""
        return self.model.log_likelihood(x, num_samples, seed, condition)
