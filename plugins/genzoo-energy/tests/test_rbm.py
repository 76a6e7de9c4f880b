"""Restricted Boltzmann machines against enumeration and autograd."""

from __future__ import annotations

import math

import pytest
import torch
from genzoo_energy.contrastive import ContrastiveLearner
from genzoo_energy.machine import FieldPath, Machine, gibbs
from genzoo_energy.rbm import RBM, FieldBracket, RBMConfig
from torch import Tensor

from genzoo.ais import forward, linear
from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.spec import Batch, DataSpec, Split

VISIBLE = torch.cartesian_prod(*[torch.arange(2)] * 6)


def machine(hidden: int = 4, scale: float = 1.0) -> Machine:
    torch.manual_seed(0)
    return Machine(scale * torch.randn(6, hidden), torch.randn(1, 6), torch.randn(1, hidden), 0.5 * torch.randn(6))


def brute_force(m: Machine) -> Tensor:
    """log sum_h exp(b.v + c.h + v W h) of every v, `(64,)`."""
    hidden = torch.cartesian_prod(*[torch.arange(2)] * m.weights.shape[1]).double()
    v = VISIBLE.double()
    weights, visible, hidden_bias = m.weights.double(), m.visible[0].double(), m.hidden[0].double()
    return (v @ weights @ hidden.T + (v @ visible)[:, None] + hidden @ hidden_bias).logsumexp(1)


@pytest.mark.parametrize("hidden", [4, 9])
def test_the_field_and_its_mass_equal_enumeration(hidden: int) -> None:
    """Both ways of summing: over h where it is smaller, over v where that is."""
    m = machine(hidden)
    log_f = brute_force(m)
    torch.testing.assert_close(m.log_f(VISIBLE.float()[:, None])[:, 0], log_f, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(m.log_z(), log_f.logsumexp(0)[None], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("hidden", [4, 9])
def test_draws_from_the_table_follow_the_field(hidden: int) -> None:
    """Chi-square over 64 states, 63 degrees: the 1e-6 quantile is 126."""
    m = machine(hidden)
    p = brute_force(m).softmax(0)
    torch.manual_seed(1)
    drawn = m.sample(20_000).long()
    counts = torch.bincount((drawn * 2 ** torch.arange(5, -1, -1)).sum(1), minlength=64).double()
    assert float(((counts - 20_000 * p).square() / (20_000 * p)).sum()) < 126


def test_the_path_starts_at_normalised_pixels_and_ends_at_the_field() -> None:
    m = machine()
    path = FieldPath(m, 64)
    point = path.at(VISIBLE.float()[None])
    pixels = torch.distributions.Bernoulli(logits=m.base.double()).log_prob(VISIBLE.double()).sum(1)
    torch.testing.assert_close(point.log_prob(0.0)[0], pixels, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(point.log_prob(1.0)[0], brute_force(m) - m.log_base_mass(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_gibbs_has_detailed_balance(beta: float) -> None:
    """f(v) P(v -> w) = f(w) P(w -> v), the kernel summed over h, at three temperatures; a kernel of another temperature
    fails."""
    m = machine(3)
    hidden = torch.cartesian_prod(*[torch.arange(2)] * 3).float()
    v = VISIBLE.float()

    def kernel(t: float) -> Tensor:
        up, down = t * m.inputs(v), (1 - t) * m.base + t * (m.visible + hidden @ m.weights.T)
        to_hidden = torch.distributions.Bernoulli(logits=up[:, None].double()).log_prob(hidden.double()).sum(2).exp()
        to_visible = torch.distributions.Bernoulli(logits=down[:, None].double()).log_prob(v.double()).sum(2).exp()
        return to_hidden @ to_visible  # (64, 64)

    f = FieldPath(m, 64).at(v[None]).log_prob(beta)[0].exp()
    flow = f[:, None] * kernel(beta)
    torch.testing.assert_close(flow, flow.T, rtol=1e-5, atol=1e-9)
    wrong = f[:, None] * kernel(beta + 0.2)
    assert float((wrong - wrong.T).abs().max()) > 1e-3 * float(wrong.max())


def test_annealing_is_unbiased_for_the_mass() -> None:
    """Five temperatures: E w = Z / Z_0 within four standard errors, which are below 2 %."""
    m = machine(scale=0.7)
    torch.manual_seed(0)
    log_w, _ = forward(FieldPath(m, 1), gibbs, linear(5), 40_000)
    w = (log_w[:, 0] - (m.log_z() - m.log_base_mass())).exp()
    error = float(w.std()) / 200
    assert error < 0.02
    assert abs(float(w.mean()) - 1) < 4 * error


def model_of(hidden: int, **options: int) -> RBM:
    torch.manual_seed(3)
    model = RBM(DataSpec((6,), 2), RBMConfig(hidden=hidden, **options)).eval()
    with torch.no_grad():
        model.weights.normal_(0, 0.7)
        model.visible.normal_(0, 0.7)
        model.hidden.normal_(0, 0.7)
        model.base.normal_(0, 0.3)
    return model


def test_small_machines_are_exact() -> None:
    model = model_of(4)
    said = model.log_likelihood(VISIBLE.to(torch.uint8))
    assert said.kind == "exact"
    assert float(said.lower.exp().sum()) == pytest.approx(1.0, abs=1e-6)
    assert list(model.estimators()) == ["exact", "bracket"]


def test_the_bracket_holds_the_truth_between_its_ends() -> None:
    """On an enumerable machine both ends are certified; with 200 chains of 50 temperatures the truth is inside, give or
    take three standard errors, and the ends are within 0.2 nats of each other."""
    model = model_of(4)
    x = VISIBLE.to(torch.uint8)
    truth = model.log_likelihood(x).lower
    said = FieldBracket(model, distributions=50).log_likelihood(x, 200, seed=0)
    assert said.certified
    assert said.upper is not None
    slack = 3 * float(said.shared_variance.sqrt()) + 1e-5
    assert bool((said.lower <= truth + slack).all())
    assert bool((said.upper >= truth - slack).all())
    assert float((said.upper - said.lower).abs().max()) < 0.2


def test_the_annealed_sampler_is_the_model_that_is_scored() -> None:
    """Not enumerable on either side: RAISE's weights, averaged over many chains, sum to one over all states of the
    pixels, of which there are 64 here because `exact` is overruled, and agree with the draws of `sample`."""

    class Annealed(RBM):
        exact = False  # type: ignore[assignment]

    torch.manual_seed(3)
    model = Annealed(DataSpec((6,), 2), RBMConfig(hidden=4, distributions=3)).eval()
    model.load_state_dict(model_of(4).state_dict())
    x = VISIBLE.to(torch.uint8)
    said = model.log_likelihood(x, 4000, seed=0)
    assert said.kind == "weights"
    assert said.variance is not None
    p, error = said.lower.exp(), said.lower.exp() * said.variance.sqrt()
    assert float(p.sum()) == pytest.approx(1.0, abs=4 * float(error.square().sum().sqrt()))
    drawn = model.sample(40_000, seed=1).long()
    share = torch.bincount((drawn * 2 ** torch.arange(5, -1, -1)).sum(1), minlength=64) / 40_000
    z = (share - p) / (error.square() + p / 40_000).sqrt()
    assert float(z.abs().max()) < 5.5  # 64 normal values: a false alarm in 400,000
    exact = model_of(4).log_likelihood(x).lower.exp()
    assert float((exact - p).abs().max()) > 5 * float(error.max())  # three temperatures: not yet the field


class Points(Split):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        return Batch(self.x[indices], None)

    @property
    def fingerprint(self) -> str:
        return "points"


def test_the_step_is_the_gradient_of_the_likelihood() -> None:
    """With 40,000 exact draws as the negative phase the change over its rate is autograd's gradient of the mean exact
    log-likelihood, to four standard errors of a mean of binary values, 0.01."""
    model = model_of(4, chains=40_000)
    x = torch.bernoulli(torch.full((500, 6), 0.4)).to(torch.uint8)
    m = model.machine(None, 1)
    log_p = m.log_f(x.float()[:, None])[:, 0].mean() - m.log_z()[0]
    gradients = torch.autograd.grad(log_p, [model.weights, model.visible, model.hidden])
    learner = ContrastiveLearner(model, TrainSettings(learning_rate=1.0, schedule="constant", warmup=0.0))
    torch.manual_seed(0)
    with torch.no_grad():
        learner.chains = m.sample(40_000)[None]
    before = [p.detach().clone() for p in (model.weights, model.visible, model.hidden)]
    learner.step(Batch(x, None), 0.5)
    for was, now, gradient in zip(before, (model.weights, model.visible, model.hidden), gradients, strict=True):
        torch.testing.assert_close(now.detach() - was, gradient.float(), atol=0.01, rtol=0)
    assert float(gradients[1].abs().max()) > 0.05


@pytest.mark.parametrize("method", ["cd", "pcd", "tempering"])
def test_training_approaches_the_data(method: str) -> None:
    """Two patterns and their noise: 600 steps bring the exact likelihood within 0.35 nats of the data's own entropy,
    from more than one nat at independent pixels."""
    torch.manual_seed(0)
    patterns = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
    law = torch.stack([torch.where(p == 1, 0.95, 0.05) for p in patterns])
    x = torch.bernoulli(law[torch.randint(2, (4000,))]).to(torch.uint8)
    truth = (x.double() @ law.double().log().T + (1 - x.double()) @ (1 - law.double()).log().T).logsumexp(1) - math.log(
        2
    )
    model = RBM(DataSpec((6,), 2), RBMConfig(hidden=4, method=method, temperatures=4))  # type: ignore[arg-type]
    learner = ContrastiveLearner(model, TrainSettings(learning_rate=0.2, ema=0.9))
    learner.start(Points(x))
    before = float((truth - model.log_likelihood(x).lower).mean())
    for step in range(600):
        learner.step(Batch(x[torch.randint(len(x), (100,))], None), step / 600)
    after = float((truth - learner.evaluated().log_likelihood(x).lower).mean())
    assert before > 1.0
    assert after < 0.35


@pytest.mark.parametrize("method", ["cd", "pcd", "tempering"])
def test_rare_classes_are_learned_as_they_are(method: str) -> None:
    """Nine in ten examples of one class: the chains, which have both alike, are weighed by what the batch has. Within
    0.25 nats of the entropy given the label; unweighed chains ended a nat off."""
    torch.manual_seed(0)
    law = torch.tensor([[0.2, 0.3, 0.8, 0.7, 0.3, 0.6], [0.8, 0.8, 0.2, 0.2, 0.7, 0.3]])
    y = (torch.rand(6000) < 0.9).long()
    x = torch.bernoulli(law[y]).to(torch.uint8)
    truth = torch.distributions.Bernoulli(law[y].double()).log_prob(x.double()).sum(1)
    model = RBM(DataSpec((6,), 2, 2), RBMConfig(hidden=8, method=method, temperatures=4))  # type: ignore[arg-type]
    learner = ContrastiveLearner(model, TrainSettings(learning_rate=0.05, ema=0.99))
    learner.start(Points(x))
    for step in range(800):
        rows = torch.randint(len(x), (100,))
        learner.step(Batch(x[rows], y[rows]), step / 800)
    assert float((truth - learner.evaluated().log_likelihood(x, condition=y).lower).mean()) < 0.25


def test_labels_have_machines_of_their_own() -> None:
    torch.manual_seed(0)
    model = RBM(DataSpec((6,), 2, 3), RBMConfig(hidden=4)).eval()
    assert model.of_class is not None
    with torch.no_grad():
        model.of_class.normal_(0, 1)
    x = VISIBLE.to(torch.uint8)
    answers = [model.log_likelihood(x, condition=torch.full((64,), y)).lower for y in range(3)]
    for answer in answers:
        assert float(answer.exp().sum()) == pytest.approx(1.0, abs=1e-6)
    assert float((answers[0] - answers[1]).abs().max()) > 0.5
    drawn = model.sample(30, seed=0, condition=torch.arange(30) % 3)
    assert drawn.shape == (30, 6)


def test_what_it_cannot_take_is_named() -> None:
    with pytest.raises(CapabilityError, match="rbm takes binary data"):
        RBM(DataSpec((6,), 3))
