"""The mean from draws stratified over the examples: without bias for each example, and with an honest error."""

from __future__ import annotations

import math

import pytest
import torch
from genzoo_ddpm.ddpm import DDPM
from genzoo_ddpm.diffusion import Diffusion
from genzoo_ddpm.stratified import BITS, nearby, sobol
from torch import Tensor

from genzoo.adapters import adapt
from genzoo.config import AdapterConfig
from genzoo.data.splits import TensorSplit
from genzoo.interface import Estimator
from genzoo.spec import DataSpec
from genzoo.stratified import StratifiedEstimator

Trained = tuple[Diffusion, Tensor, Tensor]


def started(model: Diffusion, valid: Tensor, name: str = "stratified") -> Estimator:
    estimator = model.estimators()[name]()
    estimator.start(TensorSplit(valid), 0)
    return estimator


@pytest.mark.parametrize("dims", [1, 2, 9])
def test_neighbours_in_the_order_are_near(dims: int) -> None:
    """Twenty thousand points: consecutive ones are less than half as far as random ones; in the plane, a tenth."""
    x = (
        torch.randn(20_000, dims, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0] * 2 + [0.1] * 7)[:dims]
    )
    torch.manual_seed(0)
    order = nearby(x)
    assert bool((order.sort().values == torch.arange(len(x))).all())
    step, far = (x[order].diff(dim=0).norm(dim=1).mean(), x.diff(dim=0).norm(dim=1).mean())
    assert float(step) < (0.1 if dims <= 2 else 0.5) * float(far)
    assert len(nearby(x[:1])) == 1
    assert 2**BITS > 20_000  # ranks that are told apart


def test_points_are_uniform_alone_and_even_together() -> None:
    """A point has uniform coordinates over 4,000 scramblings (Kolmogorov, 1e-4 quantile 2.23 / sqrt(n)); 64 points of
    one fall one in each of 64 intervals."""
    torch.manual_seed(0)
    points = torch.stack([sobol(3, 4)[2] for _ in range(4000)])  # (4000, 4)
    even = (torch.arange(1, 4001, dtype=torch.float64) / 4000)[:, None]
    assert float((points.sort(0).values - even).abs().max()) < 2.23 / math.sqrt(4000)
    places = (sobol(64, 4) * 64).to(torch.int64)
    assert all(column.unique().numel() == 64 for column in places.T)


def test_each_value_is_without_bias(trained: Trained) -> None:
    """Ten examples, 300 randomisations of 64 draws: each mean within 4.5 joint errors of the sum over all T."""
    model, test, _ = trained
    x, estimator = test[:10], started(model, test[1000:])
    draws = torch.stack([estimator.log_likelihood(x, 52, seed).lower for seed in range(300)])
    full = model.estimators()["full"]().log_likelihood(x, 128, seed=0)
    assert full.variance is not None
    joint = (draws.var(0) / len(draws) + full.variance).sqrt()
    assert float(joint.max()) < 0.16
    assert bool(((draws.mean(0) - full.lower).abs() < 4.5 * joint).all())
    assert estimator.log_likelihood(x, 32, 0).variance is None  # the values are not independent
    assert float((draws.mean(0) * 2 - full.lower).abs().max()) > 4.5 * float(joint.max())


def test_mean_is_without_bias_with_an_honest_error_when_it_stops_by_itself(trained: Trained) -> None:
    """60 repeats until 0.05 nats on 1,024 points. Mean: 4 joint standard errors. The spread of the repeats over the
    stated error is 1 within 4 standard deviations, 59 degrees against 60 times 7: 0.40."""
    model, test, _ = trained
    x, estimator = test[:1024], started(model, test[1000:])
    results = [estimator.mean(x, 1, seed=2 * repeat, until_se=0.05) for repeat in range(60)]
    means = torch.tensor([result.mean for result in results], dtype=torch.float64)
    stated = math.sqrt(sum((result.stderr_mc or math.inf) ** 2 for result in results) / 60)
    reference = started(model, test[1000:], "vlb").mean(x, 128, seed=1)
    assert reference.stderr_mc is not None
    joint = math.hypot(float(means.std()) / math.sqrt(60), reference.stderr_mc)
    assert joint < 0.012
    assert float(means.mean()) == pytest.approx(reference.mean, abs=4 * joint)
    assert 1.04 * float(means.mean()) != pytest.approx(reference.mean, abs=4 * joint)  # twin
    assert float(means.std()) / stated == pytest.approx(1.0, abs=0.4)
    assert stated < 1.2 * 0.05
    assert {result.stratified for result in results} == {True}
    # eight nets or more of the power of two nearest to an eighth of the draws
    assert all(0.9 < (result.calls or 0) / (2 * result.num_samples * 1024) < 1.45 for result in results)


def test_adapters_pass_the_mean_on(trained: Trained) -> None:
    """Standardised, it is the inner mean plus the log-Jacobian, with the same draws."""
    model, test, _ = trained
    adapted = adapt(lambda spec: model, DataSpec((2,)), AdapterConfig(standardize=True))
    adapted.transforms[0].fit(torch.randn(100, 2) * 3 + 1)  # type: ignore[index, operator, union-attr]
    x = adapted.to_data(test[:200])  # type: ignore[operator]
    outer = adapted.estimators()["stratified"]()
    assert isinstance(outer, StratifiedEstimator)
    result = outer.mean(x, 4, seed=3)
    z, ladj = adapted.to_inner(x)  # type: ignore[operator]
    inner = model.estimators()["stratified"]().mean(z, 4, seed=3)
    assert result.mean == pytest.approx(inner.mean + float(ladj.mean()), abs=1e-9)
    assert float(ladj.abs().min()) > 1.0
    assert result.stderr_mc == pytest.approx(inner.stderr_mc, rel=1e-9)
    assert result.values.shape == (200,)
    assert set(result.result.terms) == {"prior", "diffusion", "decoder", "log_jacobian"}


def test_codes_with_labels() -> None:
    """Unfitted, uniform over the steps: 8 randomisations of 16 draws agree with the full sum, 4 joint errors."""
    torch.manual_seed(0)
    spec = DataSpec((1, 4, 4), 4, 2)
    model = DDPM(spec, DDPM.Config.parse({"steps": 8, "width": 16}, "ddpm")).eval()
    x, y = torch.randint(0, 4, (60, 1, 4, 4)).to(torch.uint8), torch.randint(0, 2, (60,))
    result = model.estimators()["stratified"]().mean(x, 128, 0, y)
    full = model.estimators()["full"]().mean(x, 16, 1, y)
    assert result.stderr_mc is not None
    assert full.stderr_mc is not None
    assert result.mean == pytest.approx(full.mean, abs=4 * math.hypot(result.stderr_mc, full.stderr_mc))
    with pytest.raises(ValueError, match="num_samples"):
        model.estimators()["stratified"]().log_likelihood(x, 0, 0, y)
