"""The bounds of a trained vae beside its own log p(x), by quadrature over a latent of two dimensions.

    ELBO <= refined ELBO <= log p(x),   ELBO = IWAE_1 <= IWAE_10 <= ... <= log p(x),   AIS <= log p(x) <= reverse AIS

Differences are paired on the same points; a claim allows three standard errors of the Monte Carlo draws.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from genzoo_vae.prior import GaussianMixture
from genzoo_vae.vae import VAE, VAEConfig
from torch import Tensor

import genzoo
from genzoo.adapters import Adapted
from genzoo.data.splits import TensorSplit
from genzoo.data.toy.catalogue import DENSITIES
from genzoo.latent import AnnealedImportance, RefinedELBO
from genzoo.likelihood import LogLikelihood
from genzoo.registry import load_registry
from genzoo.spec import Batch, DataSpec
from genzoo.testing.subject import CheckFailed, ModelSubject
from genzoo.testing.truth import estimators_agree

POINTS, STEPS = 100, 300


def log_p_by_quadrature(model: VAE, x: Tensor, spacing: float, condition: Tensor | None = None) -> Tensor:
    """log of sum_z p(x given z) p(z) spacing^2, `(N,)` float64, over all of the prior but its far tails.

    `condition` is the label `(1,)` that all have."""
    with torch.no_grad():
        prior = model.prior
        low, high = torch.full((2,), -6.0), torch.full((2,), 6.0)
        if isinstance(prior, GaussianMixture):
            reach = 6 * prior.log_scale.exp()
            low, high = (prior.loc - reach).amin(0), (prior.loc + reach).amax(0)
        axes = [torch.arange(float(a), float(b), spacing) for a, b in zip(low, high, strict=True)]
        total = torch.full((len(x),), -math.inf, dtype=torch.float64)
        for z in torch.cartesian_prod(*axes).split(10_000):  # type: ignore[no-untyped-call]
            joint = model.log_joint(x, z[:, None].double(), condition)  # (10,000, N): one decode a node
            total = torch.logaddexp(total, joint.logsumexp(0))
    return total + 2 * math.log(spacing)


@dataclass
class Case:
    """A trained model, its points, and log p of these by quadrature."""

    model: VAE
    x: Tensor
    log_p: Tensor

    def gap(self, answer: LogLikelihood) -> tuple[float, float]:
        """Mean of log p(x) less the bound, and its standard error from the draws."""
        assert answer.variance is not None
        return float((self.log_p - answer.lower).mean()), float(answer.variance.sum().sqrt()) / len(self.x)


@pytest.fixture(scope="module")
def case() -> Case:
    """The default vae of the plane (mixture prior, full covariances) on 8gaussians, 300 steps."""
    torch.manual_seed(0)
    x = DENSITIES["8gaussians"].sample(20_000, 0)
    x = (x - x.mean(0)) / x.std(0)
    model = VAE(DataSpec((2,)))
    learner = model.learner(model.default_training())
    learner.start(TensorSplit(x))
    for step in range(STEPS):
        learner.step(Batch(x[torch.randint(len(x), (128,))], None), step / STEPS)
    model = learner.evaluated()  # type: ignore[assignment]
    points = x[:POINTS]
    return Case(model, points, log_p_by_quadrature(model, points, 0.03))


def test_quadrature_has_converged(case: Case) -> None:
    """Twice the spacing changes nothing: the error of the midpoint rule falls with exp(-1 / spacing^2)."""
    torch.testing.assert_close(log_p_by_quadrature(case.model, case.x, 0.06), case.log_p, atol=1e-4, rtol=0)


def test_bounds_tighten_and_stay_below_the_truth(case: Case) -> None:
    estimators = {name: make() for name, make in case.model.estimators().items()}
    elbo = estimators["elbo"].log_likelihood(case.x, 1000, seed=0)
    elbo_gap, elbo_error = case.gap(elbo)
    assert elbo_gap > 3 * elbo_error
    before, before_error = elbo_gap, elbo_error
    for k in (10, 100, 1000):
        gap, error = case.gap(estimators["iwae"].log_likelihood(case.x, k, seed=k))
        assert gap > -3 * error
        assert gap < before + 3 * math.hypot(error, before_error)
        before, before_error = gap, error
    assert before < elbo_gap / 5
    one = torch.stack([estimators["iwae"].log_likelihood(case.x, 1, seed=s).lower for s in range(200)])
    repeats = one.mean(1)
    assert abs(float(repeats.mean() - elbo.lower.mean())) < 3 * math.hypot(float(repeats.std()) / 14, elbo_error)


def test_refined_elbo_closes_the_amortisation_gap(case: Case) -> None:
    elbo_gap, elbo_error = case.gap(case.model.estimators()["elbo"]().log_likelihood(case.x, 1000, seed=0))
    answer = case.model.estimators()["refined"]().log_likelihood(case.x, 1000, seed=1)
    gap, error = case.gap(answer)
    assert answer.kind == "lower_bound"
    assert -3 * error < gap < elbo_gap - 3 * math.hypot(error, elbo_error)
    assert float(answer.arrays["amortisation_gap"].mean()) == pytest.approx(
        elbo_gap - gap, abs=4 * (error + elbo_error)
    )


def test_annealed_weights_are_unbiased_for_the_models_own_density(case: Case) -> None:
    """Ten distributions: the mean of w / p(x) over points and chains is 1 within three errors, each below 1 / 3 %."""
    ais = AnnealedImportance(case.model, 10)
    ais.start(TensorSplit(case.x), 0)
    answer = ais.log_likelihood(case.x, 200, seed=0)
    assert answer.variance is not None
    ratio = (answer.lower - case.log_p).exp()
    error = float((ratio**2 * answer.variance).sum().sqrt()) / len(ratio)
    assert error < 0.02 / 6
    assert abs(float(ratio.mean()) - 1) < 3 * error
    assert not abs(1.02 * float(ratio.mean()) - 1) < 3 * error


def test_annealed_bound_is_below_the_truth_and_tight(case: Case) -> None:
    """One chain: without distributions between the ends it is IWAE-1, the ELBO; more of them close the gap."""
    x, log_p = case.x.repeat(10, 1), case.log_p.repeat(10)
    gaps = []
    for distributions in (1, 5, 50):
        ais = AnnealedImportance(case.model, distributions)
        ais.start(TensorSplit(case.x), 0)
        answer = ais.log_likelihood(x, 1, seed=1)
        assert answer.kind == "weights"
        gap = log_p - answer.lower
        gaps.append((float(gap.mean()), float(gap.std()) / math.sqrt(len(gap))))
    assert all(gap > -3 * error for gap, error in gaps)
    for (before, one), (after, other) in itertools.pairwise(gaps):
        assert before - after > 3 * math.hypot(one, other)
    assert gaps[-1][0] < gaps[0][0] / 5
    elbo = case.model.estimators()["elbo"]().log_likelihood(case.x, 1000, seed=0)
    expected, error = case.gap(elbo)
    assert abs(gaps[0][0] - expected) < 3 * math.hypot(gaps[0][1], error)


def test_simulated_bracket_holds_the_truth(case: Case) -> None:
    ais = AnnealedImportance(case.model, 5)
    ais.start(TensorSplit(case.x), 0)
    x, answer = ais.bracket(100, 8, seed=0)
    assert (answer.kind, answer.certified) == ("bracket", True)
    assert answer.upper is not None
    truth = log_p_by_quadrature(case.model, x, 0.06)
    for difference in (truth - answer.lower, answer.upper - truth):
        assert float(difference.mean()) > -3 * float(difference.std()) / 10
    assert 0 < float((answer.upper - answer.lower).mean()) < 0.5


def test_joint_density_is_that_of_the_weights(case: Case) -> None:
    """log p(x, z) - log q(z given x) from the pieces, at the same draws: float32 networks, 1e-4."""
    with torch.no_grad():
        q = case.model.encode(case.x, None)
        z, eps = q.draw(5)
        law = case.model.proposal(case.x, None)
        own = case.model.head.log_prob(case.model.decode(z, None), case.x) + case.model.log_ratio(q, z, eps)
        joint = case.model.log_joint(case.x, z.double(), None)
        torch.testing.assert_close(joint - law.log_prob(z.double()), own, atol=1e-4, rtol=1e-5)
        assert not torch.allclose(1.01 * joint - law.log_prob(z.double()), own, atol=1e-4, rtol=1e-5)


def test_the_kit_holds_the_pieces_to_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the adapter of the plane; a joint density without its prior is caught."""
    subject = ModelSubject(load_registry(), "vae")
    estimators_agree(subject, "plane")
    monkeypatch.setattr(VAE, "log_joint", lambda self, x, z, y: self.head.log_prob(self.decode(z.float(), y), x))
    with pytest.raises(CheckFailed, match="iwae and log_joint have one expectation"):
        estimators_agree(subject, "plane")


def test_pairs_are_the_samples() -> None:
    model = VAE(DataSpec((1, 4, 4), 2), VAEConfig(hidden=(16,), latents=3))
    torch.manual_seed(5)
    with torch.no_grad():
        x, z = model.sample_joint(7, None)
    assert z.shape == (7, 3)
    assert torch.equal(model.sample(7, seed=5), x)


SPECS = {
    "line": DataSpec((1,)),
    "binary": DataSpec((1, 4, 4), 2),
    "codes given labels": DataSpec((1, 4, 4), 17, classes=4),
}


@pytest.mark.parametrize("name", SPECS)
def test_every_kind_of_data_can_be_annealed_and_refined(name: str) -> None:
    """Networks at their start, prior N(0, I): above the ELBO, below log p(x) by quadrature, within three errors."""
    spec = SPECS[name]
    torch.manual_seed(0)
    model = VAE(spec, VAEConfig(hidden=(32,), latents=2, prior="normal"))
    x = torch.randn(40, 1) if spec.levels is None else torch.randint(0, spec.levels, (40, 1, 4, 4), dtype=torch.uint8)
    y = None if spec.classes is None else torch.full((40,), 2)
    truth = log_p_by_quadrature(model, x, 0.1, None if y is None else y[:1])
    elbo = model.estimators()["elbo"]().log_likelihood(x, 500, seed=0, condition=y).lower
    for estimator, k in ((AnnealedImportance(model, 50), 2), (RefinedELBO(model), 200)):
        estimator.start(TensorSplit(x, y), 0)
        answer = estimator.log_likelihood(x, k, seed=1, condition=y)
        assert answer.variance is not None
        error = float(answer.variance.sum().sqrt()) / 40
        assert float((answer.lower - truth).mean()) < 3 * error
        assert float((answer.lower - elbo).mean()) > -3 * error


def test_through_an_adapter_the_jacobian_is_in_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standardised data: the inner answer on mapped points, from the same seed, plus the log-Jacobian."""
    monkeypatch.setattr("genzoo_vae.vae.AnnealedImportance", lambda model: AnnealedImportance(model, 20))
    model = genzoo.build_model("vae", DataSpec((1,)), hidden=(16,), seed=0)
    assert isinstance(model, Adapted)
    assert isinstance(model.inner, VAE)
    x = 3 + 0.2 * torch.randn(20, 1)
    model.fit_transforms(TensorSplit(x))
    y, ladj = model.to_inner(x)
    outer = model.estimators()["ais"]()
    assert (outer.sharper, outer.suggested_samples, outer.suggested_points) == (True, 16, 100)
    answer = outer.log_likelihood(x, 2, seed=0)
    inner = model.inner.estimators()["ais"]().log_likelihood(y, 2, seed=0)
    torch.testing.assert_close(answer.lower, inner.lower + ladj)
    assert float(ladj.mean()) > 1  # a scale of 0.2
    assert (answer.kind, outer.name) == ("weights", "ais[chains=2,distributions=20,leapfrog=2]")
