"""Checks of form: what the interface promises about shapes, seeds, modes, state and training."""

from __future__ import annotations

import torch
from torch import Tensor

from genzoo.errors import ConfigError, InputError, UnknownNameError
from genzoo.interface import GradientModel
from genzoo.seeding import derive_seed, seeded
from genzoo.spec import Batch
from genzoo.state import copied, flatten
from genzoo.testing.statistics import Z, paired_z
from genzoo.testing.subject import CheckSkipped, ModelSubject, Subject, Trained, Training, require

POINTS, SAMPLE_WORK = 64, 250
"""Examples that are looked at, and what one counts as work: as many draws of an answer as a slow sampler has steps."""
ROUNDING = 1e-6
"""Relative rounding granted to a float32 loss, which may equal the bound."""
SAME = 1e-4
"""Relative difference granted where a batch of another composition may change the order of float32 sums."""


def config_round_trips(subject: ModelSubject, problem: str) -> None:
    """The config survives being stored; an unknown key is refused."""
    blueprint = subject.blueprint(problem)
    again = blueprint.from_stored(subject.registry, subject.card.name, blueprint.stored_config(), blueprint.spec)
    require(again.config == blueprint.config, f"the config changes when stored: {blueprint.config} -> {again.config}")
    try:
        type(blueprint.config).parse({"no_such_key": 1}, subject.card.name)
    except (UnknownNameError, ConfigError):
        return
    require(False, "the config takes an unknown key: derive it from genzoo.config.Config, which forbids extra keys")


def constructor_is_pure(subject: ModelSubject, problem: str) -> None:
    """The same seed builds the same weights, and building leaves the global RNG alone."""
    before = torch.get_rng_state()
    first, second = subject.build(problem).state_dict(), subject.build(problem).state_dict()
    require(torch.equal(before, torch.get_rng_state()), "building the model changes the global RNG")
    require(first.keys() == second.keys(), "two builds of one config have other parameters")
    for name in first:
        require(torch.equal(first[name], second[name]), f"two builds from one seed differ in {name}")


def shapes_and_types(subject: Subject, problem: str) -> None:
    """log_likelihood gives (B,) float64, sample gives finite draws in the spec's dtype, and wrong input names both
    shapes."""
    trained = subject.trained(problem)
    x, y = trained.examples(5)
    result = trained.model.log_likelihood(x, 2, 0, y)
    require(result.lower.shape == (5,), f"expected lower (5,); got {tuple(result.lower.shape)}")
    require(result.lower.dtype == torch.float64, f"expected lower float64; got {result.lower.dtype}")
    for n in (0, 1, 3):
        condition = None if y is None else y[:n]
        drawn = trained.model.sample(n, 0, condition)
        trained.model.spec.check(drawn, condition)
        require(len(drawn) == n, f"expected {n} samples; got {len(drawn)}")
        require(bool(drawn.to(torch.float32).isfinite().all()), "a sample is not finite")
    wrong = torch.zeros(2, *trained.data.spec.event_shape, 3, dtype=x.dtype)
    try:
        trained.model.log_likelihood(wrong)
    except InputError as error:
        named = str(tuple(wrong.shape)) in str(error)
        require(named, f"the message about a wrong shape does not name what came: {error}")
    else:
        require(False, f"input of shape {tuple(wrong.shape)} is accepted")


def same_seed_same_value(subject: Subject, problem: str) -> None:
    """The same seed gives the same numbers and samples, and the global RNG is untouched."""
    trained = subject.trained(problem)
    x, y = _some(subject, trained)
    before = torch.get_rng_state()
    first, second = (trained.model.log_likelihood(x, 2, 7, y).lower for _ in range(2))
    require(
        torch.equal(first, second), f"one seed gives two values; they differ by {float((first - second).abs().max())}"
    )
    one, two = (trained.model.sample(len(x), 7, y) for _ in range(2))
    require(torch.equal(one, two), "one seed gives two different samples")
    require(torch.equal(before, torch.get_rng_state()), "a seeded call changes the global RNG")


def neighbours_do_not_matter(subject: Subject, problem: str) -> None:
    """An example's value under a seed does not depend on the other examples of its batch."""
    trained = subject.trained(problem)
    x, y = _some(subject, trained)
    n = len(x) // 2
    half = slice(0, n)
    first = trained.model.log_likelihood(x, 2, 3, y).lower[half]
    mixed = torch.cat([x[half], x[:1].expand_as(x[n:])])
    condition = None if y is None else torch.cat([y[half], y[:1].expand_as(y[n:])])
    second = trained.model.log_likelihood(mixed, 2, 3, condition).lower[half]
    gap = float((first - second).abs().max())
    require(
        gap <= SAME * (1 + float(first.abs().max())),
        f"an example's value changes by {gap:.3g} nats with its neighbours: batch statistics at evaluation?",
    )


def modes_are_restored(subject: Subject, problem: str) -> None:
    """Train or eval mode, of each submodule, is as before after a call, and does not change the answer."""
    trained = subject.trained(problem)
    model = trained.model
    x, y = _some(subject, trained)
    model.eval()
    calm = model.log_likelihood(x, 2, 5, y).lower
    model.train()
    children = list(model.modules())
    children[-1].training = False
    modes = [child.training for child in children]
    busy = model.log_likelihood(x, 2, 5, y).lower
    model.sample(2, 0, None if y is None else y[:2])
    after = [child.training for child in model.modules()]  # as they now are: a call may have put in another
    model.eval()
    require(modes == after, "log_likelihood or sample leaves submodules in another mode")
    require(torch.equal(calm, busy), "train mode changes the answer: something ignores eval mode")


def finite_at_the_tails(subject: Subject, problem: str) -> None:
    """Far from the data the answer is a number or -inf, never NaN or +inf."""
    trained = subject.trained(problem)
    if trained.data.spec.levels is not None:
        raise CheckSkipped("discrete data has no tails")
    x, y = _some(subject, trained)
    for reach in (10.0, 1000.0):
        lower = trained.model.log_likelihood(x.mean(0) + reach * x.std() * torch.randn_like(x).sign(), 2, 0, y).lower
        wrong = int((lower.isnan() | (lower == float("inf"))).sum())
        require(wrong == 0, f"{wrong} of {len(x)} values are NaN or +inf {reach:g} deviations from the data")


def parameters_move(subject: ModelSubject, problem: str) -> None:
    """Training changes every parameter that asks for a gradient."""
    trained = subject.trained(problem)
    before = dict(trained.untrained.named_parameters())
    still = [
        name
        for name, after in trained.raw.named_parameters()
        if after.requires_grad and name in before and torch.equal(after.detach(), before[name].detach())
    ]
    require(not still, f"parameters that training never moves: {', '.join(still[:5])}; freeze or remove them")


def state_round_trips(subject: ModelSubject, problem: str) -> None:
    """state_dict into a fresh model gives the same numbers, bit for bit."""
    trained = subject.trained(problem)
    fresh = subject.build(problem)
    fresh.load_state_dict(trained.model.state_dict())
    x, y = _some(subject, trained)
    first, second = (model.log_likelihood(x, 2, 11, y).lower for model in (trained.model, fresh))
    gap = float((first - second).abs().max())
    require(torch.equal(first, second), f"a model restored from its state_dict differs by {gap:.3g} nats")


def learner_resumes(subject: ModelSubject, problem: str) -> None:
    """A learner restored from its state takes the same next steps."""
    trained = subject.trained(problem)
    state = copied(trained.learner.state_dict())
    flatten(state)  # raises for what cannot be stored without pickle
    model = subject.build(problem)
    again = model.learner(subject.settings(model))
    again.load_state_dict(copied(state))
    losses = []
    for learner in (trained.learner, again):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            values = [learner.step(_train_batch(trained, step), 0.99)["loss"] for step in range(3)]
        losses.append(torch.stack([value.to(torch.float64) for value in values]))
        if learner is trained.learner:
            learner.load_state_dict(state)
    require(torch.equal(*losses), f"after a restore the losses differ: {losses[0].tolist()} and {losses[1].tolist()}")


def training_helps(subject: ModelSubject, problem: str) -> None:
    """Training improves the bound on held-out points."""
    trained = subject.trained(problem)
    x, y = trained.examples(300)
    k = min(8, subject.level.num_samples)
    before = trained.untrained.log_likelihood(x, k, 0, y).lower
    after = trained.model.log_likelihood(x, k, 0, y).lower
    require(bool(after.isfinite().all()), f"{int((~after.isfinite()).sum())} values are not finite after training")
    if bool(before.isfinite().all()):
        gain = after - before
        # an untrained bound may have a few values that are off by hundreds of nats, which say nothing of training
        low, high = gain.quantile(torch.tensor([0.05, 0.95], dtype=gain.dtype))
        z = paired_z(gain.clamp(float(low), float(high)))
        require(z > Z, f"training changes the bound by {float(gain.mean()):.4f} nats (z = {z:.1f}): expected a gain")


def loss_is_a_bound(subject: Subject, problem: str) -> None:
    """A loss in nats, at the end of training, is no better than the bound: -loss is itself a bound."""
    trained = subject.trained(problem)
    model = trained.model
    if not isinstance(model, GradientModel) or not model.loss_in_nats:
        raise CheckSkipped("the loss is not in nats")
    # an importance bound is tighter with more draws, and a loss may have many
    (x, y), bound = subject.tight(trained)
    model.eval()
    with torch.no_grad(), seeded(derive_seed("loss", subject.seed), model.device):
        loss = torch.stack([model.loss(x, 1.0, y).to(torch.float64) for _ in range(8)]).mean(0)
    z = paired_z(-loss - bound.lower - ROUNDING * (1 + bound.lower.abs()))
    require(z < Z, f"-loss beats the bound by {float((-loss - bound.lower).mean()):.4f} nats (z = {z:.1f})")


def _some(subject: Subject, trained: Trained) -> Batch:
    """As many examples as a check may also draw samples, which some models do slowly."""
    return trained.examples(subject.points(trained.data, POINTS, SAMPLE_WORK))


def _train_batch(trained: Training, step: int) -> Batch:
    size = trained.learner.settings.batch_size or len(trained.data.train)
    indices: Tensor = (torch.arange(size) + step) % len(trained.data.train)
    return trained.data.train.batch(indices, torch.Generator().manual_seed(step))
