"""Energy-based models outside the plane: moves against the field they leave alone, RAISE and the bracket against sums
over all states, training against a law that is known."""

from __future__ import annotations

import math

import pytest
import torch
from genzoo_energy.annealed import AnnealedField, FieldBracket
from genzoo_energy.ebm import EBM
from genzoo_energy.field import EBMConfig
from genzoo_energy.flips import CodePath, GibbsWithGradients
from genzoo_energy.spaces import Codes, Reals
from torch import Tensor
from torch.distributions import Independent, Normal

from genzoo.building import declined
from genzoo.config import TrainSettings
from genzoo.errors import CapabilityError
from genzoo.registry import load_registry
from genzoo.spec import Batch, DataSpec, Split

TINY = DataSpec((1, 2, 2), 3)
"""81 states."""


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


def states(spec: DataSpec) -> Tensor:
    levels = spec.levels or 2
    codes = torch.cartesian_prod(*[torch.arange(levels)] * spec.dims)
    return codes.view(-1, *spec.event_shape).to(torch.uint8)


def stirred(spec: DataSpec = TINY, strength: float = 0.3, **options: object) -> EBM:
    """A field with structure over an uneven p_0."""
    torch.manual_seed(0)
    model = EBM(spec, EBMConfig.parse({"width": 8, "blocks": 1, "distributions": 10, **options}, "test")).eval()
    field = annealed(model)
    with torch.no_grad():
        for parameter in field.network.parameters():
            parameter.add_(strength * torch.randn_like(parameter))
        if isinstance(field.space, Codes):
            field.space.table.copy_(torch.randn_like(field.space.table).log_softmax(1))
        model._calibrate(None, None)  # type: ignore[arg-type]
    return model


def annealed(model: EBM) -> AnnealedField:
    assert isinstance(model.field, AnnealedField)
    return model.field


def exact(model: EBM) -> Tensor:
    """log p of every state, by the sum over them: the table, and the path's own log f."""
    field = annealed(model)
    z = field.space.states(states(model.spec))
    with torch.no_grad():
        return field.path(None, len(z)).at(z[None]).log_prob(1.0)[0].log_softmax(0)


def pair_counts(move: GibbsWithGradients, path: CodePath, law: Tensor, beta: float, n: int) -> Tensor:
    """Of n pairs (v, v') from draws of `law` over all states: counts `(S, S)`."""
    every = states(TINY).flatten(1).long()
    before = torch.multinomial(law.exp(), n, replacement=True)
    after = move(path.at(every[before][None]), beta).z[0]
    places = 3 ** torch.arange(3, -1, -1)
    return torch.bincount(before * 81 + (after * places).sum(1), minlength=81 * 81).view(81, 81).double()


@pytest.mark.parametrize("changes", [1, 2])
@pytest.mark.parametrize("beta", [0.4, 1.0])
def test_moves_have_detailed_balance(changes: int, beta: float) -> None:
    """Counts of pairs of exact draws and where they moved are symmetric: (n_ab - n_ba)^2 / (n_ab + n_ba) over pairs
    with 20 or more has a chi-square law, whose mean is their number; five deviations are granted. A move that forgets
    the way back fails by far."""
    torch.manual_seed(1)
    model = stirred()
    field = annealed(model)
    path = field.path(None, 120_000)
    assert isinstance(path, CodePath)
    every = field.space.states(states(TINY))
    with torch.no_grad():
        law = field.path(None, 81).at(every[None]).log_prob(beta)[0].log_softmax(0)

        def excess(move: GibbsWithGradients) -> float:
            counts = pair_counts(move, path, law, beta, 120_000)
            both = (counts + counts.T).triu(1)
            usable = both >= 20
            squares = ((counts - counts.T).square() / (counts + counts.T))[usable]
            return float((squares.sum() - len(squares)) / math.sqrt(2 * len(squares)))

        class Forgetful(GibbsWithGradients):
            def _log_q(self, point, beta):  # type: ignore[no-untyped-def]
                log_q = super()._log_q(point, beta)
                return log_q if point is self.first else torch.zeros_like(log_q)

            def __call__(self, point, beta):  # type: ignore[no-untyped-def]
                self.first = point
                return super().__call__(point, beta)

        assert abs(excess(GibbsWithGradients(path, changes))) < 5
        assert excess(Forgetful(path, changes)) > 40


def test_the_gradient_tells_what_a_change_is_worth() -> None:
    """slope is dg/dv: at a linear g it is that g's own table."""
    torch.manual_seed(0)
    table, weights = torch.randn(4, 3).log_softmax(1), torch.randn(4, 3)
    path = CodePath(table, lambda v: (v * weights).sum((-2, -1)), 5)
    point = path.draw(2)
    torch.testing.assert_close(point.slope, weights.expand(2, 5, 4, 3))
    expected = torch.stack([table[i, point.z[..., i]] for i in range(4)]).sum(0)
    torch.testing.assert_close(point.log_prob(0.0), expected.double())


def test_few_states_are_summed_over() -> None:
    """Exact: the mass is one, `log_likelihood` is log f - log Z, samples follow it: chi-square over 81 states, whose
    1e-6 quantile for 80 degrees is 149."""
    model = stirred()
    said = model.log_likelihood(states(TINY))
    assert said.kind == "exact"
    torch.testing.assert_close(said.lower, exact(model))
    x = model.sample(8000, seed=0)
    places = 3 ** torch.arange(3, -1, -1)
    counts = torch.bincount((x.flatten(1).long() * places).sum(1), minlength=81).double()
    p = said.lower.exp()
    assert float(((counts - 8000 * p).square() / (8000 * p)).sum()) < 149
    assert list(model.estimators()) == ["exact", "bracket"]


@pytest.mark.parametrize("spec", [TINY, DataSpec((4,), 3)])
def test_raise_is_unbiased_for_the_annealed_sampler(spec: DataSpec) -> None:
    """Over all 81 states the mean of exp(lower) sums to one within four errors, and agrees state by state with where
    `sample` ends: chi-square of the counts, allowing for the error of the means."""
    model = stirred(spec, enumerated=0)
    assert list(model.estimators()) == ["raise", "bracket"]
    repeats = 200
    every = states(spec)
    said = model.log_likelihood(every.repeat(repeats, *[1] * len(spec.event_shape)), 1, seed=0)
    assert said.kind == "weights"
    draws = said.lower.view(repeats, -1).exp()
    total = draws.sum(1)
    assert abs(float(total.mean()) - 1) < 4 * float(total.std()) / math.sqrt(repeats)
    p, error = draws.mean(0), draws.std(0) / math.sqrt(repeats)
    x = model.sample(20_000, seed=1).flatten(1).long()
    share = torch.bincount((x * 3 ** torch.arange(3, -1, -1)).sum(1), minlength=81) / 20_000
    deviation = (share - p) / (error.square() + share.clamp(min=1e-4) / 20_000).sqrt()
    assert float(deviation.square().mean()) < 2
    assert float((exact(model).exp() * (exact(model) - draws.log().mean(0))).sum()) > 0  # below log p in the mean


def test_both_ends_of_the_field_hold_its_value() -> None:
    """Certified where the states are summed over, and then it holds log p within four errors; indicative elsewhere."""
    model = stirred()
    bracket = model.estimators()["bracket"]()
    assert isinstance(bracket, FieldBracket)
    bracket.betas = [t / 50 for t in range(51)]
    said = bracket.log_likelihood(states(TINY), 200, seed=0)
    assert said.certified
    assert said.upper is not None
    slack = 4 * float(said.shared_variance.sqrt())
    log_p = exact(model)
    assert bool((said.lower - slack < log_p).all())
    assert bool((log_p < said.upper + slack).all())
    assert float((said.upper - said.lower).max()) < 0.2
    other = stirred(enumerated=0).estimators()["bracket"]()
    assert isinstance(other, FieldBracket)
    other.betas = [t / 10 for t in range(11)]
    assert not other.log_likelihood(states(TINY)[:3], 20, seed=0).certified


@pytest.mark.parametrize("enumerated", [1 << 12, 0])
def test_both_ends_of_one_step_are_unbiased(enumerated: int) -> None:
    """A single step between p_0 and the field, which are far apart: each end is the log-mean of weights of its own
    direction, and 6,000 chains bring both to log p within 0.035, four errors. Weights of the other direction would put
    the lower end 0.26 nats off, and a start at the annealed sampler's own draws 0.1."""
    model = stirred(strength=0.4, enumerated=enumerated)
    bracket = model.estimators()["bracket"]()
    assert isinstance(bracket, FieldBracket)
    bracket.betas = [0.0, 1.0]
    said = bracket.log_likelihood(states(TINY), 6000, seed=0)
    assert float(said.shared_variance.sqrt()) < 0.035 / 4
    assert said.upper is not None
    for end in (said.lower, said.upper):
        assert float((end - exact(model)).abs().max()) < 0.035


def test_codes_begin_at_their_marginals_and_are_seen_in_their_places() -> None:
    """g = 0, as at the start: counts by the rule of succession. As an image, code k of a pixel of channel c is 1 in
    channel 3 c + k at its place."""
    spec = DataSpec((2, 3, 2), 3)
    field = annealed(EBM(spec, EBMConfig(distributions=10)))
    torch.manual_seed(0)
    x = torch.multinomial(torch.rand(12, 3), 50, replacement=True).T.view(-1, 2, 3, 2).to(torch.uint8)
    field.space.initialise(x)
    every = torch.arange(3).view(3, 1, 1, 1).expand(3, 2, 3, 2)
    expected = ((x[:, None] == every).sum(0) + 1 / 3) / 51
    point = field.path(None, 3).at(field.space.states(every)[None])
    torch.testing.assert_close(point.log_prob(1.0)[0], expected.log().flatten(1).sum(1).double(), atol=1e-4, rtol=0)
    planes = field.space.inputs(field.space.states(x)).view(50, 2, 3, 3, 2)
    assert torch.equal(planes, torch.stack([x == k for k in range(3)], 2).float())


@pytest.mark.parametrize("spec", [DataSpec((3,)), DataSpec((1, 3, 4))])
def test_without_a_tilt_it_is_its_base(spec: DataSpec) -> None:
    """g = 0, as at the start: weights are constant, and the bound is log N(x; m, diag(s)^2) itself."""
    torch.manual_seed(0)
    model = EBM(spec, EBMConfig(distributions=10)).eval()
    field = annealed(model)
    assert isinstance(field.space, Reals)
    x = 2 + 3 * torch.randn(500, *spec.event_shape)
    field.space.initialise(x)
    seen = field.space.inputs(field.space.states(x))
    torch.testing.assert_close(seen.mean(0), torch.zeros(spec.event_shape), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std(0), torch.ones(spec.event_shape))
    law = Independent(Normal(x.flatten(1).mean(0), x.flatten(1).std(0)), 1)
    torch.testing.assert_close(
        model.log_likelihood(x, 2, seed=0).lower, law.log_prob(x.flatten(1)).double(), atol=1e-3, rtol=1e-5
    )
    assert float((model.sample(2000, seed=0).flatten(1).mean(0) - 2).abs().max()) < 0.6


@pytest.mark.parametrize("spec", [DataSpec((1, 2, 3), 2), DataSpec((6,), 2), DataSpec((3,))])
def test_training_finds_what_depends_on_what(spec: DataSpec) -> None:
    """All dimensions equal in two of three examples: independent dimensions miss that, by 0.4 nats and more; 300 steps
    find more than half of it."""
    torch.manual_seed(0)
    same, free = torch.randn(3000, 1).expand(-1, spec.dims), torch.randn(3000, spec.dims)
    x = torch.where(torch.rand(3000, 1) < 2 / 3, same, free).view(-1, *spec.event_shape)
    x = x if spec.levels is None else (x > 0).to(torch.uint8)
    options = {"width": 16, "blocks": 1, "distributions": 20, "langevin_size": 0.5, "chains": 200}
    model = EBM(spec, EBMConfig.parse(options, "test"))
    learner = model.learner(TrainSettings(learning_rate=3e-3, batch_size=64, betas=(0.5, 0.95), ema=0.95))
    learner.start(Points(x))
    before = float(model.log_likelihood(x[:300], 4, seed=0).lower.mean())
    for step in range(300):
        learner.step(Batch(x[torch.randint(len(x), (64,))], None), step / 300)
    learner.finish(Points(x), Points(x))
    after = float(learner.evaluated().log_likelihood(x[:300], 4, seed=0).lower.mean())
    assert after > before + 0.3


def test_labels_have_fields_of_their_own() -> None:
    model = stirred(DataSpec((1, 2, 2), 3, 2))
    every = states(TINY)
    answers = [model.log_likelihood(every, condition=torch.full((81,), k)).lower for k in (0, 1)]
    for answer in answers:
        assert float(answer.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    assert float((answers[0] - answers[1]).abs().max()) > 1e-3
    assert model.sample(7, seed=0, condition=torch.arange(7) % 2).shape == (7, 1, 2, 2)
    chained = stirred(DataSpec((1, 2, 2), 3, 2), enumerated=0)
    labels = torch.tensor([0, 1, 1, 0])
    assert chained.log_likelihood(every[:4], 3, seed=0, condition=labels).lower.shape == (4,)
    assert chained.loss(every[:4], condition=labels).shape == (4,)
    assert list(chained.estimators()) == ["raise"]


def test_what_it_cannot_take_is_named() -> None:
    with pytest.raises(CapabilityError, match="ebm takes codes of up to 32 levels; got 256"):
        EBM(DataSpec((1, 4, 4), 256))
    with pytest.raises(CapabilityError, match=r"objective=nce is for real points of the plane, \(2,\)"):
        EBM(DataSpec((3,)), EBMConfig(objective="nce"))
    reason = declined(load_registry().model("ebm"), DataSpec((1, 28, 28), 256))
    assert reason is not None
    assert "ebm takes codes of up to 32 levels; this data set has 256: its moves weigh every level" in reason
