"""Deep belief networks against the sum over all states of their hidden units."""

from __future__ import annotations

import pytest
import torch
from genzoo_energy.contrastive import ContrastiveLearner
from genzoo_energy.dbn import DBN, DBNConfig, FieldEstimate
from genzoo_energy.greedy import GreedyLearner
from genzoo_energy.rbm import RBM, RBMConfig
from torch import Tensor

from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.spec import Batch, DataSpec, Split

SPEC = DataSpec((6,), 2)
VISIBLE = torch.cartesian_prod(*[torch.arange(2)] * 6)
CODES = VISIBLE.to(torch.uint8)


class Annealed(RBM):
    exact = False  # type: ignore[assignment]


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


def stirred(*hidden: int, classes: int | None = None, scale: float = 0.4, **options: int) -> DBN:
    torch.manual_seed(3)
    model = DBN(DataSpec((6,), 2, classes), DBNConfig(hidden=hidden, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, scale)
        model.top.base.normal_(0, 0.3)
    return model


def truth(model: DBN, label: int | None = None, log_top: Tensor | None = None) -> Tensor:
    """log p(v) of every v, `(64,)` float64: each layer's units summed over one by one, the top's pairs too, unless
    the law of the units below it is given."""
    n = model.spec.classes

    def states(bits: int) -> Tensor:
        return torch.cartesian_prod(*[torch.arange(2)] * bits).view(-1, bits).double()

    def biases(layer: RBM) -> tuple[Tensor, Tensor, Tensor]:
        visible, hidden = layer.visible.detach().double(), layer.hidden.detach().double()
        if n is not None and layer.of_class is not None and label is not None:
            shift = layer.of_class.detach().double()[label]
            visible, hidden = visible + shift[: len(visible)], hidden + shift[len(visible) :]
        return layer.weights.detach().double(), visible, hidden

    weights, visible, hidden = biases(model.top)
    below, above = states(len(visible)), states(len(hidden))
    energy = below @ weights @ above.T + (below @ visible)[:, None] + above @ hidden
    log_p = energy.logsumexp(1) - energy.flatten().logsumexp(0) if log_top is None else log_top
    for layer in reversed(model.sigmoid_layers):
        weights, visible, _ = biases(layer)
        v, h = states(len(visible)), states(weights.shape[1])
        logits = h @ weights.T + visible
        given = v @ logits.T - torch.nn.functional.softplus(logits).sum(1)
        log_p = (given + log_p).logsumexp(1)
    return log_p


@pytest.mark.parametrize(("hidden", "scale"), [((4, 3), 0.4), ((5, 4, 3), 0.3)])
def test_the_weights_are_unbiased_and_the_bound_tends_to_the_truth(hidden: tuple[int, ...], scale: float) -> None:
    """Mass one, every state's mean weight within five of its errors, and a bound that rises to the truth with draws."""
    model = stirred(*hidden, scale=scale)
    log_p = truth(model)
    assert float(log_p.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    many = model.log_likelihood(CODES, 4000, seed=0)
    assert many.kind == "weights"
    assert many.variance is not None
    error = many.variance.sqrt()
    assert float(error.max()) < 0.05
    assert bool(((many.lower - log_p).abs() < 5 * error).all())
    assert float(many.lower.exp().sum()) == pytest.approx(1.0, abs=4 * float((log_p.exp() * error).norm()))
    gaps = [float((log_p - model.log_likelihood(CODES, k, seed=1).lower).mean()) for k in (1, 10, 1000)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[0] > 0.3
    assert abs(gaps[2]) < 0.02


def test_one_draw_is_the_variational_bound() -> None:
    """E_q [log p(v given h) + log p_top(h)] + H(q) with the sums over all h in closed form, at two layers: within five
    errors of the mean of 2,500 single draws. The terms of many draws are its parts."""
    model = stirred(4, 3)
    machine = model.sigmoid_layers[0].machine(None, 1)
    h = torch.cartesian_prod(*[torch.arange(2)] * 4).float()
    v = VISIBLE.float()
    inputs, outputs = machine.inputs(v).double().detach(), machine.outputs(h).double().detach()
    up = torch.distributions.Bernoulli(logits=inputs[:, None])
    q = up.log_prob(h.double()).sum(2)  # (64, 16)
    down = torch.distributions.Bernoulli(logits=outputs).log_prob(v.double()[:, None]).sum(2)
    top = model.top.log_likelihood(h.to(torch.uint8)).lower
    reconstruction, kl = (q.exp() * down).sum(1), (q.exp() * (top - q)).sum(1)
    single = model.log_likelihood(CODES[:8].repeat(2500, 1), 1, seed=0).lower.view(2500, 8)
    error = single.std(0) / 50
    assert float(error.max()) < 0.03
    assert bool(((single.mean(0) - (reconstruction + kl)[:8]).abs() < 5 * error).all())
    many = model.log_likelihood(CODES[:8], 4000, seed=1)
    for name, expected in (("reconstruction", reconstruction), ("kl", kl)):
        assert float((many.terms[name] - expected[:8]).abs().max()) < 0.1
    torch.testing.assert_close(many.arrays["kl_per_layer"].sum(1), many.terms["kl"])


@pytest.mark.parametrize("classes", [None, 3])
def test_a_machine_turned_over_leaves_the_law_of_the_one_below(classes: int | None) -> None:
    """Both machines then have one law of the units between, and q is the exact posterior: every single draw gives the
    first machine's log p(v), to float32. A top that is 1 % larger does not."""
    model = stirred(5, 6, classes=classes)
    first = model.sigmoid_layers[0]
    with torch.no_grad():
        model.top.turn(first)
    y = None if classes is None else torch.arange(64) % classes
    log_p = first.log_likelihood(CODES, condition=y).lower
    for seed in range(3):
        torch.testing.assert_close(model.log_likelihood(CODES, 1, seed, y).lower, log_p, rtol=0, atol=2e-5)
    with torch.no_grad():
        model.top.weights.mul_(1.01)
    assert float((model.log_likelihood(CODES, 1, 0, y).lower - log_p).abs().max()) > 2e-3


def test_a_wider_top_begins_near_the_machine_below_and_a_narrower_one_anew() -> None:
    wide, narrow = stirred(5, 9), stirred(5, 4)
    for model in (wide, narrow):
        before = model.top.weights.detach().clone()
        with torch.no_grad():
            model.top.turn(model.sigmoid_layers[0])
        turned = model.sigmoid_layers[0].weights.T
        if model is wide:
            assert torch.equal(model.top.weights[:, :6], turned)
            assert torch.equal(model.top.weights[:, 6:], before[:, 6:])
        else:
            assert torch.equal(model.top.weights, before)


@pytest.mark.parametrize("hidden", [(4, 3), (4, 4, 3)])
def test_samples_follow_the_law(hidden: tuple[int, ...]) -> None:
    """Chi-square over 64 states, 63 degrees: the 1e-6 quantile is 126."""
    model = stirred(*hidden)
    p = truth(model).exp()
    drawn = model.sample(20_000, seed=1).long()
    counts = torch.bincount((drawn * 2 ** torch.arange(5, -1, -1)).sum(1), minlength=64).double()
    assert float(((counts - 20_000 * p).square() / (20_000 * p)).sum()) < 126


def annealed(distributions: int) -> DBN:
    """As `stirred`, its top annealed although it is enumerable."""
    model = stirred(4, 3, distributions=distributions)
    top = Annealed(model.top.spec, model.top.config).eval()
    top.load_state_dict(model.top.state_dict())
    model.layers[-1] = top
    return model


def sampler_law(top: RBM) -> Tensor:
    """log of the law of two steps from independent units, at temperatures 1/2 and 1, `(16,)` float64."""
    machine = top.machine(None, 1)
    v, h = (torch.cartesian_prod(*[torch.arange(2)] * bits).float() for bits in (4, 3))
    law = torch.distributions.Bernoulli(logits=machine.base.double()).log_prob(v.double()).sum(1).exp()
    for t in (0.5, 1.0):
        up = torch.distributions.Bernoulli(logits=t * machine.inputs(v)[:, None].double().detach())
        logits = (1 - t) * machine.base + t * machine.outputs(h).double().detach()
        down = torch.distributions.Bernoulli(logits=logits[:, None])
        law = law @ up.log_prob(h.double()).sum(2).exp() @ down.log_prob(v.double()).sum(2).exp()
    return law.log()


def test_beyond_enumeration_the_annealed_sampler_is_the_prior_that_is_scored() -> None:
    """Two temperatures, whose law is a product of kernels. The weights have that mean, within five errors at each of 64
    states; and draws follow it (chi-square of 63 degrees: the 1e-6 quantile is 126), and not the field's law."""
    model = annealed(2)
    with torch.no_grad():
        model.top.weights.mul_(2)
    law, field = truth(model, log_top=sampler_law(model.top)), truth(model)
    said = model.log_likelihood(CODES, 8000, seed=0)
    assert said.kind == "weights"
    assert said.variance is not None
    error = said.variance.sqrt()
    assert float(error.max()) < 0.15
    assert float(((said.lower - law) / error).abs().max()) < 5
    drawn = model.sample(100_000, seed=1).long()
    counts = torch.bincount((drawn * 2 ** torch.arange(5, -1, -1)).sum(1), minlength=64).double()
    chi_squares = [float(((counts - n).square() / n).sum()) for n in (100_000 * law.exp(), 100_000 * field.exp())]
    assert chi_squares[0] < 126
    assert chi_squares[1] > 200
    assert list(model.estimators()) == ["raise", "field"]


def test_the_field_estimate_is_the_bound_with_an_estimated_mass() -> None:
    """200 chains of 50 temperatures find log Z to 0.02 nats, from either side, and 5,000 draws the sum to 0.05; no
    direction is claimed."""
    model = annealed(3)
    field = FieldEstimate(model, distributions=50, chains=200)
    field.start(Points(CODES), 0)
    said = field.log_likelihood(CODES, 5000, seed=0)
    assert said.kind == "estimate"
    slack, log_p = 0.1, truth(model)
    assert float((said.lower - log_p).abs().max()) < slack
    assert float((said.arrays["with_reverse"] - log_p).abs().max()) < slack
    again = field.log_likelihood(CODES, 5000, seed=0)
    assert torch.equal(said.lower, again.lower)


def patterns(n: int) -> Tensor:
    """Three noisy templates."""
    torch.manual_seed(0)
    clean = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0], [1, 0, 0, 0, 1, 1]])
    return torch.bernoulli(torch.where(clean == 1, 0.92, 0.08)[torch.randint(3, (n,))]).to(torch.uint8)


def test_training_goes_layer_by_layer_and_the_second_raises_the_bound() -> None:
    """The first half of the steps moves the first machine alone, the second half the second alone. The network's exact
    likelihood about the data is above that of its first machine, from which the second began."""
    x = patterns(4000)
    model = DBN(SPEC, DBNConfig(hidden=(3, 8)))
    learner = GreedyLearner(model, TrainSettings(learning_rate=0.3, ema=0.9))
    learner.start(Points(x))
    torch.manual_seed(0)
    moments = []
    for step in range(1200):
        if step in (0, 599, 1199):
            moments.append([layer.weights.detach().clone() for layer in (model.sigmoid_layers[0], model.top)])
        learner.step(Batch(x[torch.randint(len(x), (100,))], None), step / 1200)
        if step == 600:
            first = learner.evaluated().sigmoid_layers[0]
            frozen = {name: value.clone() for name, value in first.state_dict().items()}
    (first_0, top_0), (first_1, top_1), (_, top_2) = moments
    assert float((first_1 - first_0).abs().max()) > 0.5
    assert torch.equal(top_0, top_1)
    assert float((top_2 - top_1).abs().max()) > 0.5
    learner.finish(Points(x), Points(x))
    trained = learner.evaluated()
    for name, value in trained.sigmoid_layers[0].state_dict().items():
        assert torch.equal(value, frozen[name])
    machine = trained.sigmoid_layers[0].log_likelihood(CODES).lower
    states_of = (x.long() * 2 ** torch.arange(5, -1, -1)).sum(1)
    assert float((truth(trained) - machine)[states_of].mean()) > 0.005


def test_the_path_to_the_top_begins_at_the_marginals_of_its_units() -> None:
    x = patterns(2000)
    model = DBN(SPEC, DBNConfig(hidden=(4, 5)))
    with torch.no_grad():
        model.sigmoid_layers[0].hidden.copy_(torch.tensor([-2.0, -1.0, 1.0, 2.0]))  # else all are on half the time
    learner = model.learner(TrainSettings(learning_rate=0.1))
    learner.start(Points(x))
    for step in range(100):
        learner.step(Batch(x[torch.randint(len(x), (100,))], None), step / 100)
    learner.finish(Points(x), Points(x))
    trained = learner.evaluated()
    assert isinstance(trained, DBN)
    chance = trained.sigmoid_layers[0].machine(None, 1).inputs(x.float()).detach().sigmoid().mean(0)
    assert float((chance - 0.5).abs().max()) > 0.2
    torch.testing.assert_close(trained.top.base.sigmoid(), chance, atol=0.05, rtol=0)  # of 2,000 draws: 0.011


def test_it_is_trained_by_the_learner_of_rbm() -> None:
    """The first machine after its share of the steps is an `rbm` after as many, bit for bit."""
    x = patterns(500)
    model = DBN(SPEC, DBNConfig(hidden=(4, 5)))
    single = RBM(SPEC, RBMConfig(hidden=4))
    single.load_state_dict(model.sigmoid_layers[0].state_dict())
    deep = GreedyLearner(model, TrainSettings())
    plain = ContrastiveLearner(single, deep.learners[0].settings)
    for learner in (deep, plain):
        torch.manual_seed(1)
        learner.start(Points(x))
        for step in range(20):
            learner.step(Batch(x[20 * step : 20 * step + 20], None), step / (40 if learner is deep else 20))
    expected = plain.evaluated().state_dict()
    for name, value in deep.evaluated().sigmoid_layers[0].state_dict().items():
        assert torch.equal(value, expected[name])


def test_labels_have_networks_of_their_own() -> None:
    model = stirred(4, 3, classes=3)
    for y in range(3):
        label = torch.full((64,), y)
        said = model.log_likelihood(CODES, 5000, seed=0, condition=label)
        assert said.variance is not None
        assert bool(((said.lower - truth(model, y)).abs() < 5 * said.variance.sqrt() + 1e-5).all())
    assert float((truth(model, 0) - truth(model, 1)).abs().max()) > 0.5
    assert list(model.estimators()) == ["importance"]
    assert model.sample(30, seed=0, condition=torch.arange(30) % 3).shape == (30, 6)


def test_what_it_cannot_take_is_named() -> None:
    with pytest.raises(CapabilityError, match="dbn takes binary data"):
        DBN(DataSpec((6,), 3))
