"""Tighter bounds for any model with a continuous latent z: a posterior refined example by example, annealed chains.

    log p(x) = log of the integral of p(x, z) dz        q(z given x) a proposal: an encoder's posterior, or the prior
    refined  q' = q moved by z -> m + s a + exp(c) (z - m), a and c by gradient on E log p(x, z) - log q'(z); the gain
             over E_q is the amortisation gap (Cremer et al. 2018, arXiv:1801.03558)
    ais      chains from q to p(x, z) by Hamiltonian moves (Wu et al. 2017, arXiv:1611.04273); see `genzoo.ais`

m and s are mean and standard deviation of q. Whatever is tuned (a, c, step sizes) is tuned on draws that the estimate
does not use, so both stay bounds below log p(x) in the mean.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from genzoo.ais import forward, reverse, sandwich, sigmoidal
from genzoo.hmc import HMC, GeometricPath, Law, StepSizes, tune
from genzoo.interface import Estimator, GenerativeModel
from genzoo.likelihood import LogLikelihood
from genzoo.seeding import derive_seed, evaluating, seeded
from genzoo.spec import Split

PILOT = 16
"""Validation examples on which step sizes are tuned."""

UNTUNED = 0.2
"""Step size, in standard deviations of the proposal, of an estimator that was not started."""

CHOICE = 64
"""Draws by which an example chooses between the refined law and the proposal."""


class Proposal(Law, Protocol):
    """A law near p(z given x) for B examples; `torch.distributions` with `validate_args=False` are such."""

    @property
    def mean(self) -> Tensor:
        """`(B, *latent)`."""
        ...

    @property
    def stddev(self) -> Tensor:
        """`(B, *latent)`."""
        ...


class LatentJoint(GenerativeModel):
    """A model with a continuous latent and a joint density that can be evaluated, differentiated in z and drawn."""

    rows: int = 4096
    """Decoder rows (chains times examples) evaluated at once; bounds memory."""

    @abstractmethod
    def proposal(self, x: Tensor, condition: Tensor | None) -> Proposal:
        """q(z given x): the encoder's posterior, or the prior where there is none."""

    @abstractmethod
    def log_joint(self, x: Tensor, z: Tensor, condition: Tensor | None) -> Tensor:
        """log p(x, z), `(K, B)` float64 nats, at `z (K, B, *latent)` in the proposal's dtype."""

    @abstractmethod
    def sample_joint(self, n: int, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """n pairs of x `(n, *event_shape)`, as `sample` draws them, and the z `(n, *latent)` that each came from."""


class _Refinement:
    """q' = q moved by z -> m + s a + exp(c) (z - m), for a batch: log p(x, z') - log q'(z'), and its gradient steps.

    Args:
        model, x, condition: the joint density.
        q: the proposal.
    """

    def __init__(self, model: LatentJoint, x: Tensor, condition: Tensor | None, q: Proposal) -> None:
        self.model, self.x, self.condition, self.q = model, x, condition, q
        self.loc, self.scale = q.mean, q.stddev
        self.shift = torch.zeros_like(self.loc)
        self.log_scale = torch.zeros_like(self.loc)

    def log_joint(self, z: Tensor, shift: Tensor, log_scale: Tensor) -> Tensor:
        """log p(x, z') + log |dz'/dz|, `(K, B)`, at z' moved from `z (K, B, *latent)`."""
        moved = self.loc + self.scale * shift + log_scale.exp() * (z - self.loc)
        return self.model.log_joint(self.x, moved, self.condition) + log_scale.flatten(1).sum(1)

    def log_weights(self, k: int) -> tuple[Tensor, Tensor]:
        """Of k fresh draws, `(k, B)`: under q', and under q with the same draws."""
        parts, still, at_once = [], torch.zeros_like(self.shift), max(1, self.model.rows // len(self.x))
        for at in range(0, k, at_once):
            z = self.q.sample(torch.Size((min(at_once, k - at),)))
            laws = (self.shift, self.log_scale), (still, still)
            parts.append([self.log_joint(z, *law) - self.q.log_prob(z) for law in laws])
        return torch.cat([refined for refined, _ in parts]), torch.cat([proposed for _, proposed in parts])

    def fit(self, steps: int, draws: int, learning_rate: float) -> None:
        """Ascend E log w by Adam with a cosine decay; an example goes back to q where its own draws prefer q."""
        if not steps:
            return  # q itself: nothing to choose between
        parameters = [self.shift.clone().requires_grad_(), self.log_scale.clone().requires_grad_()]
        adam = torch.optim.Adam(parameters, betas=(0.9, 0.99))
        for step in range(steps):
            adam.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            z = self.q.sample(torch.Size((draws,)))
            with torch.enable_grad():
                bound = self.log_joint(z, *parameters).mean(0).sum()
                gradients = torch.autograd.grad(bound, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = -gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            adam.step()
        self.shift, self.log_scale = (parameter.detach() for parameter in parameters)
        refined, proposed = self.log_weights(CHOICE)
        better = (refined - proposed).mean(0) > 0  # NaN is not
        keep = better.reshape(-1, *[1] * (self.shift.ndim - 1))
        self.shift, self.log_scale = self.shift.where(keep, 0.0), self.log_scale.where(keep, 0.0)


class RefinedELBO(Estimator):
    """The ELBO of a posterior whose mean and scale are refined for each example, on draws of its own.

    Array `amortisation_gap (B,)`: what that gains over the proposal, on the same final draws, nats.

    Args:
        steps: of gradient ascent.
        draws: of z at each.
        learning_rate: of a and c, in standard deviations of the proposal.
    """

    sharper = True
    suggested_samples = 64
    suggested_points = 1000
    batch_size = 500

    def __init__(self, model: LatentJoint, steps: int = 200, draws: int = 8, learning_rate: float = 0.05) -> None:
        self.model = model
        self.steps = steps
        self.draws = draws
        self.learning_rate = learning_rate
        self.calls = max(1, steps * draws)
        self.name = f"refined[steps={steps}]"

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """See GenerativeModel.log_likelihood."""
        model = self.model
        model._check(x, condition)
        with torch.no_grad(), evaluating(model), seeded(seed, model.device):
            chunks = _chunks(x, condition, model.rows // self.draws)
            return LogLikelihood.concat([self._bound(some, num_samples, label) for some, label in chunks])

    def _bound(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        law = _Refinement(self.model, x, condition, self.model.proposal(x, condition))
        law.fit(self.steps, self.draws, self.learning_rate)
        refined, proposed = law.log_weights(num_samples)
        return LogLikelihood.lower_bound(
            refined.mean(0),
            num_samples=num_samples,
            variance=refined.var(0) / num_samples if num_samples > 1 else None,
            arrays={"amortisation_gap": (refined - proposed).mean(0)},
        )


class AnnealedImportance(Estimator):
    """AIS from the proposal to p(x, z) by Hamiltonian moves: kind `weights`, conservative. `num_samples` is the chains.

    `start` tunes a step size for each band of inverse temperatures on validation examples; without it every step is
    UNTUNED, which costs tightness only. Effort falls by fewer examples, never by fewer distributions.

    Args:
        distributions: T, steps of the sigmoidal schedule.
        leapfrog: L; a draw costs T L gradients of the decoder. A trajectory should cross the target, in units of the
            proposal's scale about pi / 2: two steps near 0.75 on binary MNIST, where 2,000 gradients gave a variance of
            0.0011 at L = 2, 0.0015 at 1 and at 3, 0.0049 at 10.
    """

    sharper = True
    suggested_samples = 16
    suggested_points = 100
    batch_size = 25  # so that a time limit leaves some images, each with all its distributions

    def __init__(self, model: LatentJoint, distributions: int = 1000, leapfrog: int = 2) -> None:
        self.model = model
        self.betas = sigmoidal(distributions)
        self.leapfrog = leapfrog
        self.calls = distributions * leapfrog
        self.steps = StepSizes([1.0], [UNTUNED])
        self._named(self.suggested_samples)

    def start(self, valid: Split, seed: int) -> None:
        """Tune the step sizes; see the class."""
        generator = torch.Generator().manual_seed(seed)
        batch = valid.batch(torch.randperm(len(valid), generator=generator)[:PILOT], generator)
        model = self.model
        x, y = batch.x.to(model.device), batch.y
        y = None if y is None or model.spec.classes is None else y.to(model.device)
        with torch.no_grad(), evaluating(model), seeded(derive_seed("tune", seed), model.device):
            path, q = self._path(x, y)
            self.steps = tune(path, self.betas, self.leapfrog, q.stddev)

    def log_likelihood(
        self, x: Tensor, num_samples: int = 1, seed: int | None = None, condition: Tensor | None = None
    ) -> LogLikelihood:
        """See GenerativeModel.log_likelihood."""
        model = self.model
        model._check(x, condition)
        self._named(num_samples)
        with torch.no_grad(), evaluating(model), seeded(seed, model.device):
            return LogLikelihood.concat(
                [
                    LogLikelihood.weights(self._forward(some, label, num_samples))
                    for some, label in _chunks(x, condition, model.rows // num_samples)
                ]
            )

    def bracket(
        self, n: int, num_samples: int, seed: int | None = None, condition: Tensor | None = None
    ) -> tuple[Tensor, LogLikelihood]:
        """BDMC (Grosse et al. 2015, arXiv:1511.02543): n simulated examples `(n, *event_shape)`, and both ends of their
        log p(x). Certified: each reverse chain begins at the z that its x came from.

        The chains of one example share that z, so the spread over the examples, not `variance`, tells the error.
        """
        model = self.model
        self._named(num_samples)
        with torch.no_grad(), evaluating(model), seeded(seed, model.device):
            x, z = model.sample_joint(n, condition)
            parts, at = [], 0
            for some, label in _chunks(x, condition, model.rows // num_samples):
                path, q = self._path(some, label)
                true = z[at : at + len(some)].to(q.mean.dtype).expand(num_samples, *q.mean.shape)
                move = HMC(path, self.steps, self.leapfrog, q.stddev)
                back = reverse(path, move, self.betas, true, model.rows)
                parts.append(sandwich(self._forward(some, label, num_samples), back, certified=True))
                at += len(some)
            return x, LogLikelihood.concat(parts)

    def _forward(self, x: Tensor, condition: Tensor | None, chains: int) -> Tensor:
        path, q = self._path(x, condition)
        move = HMC(path, self.steps, self.leapfrog, q.stddev)
        log_w, _ = forward(path, move, self.betas, chains, max(1, self.model.rows // len(x)))
        return log_w

    def _path(self, x: Tensor, condition: Tensor | None) -> tuple[GeometricPath, Proposal]:
        q = self.model.proposal(x, condition)
        return GeometricPath(q, lambda z: self.model.log_joint(x, z, condition)), q

    def _named(self, chains: int) -> None:
        self.name = f"ais[chains={chains},distributions={len(self.betas) - 1},leapfrog={self.leapfrog}]"


def _chunks(x: Tensor, condition: Tensor | None, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Consecutive examples, at most `size` (and at least one) together."""
    size = max(1, size)
    for at in range(0, len(x), size):
        yield x[at : at + size], None if condition is None else condition[at : at + size]
