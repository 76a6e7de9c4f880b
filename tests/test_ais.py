"""Annealed importance sampling against closed forms: a Gaussian's mass, and a Boltzmann machine by enumeration.

Monte Carlo checks allow three standard errors (the seeds are fixed), each at most a sixth of the error that must be
seen; each has a twin in which a planted error makes the same check fail.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from genzoo.ais import (
    annealed_log_weights,
    energy_bracket,
    energy_estimate,
    forward,
    linear,
    log_mean_inverse,
    reverse,
    sandwich,
    sigmoidal,
)
from genzoo.errors import InputError
from genzoo.hmc import HMC, GeometricPath, SmoothPoint, StepSizes, trajectory
from genzoo.likelihood import LogLikelihood

LOG_Z = 2.0


def close_in_errors(values: Tensor, truth: float, largest: float) -> None:
    """The mean of independent values within three standard errors, each at most a sixth of what must be seen."""
    stderr = float(values.std()) / math.sqrt(values.numel())
    assert stderr < largest / 6
    assert abs(float(values.mean()) - truth) < 3 * stderr


# a Gaussian target, exp(LOG_Z) N(m, C), from a standard normal

GAUSSIAN = MultivariateNormal(
    torch.tensor([0.6, -0.4]).double(), torch.tensor([[1.2, 0.3], [0.3, 0.9]]).double(), validate_args=False
)


def standard_normal(n: int, scale: float = 1.0, dims: int = 2) -> Independent:
    loc = torch.zeros(n, dims, dtype=torch.float64)
    return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)


def gaussian_path(n: int) -> GeometricPath:
    return GeometricPath(standard_normal(n), lambda z: GAUSSIAN.log_prob(z) + LOG_Z)


class Unadjusted:
    """Trajectories without the Metropolis step: they leave no f_b invariant."""

    def __init__(self, path: GeometricPath, step: float) -> None:
        self.path, self.step = path, step

    def __call__(self, point: SmoothPoint, beta: float) -> SmoothPoint:
        half = 0.5 * self.step
        p = torch.randn_like(point.z) + half * point.score(beta)
        return self.path.at(point.z + self.step * p)


@pytest.mark.parametrize("step", [0.05, 0.6, 1.6])
def test_weights_are_unbiased_however_poor_the_steps(step: float) -> None:
    """Three distributions, one leapfrog step that is far too short, fair, or too long: E w = Z, and back E 1/w = 1/Z.

    The tails are light enough for both: eigenvalues of C between 1/2 and 2."""
    torch.manual_seed(0)
    path = gaussian_path(100_000)
    move = HMC(path, StepSizes([1.0], [step]), 1)
    log_w, z = forward(path, move, linear(3), 1)
    assert log_w.dtype == torch.float64
    assert z.shape == (1, 100_000, 2)
    close_in_errors((log_w - LOG_Z).exp(), 1.0, 0.03)
    back = reverse(path, move, linear(3), GAUSSIAN.sample((1, 100_000)))
    close_in_errors((LOG_Z - back).exp(), 1.0, 0.03)
    with pytest.raises(AssertionError):
        close_in_errors(1.03 * (log_w - LOG_Z).exp(), 1.0, 0.03)


def test_unadjusted_trajectories_would_bias_the_weights() -> None:
    torch.manual_seed(0)
    path = gaussian_path(60_000)
    log_w, _ = forward(path, Unadjusted(path, 1.2), linear(10), 1)
    with pytest.raises(AssertionError):
        close_in_errors((log_w - LOG_Z).exp(), 1.0, 0.03)
    log_w, _ = forward(path, HMC(path, StepSizes([1.0], [1.2]), 1), linear(10), 1)
    close_in_errors((log_w - LOG_Z).exp(), 1.0, 0.03)


def test_each_temperature_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of chains that call no torch module: hours of them are no hanging worker."""
    signs: list[None] = []
    monkeypatch.setattr("genzoo.signs.LISTENERS", [lambda: signs.append(None)])
    path = gaussian_path(1)
    move = Unadjusted(path, 0.5)
    forward(path, move, linear(7), 2)
    assert len(signs) == 7
    reverse(path, move, linear(5), GAUSSIAN.sample((1, 2)))
    assert len(signs) == 12


def test_the_two_directions_close_on_the_truth() -> None:
    """E log w is below log Z and, run back from exact draws, above; sixteen times the distributions, a tenth of it."""
    torch.manual_seed(0)
    n = 4000
    path = gaussian_path(n)
    move = HMC(path, StepSizes([1.0], [0.8]), 2)
    gaps = []
    for distributions in (4, 64):
        low, _ = forward(path, move, linear(distributions), 1)
        high = reverse(path, move, linear(distributions), GAUSSIAN.sample((1, n)))
        errors = [float(end.std()) / math.sqrt(n) for end in (low, high)]
        gaps.append([LOG_Z - float(low.mean()), float(high.mean()) - LOG_Z])
        least = 3 if distributions == 4 else -3
        assert all(gap > least * error for gap, error in zip(gaps[-1], errors, strict=True))
    assert sum(gaps[1]) < sum(gaps[0]) / 10


def test_chains_come_in_parts_and_one_mean_holds_them() -> None:
    """Log-mean-exp over chains keeps both directions and tightens them; the delta method tells the variance."""
    torch.manual_seed(0)
    n = 2000
    path = gaussian_path(n)
    move = HMC(path, StepSizes([1.0], [0.8]), 1)
    log_w, z = forward(path, move, linear(8), 10, at_once=4)
    back = reverse(path, move, linear(8), GAUSSIAN.sample((10, n)), at_once=4)
    assert log_w.shape == back.shape == (10, n)
    assert z.shape == (10, n, 2)
    answer = sandwich(log_w, back, certified=True)
    assert (answer.kind, answer.certified, answer.num_samples) == ("bracket", True, 10)
    assert answer.upper is not None
    assert answer.variance is not None
    assert float(log_w.mean()) < float(answer.lower.mean()) < LOG_Z < float(answer.upper.mean()) < float(back.mean())
    # a variance is known to some 4 % from 2,000 repeats; the delta method errs by its next order, 1 / (2 K) here
    assert float(answer.lower.var() / answer.variance.mean()) == pytest.approx(1, abs=0.15)
    assert float(answer.upper.var() / answer.arrays["upper_variance"].mean()) == pytest.approx(1, abs=0.15)
    assert bool((answer.arrays["effective_sample_size"] <= 10).all())
    assert bool(log_mean_inverse(back[:1])[1].isinf().all())  # one chain cannot tell


def test_where_the_target_is_zero_a_chain_has_no_weight() -> None:
    """Half of a normal: log Z = log 1/2, half of the chains start where the target is zero."""
    torch.manual_seed(0)
    law = standard_normal(40_000, dims=1)
    path = GeometricPath(law, lambda z: torch.where(z[..., 0] > 0, law.log_prob(z), -math.inf))
    log_w, z = forward(path, HMC(path, StepSizes([1.0], [0.5]), 2), linear(5), 1)
    close_in_errors(log_w.exp(), 0.5, 0.02)
    assert bool((z[log_w.isfinite()] > 0).all())


def test_a_stuck_chain_makes_the_bracket_indicative() -> None:
    """Modes at -12 and 12 with masses 0.05 and 0.95, log Z = 0; draws of a chain stuck in the smaller one. The end that
    exact draws would make too large is then too small by a nat, and nothing in the weights shows it."""
    torch.manual_seed(0)
    modes = Normal(torch.tensor([-12.0, 12.0]).double(), 1.0, validate_args=False)
    target = MixtureSameFamily(Categorical(torch.tensor([0.05, 0.95]).double()), modes, validate_args=False)
    path = GeometricPath(standard_normal(1, 12.0, 1), lambda z: target.log_prob(z[..., 0]))
    move, betas = HMC(path, StepSizes([1.0], [0.7]), 2), linear(30)
    low, _ = forward(path, move, betas, 400)
    stuck = reverse(path, move, betas, -12 + torch.randn(400, 1, 1).double())
    honest = reverse(path, move, betas, target.sample((400, 1, 1)))
    log_f = torch.zeros(3)
    answer = energy_bracket(log_f, low, stuck, exact_draws=False)
    assert (answer.kind, answer.certified) == ("bracket", False)
    assert float(answer.lower[0]) > 5 * float(answer.shared_variance) ** 0.5  # "at most" log p = 0, and above it
    honest_answer = energy_bracket(log_f, low, honest, exact_draws=True)
    assert honest_answer.certified
    assert float(honest_answer.lower[0]) < 3 * float(honest_answer.shared_variance) ** 0.5


# a restricted Boltzmann machine: f(v) = exp(b v) prod_j (1 + exp(c_j + W_j v)), by enumeration


def states(n: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)), dtype=torch.float64)


@dataclass
class MachinePoint:
    machine: Machine
    z: Tensor

    def log_prob(self, beta: float) -> Tensor:
        m = self.machine
        free = torch.nn.functional.softplus(beta * (self.z @ m.w + m.c)).sum(-1)
        return (self.z * ((1 - beta) * m.base + beta * m.b)).sum(-1) + free - (m.log_base if beta == 0 else 0.0)


class Machine:
    """Path (base rates to the machine, Salakhutdinov and Murray 2008) and Gibbs transition in one.

    Its start is normalised: log_prob(0) holds log Z_0, and so does every other f_b, by a constant.
    """

    def __init__(self, visible: int, hidden: int) -> None:
        self.w = 0.1 * torch.randn(visible, hidden).double()
        self.b, self.c = torch.zeros(visible).double(), torch.zeros(hidden).double()
        self.base = torch.zeros(visible).double()

    @property
    def log_base(self) -> Tensor:
        return torch.nn.functional.softplus(self.base).sum() + len(self.c) * math.log(2)

    def train(self, x: Tensor, steps: int, rate: float) -> None:
        """Persistent contrastive divergence (Tieleman 2008)."""
        v = x.clone()
        for _ in range(steps):
            v = self(MachinePoint(self, v), 1.0).z
            h, h_model = (x @ self.w + self.c).sigmoid(), (v @ self.w + self.c).sigmoid()
            self.w += rate * (x.T @ h / len(x) - v.T @ h_model / len(v))
            self.b += rate * (x.mean(0) - v.mean(0))
            self.c += rate * (h.mean(0) - h_model.mean(0))
        self.base = torch.logit((x.mean(0) * len(x) + 1) / (len(x) + 2))

    def draw(self, chains: int) -> MachinePoint:
        return self.at(torch.bernoulli(self.base.sigmoid().expand(chains, 1, -1)))

    def at(self, z: Tensor) -> MachinePoint:
        return MachinePoint(self, z)

    def __call__(self, point: MachinePoint, beta: float) -> MachinePoint:
        h = torch.bernoulli((beta * (point.z @ self.w + self.c)).sigmoid())
        return self.at(torch.bernoulli(((1 - beta) * self.base + beta * (self.b + h @ self.w.T)).sigmoid()))

    def kernel(self, beta: float) -> Tensor:
        """P(v to v') at beta, `(S, S)` over all visible states, by summing over all hidden ones."""
        v, h = states(len(self.b)), states(len(self.c))

        def bernoulli(x: Tensor, logits: Tensor) -> Tensor:
            """P of each of x `(S, n)` for each of logits `(R, n)`: `(R, S)`."""
            return (logits @ x.T - torch.nn.functional.softplus(logits).sum(1, keepdim=True)).exp()

        up = bernoulli(h, beta * (v @ self.w + self.c))
        return up @ bernoulli(v, (1 - beta) * self.base + beta * (self.b + h @ self.w.T))


@pytest.fixture(scope="module")
def machine() -> Machine:
    """Nine visible and twelve hidden units, trained on stripes and bars of a 3x3 image."""
    torch.manual_seed(0)
    bars = states(3)
    images = torch.cat([bars[:, :, None].expand(8, 3, 3), bars[:, None, :].expand(8, 3, 3)]).reshape(16, 9)
    machine = Machine(9, 12)
    machine.train(images.repeat(6, 1), 2000, 0.2)
    return machine


@pytest.fixture(scope="module")
def log_p(machine: Machine) -> Tensor:
    """log f(v) - log Z of all 512 states; log Z over the visible states and over the 4,096 hidden ones."""
    log_f = machine.at(states(9)[None]).log_prob(1.0)[0]
    h = states(12)
    other = (h @ machine.c + torch.nn.functional.softplus(h @ machine.w.T + machine.b).sum(1)).logsumexp(0)
    torch.testing.assert_close(log_f.logsumexp(0), other, atol=1e-9, rtol=0)  # float64 sums of thousands of terms
    return log_f - other


def log_z(machine: Machine, log_p: Tensor) -> float:
    return float(machine.at(states(9)[None]).log_prob(1.0)[0, 0] - log_p[0])


def test_machine_is_trained(log_p: Tensor) -> None:
    """The 14 patterns hold most of the mass: of 512 states at random they would hold 3 %."""
    bars = states(3)
    images = (
        torch.cat([bars[:, :, None].expand(8, 3, 3), bars[:, None, :].expand(8, 3, 3)]).reshape(16, 9).unique(dim=0)
    )
    index = (images @ (2.0 ** torch.arange(8, -1, -1)).double()).long()
    assert float(log_p[index].exp().sum()) > 0.9


def test_machine_weights_are_unbiased(machine: Machine, log_p: Tensor) -> None:
    """Gibbs transitions, twenty distributions: log w is half a nat too low in the mean, and the mean weight is Z."""
    torch.manual_seed(1)
    log_w, _ = forward(machine, machine, linear(20), 40_000)
    assert float(log_w.mean()) < log_z(machine, log_p) - 0.5
    close_in_errors((log_w - log_z(machine, log_p)).exp(), 1.0, 0.06)
    with pytest.raises(AssertionError):
        close_in_errors(1.06 * (log_w - log_z(machine, log_p)).exp(), 1.0, 0.06)


def test_exact_value_lies_in_the_bracket(machine: Machine, log_p: Tensor) -> None:
    """Forward below log Z and reverse above, each by more than three errors with ten distributions; with 1,000 the
    bracket is tight. The likelihood's ends are the other way round, and forward alone is optimistic."""
    torch.manual_seed(2)
    truth, exact = log_z(machine, log_p), states(9)[torch.multinomial(log_p.exp(), 400, replacement=True)][:, None]
    low, _ = forward(machine, machine, linear(10), 400)
    high = reverse(machine, machine, linear(10), exact)
    for gap in (truth - low, high - truth):
        assert float(gap.mean()) > 3 * float(gap.std()) / 20
    low, _ = forward(machine, machine, linear(1000), 400)
    high = reverse(machine, machine, linear(1000), exact)
    log_f = machine.at(states(9)[None]).log_prob(1.0)[0]
    answer = energy_bracket(log_f, low, high, exact_draws=True)
    assert answer.upper is not None
    slack = 3 * float(answer.shared_variance) ** 0.5
    assert bool((answer.lower - slack < log_p).all() and (log_p < answer.upper + slack).all())
    assert float((answer.upper - answer.lower).max()) < 0.1
    optimistic = energy_estimate(log_f, low[:, :1])
    assert optimistic.kind == "estimate"
    torch.testing.assert_close(optimistic.lower, answer.upper)
    rough, _ = forward(machine, machine, linear(10), 400)
    single = torch.stack([energy_estimate(log_f, w[None]).lower for w in rough])  # one chain each: (400, 512)
    assert float((single - log_p).mean()) > 3 * float((single - log_p)[:, 0].std()) / 20


def test_raise_is_unbiased_for_the_annealed_sampler(machine: Machine, log_p: Tensor) -> None:
    """The law of forward's last state, by products of transition matrices over all 512 states, is what RAISE's mean
    weight is; in the mean over the machine's own draws it lies below log p, by their divergence or more."""
    betas = linear(20)
    law = (states(9) @ machine.base - torch.nn.functional.softplus(machine.base).sum()).exp()  # (512,)
    for beta in betas[1:]:
        law = law @ machine.kernel(beta)
    assert float(law.sum()) == pytest.approx(1, abs=1e-9)
    torch.manual_seed(3)
    drawn = torch.multinomial(log_p.exp(), 2000, replacement=True)
    log_w = annealed_log_weights(machine, machine, betas, states(9)[drawn], 40, at_once=16)
    assert log_w.shape == (40, 2000)
    ratio = (log_w - law.log()[drawn]).exp()  # each of mean 1
    close_in_errors(ratio, 1.0, 0.05)
    with pytest.raises(AssertionError):
        close_in_errors(1.05 * ratio, 1.0, 0.05)
    likely = law.topk(6).indices  # state by state
    one = (annealed_log_weights(machine, machine, betas, states(9)[likely], 4000) - law.log()[likely]).exp()
    for column in one.T:
        close_in_errors(column, 1.0, 0.3)
    answer = LogLikelihood.weights(log_w)
    assert (answer.kind, answer.num_samples) == ("weights", 40)
    gap = log_p[drawn] - answer.lower
    divergence = float((log_p.exp() * (log_p - law.log())).sum())
    assert divergence > 0.02
    assert float(gap.mean()) > divergence - 3 * float(gap.std()) / math.sqrt(2000)
    assert float(gap.mean()) > 3 * float(gap.std()) / math.sqrt(2000)


@pytest.mark.parametrize("schedule", [linear, sigmoidal])
def test_schedules_rise_from_zero_to_one(schedule) -> None:  # type: ignore[no-untyped-def]
    betas = schedule(1000)
    assert (len(betas), betas[0], betas[-1]) == (1001, 0.0, 1.0)
    assert all(before < after for before, after in itertools.pairwise(betas))
    torch.testing.assert_close(torch.tensor(betas) + torch.tensor(betas[::-1]), torch.ones(1001))  # symmetric
    with pytest.raises(InputError, match="at least 1 distribution after the start; got 0"):
        schedule(0)


def test_sigmoidal_schedule_is_that_of_the_paper() -> None:
    raw = torch.sigmoid(4.0 * (2 * torch.arange(11).double() / 10 - 1))
    expected = (raw - raw[0]) / (raw[-1] - raw[0])
    torch.testing.assert_close(torch.tensor(sigmoidal(10)).double(), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("betas", [[0.0], [0.0, 0.5], [0.1, 1.0], [0.0, 0.5, 0.5, 1.0], [0.0, 2.0, 1.0]])
def test_other_temperatures_are_refused(betas: list[float]) -> None:
    path = gaussian_path(1)
    move = HMC(path, StepSizes([1.0], [0.5]), 1)
    with pytest.raises(InputError, match=r"rise from 0\.0 to 1\.0"):
        forward(path, move, betas, 1)
    with pytest.raises(InputError, match=r"rise from 0\.0 to 1\.0"):
        reverse(path, move, betas, torch.zeros(1, 1, 2))


def test_trajectory_tells_its_acceptance() -> None:
    """Short steps are nearly always accepted, steps beyond the stable 2 sigma nearly never."""
    torch.manual_seed(0)
    path = gaussian_path(2000)
    rates = [float(trajectory(path, path.draw(1), 1.0, step, 10)[1].mean()) for step in (0.01, 5.0)]
    assert rates[0] > 0.999
    assert rates[1] < 0.05
