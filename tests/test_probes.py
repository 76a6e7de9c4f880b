"""The three probes through fit, evaluate, a bench and the report, and against the truth: the interface's own test.

Each probe is a single-file plugin, loaded as `--plugin` would load it. Numbers by enumeration hold to 1e-10, which is
float64 rounding over 512 states; Monte Carlo ones to five standard errors, so that a false alarm is rarer than 1e-6.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import genzoo
from genzoo import bench, cells, report
from genzoo.building import Blueprint
from genzoo.config import Budget, TrainSettings
from genzoo.data.splits import TensorSplit, fingerprints
from genzoo.data.toy import DENSITIES
from genzoo.interface import GenerativeModel
from genzoo.plan import Plan
from genzoo.records import find_cells
from genzoo.registry import load_registry
from genzoo.spec import DataProtocol, Dataset, DataSpec
from genzoo.training import Trainer

PROBES = Path(__file__).parent / "probes"


class Inline(Executor):
    """Runs a task where it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def probe(name: str) -> ModuleType:
    """The module of a probe, through the registry."""
    registry = load_registry([PROBES / f"{name}.py"])
    assert not [failure for failure in registry.failures if name in str(failure)]
    return sys.modules[name]


def build(name: str, model: str, spec: DataSpec, **options: Any) -> GenerativeModel:
    return Blueprint.of(load_registry([PROBES / f"{name}.py"]), model, options, spec).build(0)


def dataset(spec: DataSpec, draw: Callable[[int], Tensor]) -> Dataset:
    train, valid, test = (TensorSplit(draw(n)) for n in (800, 200, 400))
    hashes = {"data_hash": fingerprints(train, valid), "test_hash": test.fingerprint}
    protocol = DataProtocol(dataset="probe", split="drawn", **hashes)
    return Dataset(name="probe", spec=spec, protocol=protocol, train=train, valid=valid, test=test)


def codes(levels: int, dims: int) -> Tensor:
    """All states, `(levels^dims, dims)` uint8."""
    return torch.tensor(list(itertools.product(range(levels), repeat=dims)), dtype=torch.uint8)


GREY = DataSpec((1, 2, 2), levels=4)
BITS = DataSpec((1, 3, 3), levels=2)


def grey_pmf() -> Tensor:
    """A true mass over the 256 states of GREY: brightness, and neighbours that are alike."""
    x = codes(4, 4).double()
    return (-0.8 * ((x[:, 0] - x[:, 1]).abs() + (x[:, 2] - x[:, 3]).abs()) + 0.3 * x.sum(1)).softmax(0)


def grey_data() -> Dataset:
    table, pmf = codes(4, 4).view(-1, 1, 2, 2), grey_pmf()
    return dataset(GREY, lambda n: table[torch.multinomial(pmf, n, replacement=True)])


def bits_pmf() -> Tensor:
    """A true mass over the 512 states of BITS: columns tend to be constant."""
    x = codes(2, 9).view(-1, 3, 3).double()
    return (1.5 * (2 * x - 1).sum(1).abs().sum(1)).softmax(0)


def bits_data() -> Dataset:
    table, pmf = codes(2, 9).view(-1, 1, 3, 3), bits_pmf()
    return dataset(BITS, lambda n: table[torch.multinomial(pmf, n, replacement=True)])


def chi_square_fits(counts: Tensor, mass: Tensor) -> bool:
    """Whether counts have a chi-square p-value above 1e-6; states with an expectation below 5 count as one."""
    expected = mass * counts.sum()
    common = expected >= 5
    seen = torch.cat([counts[common], counts[~common].sum()[None]]).double()
    meant = torch.cat([expected[common], expected[~common].sum()[None]]).clamp(min=1e-9)
    statistic = ((seen - meant).square() / meant).sum()
    p = torch.special.gammaincc(torch.tensor((len(meant) - 1) / 2, dtype=torch.float64), statistic / 2)
    return float(p) > 1e-6


# mixture by EM


def cell_masses(model: Any) -> Tensor:
    """Mass of each state of GREY under the mixture behind the adapter, by normal distribution functions: open edge
    cells, as samples have them `(256,)`, and closed ones, of which the bound speaks `(256,)`."""
    inner, scaling = model.inner, model.transforms[-1]
    edges = (torch.arange(5, dtype=torch.float64) - scaling.loc) / scaling.scale
    z = (edges[:, None, None] - inner.mean) / inner.variance.sqrt()  # (5, C, D)
    cdf = torch.special.ndtr(z)
    low_open = torch.cat([torch.zeros_like(cdf[:1]), cdf[1:-1], torch.ones_like(cdf[:1])])
    x = codes(4, 4).long()
    answers = []
    for table in (low_open, cdf):
        cells = table[1:] - table[:-1]  # (levels, C, D)
        each = cells[x, :, torch.arange(4)]  # (256, D, C)
        answers.append((each.prod(1) * inner.log_pi.exp()).sum(1))
    return torch.stack(answers)


def test_mixture_on_discrete_data_against_its_cell_masses() -> None:
    data = grey_data()
    model = build("mixture_em", "probe_mixture", GREY, components=6)
    curve = genzoo.fit(model, data, "60steps", seed=1)
    assert len(curve) < 60, "EM did not converge"
    assert curve[-1].loss < curve[0].loss - 0.1
    open_mass, closed = cell_masses(model)
    assert float(open_mass.sum()) == pytest.approx(1, abs=1e-10)
    x = codes(4, 4).view(-1, 1, 2, 2)
    said = model.log_likelihood(x, 2000, seed=0)
    mass, error = said.lower.exp(), (said.lower.exp() * said.variance.sqrt())

    def holds(mass: Tensor) -> bool:
        return bool(((mass - closed).abs() <= 5 * error + 1e-6).all()) and abs(
            float(mass.sum() - closed.sum())
        ) <= 5 * float(error.square().sum().sqrt())

    assert holds(mass)
    assert not holds(1.01 * mass)  # the planted error of 1 %
    truth = grey_pmf()
    kl = float((truth * (truth.log() - open_mass.log())).sum())
    grid = truth.view(4, 4, 4, 4)
    marginals = [grid.sum([j for j in range(4) if j != i], keepdim=True) for i in range(4)]
    dependence = float((grid * (grid / math.prod(marginals)).log()).sum())  # what no product of pixels can have
    assert 0 <= kl < 0.5 * dependence
    drawn = model.sample(20_000, seed=3).flatten(1).long()
    counts = torch.bincount((drawn * torch.tensor([64, 16, 4, 1])).sum(1), minlength=256)
    assert chi_square_fits(counts, open_mass)
    assert not chi_square_fits(counts, truth)
    result = genzoo.evaluate(model, data, num_samples=64)
    assert result.kind == "weights"
    assert result.bits_per_dim is not None
    assert result.bits_per_dim == pytest.approx(result.nll / (4 * math.log(2)))


def test_expectation_maximisation_never_loses() -> None:
    """On real data a step never lowers the likelihood (Dempster et al. 1977), to rounding; the twin's M-step is off."""
    module = probe("mixture_em")
    spec = DataSpec((2,))
    x = torch.cat([torch.randn(300, 2), 0.5 * torch.randn(300, 2) + 3])
    split = TensorSplit(x)

    def losses(wrong: float) -> list[float]:
        torch.manual_seed(0)
        model = module.Mixture(spec, module.MixtureConfig(components=3))
        learner = model.learner(model.default_training())
        learner.start(split)
        found = []
        for _ in range(30):
            found.append(float(learner.step(genzoo.spec.Batch(x, None), 0.0)["loss"]))
            model.variance *= wrong
        return found

    def never_loses(values: list[float]) -> bool:
        return all(b <= a + 1e-10 for a, b in itertools.pairwise(values))

    assert never_loses(losses(1.0))
    assert not never_loses([a * (1 + 0.01 * (i % 2)) for i, a in enumerate(losses(1.0))])
    assert losses(1.01)[-1] > losses(1.0)[-1]


# RBM by persistent contrastive divergence


def trained_rbm() -> tuple[Any, Dataset]:
    data = bits_data()
    model = build("rbm_pcd", "probe_rbm", BITS)
    genzoo.fit(model, data, "1000steps", seed=1)
    return model, data


def test_rbm_sums_to_one_and_its_estimate_carries_a_shared_error() -> None:
    model, data = trained_rbm()
    x = codes(2, 9).view(-1, 1, 3, 3)
    log_p = model.log_likelihood(x).lower

    def sums_to_one(value: Tensor) -> bool:
        return abs(float(value.exp().sum()) - 1) < 1e-10

    assert sums_to_one(log_p)
    assert not sums_to_one(log_p + 0.01)
    truth = bits_pmf()
    kl = float((truth * (truth.log() - log_p)).sum())
    independent = 9 * math.log(2) + float((truth * truth.log()).sum())  # of fair, independent pixels
    assert 0 < kl < 0.25 * independent
    drawn = model.sample(20_000, seed=3).flatten(1).long()
    counts = torch.bincount((drawn * 2 ** torch.arange(8, -1, -1)).sum(1), minlength=512)
    assert chi_square_fits(counts, log_p.exp())
    exact = genzoo.evaluate(model, data)
    assert (exact.kind, exact.stderr_mc) == ("exact", 0.0)

    # each repeat draws its own log Z: squared errors over claimed variances have mean 1; a chi-square mean of 200
    # repeats has deviation 0.1, so 0.6..1.4 is four of them, and a variance 1/N of the true one is far outside
    ratios = []
    for seed in range(200):
        estimator = model.estimators()["monte_carlo"]()
        estimator.start(data.valid, seed)
        mean = estimator.mean(x[:50])
        assert mean.stderr_mc is not None
        assert mean.stderr_mc**2 == pytest.approx(float(mean.result.shared_variance))
        ratios.append((mean.mean - float(log_p[:50].mean())) ** 2 / mean.stderr_mc**2)
    assert 0.6 < sum(ratios) / 200 < 1.4
    assert not 0.6 < 50 * sum(ratios) / 200 < 1.4
    estimate = genzoo.evaluate(model, data, estimator="monte_carlo")
    assert estimate.kind == "estimate"
    assert abs(estimate.nll - exact.nll) < 5 * estimate.stderr_mc
    with pytest.raises(genzoo.errors.CapabilityError, match="all examples share"):
        genzoo.evaluate(model, data, estimator="monte_carlo", until_se=1e-4)


# GAN with two optimisers


def test_gan_density_integrates_to_one_and_its_samples_follow_it() -> None:
    truth = DENSITIES["8gaussians"]
    data = replace(dataset(DataSpec((2,)), lambda n: truth.sample(n, seed=n)), truth=truth)
    model = build("gan_two_optimisers", "probe_gan", data.spec)
    before = torch.get_rng_state()
    genzoo.fit(model, data, "150steps", seed=1, batch_size=128)
    assert torch.equal(before, torch.get_rng_state()), "finish drew from the caller's generator"
    assert float(model.log_sigma) != 0
    result = genzoo.evaluate(model, data, num_samples=64, points=400)
    assert result.kind == "weights"
    assert not result.below_floor
    assert result.kl is not None
    assert result.kl_stderr is not None
    assert result.kl > -4 * result.kl_stderr

    side, half = 48, 8.0  # midpoint rule: exact to 1e-6 for Gaussians wider than the spacing
    step = 2 * half / side
    model.log_sigma.fill_(math.log(0.7))
    axis = (torch.arange(side) + 0.5) * step - half
    nodes = torch.cartesian_prod(axis, axis)
    said = model.log_likelihood(nodes, 200, seed=0)
    mass = said.lower.exp() * step**2
    error = mass * said.variance.sqrt()
    total = float(error.square().sum().sqrt())
    assert total < 0.002

    def integrates(scale: float) -> bool:
        return abs(scale * float(mass.sum()) - 1) < 5 * total

    assert integrates(1.0)
    assert not integrates(1.01)

    # counts in 8 x 8 cells against the density's mass there; the variance of both sides is known
    block = 6
    share_meant = mass.view(8, block, 8, block).sum((1, 3)).flatten()
    noise = error.square().view(8, block, 8, block).sum((1, 3)).flatten()

    def follows(x: Tensor) -> bool:
        index = ((x + half) / (step * block)).floor().long().clamp(0, 7)
        share = torch.bincount(index[:, 0] * 8 + index[:, 1], minlength=64) / len(x)
        return bool(((share - share_meant).abs() < 5 * (noise + share_meant / len(x)).sqrt() + 2e-4).all())

    x = model.sample(50_000, seed=5)
    assert follows(x)
    with torch.no_grad():
        assert not follows(model.generate(50_000))  # without the noise it is another distribution


# all three: resume, bench, report


@pytest.mark.parametrize(
    ("name", "model", "data"),
    [
        ("mixture_em", "probe_mixture", grey_data),
        ("rbm_pcd", "probe_rbm", bits_data),
        ("gan_two_optimisers", "probe_gan", lambda: dataset(DataSpec((2,)), lambda n: torch.randn(n, 2) + 1)),
    ],
)
def test_resume_equals_uninterrupted(name: str, model: str, data: Callable[[], Dataset], tmp_path: Path) -> None:
    given = data()
    options = {"tolerance": -1.0} if model == "probe_mixture" else {}

    def trainer(folder: Path | None) -> Trainer:
        made = build(name, model, given.spec, **options)
        settings = TrainSettings.parse({**made.default_training().model_dump(), "seed": 4}, "test")
        return Trainer(made.learner(settings), given, Budget.parse("10steps"), folder=folder)

    whole = trainer(None)
    list(whole.run())
    cut = trainer(tmp_path)
    for event in cut.run():
        if event.step == 6:
            break
    resumed = trainer(tmp_path)
    steps = [event.step for event in resumed.run()]
    assert steps[0] == 7
    expected = whole.finish().state_dict()
    got = resumed.finish().state_dict()
    assert expected.keys() == got.keys()
    for key in expected:
        assert torch.equal(expected[key], got[key]), key


def test_bench_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "PLANE_SAMPLES", 500)  # the metrics on 10,000 points take seconds
    files = tuple(str(PROBES / f"{name}.py") for name in ("mixture_em", "rbm_pcd", "gan_two_optimisers"))
    bits = tmp_path / "bits.npy"
    np.save(bits, bits_data().train.x.numpy())
    evaluation = {"points": 200, "num_samples": 4}
    common = {"budget": "20steps", "training": {"batch_size": 64}, "evaluation": evaluation, "device": "cpu"}
    for number, (models, datasets) in enumerate(
        (
            (("probe_mixture[tolerance=-1.0]", "probe_gan"), ("8gaussians",)),
            (("probe_rbm",), (str(bits),)),
            (("probe_mixture",), ("digits",)),
        )
    ):
        folder = tmp_path / f"run{number}"
        plan = Plan(models=models, datasets=datasets, **common)
        bench.check(plan, files)
        states = bench.run(plan, folder, plugins=files, executor=Inline())
        for state in states:
            assert state.record is not None
            assert state.status == "ok", state.record.error
        again = bench.run(plan, folder, plugins=files, executor=Inline())
        assert {state.status for state in again} == {"kept"}
    runs = [tmp_path / f"run{number}" for number in range(3)]
    records = {(cell.record.model, cell.record.dataset): cell.record for run in runs for cell in find_cells(run)}
    assert records["probe_gan", "8gaussians"].kind == "weights"
    assert records["probe_mixture", "8gaussians"].mass == pytest.approx(1, abs=1e-3)
    assert records["probe_mixture", "8gaussians"].kl_quadrature > 0
    assert records["probe_mixture", "digits"].kind == "weights"
    page = report.write(runs, tmp_path / "report.html").read_text()
    for model in ("probe_mixture", "probe_rbm", "probe_gan"):
        assert model in page
