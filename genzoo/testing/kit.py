"""The conformance kit: which checks there are, what each means when it fails, and the receipt of a run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, TypeVar

from genzoo.registry import Registry
from genzoo.testing import audit, form, given, truth
from genzoo.testing.cell import CellSubject
from genzoo.testing.subject import CheckFailed, CheckSkipped, ModelSubject, Subject

Outcome = Literal["passed", "failed", "skipped", "expected"]
S = TypeVar("S", bound=Subject)
Looks = TypeVar("Looks", bound=Subject, contravariant=True)


@dataclass(frozen=True)
class Check(Generic[Looks]):
    """One check of subjects of some type, and the problems it looks at.

    Attributes:
        run: raises CheckFailed or CheckSkipped; its docstring is what the model promises.
        problems: names of `genzoo.testing.problems`; those that the card's data does not cover are left out.
        cause: what usually is wrong when it fails.
    """

    run: Callable[[Looks, str], None]
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

TRAINING: tuple[Check[ModelSubject], ...] = (
    Check(form.config_round_trips, ANY, "a config that is not a genzoo.config.Config, or a value JSON cannot hold"),
    Check(form.constructor_is_pure, ANY, "a constructor that seeds, or draws from numpy's RNG"),
    Check(form.parameters_move, ANY, "a parameter left out of the loss, or detached"),
    Check(form.state_round_trips, ANY, "a tensor kept as an attribute, not as a buffer"),
    Check(form.learner_resumes, ANY, "learner state (chains, counters, optimisers) missing from state_dict"),
    Check(form.training_helps, ANY, "a sign, a learning rate, or a loss that is not about the likelihood"),
)
"""Checks that build or train a model themselves."""

ANSWERS: tuple[Check[Subject], ...] = (
    Check(form.shapes_and_types, SPACES, "a sum over the batch, float32 sums, labels left out in sample"),
    Check(form.same_seed_same_value, ANY, "numpy's RNG, a generator of one's own, or noise kept between calls"),
    Check(form.neighbours_do_not_matter, ANY, "batch norm with batch statistics, or a maximum over the batch"),
    Check(form.modes_are_restored, ANY, "train() called inside, or functional dropout with training=True"),
    Check(form.finite_at_the_tails, ANY, "log of an underflowed density, or a spline evaluated outside its bound"),
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
    Check(given.seen_comes_back, (*ANY, "labelled"), "observed values mapped there and back, or noise of one's own"),
    Check(
        given.filled_in_is_the_model,
        (*ANY, "labelled"),
        "a part drawn without a look at the rest, or exact_given claimed of an approximation",
    ),
)
"""Checks of a trained model's answers, whoever trained it."""

CHECKS: tuple[Check[ModelSubject], ...] = (*TRAINING, *ANSWERS)
"""What a registered model goes through."""

STORED = ("cell",)
AUDIT: tuple[Check[CellSubject], ...] = (
    Check(audit.checkpoint_loads, STORED, "a damaged or foreign model.safetensors, or other data under the same name"),
    Check(audit.points_are_the_first, STORED, "points that were chosen, or arrays of another run"),
    Check(audit.values_recompute, STORED, "weights, values or code that have changed since, or an edited record"),
    Check(audit.numbers_follow, STORED, "an edited record, or arrays of another run"),
    Check(audit.quadrature_recomputes, STORED, "an edited record, or weights that have changed since"),
)
"""Checks of what a run has stored."""

CELL_CHECKS: tuple[Check[CellSubject], ...] = (*AUDIT, *ANSWERS)
"""What a trained cell goes through."""


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
    """A run of the kit over one model or cell.

    Attributes:
        seconds: of this process's processor time.
        least: how many must pass for the receipt to be one.
        notes: what a reader must know.
    """

    model: str
    level: str
    results: tuple[Result, ...]
    seconds: float
    least: int
    notes: tuple[str, ...] = ()

    def count(self, outcome: Outcome) -> int:
        """How many ended so."""
        return sum(result.outcome == outcome for result in self.results)

    @property
    def ok(self) -> bool:
        """None failed, and enough passed."""
        return self.count("failed") == 0 and self.count("passed") >= self.least

    def summary(self) -> str:
        """One line."""
        counts = ", ".join(f"{self.count(o)} {o}" for o in ("passed", "failed", "skipped"))
        if declared := self.count("expected"):
            counts += f", {declared} failed as declared"
        few = "" if self.count("passed") >= self.least else f"; expected at least {self.least} to pass"
        return f"{self.model} ({self.level}): {len(self.results)} checks: {counts} in {self.seconds:.1f}s{few}"

    def as_json(self) -> dict[str, Any]:
        """For `--json` and committed receipts."""
        return asdict(self) | {"ok": self.ok, "summary": self.summary()}


def planned(subject: ModelSubject) -> Iterator[tuple[Check[ModelSubject], str]]:
    """Every check on every problem that the model's card takes."""
    problems = list(subject.problems())
    for check in CHECKS:
        for problem in check.problems:
            if problem in problems:
                yield check, problem


def run_cell(subject: CellSubject, watch: Callable[[Result], None] | None = None, only: Sequence[str] = ()) -> Receipt:
    """Audit what a trained cell has stored, and run the checks of answers on its checkpoint, on its own data set."""
    return run_checks(subject, ((check, subject.problem) for check in CELL_CHECKS), None, watch, only)


def run_check(subject: S, check: Check[S], problem: str, expected: Mapping[str, str]) -> Result:
    """Run one check; a failure declared in `expected` (check name or `check[problem]`, with a reason) is `expected`."""
    start = time.process_time()
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
    return Result(check.name, problem, outcome, message, time.process_time() - start)


def run(
    subject: ModelSubject,
    expected: Mapping[str, str] | None = None,
    watch: Callable[[Result], None] | None = None,
    only: Sequence[str] = (),
) -> Receipt:
    """Run the kit over one registered model; arguments as for `run_checks`."""
    return run_checks(subject, planned(subject), expected, watch, only)


def run_checks(
    subject: S,
    plan: Iterable[tuple[Check[S], str]],
    expected: Mapping[str, str] | None = None,
    watch: Callable[[Result], None] | None = None,
    only: Sequence[str] = (),
) -> Receipt:
    """Run checks, each on its problem.

    Args:
        expected: declared failures, `{check or check[problem]: reason}`.
        watch: called after each check.
        only: names of checks; all when empty.
    """
    start = time.process_time()
    results = []
    for check, problem in plan:
        if only and check.name not in only:
            continue
        results.append(run_check(subject, check, problem, expected or {}))
        if watch is not None:
            watch(results[-1])
    seconds = time.process_time() - start
    return Receipt(subject.name, subject.level.name, tuple(results), seconds, subject.least, subject.notes())


def subject_of(registry: Registry, name: str, level: str = "quick", seed: int = 0, **options: Any) -> ModelSubject:
    """The subject for a registered name; `options` are inline config."""
    from genzoo.testing.subject import LEVELS

    return ModelSubject(registry, name, options, LEVELS[level], seed)
