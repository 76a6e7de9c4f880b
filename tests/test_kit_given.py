"""Each check of conditional samplers fails for the fault that it is there for; one Gaussian in the plane."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genzoo.baseline import Gaussian
from genzoo.cards import ModelCard
from genzoo.registry import Registry
from genzoo.testing import checks, kit


class Sound(Gaussian):
    """As it is."""


class Rounds(Gaussian):
    def _sample_given(self, x: Tensor, mask: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        return super()._sample_given(x, mask, noise, condition) * (1 + 1e-6)


class OwnGenerator(Gaussian):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.generator = torch.Generator()

    def _sample_given(self, x: Tensor, mask: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        return torch.where(mask, x, torch.randn(x.shape, generator=self.generator))


class Fixed(Gaussian):
    def _sample_given(self, x: Tensor, mask: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        return torch.where(mask, x, self.loc[0].float())


class LeavesTrainMode(Gaussian):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.layer = torch.nn.Identity()

    def _sample_given(self, x: Tensor, mask: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        self.layer = torch.nn.Identity().eval()
        return super()._sample_given(x, mask, noise, condition)


class Blind(Gaussian):
    """Fills in from the marginal, which the two dimensions of the problem tell from the conditional."""

    def _sample_given(self, x: Tensor, mask: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
        return torch.where(mask, x, self._sample(len(x), condition))


FAULTS: dict[type[Gaussian], tuple[str, str]] = {
    Rounds: ("seen_comes_back", "come back changed"),
    OwnGenerator: ("seen_comes_back", "two different draws"),
    Fixed: ("seen_comes_back", "nothing is drawn"),
    LeavesTrainMode: ("seen_comes_back", "another mode"),
    Blind: ("filled_in_is_the_model", "changes the mean log-likelihood"),
}


def run(model: type[Gaussian], check: str) -> kit.Result:
    name = model.__name__.lower()
    target = f"{__name__}:{model.__name__}"
    card = ModelCard(name=name, summary=name, family="test", target=target, data=("real",), max_dims=2)
    registry = Registry(models={name: card}, datasets={}, metrics={}, origins={}, plugins=(), failures=())
    found = next(each for each in kit.CHECKS if each.name == check)
    return kit.run_check(kit.subject_of(registry, name), found, "plane", {})


@pytest.mark.parametrize("model", FAULTS, ids=lambda model: model.__name__)
def test_fault_is_found(model: type[Gaussian]) -> None:
    check, words = FAULTS[model]
    sound, faulty = run(Sound, check), run(model, check)
    assert sound.outcome == "passed", sound.message
    assert faulty.outcome == "failed", faulty.message
    assert words in faulty.message


def test_every_check_of_conditional_samplers_has_a_fault() -> None:
    of_given = {check.name for check in kit.CHECKS if check.run.__module__ == "genzoo.testing.given"}
    assert {check for check, _ in FAULTS.values()} == of_given


def test_the_baseline_passes_on_every_problem() -> None:
    named = [each for each in checks("gaussian") if "seen_comes_back" in str(each.id)]
    assert named
    for each in named:
        each.values[0]()
