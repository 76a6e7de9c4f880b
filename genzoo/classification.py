"""The generative classifier: a conditional model and the class frequencies, turned around by Bayes' rule.

    p(y given x) = pi_y p(x given y) / sum_k pi_k p(x given k)

from answers `exact` or `weights`. From any other kind, such as a bound, what comes out is approximate, for a difference
of bounds is no difference of densities, and it says so. All classes of a point are answered with the same draws.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from genzoo.class_mixture import ClassMixture, each_class, log_frequencies
from genzoo.errors import CapabilityError, NumericsError
from genzoo.evaluation import DEFAULT_POINTS, make_estimator
from genzoo.interface import GenerativeModel
from genzoo.likelihood import Kind, LogLikelihood
from genzoo.seeding import derive_seed
from genzoo.spec import Dataset
from genzoo.training import points_of

BINS = 15
"""Of the calibration error, each with as many points as the others: with bins of equal width nearly all points of a
good classifier are in the last (Nixon et al. 2019, arXiv:1904.01685)."""

REPEATS = 200
"""Simulated calibrated classifiers behind `calibration_limit`."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How good probabilities of classes are, over N points.

    Attributes:
        accuracy: share of points whose most probable class is theirs. log_loss: mean of -log p(y given x), nats.
        brier: mean of sum_k (p(k given x) - 1[k = y])^2. *_stderr: standard errors over the points.
        calibration_error: expected calibration error of the most probable class's probability, over `bins` bins of
            equally many points (Guo et al. 2017, arXiv:1706.04599). It is above 0 for any finite N.
        calibration_limit: what a calibrated classifier of these probabilities stays below in 95 of 100 samples of N.
    """

    accuracy: float
    accuracy_stderr: float
    log_loss: float
    log_loss_stderr: float
    brier: float
    brier_stderr: float
    calibration_error: float
    calibration_limit: float
    bins: int
    points: int


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What one classification of a split's points says.

    Attributes:
        scores: of the model. bayes: of the true posterior on the same points, where it is known.
        kind: of the model's answers; approximate: whether they are neither `exact` nor `weights`.
        log_posterior: `(N, classes)` float64. capped: whether time ended it.
    """

    scores: Scores
    bayes: Scores | None
    kind: Kind
    approximate: bool
    classes: int
    estimator: str
    num_samples: int
    split: str
    seconds: float
    capped: bool
    log_posterior: Tensor

    def as_record(self) -> dict[str, bool | float | str | None]:
        """What a record keeps; bayes_* where the truth is known."""
        names = ("kind", "approximate", "classes", "estimator", "num_samples", "split", "seconds")
        kept: dict[str, bool | float | str | None] = {**asdict(self.scores), **{k: getattr(self, k) for k in names}}
        if self.bayes is not None:
            kept |= {"bayes_accuracy": self.bayes.accuracy, "bayes_log_loss": self.bayes.log_loss}
        return kept

    def __str__(self) -> str:
        s = self.scores
        bayes = "" if self.bayes is None else f" (Bayes {self.bayes.accuracy:.4f}, {self.bayes.log_loss:.4f})"
        how = f"approximate, from answers of kind {self.kind}" if self.approximate else self.kind
        return (
            f"accuracy {s.accuracy:.4f} +- {s.accuracy_stderr:.4f}, "
            f"log loss {s.log_loss:.4f} +- {s.log_loss_stderr:.4f} nats{bayes}, "
            f"Brier {s.brier:.4f} +- {s.brier_stderr:.4f}, "
            f"calibration error {s.calibration_error:.4f} (calibrated: below {s.calibration_limit:.4f}; "
            f"{s.bins} bins of equal mass), {s.points:,} points [{self.estimator}, K={self.num_samples}, {how}]"
        )


def classify(
    model: GenerativeModel,
    data: Dataset,
    *,
    estimator: str | None = None,
    num_samples: int = 1,
    points: int | None = None,
    seed: int = 0,
    split: str = "test",
    max_seconds: float | None = None,
) -> Classification:
    """Classify the first `points` of the one seeded permutation of a split by Bayes' rule.

    Args:
        model: conditional, or the class mixture of one; the class frequencies are those of the training split.
        estimator, num_samples, points, seed: as in `evaluate`; the cost is that of `evaluate` times the classes.
        max_seconds: stop after the batch in which this has passed.

    Raises:
        CapabilityError: a model that has no classes, or data without labels.
        NumericsError: NaN or +inf among the answers.
    """
    conditional, log_prior = _conditional(model, data)
    classes = len(log_prior)
    points = points or DEFAULT_POINTS["plane" if data.truth is not None else "other"]
    x, y = points_of(data, split, points)
    if y is None:
        raise CapabilityError(f"a classifier is measured on labels; the {split} split of {data.name} has none")
    run = make_estimator(conditional, estimator)
    start = time.perf_counter()
    run.start(data.valid, seed)
    parts: list[Tensor] = []
    kind: Kind = "exact"
    size = max(1, min(run.batch_size, len(x)))
    for at in range(0, len(x), size):
        batch, draws = x[at : at + size].to(model.device), derive_seed(seed, "classify", at // size)

        def answer(label: Tensor, batch: Tensor = batch, draws: int = draws) -> LogLikelihood:
            return run.log_likelihood(batch, num_samples, draws, label)

        answers = each_class(answer, classes, len(batch), model.device)
        kind = answers[0].kind
        parts.append(torch.stack([said.lower for said in answers], 1).cpu() + log_prior)
        if max_seconds is not None and time.perf_counter() - start > max_seconds:
            break
    joint = torch.cat(parts)
    log_posterior = posterior(joint, log_prior)
    bayes = None
    if data.labelled is not None:
        truth = data.labelled.log_prob(x[: len(joint)].to(torch.float64)) + data.labelled.log_prior
        bayes = scores_of(posterior(truth, data.labelled.log_prior), y[: len(joint)].cpu())
    return Classification(
        scores=scores_of(log_posterior, y[: len(joint)].cpu()),
        bayes=bayes,
        kind=kind,
        approximate=kind not in ("exact", "weights"),
        classes=classes,
        estimator=run.name,
        num_samples=num_samples,
        split=split,
        seconds=time.perf_counter() - start,
        capped=len(joint) < len(x),
        log_posterior=log_posterior,
    )


def _conditional(model: GenerativeModel, data: Dataset) -> tuple[GenerativeModel, Tensor]:
    """The model of p(x given y), and log pi_y."""
    if isinstance(model, ClassMixture):
        return model.inner, model.log_prior.cpu()
    if model.spec.classes is None:
        raise CapabilityError(
            f"Bayes' rule needs p(x given y), and {type(model).__name__} has no classes: train it on labelled data "
            "(labels=true)"
        )
    return model, log_frequencies(data.train, model.spec.classes)


def posterior(joint: Tensor, log_prior: Tensor) -> Tensor:
    """log p(y given x) `(N, C)` from log p(x, y) `(N, C)`; where no class gives x any mass, the class frequencies.

    NumericsError for NaN or +inf, with their count.
    """
    wrong = int((joint.isnan() | (joint == math.inf)).sum())
    if wrong:
        raise NumericsError(f"{wrong} of {joint.numel()} answers about p(x given y) are NaN or +inf")
    none = (joint == -math.inf).all(1, keepdim=True)
    return torch.where(none, log_prior, joint).log_softmax(1)


def scores_of(log_posterior: Tensor, y: Tensor, bins: int = BINS) -> Scores:
    """Scores of log-probabilities `(N, C)` for labels `y (N,)`."""
    n, p = len(y), log_posterior.exp()
    confidence, best = p.max(1)
    right = (best == y).to(torch.float64)
    loss = -log_posterior.gather(1, y[:, None])[:, 0]
    truth = torch.nn.functional.one_hot(y, p.shape[1])
    brier = (p - truth).square().sum(1)
    bins = min(bins, n)
    order = confidence.argsort()
    confidence, right = confidence[order], right[order]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        calibrated = (torch.rand(REPEATS, n, dtype=torch.float64) < confidence).to(torch.float64)
    return Scores(
        accuracy=float(right.mean()),
        accuracy_stderr=_stderr(right),
        log_loss=float(loss.mean()),
        log_loss_stderr=_stderr(loss),
        brier=float(brier.mean()),
        brier_stderr=_stderr(brier),
        calibration_error=float(_calibration(right[None], confidence, bins)),
        calibration_limit=float(_calibration(calibrated, confidence, bins).quantile(0.95)),
        bins=bins,
        points=n,
    )


def _calibration(right: Tensor, confidence: Tensor, bins: int) -> Tensor:
    """Sum over bins of |mean of right - mean of confidence| n_b / N, `(R,)`, for `right (R, N)`; confidence rises."""
    gaps = torch.tensor_split(right - confidence, bins, dim=1)
    return torch.stack([gap.sum(1).abs() for gap in gaps]).sum(0) / right.shape[1]


def _stderr(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
