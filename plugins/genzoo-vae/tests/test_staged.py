"""The decoder in stages: what each pixel may see, that its masses sum to one, and that draws follow them."""

from __future__ import annotations

import itertools

import pytest
import torch
from genzoo_vae.staged import ORDER, StagedDecoder
from torch import Tensor
from torch.nn.functional import logsigmoid

WIDTH = 4


def perturbed(channels: int, patch: int) -> StagedDecoder:
    """A Bernoulli decoder (one feature a pixel) whose networks do something; images are seen as they are."""
    torch.manual_seed(0)
    decoder = StagedDecoder(channels, 1, patch, WIDTH, channels).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return decoder


def images(channels: int, height: int, width: int) -> Tensor:
    """All binary images of a size, `(2^D, C, H, W)` on {-1, 1}."""
    states = list(itertools.product([-1.0, 1.0], repeat=channels * height * width))
    return torch.tensor(states, dtype=torch.float64).view(-1, channels, height, width)


def log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """`(B,)` of maps `(B, C, 1, H, W)`."""
    return logsigmoid(logits[:, :, 0] * x).flatten(1).sum(1)


@pytest.mark.parametrize(
    ("channels", "patch", "size"), [(1, 2, (2, 2)), (1, 2, (2, 4)), (2, 2, (2, 2)), (1, 1, (3, 3))]
)
@torch.no_grad()
def test_masses_sum_to_one(channels: int, patch: int, size: tuple[int, int]) -> None:
    decoder, x = perturbed(channels, patch), images(channels, *size)
    h = torch.randn(1, WIDTH, size[0] // patch, size[1] // patch, dtype=torch.float64)
    mass = log_prob(decoder(h.expand(len(x), -1, -1, -1), x).double(), x).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-5)  # maps are float32
    assert mass.max() > 3 * mass.min()  # it does depend on the pixels


def test_a_pixel_sees_the_earlier_stages_and_no_other() -> None:
    decoder, size = perturbed(1, 2), 6
    x = torch.randn(1, 1, size, size, dtype=torch.float64)
    h = torch.randn(1, WIDTH, 3, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: decoder(h, x), x).reshape(size, size, size, size)
    stage = torch.tensor([[ORDER.index(2 * (i % 2) + j % 2) for j in range(size)] for i in range(size)])
    allowed = stage[None, None] < stage[:, :, None, None]
    assert not jacobian[~allowed].any()
    near = jacobian[2:4, 2:4, 2:4, 2:4][allowed[2:4, 2:4, 2:4, 2:4]]
    assert len(near) == 6
    assert near.abs().min() > 0


@torch.no_grad()
def test_draws_follow_the_masses() -> None:
    decoder, x, n = perturbed(1, 2), images(1, 2, 2), 100_000
    h = torch.randn(1, WIDTH, 1, 1, dtype=torch.float64)
    mass = log_prob(decoder(h.expand(len(x), -1, -1, -1), x).double(), x).exp()
    drawn = decoder.draw(
        h.expand(n, -1, -1, -1),
        lambda logits: 2 * torch.bernoulli(logits[:, :, 0].sigmoid()).double() - 1,
        lambda images: images,
    )
    counts = torch.bincount(((drawn.flatten(1) > 0) * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16)
    chi_square = ((counts - n * mass).square() / (n * mass)).sum()
    assert chi_square < 38  # 15 degrees of freedom: exceeded once in a thousand


@torch.no_grad()
def test_rows_of_one_image_are_told_apart() -> None:
    decoder, k, b = perturbed(1, 2), 3, 2
    x = torch.randn(b, 1, 4, 4, dtype=torch.float64)
    h = torch.randn(k * b, WIDTH, 2, 2, dtype=torch.float64)
    together = decoder(h, x)
    alone = [decoder(h[i : i + 1], x[i % b : i % b + 1]) for i in range(k * b)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
