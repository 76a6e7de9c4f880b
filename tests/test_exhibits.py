"""What a cell stores for its report to draw."""

from __future__ import annotations

import numpy as np
import torch

from genzoo import api
from genzoo.data import from_arrays
from genzoo.exhibits import EXTREMES, TRACED_POINTS, extremes, nearest, traces


def test_the_nearest_training_image_is_the_nearest() -> None:
    x = torch.zeros(30, 1, 2, 2, dtype=torch.uint8)
    x[:, 0, 0, 0] = torch.arange(30, dtype=torch.uint8) * 8
    data = from_arrays(x, levels=256)
    known = data.train.batch(torch.arange(len(data.train)), torch.Generator()).x
    drawn = known[[3, 0, 7]].clone()
    drawn[:, 0, 1, 1] += 2  # nearer to its own than to any other, which differ by 8 at least
    torch.testing.assert_close(nearest(drawn, data), known[[3, 0, 7]], rtol=0, atol=0)


def test_extremes_are_the_ends_of_the_values_with_their_images() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 1, 2, 2, generator=generator) * (1 + torch.arange(600) % 3)[:, None, None, None]
    data = from_arrays(x)
    model = api.build_model("gaussian", data.spec)
    api.fit(model, data, "1steps")
    result = api.evaluate(model, data, points=50)
    kept = extremes(data, result)
    lower, at = result.result.lower.numpy(), kept["extremes_index"]
    assert kept["extremes"].shape == (2 * EXTREMES, 1, 2, 2)
    np.testing.assert_array_equal(kept["extremes_lower"][:EXTREMES], np.sort(lower)[::-1][:EXTREMES])
    np.testing.assert_array_equal(kept["extremes_lower"][EXTREMES:], np.sort(lower)[:EXTREMES])
    # the images are those whose values are shown: the model says the same of them again
    shown = torch.from_numpy(kept["extremes"])
    np.testing.assert_allclose(model.log_likelihood(shown).lower, kept["extremes_lower"], rtol=1e-5)
    assert torch.equal(shown, data.test.batch(torch.from_numpy(at), generator).x)
    few = extremes(data, api.evaluate(model, data, points=5))
    assert few["extremes"].shape[0] == 4
    assert len({*few["extremes_index"].tolist()}) == 4
    plane = from_arrays(x.flatten(1)[:, :2])
    of_plane = api.build_model("gaussian", plane.spec)
    assert extremes(plane, api.evaluate(of_plane, plane, points=50)) == {}


def test_traces_are_stored_under_their_names_of_as_many_points_as_can_be_seen() -> None:
    data = from_arrays(torch.randn(900, 2, generator=torch.Generator().manual_seed(0)))
    model = api.build_model("flow", data.spec, layers=2, hidden=8)
    stored = traces(model, data.test.batch(torch.arange(90), torch.Generator()).x, seed=5)
    assert stored["trace_layers"].shape == (90, 3, 2)
    assert stored["trace_layers_at"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(stored["trace_layers"][:, -1], model.sample(90, seed=5).numpy())
    assert traces(model, torch.zeros(900, 2), 0)["trace_layers"].shape[0] == TRACED_POINTS
    assert traces(api.build_model("gaussian", data.spec), torch.zeros(9, 2), 0) == {}
