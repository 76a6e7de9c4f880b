"""Bounded memory: the bound in parts of the examples and of the draws is the same bound."""

from __future__ import annotations

import pytest
import torch
from genzoo_ddpm import bound
from genzoo_ddpm.ddpm import DDPM
from genzoo_ddpm.unet import PatchUNet
from torch import Tensor, nn

from genzoo import DataSpec
from genzoo.likelihood import LogLikelihood


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """At most 6 rows at once, of data with two dimensions."""
    monkeypatch.setattr(bound, "MOST_NUMBERS", 6 * (2 + bound.PER_ROW))
    return 6


class Draws:
    """A bound from given draws `(K, B)`, taken in order; remembers how many rows it was asked for at once."""

    def __init__(self, draws: Tensor) -> None:
        self.draws, self.rows = draws, [0]
        self.used = torch.zeros(draws.shape[1], dtype=torch.int64)

    def __call__(self, z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
        self.rows.append(len(z) * num_samples)
        at = z[:, 0].long()
        start = int(self.used[at[0]])
        self.used[at] += num_samples
        part = self.draws[start : start + num_samples][:, at]
        variance = part.var(0) / num_samples if num_samples > 1 else torch.zeros(len(z), dtype=torch.float64)
        return LogLikelihood.lower_bound(
            part.mean(0), num_samples=num_samples, variance=variance, terms={"all": part.mean(0)}, arrays={}
        )


@pytest.mark.parametrize(("examples", "draws"), [(3, 2), (9, 1), (5, 4), (2, 17), (1, 100)])
def test_parts_are_averaged(examples: int, draws: int, small: int) -> None:
    values = torch.randn(draws, examples, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = Draws(values)
    z = torch.arange(examples, dtype=torch.float64)[:, None].expand(-1, 2)
    result = bound.in_parts(made, z, torch.zeros(examples, 0), draws)
    assert max(made.rows) <= small
    assert made.used.tolist() == [draws] * examples
    torch.testing.assert_close(result.lower, values.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.terms["all"], values.mean(0), rtol=1e-12, atol=1e-12)
    assert (result.kind, result.num_samples) == ("lower_bound", draws)


def test_the_variance_of_parts_is_that_of_their_mean() -> None:
    """Draws with known variances: 1 over n each, whatever the parts."""

    def unit(z: Tensor, labels: Tensor, num_samples: int) -> LogLikelihood:
        lower = torch.zeros(len(z), dtype=torch.float64)
        return LogLikelihood.lower_bound(lower, num_samples=num_samples, variance=lower + 1 / num_samples)

    for draws in (7, 12, 100):
        result = bound._draws_in_parts(unit, torch.zeros(1, 2), torch.zeros(1, 0), draws, 6)
        assert result.variance is not None
        torch.testing.assert_close(result.variance, torch.full((1,), 1 / draws, dtype=torch.float64))


@pytest.mark.parametrize("side", [2, 4])
@pytest.mark.parametrize("width", [8, 9, 12, 48])
def test_images_take_any_width_that_the_config_allows(width: int, side: int) -> None:
    """Groups divide the channels: width, 3/2 of it and twice it. An image of one patch, alone or among others, has a
    network that sees it."""
    spec = DataSpec((1, side, side), 3)
    torch.manual_seed(0)
    model = DDPM(spec, DDPM.Config(width=width, steps=2)).eval()
    groups = {norm.num_groups for norm in model.modules() if isinstance(norm, nn.GroupNorm)}
    assert groups <= {1, 2, 4, 8}
    if width == 48:
        assert groups == {8}  # as the committed checkpoints have
    for rows in (1, 2):
        x = torch.zeros(rows, *spec.event_shape, dtype=torch.uint8)
        assert model.log_likelihood(x, 2, 0).lower.isfinite().all()
    network = model.network
    assert isinstance(network, PatchUNet)
    nn.init.normal_(network.last.weight)
    x, rest = torch.ones(2, spec.dims), torch.zeros(2, model.denoiser.sides * spec.dims)
    x[0] = -1
    with torch.no_grad():
        answer = network(x, rest, torch.zeros(2), x[:, :0])
        torch.testing.assert_close(network(x[:1], rest[:1], torch.zeros(1), x[:1, :0]), answer[:1])
    assert float((answer[0] - answer[1]).abs().max()) > 1e-3  # 0 of what is blind
