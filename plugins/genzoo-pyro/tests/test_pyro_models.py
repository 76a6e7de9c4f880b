"""`pyro_vae` and `pyro_mixture`: heads that sum to one, mixtures against scikit-learn and quadrature, training."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pyro
import pytest
import torch
from genzoo_pyro.heads import DiscretizedLogistics, TableComponents
from genzoo_pyro.mixture import MixtureConfig, PyroMixture
from genzoo_pyro.model import ExactPyroModel, PyroModel
from genzoo_pyro.vae import PyroVAE, VAEConfig
from torch import Tensor

from genzoo.data.splits import TensorSplit
from genzoo.interface import GradientModel
from genzoo.spec import Batch, DataSpec

PLANE = DataSpec((2,))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def started(config: MixtureConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> PyroMixture:
    """A mixture in the plane with unequal weights, centres and covariances."""
    torch.manual_seed(seed)
    model = PyroMixture(PLANE, config).to(dtype)
    with torch.no_grad():
        model.model.logits.normal_(generator=generator(1))
        raw = model.model.components.scale_unconstrained
        raw.add_(0.3 * torch.randn(raw.shape, generator=generator(2)))
    return model


def sklearn_scores(model: PyroMixture, x: Tensor, factor: float = 1.0) -> Tensor:
    """GaussianMixture.score_samples on the same parameters, centres times `factor`."""
    from sklearn.mixture import GaussianMixture
    from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky

    parts = model.model.components
    full = parts.full
    scale = parts.scale.detach().double()
    covariance = scale @ scale.mT if full else scale**2
    kind = "full" if full else "diag"
    mixture = GaussianMixture(len(scale), covariance_type=kind)
    mixture.weights_ = model.model.logits[0].detach().double().softmax(-1).numpy()
    mixture.means_ = factor * parts.loc.detach().double().numpy()
    mixture.covariances_ = covariance.numpy()
    mixture.precisions_cholesky_ = _compute_precision_cholesky(mixture.covariances_, kind)
    return torch.from_numpy(mixture.score_samples(x.double().numpy()))


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_mixture_is_scikit_learns(covariance: str, dtype: torch.dtype, tolerance: float) -> None:
    """Relative to 1 + |log p|. float64 parameters: 1e-10. float32, as trained: 1e-5, some hundred roundings of 6e-8 in
    the triangular solve, whose covariances here have condition numbers up to 50."""
    model = started(MixtureConfig(components=5, covariance=covariance), dtype=dtype)  # type: ignore[arg-type]
    x = 3 * torch.randn(200, 2, generator=generator(3))
    answer = model.log_likelihood(x)
    assert answer.kind == "exact"

    def error(factor: float) -> float:
        truth = sklearn_scores(model, x, factor)
        return float(((answer.lower - truth).abs() / (1 + truth.abs())).max())

    assert error(1.0) < tolerance
    assert error(1.01) > tolerance


def mass(model: GradientModel, factor: float = 1.0) -> float:
    """The density on a grid of 401 x 401 over [-14, 14]^2, summed; exponentially exact for Gaussians this wide."""
    side = torch.linspace(-14, 14, 401)
    x = torch.cartesian_prod(side, side)
    return factor * float(model.log_likelihood(x).lower.exp().sum()) * (28 / 400) ** 2


def test_mixture_integrates_to_one() -> None:
    """Tolerance 1e-4: float32 log-densities."""
    model = started(MixtureConfig(components=5))
    assert abs(mass(model) - 1) < 1e-4
    assert abs(mass(model, 1.01) - 1) > 1e-4


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("classes", [None, 2])
def test_mixture_of_tables_sums_to_one_over_all_images(levels: int, classes: int | None) -> None:
    """All codes of a 1x2x2 space, for each label. Tolerance 1e-5: float32 log-probabilities."""
    spec = DataSpec((1, 2, 2), levels, classes)
    torch.manual_seed(0)
    model = PyroMixture(spec, MixtureConfig(components=3))
    with torch.no_grad():
        model.model.components.logits.mul_(10)
        model.model.logits.normal_()
    x = torch.tensor(list(itertools.product(range(levels), repeat=4)), dtype=torch.uint8).reshape(-1, 1, 2, 2)
    for label in range(classes or 1):
        y = None if classes is None else torch.full((len(x),), label)
        total = float(model.log_likelihood(x, condition=y).lower.exp().sum())
        assert abs(total - 1) < 1e-5
        assert abs(1.01 * total - 1) > 1e-5


def test_labels_choose_the_mixtures_weights() -> None:
    """p(x given y) is the sum with the label's own weights: against an explicit sum, float32, 1e-5."""
    torch.manual_seed(0)
    model = PyroMixture(DataSpec((2,), classes=3), MixtureConfig(components=4))
    with torch.no_grad():
        model.model.logits.normal_()
    x, y = torch.randn(6, 2), torch.arange(6) % 3
    parts = torch.stack(
        [torch.distributions.Normal(loc, 1.0).log_prob(x).sum(1) for loc in model.model.components.loc.detach()], 1
    )
    truth = (parts + model.model.logits.detach().log_softmax(1)[y]).logsumexp(1)
    torch.testing.assert_close(model.log_likelihood(x, condition=y).lower.float(), truth, rtol=1e-5, atol=1e-5)


def frequencies(counts: Tensor, p: Tensor) -> float:
    """Largest error of observed counts, in standard errors of a binomial."""
    n = counts.sum()
    return float(((counts / n - p) / (p * (1 - p) / n).sqrt()).abs().max())


@pytest.mark.parametrize("levels", [2, 5])
def test_table_samples_have_the_models_probabilities(levels: int) -> None:
    """400,000 draws of a space with levels^2 cells: within 4.5 standard errors a cell; a cell 1 % off is told apart."""
    torch.manual_seed(0)
    model = PyroMixture(DataSpec((2,), levels), MixtureConfig(components=2))
    x = torch.cartesian_prod(torch.arange(levels), torch.arange(levels)).to(torch.uint8)
    p = model.log_likelihood(x).lower.exp()
    drawn = model.sample(400_000, seed=1).long()
    counts = torch.bincount(drawn[:, 0] * levels + drawn[:, 1], minlength=levels**2)
    assert frequencies(counts, p) < 4.5
    wrong = p.clone()
    wrong[p.argmax()] += 0.01
    assert frequencies(counts, wrong) > 4.5


@pytest.mark.parametrize("levels", [3, 17, 256])
def test_discretized_logistics_sum_to_one(levels: int) -> None:
    """Float64: 1e-12 over all levels, for narrow and wide components, inside and outside the range."""
    logits, loc, log_scale = (torch.randn(50, 3, dtype=torch.float64, generator=generator(i)) for i in range(3))
    head = DiscretizedLogistics(logits, loc, 3 * log_scale, levels)
    codes = torch.arange(levels, dtype=torch.float64)[:, None].expand(-1, 50)
    total = head.log_prob(codes).exp().sum(0)
    assert float((total - 1).abs().max()) < 1e-12
    assert float((1.01 * total - 1).abs().max()) > 1e-12


def test_discretized_logistics_draw_what_they_say() -> None:
    """200,000 draws at 6 levels, 4.5 standard errors; the most likely level off by 0.01 is told apart."""
    head = DiscretizedLogistics(torch.tensor([[0.3, -0.2]]), torch.tensor([[-0.8, 0.4]]), torch.tensor([[1.0, 0.5]]), 6)
    p = head.log_prob(torch.arange(6.0)[:, None]).exp()[:, 0]
    torch.manual_seed(0)
    counts = torch.bincount(head.sample((200_000,))[:, 0].long(), minlength=6)
    assert frequencies(counts, p) < 4.5
    wrong = p.clone()
    wrong[p.argmax()] += 0.01
    assert frequencies(counts, wrong) > 4.5


def test_table_component_picks_and_broadcasts() -> None:
    """Against a loop over components and dimensions; exact up to the order of a float32 sum."""
    table = torch.randn(3, 4, 5, generator=generator(0)).log_softmax(1)
    x = torch.randint(0, 4, (6, 3), generator=generator(1)).float()
    truth = torch.stack([sum(table[d, x[:, d].long(), k] for d in range(3)) for k in range(5)])
    enumerated = TableComponents(table, torch.arange(5)[:, None]).log_prob(x)
    torch.testing.assert_close(enumerated, truth)
    one_each = torch.tensor([0, 4, 2, 1, 1, 3])
    torch.testing.assert_close(TableComponents(table, one_each).log_prob(x), truth[one_each, torch.arange(6)])


SPECS = [
    DataSpec(shape, levels, classes)
    for shape in [(2,), (1, 8, 8), (3, 8, 8)]
    for levels in (None, 2, 17, 256)
    for classes in (None, 3)
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_spec(spec: DataSpec) -> None:
    """Sample, evaluate, take two steps, evaluate the average; finite everywhere, kinds as the cards say."""
    n = 6
    y = None if spec.classes is None else torch.arange(n) % spec.classes
    models: list[GradientModel] = [
        PyroVAE(spec, VAEConfig(latent=2, hidden=(8,))),
        PyroMixture(spec, MixtureConfig(components=3)),
    ]
    for model, kind, base in zip(models, ("weights", "exact"), (PyroModel, ExactPyroModel), strict=True):
        assert isinstance(model, base)
        x = model.sample(n, seed=1, condition=y)
        learner = model.learner(model.default_training())
        learner.start(TensorSplit(x, y))
        for i in range(2):
            learner.step(Batch(x, y), i / 2)
        answer = learner.evaluated().log_likelihood(x, 3, seed=0, condition=y)  # type: ignore[attr-defined]
        assert answer.kind == kind
        assert bool(answer.lower.isfinite().all())
    assert not list(pyro.get_param_store().keys())


def test_vae_mass_is_one() -> None:
    """The weights of a VAE on one dimension, integrated over x: 1 in expectation for any guide. Here the guide is wider
    than the prior, so that the weights are bounded; within 4 standard errors (below 0.25 %) over 20 seeds."""
    torch.manual_seed(0)
    model = PyroVAE(DataSpec((1,)), VAEConfig(latent=1, hidden=(8,)))
    with torch.no_grad():
        model.guide.network[-1].bias[1] += 2.3  # log scale from about -2 to 0.3
    x = torch.linspace(-6, 6, 201)[:, None]
    masses = torch.stack([model.log_likelihood(x, 500, seed=i).lower.exp().sum() * (12 / 200) for i in range(20)])
    stderr = float(masses.std()) / 20**0.5
    assert abs(float(masses.mean()) - 1) < 4 * stderr
    assert abs(1.01 * float(masses.mean()) - 1) > 4 * stderr


def fit(model: GradientModel, split: TensorSplit, steps: int) -> GradientModel:
    settings = model.default_training()
    learner = model.learner(settings)
    g = generator(0)
    learner.start(split)
    for i in range(steps):
        learner.step(split.batch(torch.randint(len(split), (256,), generator=g), g), i / steps)
    learner.finish(split, split)
    return learner.evaluated()  # type: ignore[return-value]


def bimodal(n: int, seed: int) -> Tensor:
    g = generator(seed)
    centre = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])[torch.randint(2, (n,), generator=g)]
    return centre + 0.3 * torch.randn(n, 2, generator=g)


def bimodal_log_prob(x: Tensor) -> Tensor:
    centres = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    return torch.stack([torch.distributions.Normal(c, 0.3).log_prob(x).sum(1) - 0.6931472 for c in centres]).logsumexp(
        0
    )


def test_training_mends_the_mixture() -> None:
    """Two Gaussians, 150 steps: KL to the truth on 5,000 fresh points at most 0.01 nats, and not below zero by more
    than four paired standard errors."""
    torch.manual_seed(0)
    model = fit(PyroMixture(PLANE, MixtureConfig(components=4)), TensorSplit(bimodal(5000, 0)), 150)
    x = bimodal(5000, 1)
    gap = bimodal_log_prob(x).double() - model.log_likelihood(x).lower
    assert -4 * float(gap.std()) / 5000**0.5 < float(gap.mean()) < 0.01


def test_the_vae_does_not_collapse() -> None:
    """Two modes need at least log 2 = 0.69 nats through z; half of that tells use from collapse."""
    torch.manual_seed(0)
    model = fit(PyroVAE(PLANE, VAEConfig(hidden=(32,))), TensorSplit(bimodal(5000, 0)), 300)
    answer = model.log_likelihood(bimodal(1000, 1), 50, seed=0)
    assert float(-answer.terms["kl"].mean()) > 0.35


def test_cards_import_no_torch() -> None:
    code = (
        "import sys, genzoo_pyro; names = [c.name for c in genzoo_pyro.genzoo_models()]; "
        "assert names == ['pyro_vae', 'pyro_mixture'], names; "
        "assert not {'torch', 'pyro'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_cards_resolve() -> None:
    import genzoo_pyro

    for card, model in zip(genzoo_pyro.genzoo_models(), (PyroVAE, PyroMixture), strict=True):
        assert card.resolve() is model
