"""In-painting and denoising by the Gaussian baseline, alone and behind adapters, against conditioning by precisions."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from genzoo.adapters import Adapted, adapt
from genzoo.baseline import Gaussian, GaussianConfig
from genzoo.class_mixture import ClassMixture
from genzoo.config import AdapterConfig
from genzoo.data.splits import TensorSplit
from genzoo.errors import CapabilityError, InputError
from genzoo.interface import ConditionalSampler, GenerativeModel, GradientModel
from genzoo.spec import DataSpec

DRAWS = 20_000
SPEC = DataSpec((1, 2, 2))
VECTOR = DataSpec((3,))


def points(spec: DataSpec, n: int = 400) -> Tensor:
    torch.manual_seed(0)
    mixing = torch.randn(spec.dims, spec.dims) + torch.eye(spec.dims)
    return (torch.randn(n, spec.dims) @ mixing + 2).view(n, *spec.event_shape)


def fitted(
    spec: DataSpec, x: Tensor, y: Tensor | None = None, options: Mapping[str, object] | None = None
) -> ConditionalSampler:
    """A trained Gaussian without a ridge, so that its moments are those of the data."""
    config = AdapterConfig.parse(options or {}, "gaussian")
    model = adapt(lambda inner: Gaussian(inner, GaussianConfig(ridge=0.0)), spec, config)
    learner = model.learner(model.default_training())
    learner.start(TensorSplit(x, y))
    evaluated = learner.evaluated()
    assert isinstance(evaluated, ConditionalSampler)
    return evaluated


def conditional(x: Tensor, seen: Tensor, value: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance `(D,)`, `(D, D)` of x given value = x + noise eps at `seen`, by adding precisions; noise 0 is
    1e-6 here, which moves moments of order one by 1e-12."""
    flat = x.flatten(1).double()
    loc, precision = flat.mean(0), torch.linalg.inv(torch.cov(flat.T, correction=0))
    weight = torch.where(seen, noise.clamp(min=1e-6) ** -2, 0.0)
    covariance = torch.linalg.inv(precision + weight.diag())
    return covariance @ (precision @ loc + weight * value), covariance


def agrees(drawn: Tensor, loc: Tensor, covariance: Tensor, seen: Tensor) -> bool:
    """First and second moments of whitened draws over the dimensions in `seen` lie within five standard errors of
    N(0, I): deviation 1/sqrt(n) off the diagonal, sqrt(2/n) on it."""
    factor = torch.linalg.cholesky(covariance[seen][:, seen])
    white = torch.linalg.solve_triangular(factor, (drawn[:, seen].double() - loc[seen]).T, upper=False)
    n = white.shape[1]
    moments = torch.cat([white.mean(1), (white @ white.T / n - torch.eye(len(white))).flatten()])
    return bool((moments.abs() < 5 * (2 / n) ** 0.5).all())


CASES = {
    "in-painting": (SPEC, [True, False, True, False], 0.0),
    "one pixel": (SPEC, [False, False, False, True], 0.0),
    "denoising": (SPEC, [True] * 4, 0.7),
    "both": (SPEC, [True, True, False, False], 0.5),
    "nothing": (SPEC, [False] * 4, 0.0),
    "unequal": (VECTOR, [True, True, False], [0.5, 0.0, 1.0]),
}


@pytest.mark.parametrize("options", [{}, {"standardize": True}], ids=["plain", "standardised"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_draws_have_the_exact_conditional(
    case: tuple[DataSpec, list[bool], float | list[float]], options: dict[str, object]
) -> None:
    spec, pattern, level = case
    x, seen = points(spec), torch.tensor(pattern)
    noise = torch.tensor(level, dtype=torch.float64).expand(spec.dims)
    model = fitted(spec, x, options=options)
    assert model.exact_given
    value = torch.linspace(-1.0, 4.0, spec.dims)
    given = value.expand(DRAWS, -1).reshape(-1, *spec.event_shape)
    scale = noise.view(spec.event_shape) if isinstance(level, list) else level
    drawn = model.sample_given(given, seen.view(spec.event_shape), scale, seed=1).flatten(1)
    free = ~seen | (noise > 0)
    assert torch.equal(drawn[:, ~free], value[~free].expand(DRAWS, -1))
    loc, covariance = conditional(x, seen, value.double(), noise)
    assert agrees(drawn, loc, covariance, free)
    # twins: the noise 10 % off where there is some; the plain model's draws where something is observed
    if bool((noise[seen] > 0).any()):
        assert not agrees(drawn, *conditional(x, seen, value.double(), 1.1 * noise), free)
    if bool(seen.any()):
        assert not agrees(model.sample(DRAWS, seed=1).flatten(1), loc, covariance, free)


def test_each_example_has_its_own_mask_and_class() -> None:
    x = points(VECTOR)
    y = torch.arange(400) % 2
    x[y == 1] = 2 * x[y == 1] - 3
    model = fitted(DataSpec((3,), classes=2), x, y)
    seen = torch.tensor([[True, False, False], [False, True, True]])
    value = torch.tensor([[1.0, 5.0, 5.0], [5.0, 0.0, 2.0]])
    label = torch.tensor([0, 1])
    given = [t.repeat(DRAWS, *[1] * (t.ndim - 1)) for t in (value, seen, label)]
    drawn = model.sample_given(given[0], given[1], seed=0, condition=given[2]).view(DRAWS, 2, 3)
    for i in range(2):
        loc, covariance = conditional(x[y == i], seen[i], value[i].double(), torch.zeros(3))
        assert agrees(drawn[:, i], loc, covariance, ~seen[i])
        other = conditional(x[y == 1 - i], seen[i], value[i].double(), torch.zeros(3))
        assert not agrees(drawn[:, i], *other, ~seen[i])


def test_an_adapter_is_a_conditional_sampler_where_its_model_is() -> None:
    class Plain(GradientModel):
        def _loss(self, *_: object) -> Tensor:
            raise NotImplementedError

        def _log_likelihood(self, *_: object) -> object:  # type: ignore[override]
            raise NotImplementedError

        def _sample(self, *_: object) -> Tensor:
            raise NotImplementedError

    config = AdapterConfig.parse({"standardize": True, "class_mixture": "joint"}, "any")
    labelled = DataSpec((2,), classes=2)
    without = adapt(Plain, labelled, config)
    assert isinstance(without, ClassMixture)
    assert isinstance(without.inner, Adapted)
    assert isinstance(without.inner, GradientModel)
    models: tuple[GenerativeModel, ...] = (without, without.inner)
    assert not any(isinstance(model, ConditionalSampler) for model in models)
    within = adapt(Gaussian, labelled, config)
    assert isinstance(within, ConditionalSampler)
    assert isinstance(within, ClassMixture)
    assert isinstance(within.inner, ConditionalSampler)
    assert not isinstance(within.inner, GradientModel)


def test_codes_come_back_and_the_rest_follows_them() -> None:
    """Two pixels of 16 levels that agree within a level: given one, the other stands within four levels of it."""
    torch.manual_seed(0)
    first = torch.randint(2, 14, (4000,))
    x = torch.stack([first, first + torch.randint(-1, 2, (4000,))], 1).to(torch.uint8)
    spec = DataSpec((2,), levels=16)
    model = fitted(spec, x, options={"dequantization": "uniform", "logit": 1e-3, "standardize": True})
    assert not model.exact_given  # the noise of observed codes is drawn without a look at the rest
    mask = torch.tensor([True, False])
    drawn = model.sample_given(x, mask, seed=0)
    assert torch.equal(drawn[:, 0], x[:, 0])
    gap = (drawn[:, 1].int() - x[:, 0].int()).abs()
    assert float((gap <= 4).double().mean()) > 0.95
    shuffled = (drawn[:, 1].int() - x[torch.randperm(4000), 0].int()).abs()
    assert float((shuffled <= 4).double().mean()) < 0.75
    with pytest.raises(CapabilityError, match="noise through a logit"):
        model.sample_given(x.float(), mask, noise=1.0)


def test_noisy_codes_are_denoised_between_their_levels() -> None:
    """Behind dequantization alone the posterior mean given y is that of N(m, C), which floors to half a level less:
    200,000 draws, five standard errors (0.4 levels); without that half a level it is off by more than that."""
    torch.manual_seed(0)
    x = (128 + 40 * torch.randn(4000, 1)).clamp(0, 255).round().to(torch.uint8)
    model = fitted(DataSpec((1,), levels=256), x, options={"dequantization": "uniform"})
    noisy = torch.full((200_000, 1), 100.2)
    drawn = model.sample_given(noisy, torch.tensor([True]), noise=40.0, seed=0).double()
    mean, variance = x.double().mean(), x.double().var(correction=0)
    expected = mean + variance / (variance + 40.0**2) * (100.2 - mean)
    error = (drawn.mean() - expected) / (drawn.std() / len(drawn) ** 0.5)
    assert abs(float(error)) < 5
    assert abs(float(drawn.mean() - 0.5 - expected) / float(drawn.std() / len(drawn) ** 0.5)) > 5
    spread = variance * 40.0**2 / (variance + 40.0**2) + 1 / 12
    assert float(drawn.var() / spread) == pytest.approx(1.0, abs=5 * (2 / len(drawn)) ** 0.5)
    with pytest.raises(InputError, match=r"uint8; got \(200000, 1\) float32"):
        model.sample_given(noisy, torch.tensor([True]))


def test_class_mixture_forwards_the_label() -> None:
    x = points(VECTOR)
    y = torch.arange(400) % 2
    x[y == 1] = x[y == 1] + 30
    spec, mask = DataSpec((3,), classes=2), torch.tensor([True, False, False])
    joint = fitted(spec, x, y, {"class_mixture": "joint"})
    assert joint.exact_given
    drawn = joint.sample_given(x, mask, seed=0, condition=y)
    assert torch.equal(drawn, fitted(spec, x, y).sample_given(x, mask, seed=0, condition=y))
    assert not torch.equal(drawn, joint.sample_given(x, mask, seed=0, condition=1 - y))
    marginal = adapt(Gaussian, spec, AdapterConfig.parse({"class_mixture": "marginal"}, "gaussian"))
    assert not isinstance(marginal, ConditionalSampler)
