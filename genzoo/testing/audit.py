"""The audit of a stored number: it is recomputed from the checkpoint, and what is derived from it is derived again.

Where it was made (device, machine, versions, commit; the threads are those of the record) the same numbers come, bit
for bit; elsewhere within the rounding that is stated here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genzoo.errors import GenzooError
from genzoo.evaluation import FLOOR_ERRORS
from genzoo.means import errors
from genzoo.records import RunRecord
from genzoo.testing.cell import CellSubject
from genzoo.testing.statistics import Z
from genzoo.testing.subject import CheckSkipped, require
from genzoo.training import evaluation_index

SUMMED = 1e-9
"""Relative rounding of float64 sums over the points, in another order."""
ELSEWHERE = 1e-4
"""Relative rounding of one value on another device or machine, or by other code: float32 networks, whose sums are in
another order."""
ELSEWHERE_MEAN = 1e-5
"""The same of a mean over the points, where rounding averages out."""


def checkpoint_loads(subject: CellSubject, problem: str) -> None:
    """The weights fit the record, and the data set is the one that they were trained on."""
    try:
        subject.load()
    except GenzooError as error:
        require(False, str(error))


def points_are_the_first(subject: CellSubject, problem: str) -> None:
    """The stored values are about the first points of the one permutation of the split that all models share."""
    record, arrays = subject.cell.record, _arrays(subject)
    data = subject.trained(problem).data
    split = {"train": data.train, "valid": data.valid, "test": data.test}[record.split]
    expected = evaluation_index(len(split), subject.stored_points)
    require(torch.equal(arrays["index"], expected), f"index is not that of the first {len(expected):,} points")
    for name in ("lower", "upper", "variance", "log_p"):
        if name in arrays:
            n = len(arrays[name])
            require(n == len(expected), f"expected {len(expected):,} values of {name}, one a point; got {n:,}")


def values_recompute(subject: CellSubject, problem: str) -> None:
    """The checkpoint gives the stored values again, from the stored estimator, draws, seed and points."""
    subject.trained(problem)
    record, arrays, again = subject.cell.record, _arrays(subject), subject.again()
    elsewhere = f" (made with {subject.elsewhere})" if subject.elsewhere else ""
    fresh = {"lower": again.result.lower, "upper": again.result.upper, "log_p": again.log_p}
    require(again.kind == record.kind, f"the answer is of kind {again.kind}; stored is {record.kind}")
    if "cpu" not in record.device and again.kind != "exact":
        _draws_of_another_device(record, arrays["lower"][: again.points], again.result.lower, again.stderr_mc)
        return
    for name, value in fresh.items():
        if value is None:
            require(name not in arrays, f"{name} is stored; the checkpoint gives none")
            continue
        require(name in arrays, f"the checkpoint gives {name}; none is stored")
        stored = arrays[name][: again.points]
        granted = ELSEWHERE * (1 + value.abs()) if elsewhere else torch.zeros_like(value)
        wrong = ~((stored - value).abs() <= granted) & (stored != value)  # infinities are equal, and have no difference
        worst = float((stored - value)[wrong].abs().max()) if bool(wrong.any()) else 0.0
        require(
            not bool(wrong.any()),
            f"{int(wrong.sum()):,} of {again.points:,} values of {name} differ from the checkpoint's, by up to "
            f"{worst:.3g} nats{elsewhere}",
        )
    if again.points == subject.stored_points:
        relative = ELSEWHERE_MEAN if elsewhere else 0.0
        for name in ("nll", "nll_lower", "bits_per_dim", "kl"):
            _agree(name, getattr(record, name), getattr(again, name), relative, "recomputed")
        require(again.infinite == record.infinite, f"{again.infinite} values are -inf; stored is {record.infinite}")
        require(again.terms.keys() == record.terms.keys(), f"the terms are {[*again.terms]}; not {[*record.terms]}")
        for name, term in again.terms.items():
            _agree(f"term {name}", record.terms[name], term, relative, "recomputed")


def numbers_follow(subject: CellSubject, problem: str) -> None:
    """NLL, bits a dimension, standard errors and KL are those of the stored values."""
    subject.trained(problem)
    record, arrays = subject.cell.record, _arrays(subject)
    lower, n = arrays["lower"], subject.cell.record.evaluation["num_samples"]
    shared = subject.again().result.shared_variance.cpu()
    found = errors(lower, arrays.get("variance"), shared, n)
    expected: dict[str, float | None] = {"nll": -float(lower.mean()), **_three(found)}
    if "upper" in arrays:
        expected["nll_lower"] = -float(arrays["upper"].mean())
    if record.levels is not None:
        expected["bits_per_dim"] = -float(lower.mean()) / (math.prod(record.event_shape) * math.log(2))
    if "log_p" in arrays:
        difference = lower - arrays["log_p"]
        kl, kl_stderr = -float(difference.mean()), errors(difference, arrays.get("variance"), shared, n).stderr
        expected |= {"kl": kl, "kl_stderr": kl_stderr}
        below = record.kind != "estimate" and kl < -FLOOR_ERRORS * kl_stderr
        require(record.below_floor == below, f"below_floor is {record.below_floor}; the values say {below}")
    for name, value in expected.items():
        _agree(name, getattr(record, name), value, SUMMED, "from the stored values")
    infinite = int((lower == -math.inf).sum())
    require(record.infinite == infinite, f"{infinite} stored values are -inf; the record says {record.infinite}")
    if record.terms and record.nll is not None:
        _agree(
            "the sum of the terms",
            math.fsum(value for value in record.terms.values() if value is not None),
            -record.nll,
            1e-6,
            "the stored number",
        )


def quadrature_recomputes(subject: CellSubject, problem: str) -> None:
    """The quadrature of the KL and of the mass, stored for exact models whose truth is known, come again."""
    trained, record = subject.trained(problem), subject.cell.record
    if trained.data.truth is None or record.kind != "exact":
        require(
            record.kl_quadrature is None and record.mass is None, "a quadrature is stored of what cannot be integrated"
        )
        raise CheckSkipped("only exact answers about a known truth are integrated")
    relative = ELSEWHERE if subject.elsewhere else 0.0
    for name in ("kl_quadrature", "mass"):
        _agree(name, getattr(record, name), getattr(subject.again(), name), relative, "recomputed")


def _arrays(subject: CellSubject) -> dict[str, Tensor]:
    arrays = subject.cell.arrays()
    for name in ("index", "lower"):
        require(name in arrays, f"arrays.npz of {subject.cell.path} holds no {name}")
    names = ("index", "lower", "upper", "variance", "log_p")
    return {name: torch.from_numpy(arrays[name]) for name in names if name in arrays}


def _draws_of_another_device(record: RunRecord, stored: Tensor, fresh: Tensor, stderr_mc: float | None) -> None:
    """One seed gives other draws there: the means agree within their Monte Carlo errors."""
    if stderr_mc is None:
        raise CheckSkipped(f"draws of {record.device} do not come again on cpu, and their variance is not known")
    difference, limit = float((stored - fresh).mean()), Z * math.sqrt(2) * stderr_mc
    require(abs(difference) <= limit, f"the mean differs by {difference:+.4f} nats from that on {record.device}")


def _three(found: object) -> dict[str, float | None]:
    return {name: getattr(found, name) for name in ("stderr", "stderr_data", "stderr_mc")}


def _agree(name: str, stored: float | None, expected: float | None, relative: float, whence: str) -> None:
    """Stored is what is expected, a missing number standing for one that is not finite."""
    value = None if expected is None or not math.isfinite(expected) else expected
    if stored is None or value is None:
        require(stored is None and value is None, f"{name} is stored as {stored}; {whence}: {expected}")
        return
    require(
        abs(stored - value) <= relative * (1 + abs(value)),
        f"{name} is stored as {stored!r}; {whence}: {value!r}, which is {stored - value:+.3g} off",
    )
