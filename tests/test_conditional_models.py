"""vae, flow and ddpm really condition: on eight Gaussians, whose class is known at nearly every point."""

from __future__ import annotations

import functools

import pytest
import torch

from genzoo import api
from genzoo.classification import classify
from genzoo.interface import GenerativeModel
from genzoo.spec import Dataset

# name and steps: a few seconds of training, enough to tell the eight apart
MODELS = {
    "vae": ("vae[latents=2,hidden=[64,64]]", "1000steps"),
    "flow": ("flow[layers=2,hidden=32,bins=8]", "300steps"),
    "ddpm": ("ddpm[steps=32,width=48,blocks=1]", "300steps"),
}


@functools.cache
def gaussians() -> Dataset:
    return api.load_dataset("8gaussians", points=10_000, labels=True)


@functools.cache
def trained(name: str) -> GenerativeModel:
    torch.set_num_threads(1)
    reference, budget = MODELS[name]
    model = api.build_model(reference, gaussians().spec)
    # an average over the usual 1,000 steps would still hold the start
    api.fit(model, gaussians(), budget, ema=0.95, learning_rate=3e-3)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_the_label_is_worth_its_information(name: str) -> None:
    """Knowing the class is worth I(x, y) = 2.07 nats to the truth; each model is at least a nat below the entropy of x,
    which no unconditional model beats, and loses more than a nat with labels that are not the points' own."""
    given, data = trained(name), gaussians()
    assert data.truth is not None
    assert api.evaluate(given, data, num_samples=16, points=500).nll < data.truth.entropy - 1.0
    x, y = data.test.batch(torch.arange(500), torch.Generator())
    assert y is not None
    right, wrong = (given.log_likelihood(x, 16, 0, label).lower.mean() for label in (y, (y + 1) % 8))
    assert float(right - wrong) > 1.0


@pytest.mark.parametrize("name", MODELS)
def test_samples_of_a_label_are_of_its_class(name: str) -> None:
    """The true posterior of 500 draws gives their own label 9 in 10 on average; of other labels not."""
    data = gaussians()
    assert data.labelled is not None
    y = torch.arange(500) % 8
    p = data.labelled.log_prob(trained(name).sample(500, seed=0, condition=y)).softmax(1)
    assert float(p.gather(1, y[:, None]).mean()) > 0.9
    assert float(p.gather(1, (y[:, None] + 1) % 8).mean()) < 0.1


@pytest.mark.parametrize("name", MODELS)
def test_each_classifies_nearly_as_bayes(name: str) -> None:
    said = classify(trained(name), gaussians(), num_samples=16, points=500)
    assert said.bayes is not None
    assert said.scores.accuracy > said.bayes.accuracy - 0.05
    assert said.approximate == (name == "ddpm")
