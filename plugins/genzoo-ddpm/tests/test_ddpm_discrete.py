"""Discrete diffusion against enumeration: kernels multiplied out, paths of a short chain, orders of four pixels.

What is enumerated is built from the one-step matrices and Bayes' rule alone; nothing of kernels.py is in it.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from genzoo_ddpm.d3pm import D3PM
from genzoo_ddpm.kernels import SCHEDULES, AnyOrder
from torch import Tensor

from genzoo.config import TrainSettings
from genzoo.data.splits import TensorSplit
from genzoo.errors import CapabilityError
from genzoo.spec import Batch, DataSpec

Denoiser = Callable[[Tensor], Tensor]
"""States x_t `(R, D)` to p~ `(R, D, L)`."""
SMALL = {"kernel": "any_order", "width": 8, "blocks": 1}
CHAINS = [("uniform", 2), ("uniform", 3), ("absorbing", 2), ("absorbing", 3)]


def perturbed(dims: int, levels: int, **config: Any) -> D3PM:
    """A model in float64 whose histograms are uneven and whose network answers something, and wrongly."""
    torch.manual_seed(0)
    model = D3PM(DataSpec((dims,), levels), D3PM.Config.parse({**SMALL, **config}, "d3pm"))  # type: ignore[arg-type]
    torch.nn.init.normal_(model.network.body.last.weight, std=0.3)  # type: ignore[union-attr]
    model = model.double().eval()
    model.mass.copy_(torch.rand(dims, levels, dtype=torch.float64).softmax(1))
    return model


def states(size: int, dims: int) -> Tensor:
    """All `(size^dims, dims)` int64."""
    return torch.tensor(list(itertools.product(range(size), repeat=dims)))


def one_step(model: D3PM, t: int) -> Tensor:
    """q(x_t given x_{t-1}) `(S, S)` of one dimension, t = 1..T, by the definition of the kernel."""
    levels, kept = model.levels, model.kernel.kept  # type: ignore[attr-defined]
    beta = float(1 - kept[t] / kept[t - 1])
    if not model.kernel.masks:
        return (1 - beta) * torch.eye(levels, dtype=torch.float64) + beta / levels
    matrix = (1 - beta) * torch.eye(levels + 1, dtype=torch.float64)
    matrix[:, levels] += beta
    return matrix


@functools.cache
def products(model: D3PM) -> list[Tensor]:
    """q(x_t given x_0) `(S, S)` for t = 0..T: products of the steps."""
    made = [torch.eye(model.levels + model.kernel.masks, dtype=torch.float64)]
    for t in range(1, model.kernel.count + 1):
        made.append(made[-1] @ one_step(model, t))
    return made


def up_to(model: D3PM, t: int) -> Tensor:
    """q(x_t given x_0) `(S, S)`: the product of the first t steps."""
    return products(model)[t]


def together(tables: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """prod_i tables[rows_i, columns_i] `(N, M)` of states `rows (N, D)` and `columns (M, D)`."""
    return torch.stack([tables[rows[:, i]][:, columns[:, i]] for i in range(rows.shape[1])]).prod(0)


def learned(model: D3PM, t: int) -> Tensor:
    """p~ `(S^D, D, L)` of the model at every state x_t."""
    x_t = states(model.levels + model.kernel.masks, model.spec.dims)
    with torch.no_grad():
        return model.log_probs(x_t, torch.full((len(x_t),), t - 1), torch.zeros(len(x_t), 0).double()).exp()


def reverse(model: D3PM, t: int, p: Tensor) -> Tensor:
    """p(x_{t-1} given x_t) `(S^D, S^D)`, by Bayes' rule for each value of x_0 and p~ `(S^D, D, L)`."""
    every = states(model.levels + model.kernel.masks, model.spec.dims)
    step, before, after = one_step(model, t), up_to(model, t - 1), up_to(model, t)
    # q(j given i, k): (k, i, j); a state that k cannot reach has no law and no weight
    posterior = (before[: model.levels, None, :] * step.T[None]) / after[: model.levels, :, None]
    posterior = posterior.nan_to_num(nan=0.0, posinf=0.0)
    total = torch.ones(len(every), len(every), dtype=torch.float64)
    for i in range(model.spec.dims):
        mixed = torch.einsum("rk,krj->rj", p[:, i], posterior[:, every[:, i]])  # (S^D, S)
        if model.kernel.masks:  # a code that is seen stays, whatever p~ says of it
            seen = every[:, i] < model.levels
            mixed[seen] = torch.eye(model.levels + 1, dtype=torch.float64)[every[seen, i]]
        total = total * mixed[:, every[:, i]]
    return total


def by_terms(model: D3PM, denoised: Callable[[int], Tensor] | None = None) -> Tensor:
    """Minus the bound `(L^D,)` of every x_0: the model's KL_t, averaged over q(x_t given x_0) by enumeration."""
    every, x = states(model.levels + model.kernel.masks, model.spec.dims), states(model.levels, model.spec.dims)
    total = torch.zeros(len(x), dtype=torch.float64)
    for t in range(1, model.kernel.count + 1):
        p = (denoised or (lambda t: learned(model, t)))(t)
        weight = together(up_to(model, t), x, every)  # (L^D, S^D)
        one, other = weight.nonzero(as_tuple=True)
        step = torch.full((len(one),), t - 1)
        nats = model.kernel.nats(x[one], every[other], step, p[other].log())
        total = total.index_add(0, one, weight[one, other] * nats)
    return total


def by_order(model: D3PM, p: Denoiser) -> Tensor:
    """Minus the bound `(L^D,)` of every x_0, as the mean over all orders of the log-probability in that order."""
    x = states(model.levels, model.spec.dims)
    orders = list(itertools.permutations(range(model.spec.dims)))
    total = torch.zeros(len(x), dtype=torch.float64)
    for order in orders:
        x_t = torch.full_like(x, model.levels)
        for i in order:
            total -= p(x_t)[:, i].gather(1, x[:, i : i + 1])[:, 0].log() / len(orders)
            x_t[:, i] = x[:, i]
    return total


def at(model: D3PM) -> Denoiser:
    """p~ of the model with masks; at which step it is asked does not matter."""

    def p(x_t: Tensor) -> Tensor:
        with torch.no_grad():
            steps = torch.zeros(len(x_t), dtype=torch.int64)
            return model.log_probs(x_t, steps, torch.zeros(len(x_t), 0).double()).exp()

    return p


def by_sets(model: D3PM, p: Denoiser) -> Tensor:
    """Minus the bound of any_order `(L^D,)` of every x_0: KL_t averaged over all sets of masks."""
    x, dims = states(model.levels, model.spec.dims), model.spec.dims
    total = torch.zeros(len(x), dtype=torch.float64)
    for c in range(1, dims + 1):
        sets = list(itertools.combinations(range(dims), c))
        for masked in sets:
            x_t = x.clone()
            x_t[:, list(masked)] = model.levels
            step = torch.full((len(x),), c - 1)
            total += model.kernel.nats(x, x_t, step, p(x_t).log()) / len(sets)
    return total


# the forward process


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("kernel", "levels"), CHAINS)
def test_noise_follows_the_product_of_the_kernels(kernel: str, levels: int, schedule: str) -> None:
    """Each step's closed form is the product of the matrices before it: to 1e-4, from 20,000 even noises."""
    model = perturbed(1, levels, kernel=kernel, steps=5, schedule=schedule)
    u = ((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)[:, None]
    for t in range(1, 6):
        for code in range(levels):
            drawn = model.kernel.noised(torch.full((20_000, 1), code), torch.full((20_000,), t - 1), u)
            share = torch.bincount(drawn[:, 0], minlength=levels + model.kernel.masks) / 20_000
            torch.testing.assert_close(share.double(), up_to(model, t)[code], atol=1e-4, rtol=0)


def test_two_levels_are_sohl_dickstein_s_binomial_kernel() -> None:
    """Binomial(x; 1, x_{t-1} (1 - beta) + 0.5 beta), their table 1."""
    model = perturbed(1, 2, kernel="uniform", steps=4)
    for t in range(1, 5):
        kept = model.kernel.kept  # type: ignore[attr-defined]
        beta = float(1 - kept[t] / kept[t - 1])
        ones = torch.tensor([0.5 * beta, (1 - beta) + 0.5 * beta], dtype=torch.float64)
        torch.testing.assert_close(one_step(model, t), torch.stack([1 - ones, ones], 1))


def test_schedules_keep_everything_at_0_and_nothing_at_t() -> None:
    for schedule in SCHEDULES.values():
        kept = schedule(7)
        assert (float(kept[0]), float(kept[-1]), len(kept)) == (1.0, 0.0, 8)
        assert bool((kept.diff() < 0).all())


def test_every_set_of_masks_is_equally_likely() -> None:
    """All 24 ranks of four noises: each set of c of four is masked by 24 / binom(4, c) of them."""
    kernel, x = AnyOrder(2, 4), torch.zeros(24, 4, dtype=torch.int64)
    u = torch.tensor(list(itertools.permutations([0.1, 0.2, 0.6, 0.9])))
    for c in range(1, 5):
        masked = kernel.noised(x, torch.full((24,), c - 1), u) == 2
        assert masked.sum(1).tolist() == [c] * 24
        _, counts = masked.unique(dim=0, return_counts=True)
        assert counts.tolist() == [24 // math.comb(4, c)] * math.comb(4, c)


# the bound


@pytest.mark.parametrize(("kernel", "levels"), CHAINS)
def test_terms_are_the_bound_over_every_path(kernel: str, levels: int) -> None:
    """Two dimensions, T = 3: E log p(x_0..x_3) / q(x_1..x_3 given x_0) over all paths, float64, 1e-10; and the sum of
    exp(bound) is below one, while p itself sums to one."""
    model = perturbed(2, levels, kernel=kernel, steps=3)
    every, x = states(levels + model.kernel.masks, 2), states(levels, 2)
    steps = {t: reverse(model, t, learned(model, t)) for t in (1, 2, 3)}
    for t in (1, 2, 3):
        torch.testing.assert_close(steps[t].sum(1), torch.ones(len(every), dtype=torch.float64))
    forward = [together(one_step(model, t), every, every) for t in (1, 2, 3)]
    p_last = torch.full((len(every),), levels**-2.0, dtype=torch.float64)
    if model.kernel.masks:
        p_last = (every == levels).all(1).double()
    where = {tuple(state): i for i, state in enumerate(every.tolist())}
    bound, mass = [], 0.0
    for code in x.tolist():
        q = forward[0][where[tuple(code)]][:, None, None] * forward[1][:, :, None] * forward[2][None]
        p = steps[1][:, where[tuple(code)]][:, None, None] * steps[2].T[:, :, None] * steps[3].T[None] * p_last
        live = q > 0
        bound.append(float((q[live] * (p[live] / q[live]).log()).sum()))
        mass += float(p.sum())
    assert mass == pytest.approx(1.0, abs=1e-10)
    torch.testing.assert_close(-by_terms(model), torch.tensor(bound, dtype=torch.float64), atol=1e-10, rtol=0)
    assert sum(map(math.exp, bound)) < 1 - 1e-3


@pytest.mark.parametrize("levels", [2, 3])
def test_terms_are_the_mean_over_every_order(levels: int) -> None:
    """Four dimensions, 24 orders; 1e-10. exp(bound) sums to less than one: each order's likelihood sums to one."""
    model = perturbed(4, levels)
    bound = -by_sets(model, at(model))
    torch.testing.assert_close(bound, -by_order(model, at(model)), atol=1e-10, rtol=0)
    assert float(bound.exp().sum()) < 1 - 1e-4


def truth(levels: int, dims: int) -> Tensor:
    """log p `(L^D,)` of a law whose dimensions depend on each other."""
    generator = torch.Generator().manual_seed(3)
    return (2 * torch.randn(levels**dims, generator=generator, dtype=torch.float64)).log_softmax(0)


def posterior(model: D3PM, t: int, log_p: Tensor) -> Tensor:
    """The exact p~ `(S^D, D, L)`: p(x_0,i = k given x_t), by Bayes' rule over all x_0."""
    every, x = states(model.levels + model.kernel.masks, model.spec.dims), states(model.levels, model.spec.dims)
    joint = log_p.exp()[:, None] * together(up_to(model, t), x, every)  # (L^D, S^D)
    joint = joint / joint.sum(0).clamp(min=1e-300)
    return torch.einsum("xs,xik->sik", joint, torch.nn.functional.one_hot(x, model.levels).double())


def test_the_exact_denoiser_has_the_exact_likelihood_in_any_order() -> None:
    """Four pixels: log p(x) for every x to 1e-10, by the terms over sets and by every order."""
    model, log_p = perturbed(4, 2), truth(2, 4)
    x = states(2, 4)

    def p(x_t: Tensor) -> Tensor:
        fits = ((x_t[:, None] == x) | (x_t[:, None] == 2)).all(2).double() * log_p.exp()  # (R, L^D)
        return torch.einsum("rx,xik->rik", fits / fits.sum(1, keepdim=True), torch.nn.functional.one_hot(x, 2).double())

    torch.testing.assert_close(-by_sets(model, p), log_p, atol=1e-10, rtol=0)
    torch.testing.assert_close(-by_order(model, p), log_p, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kernel", ["uniform", "absorbing"])
def test_the_bound_of_the_exact_denoiser_tends_to_the_likelihood(kernel: str) -> None:
    """Four pixels, T = 8 to 256: a gap to log p on average that halves (to 10 %) and ends below 0.02 nats; it is a KL,
    and never negative. With exp(bound) the mass stays below one and tends to it."""
    log_p, gaps, masses = truth(2, 4), [], []
    for steps in (8, 64, 128, 256):
        model = perturbed(4, 2, kernel=kernel, steps=steps)
        tables = [posterior(model, t, log_p) for t in range(1, steps + 1)]
        bound = -by_terms(model, lambda t, tables=tables: tables[t - 1].clamp(min=1e-300))
        gaps.append(float((log_p.exp() * (log_p - bound)).sum()))
        masses.append(float(bound.exp().sum()))
    assert all(gap > 0 for gap in gaps)
    assert gaps[1] / gaps[2] == pytest.approx(2.0, rel=0.1)
    assert gaps[2] / gaps[3] == pytest.approx(2.0, rel=0.1)
    assert gaps[0] > 0.05 > 0.02 > gaps[3]
    assert masses[0] < masses[1] < masses[2] < masses[3] < 1


def test_any_order_is_the_limit_of_many_steps() -> None:
    """A wrong network, T = 128 and 256, either schedule: the gap for each x halves (to 10 %), and ends below 0.02."""
    limit = by_sets(perturbed(3, 2), at(perturbed(3, 2)))
    for schedule in SCHEDULES:
        gaps = []
        for steps in (128, 256):
            model = perturbed(3, 2, kernel="absorbing", steps=steps, schedule=schedule)
            same = at(model)(states(3, 3))
            gaps.append(by_terms(model, lambda t, same=same: same) - limit)
        large = gaps[0].abs() > 1e-3
        assert bool(large.any())
        torch.testing.assert_close((gaps[0] / gaps[1])[large], torch.full_like(gaps[0][large], 2.0), rtol=0.1, atol=0)
        assert float(gaps[1].abs().max()) < 0.02


# draws


def exact_bound(model: D3PM) -> Tensor:
    return -by_sets(model, at(model)) if isinstance(model.kernel, AnyOrder) else -by_terms(model)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("config", [{}, {"kernel": "absorbing", "steps": 6}, {"kernel": "uniform", "steps": 6}])
def test_estimates_are_without_bias_with_honest_errors(config: dict[str, Any], fitted: bool) -> None:
    """vlb, full and stratified of every state of three pixels against enumeration: 4 of their own standard errors, all
    below 0.05 nats; the variances that vlb states are those of repeats to 20 %."""
    model = perturbed(3, 2, **config)
    x = states(2, 3).to(torch.uint8)
    exact = exact_bound(model)
    if fitted:
        split = TensorSplit(x.repeat(20, 1))
        with torch.no_grad():
            model._calibrate(split, split)
        assert float(model.allocation.slope.abs().max() > 0) == model.kernel.masks
    for name in ("vlb", "full"):
        result = model.estimators()[name]().log_likelihood(x, 4000, 1)
        assert result.variance is not None
        stderr = result.variance.sqrt()
        assert float(stderr.max()) < 0.05
        assert bool(((result.lower - exact).abs() < 4 * stderr + 1e-9).all())
        assert bool(((1.1 * result.lower - exact).abs() > 4 * stderr).any())  # twin
    repeats = [model.log_likelihood(x, 4, seed) for seed in range(200)]
    spread = torch.stack([repeat.lower for repeat in repeats]).var(0)
    stated = torch.stack([repeat.variance for repeat in repeats])  # type: ignore[misc]
    assert float(spread.mean()) == pytest.approx(float(stated.mean()), rel=0.2, abs=1e-12)
    stratified = model.estimators()["stratified"]()
    means = torch.stack([stratified.log_likelihood(x, 64, seed).lower.mean() for seed in range(100)])
    assert float(means.mean()) == pytest.approx(float(exact.mean()), abs=4 * float(means.std()) / 10 + 1e-9)


def test_the_control_variate_has_no_mean_and_earns_its_keep() -> None:
    """Over all 24 orders of four pixels it is 0 to 1e-12; with it, the variance is less than 0.6 of that without."""
    model = perturbed(4, 2)
    u = torch.tensor(list(itertools.permutations([0.1, 0.2, 0.6, 0.9])), dtype=torch.float64)
    x = torch.tensor([[0, 1, 1, 0]], dtype=torch.float64).expand(24, -1)
    for c in range(1, 5):
        excess = model.terms.excess(x, torch.full((24,), c - 1), u)
        assert float(excess.mean()) == pytest.approx(0.0, abs=1e-12)
        # two of four and the other two cost what all four do, and four are all: there it is nothing
        assert (float(excess.abs().max()) > 1e-3) == (c in (1, 3))
    # thirty pixels, some nearly certain and some not; draws of one fitted allocation, with and without it
    model = perturbed(30, 2)
    ones = torch.linspace(0.02, 0.98, 30, dtype=torch.float64)
    model.mass.copy_(torch.stack([1 - ones, ones], 1))
    data = (torch.rand(200, 30, generator=torch.Generator().manual_seed(1)) < ones).to(torch.uint8)
    split, variances = TensorSplit(data), []
    with torch.no_grad():
        model._calibrate(split, split)
    for share in (1.0, 0.0):
        model.allocation.slope *= share
        variance = model.log_likelihood(data, 8, 0).variance
        assert variance is not None
        variances.append(float(variance.mean()))
    assert variances[0] < 0.6 * variances[1]


@pytest.mark.parametrize(
    "config",
    [{}, {"kernel": "absorbing", "steps": 4}, {"kernel": "uniform", "steps": 4}],
    ids=["any", "mask", "uniform"],
)
@pytest.mark.parametrize("levels", [2, 3])
def test_weights_of_paths_sum_to_one(config: dict[str, Any], levels: int) -> None:
    """Over all states of three dimensions, 2,000 paths each: 1 within 4 standard errors, below 0.01; their mean log is
    the bound, within 4 more."""
    model = perturbed(3, levels, **config)
    x = states(levels, 3)
    result = model.estimators()["weights"]().log_likelihood(x.to(torch.uint8), 2000, 0)
    assert result.variance is not None
    mass = result.lower.exp()
    stderr = float((mass.square() * result.variance).sum().sqrt())
    assert stderr < 0.01
    assert float(mass.sum()) == pytest.approx(1.0, abs=4 * stderr)
    assert float(mass.sum()) * 1.06 != pytest.approx(1.0, abs=4 * stderr)
    draws = torch.stack(
        [model.estimators()["weights"]().log_likelihood(x.to(torch.uint8), 1, seed).lower for seed in range(100)]
    )
    error = float((draws.var(0).sum() / 100).sqrt()) / len(x)
    assert float((draws.mean(0) - exact_bound(model)).mean()) == pytest.approx(0.0, abs=4 * error + 1e-9)


@pytest.mark.parametrize(
    "config",
    [{}, {"kernel": "absorbing", "steps": 3}, {"kernel": "uniform", "steps": 3}],
    ids=["any", "mask", "uniform"],
)
def test_samples_follow_the_model_s_own_law(config: dict[str, Any]) -> None:
    """p(x_0) by enumeration of all orders, or of all reverse steps; 20,000 draws in 8 cells, chi-square below its 1e-4
    quantile for 7 degrees, 29.9."""
    model = perturbed(3, 2, **config)
    x = states(2, 3)
    if isinstance(model.kernel, AnyOrder):
        law = torch.zeros(8, dtype=torch.float64)
        for order in itertools.permutations(range(3)):
            x_t, log_p = torch.full_like(x, 2), torch.zeros(8, dtype=torch.float64)
            for i in order:
                log_p += at(model)(x_t)[:, i].gather(1, x[:, i : i + 1])[:, 0].log()
                x_t[:, i] = x[:, i]
            law += log_p.exp() / 6
    else:
        every = states(2 + model.kernel.masks, 3)
        law = torch.zeros(len(every), dtype=torch.float64)
        where = {tuple(state): i for i, state in enumerate(every.tolist())}
        if model.kernel.masks:
            law[where[(2, 2, 2)]] = 1.0
        else:
            law += 1 / len(every)
        for t in (3, 2, 1):
            law = law @ reverse(model, t, learned(model, t))
        law = law[[where[tuple(state)] for state in x.tolist()]]
    assert float(law.sum()) == pytest.approx(1.0, abs=1e-9)
    drawn = model.sample(20_000, 0).to(torch.int64)
    counts = torch.bincount((drawn * torch.tensor([4, 2, 1])).sum(1), minlength=8).double()
    statistic = float(((counts - 20_000 * law).square() / (20_000 * law)).sum())
    assert statistic < 29.9
    shifted = law.roll(1)
    assert float(((counts - 20_000 * shifted).square() / (20_000 * shifted)).sum()) > 29.9  # twin


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_masks_are_lifted_as_bayes_says(schedule: str) -> None:
    """q(x_{t-1} is seen given x_t is not) by the matrices, of 20,000 masks, by `reverse` and by `back`: 4 standard
    errors. Masks and codes alike, a reverse step's law is otherwise p~'s, and path weights do not depend on it."""
    model, n = perturbed(1, 2, kernel="absorbing", steps=5, schedule=schedule), 20_000
    x, x_t = torch.zeros(n, 1, dtype=torch.int64), torch.full((n, 1), 2)
    torch.manual_seed(0)
    for t in range(1, 6):
        seen = float(up_to(model, t - 1)[0, 0] * one_step(model, t)[0, 2] / up_to(model, t)[0, 2])
        log_p = torch.full((n, 1, 2), 0.5, dtype=torch.float64).log()
        for before in (model.kernel.reverse(x_t, t - 1, log_p), model.kernel.back(x, x_t, t - 1, log_p)[0]):
            share = float((before != 2).double().mean())
            assert share == pytest.approx(seen, abs=4 * math.sqrt(seen * (1 - seen) / n) + 1e-12)


@pytest.mark.parametrize("config", [{}, {"kernel": "absorbing", "steps": 6}, {"kernel": "uniform", "steps": 6}])
def test_the_loss_is_the_bound(config: dict[str, Any]) -> None:
    """Of all states of three pixels against enumeration, 16,000 draws each: 4 standard errors, below 0.02 nats."""
    model = perturbed(3, 2, **config)
    torch.manual_seed(0)
    x = states(2, 3).to(torch.uint8)
    with torch.no_grad():
        losses = torch.stack([model._loss(x.repeat(200, 1), 1.0, None).double().mean() for _ in range(80)])
    error = float(losses.std()) / len(losses) ** 0.5
    assert error < 0.02
    assert float(losses.mean()) == pytest.approx(-float(exact_bound(model).mean()), abs=4 * error)


@pytest.mark.parametrize(("kernel", "levels"), CHAINS)
def test_what_independent_pixels_believe_is_bayes_rule(kernel: str, levels: int) -> None:
    """With the network at zero, p~ of one dimension is exact: q(x_0 given x_t) under the histogram; 1e-10."""
    model = perturbed(1, levels, kernel=kernel, steps=4)
    torch.nn.init.zeros_(model.network.body.last.weight)  # type: ignore[union-attr]
    for t in range(1, 5):
        joint = model.mass[0][:, None] * up_to(model, t)[:levels]  # (L, S)
        live = joint.sum(0) > 0
        expected = (joint / joint.sum(0)).T[live]
        torch.testing.assert_close(learned(model, t)[live, 0], expected, atol=1e-10, rtol=0)


# training


@pytest.mark.parametrize("config", [{}, {"kernel": "absorbing", "steps": 32}, {"kernel": "uniform", "steps": 32}])
def test_training_comes_near_the_entropy(config: dict[str, Any]) -> None:
    """Four dependent pixels whose entropy is known: 300 steps bring the bound within 0.15 nats of it, not below by 4
    standard errors; untrained, it is that of independent pixels, farther away."""
    log_p = truth(2, 4)
    x = states(2, 4)[torch.multinomial(log_p.exp(), 4000, True, generator=torch.Generator().manual_seed(0))]
    split = TensorSplit(x.to(torch.uint8))
    torch.manual_seed(0)
    model = D3PM(DataSpec((4,), 2), D3PM.Config.parse({**SMALL, "width": 32, **config}, "d3pm"))  # type: ignore[arg-type]
    learner = model.learner(TrainSettings(learning_rate=5e-3, betas=(0.9, 0.99), ema=0.9))
    learner.start(split)
    gaps = []
    for steps in (0, 300):
        for i in range(steps):
            learner.step(Batch(split.x[torch.randint(0, 4000, (256,))], None), i / steps)
        learner.finish(split, split)
        bound = learner.evaluated().log_likelihood(states(2, 4).to(torch.uint8), 256, 0)
        gaps.append(float((log_p.exp() * (log_p - bound.lower)).sum()))
        assert bound.variance is not None
        error = float((log_p.exp().square() * bound.variance).sum().sqrt())
    assert gaps[0] > 0.4
    assert -4 * error < gaps[1] < 0.15


# what it takes


def test_what_it_does_not_take() -> None:
    with pytest.raises(CapabilityError, match="at most 32 levels; got real data"):
        D3PM(DataSpec((2,)))
    with pytest.raises(CapabilityError, match="at most 32 levels; got 256 levels"):
        D3PM(DataSpec((2,), 256))


def test_traces_are_paths_in_data_units() -> None:
    model = D3PM(DataSpec((1, 4, 4), 2), D3PM.Config.parse(SMALL, "d3pm")).eval()  # type: ignore[arg-type]
    x = torch.randint(0, 2, (3, 1, 4, 4)).to(torch.uint8)
    traces = model.traces(x, 2, 0)
    forward, backward = traces["forward"], traces["reverse"]
    times = list(range(0, 17, 2))
    assert forward.shape == backward.shape == (2, 9, 1, 4, 4)
    assert torch.equal(forward[:, 0], x[:2].float())
    assert torch.equal(backward[:, -1], model.sample(2, 0).float())
    assert (forward == 0.5).flatten(2).sum(2).tolist() == [traces["forward_at"].tolist()] * 2 == [times] * 2
    assert (backward == 0.5).flatten(2).sum(2).tolist() == [traces["reverse_at"].tolist()] * 2 == [times[::-1]] * 2


@pytest.mark.parametrize(
    ("kernel", "word"), [("any_order", "masked"), ("absorbing", "masked"), ("uniform", "drawn anew")]
)
def test_the_forward_process_as_the_host_sees_it(kernel: str, word: str) -> None:
    """Half way along a path of 40,000 pixels that are 1: as many are still as `lost` says, to 4 standard errors."""
    config = D3PM.Config.parse({"kernel": kernel, "steps": 8, "schedule": "linear"}, "d3pm")
    process = D3PM.forward_process(DataSpec((1, 4, 2), 2), config)
    torch.manual_seed(0)
    start, _, half, end = process.path(torch.ones(5000, 1, 4, 2, dtype=torch.uint8), [0, 2, 4, 8])
    assert bool((start == 1).all())
    assert [process.describe(t) for t in (2, 4)] == [f"{share} % {word}" for share in (25, 50)]
    still = 0.75 if kernel == "uniform" else 0.5
    assert float((half == 1).double().mean()) == pytest.approx(still, abs=4 * 0.5 / 200)
    if kernel == "uniform":
        assert float(end.double().mean()) == pytest.approx(0.5, abs=4 * 0.5 / 200)
    else:
        assert bool((end == 0.5).all())
        assert not bool(((half == 0.5) & (end != 0.5)).any())
