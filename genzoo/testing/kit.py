"""The conformance kit: which checks there are, what each means when it fails, and the receipt of a run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from genzoo.registry import Registry
from genzoo.testing import form, truth
from genzoo.testing.subject import CheckFailed, CheckSkipped, Subject

Outcome = Literal["passed", "failed", "skipped", "expected"]
LEAST_PASSED = 12
"""A receipt with fewer passed checks than this is no receipt: the kit found too little to look at."""


@dataclass(frozen=True)
class Check:
    """One check and the problems it looks at.

    Attributes:
        run: raises CheckFailed or CheckSkipped; its docstring is what the model promises.
        problems: names of `genzoo.testing.problems`; those that the card's data does not cover are left out.
        cause: what usually is wrong when it fails.
    """

    run: Callable[[Subject, str], None]
    problems: tuple[str, ...]
    cause: str

    @property
    def name(self) -> str:
        """Of the function."""
        return self.run.__name__

    @property
    def promise(self) -> str:
        """The docstring, on one line."""
        return " ".join((self.run.__doc__ or "").split())


ANY = ("plane", "binary", "levels_image")
SPACES = ("plane", "binary", "levels", "binary_image", "levels_image", "labelled")

CHECKS = (
    Check(form.config_round_trips, ANY, "a config that is not a genzoo.config.Config, or a value JSON cannot hold"),
    Check(form.constructor_is_pure, ANY, "a constructor that seeds, or draws from numpy's RNG"),
    Check(form.shapes_and_types, SPACES, "a sum over the batch, float32 sums, labels left out in sample"),
    Check(form.same_seed_same_value, ANY, "numpy's RNG, a generator of one's own, or noise kept between calls"),
    Check(form.neighbours_do_not_matter, ANY, "batch norm with batch statistics, or a maximum over the batch"),
    Check(form.modes_are_restored, ANY, "train() called inside, or functional dropout with training=True"),
    Check(form.finite_at_the_tails, ANY, "log of an underflowed density, or a spline evaluated outside its bound"),
    Check(form.parameters_move, ANY, "a parameter left out of the loss, or detached"),
    Check(form.state_round_trips, ANY, "a tensor kept as an attribute, not as a buffer"),
    Check(form.learner_resumes, ANY, "learner state (chains, counters, optimisers) missing from state_dict"),
    Check(form.training_helps, ANY, "a sign, a learning rate, or a loss that is not about the likelihood"),
    Check(form.loss_is_a_bound, SPACES, "a loss with a term missing (entropy, KL, constant) or of the wrong sign"),
    Check(
        truth.mass_is_one,
        SPACES,
        "a log-det dropped or of the wrong sign, a mean for a sum, a constant forgotten, a bound called weights",
    ),
    Check(
        truth.bound_mass_is_below_one, SPACES, "a term of the bound dropped: entropy, prior KL, decoder, a time step"
    ),
    Check(truth.exact_has_no_noise, SPACES, "a bound called exact, or dropout left on"),
    Check(truth.terms_sum, SPACES, "terms of other draws than the answer, or of the wrong sign"),
    Check(truth.below_the_truth, ("plane", "gaussian"), "a bound that is none: a Jacobian, a KL or an entropy missing"),
    Check(truth.estimators_agree, SPACES, "one of the estimators misses a term: compare them term by term"),
    Check(truth.draws_tighten, SPACES, "the mean of logs in place of the log of the mean, or one draw used K times"),
    Check(
        truth.samples_match,
        SPACES,
        "decoder noise left out, a temperature, another prior, clipping, or a last step without its noise",
    ),
)


@dataclass(frozen=True)
class Result:
    """What one check found on one problem."""

    check: str
    problem: str
    outcome: Outcome
    message: str
    seconds: float

    @property
    def name(self) -> str:
        """`check[problem]`."""
        return f"{self.check}[{self.problem}]"


@dataclass(frozen=True)
class Receipt:
    """A run of the kit over one model."""

    model: str
    level: str
    results: tuple[Result, ...]
    seconds: float

    def count(self, outcome: Outcome) -> int:
        """How many ended so."""
        return sum(result.outcome == outcome for result in self.results)

    @property
    def ok(self) -> bool:
        """None failed, and enough passed."""
        return self.count("failed") == 0 and self.count("passed") >= LEAST_PASSED

    def summary(self) -> str:
        """One line."""
        counts = ", ".join(f"{self.count(o)} {o}" for o in ("passed", "failed", "skipped", "expected"))
        few = "" if self.count("passed") >= LEAST_PASSED else f"; expected at least {LEAST_PASSED} to pass"
        return f"{self.model} ({self.level}): {len(self.results)} checks: {counts} in {self.seconds:.1f}s{few}"

    def as_json(self) -> dict[str, Any]:
        """For `--json` and committed receipts."""
        return asdict(self) | {"ok": self.ok, "summary": self.summary()}


def planned(subject: Subject) -> Iterator[tuple[Check, str]]:
    """Every check on every problem that the model's card takes."""
    problems = list(subject.problems())
    for check in CHECKS:
        for problem in check.problems:
            if problem in problems:
                yield check, problem


def run_check(subject: Subject, check: Check, problem: str, expected: Mapping[str, str]) -> Result:
    """Run one check; a failure declared in `expected` (check name or `check[problem]`, with a reason) is `expected`."""
    start = time.perf_counter()
    outcome: Outcome = "passed"
    message = ""
    try:
        check.run(subject, problem)
    except CheckSkipped as reason:
        outcome, message = "skipped", str(reason)
    except CheckFailed as failure:
        outcome, message = "failed", str(failure)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        outcome, message = "failed", f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
    name = f"{check.name}[{problem}]"
    reason_given = expected.get(name) or expected.get(check.name)
    if outcome == "failed" and reason_given:
        outcome, message = "expected", f"{message} (declared: {reason_given})"
    return Result(check.name, problem, outcome, message, time.perf_counter() - start)


def run(
    subject: Subject,
    expected: Mapping[str, str] | None = None,
    watch: Callable[[Result], None] | None = None,
    only: Sequence[str] = (),
) -> Receipt:
    """Run the kit over one model.

    Args:
        expected: declared failures, `{check or check[problem]: reason}`.
        watch: called after each check.
        only: names of checks; all when empty.
    """
    start = time.perf_counter()
    results = []
    for check, problem in planned(subject):
        if only and check.name not in only:
            continue
        results.append(run_check(subject, check, problem, expected or {}))
        if watch is not None:
            watch(results[-1])
    return Receipt(subject.card.name, subject.level.name, tuple(results), time.perf_counter() - start)


def subject_of(registry: Registry, name: str, level: str = "quick", seed: int = 0, **options: Any) -> Subject:
    """The subject for a registered name; `options` are inline config."""
    from genzoo.testing.subject import LEVELS

    return Subject(registry, name, options, LEVELS[level], seed)
