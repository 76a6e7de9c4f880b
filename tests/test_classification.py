"""The generative classifier against the Bayes rule of known densities, scores against scikit-learn and by hand."""

from __future__ import annotations

import math
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch import Tensor

from genzoo import api
from genzoo.class_mixture import ClassMixture
from genzoo.classification import classify, posterior, scores_of
from genzoo.cli import main
from genzoo.config import TrainSettings
from genzoo.data.splits import TensorSplit, fingerprints
from genzoo.data.toy.catalogue import DENSITIES
from genzoo.data.toy.loading import LABELLED, load
from genzoo.errors import CapabilityError, ConfigError, NumericsError
from genzoo.interface import GenerativeModel, Learner
from genzoo.likelihood import LogLikelihood
from genzoo.records import find_cells
from genzoo.report import classifiers
from genzoo.report.collect import collect
from genzoo.spec import DataProtocol, Dataset, DataSpec

Streams = pytest.CaptureFixture[str]
REACH = 0.8
"""Classes are N(-REACH, 1) and N(REACH, 1): equally frequent, Bayes is right with probability Phi(REACH)."""

N = 5000


def line(rare: float = 0.5) -> Dataset:
    """The two classes, the second with probability `rare`."""

    def split(seed: int) -> TensorSplit:
        generator = torch.Generator().manual_seed(10 + seed)
        y = (torch.rand(N, generator=generator) < rare).long()
        return TensorSplit(torch.randn(N, 1, generator=generator) + REACH * (2 * y[:, None] - 1), y)

    train, valid, test = (split(seed) for seed in range(3))
    hashes = {"data_hash": fingerprints(train, valid), "test_hash": test.fingerprint}
    protocol = DataProtocol(dataset="line", **hashes, split="by seeds", target="p(x given y)")
    spec = DataSpec((1,), classes=2)
    return Dataset(name="line", spec=spec, protocol=protocol, train=train, valid=valid, test=test)


class Truth(GenerativeModel):
    """p(x given y) of `line`, its log scaled by `sharp`: more than 1 makes a classifier sure of itself."""

    sharp, kind = 1.0, "exact"

    def _log_likelihood(self, x: Tensor, num_samples: int, condition: Tensor | None) -> LogLikelihood:
        assert condition is not None
        square = (x[:, 0].double() - REACH * (2 * condition - 1)).square()
        log_p = self.sharp * (-0.5 * square - 0.5 * math.log(2 * math.pi))
        if self.kind == "exact":
            return LogLikelihood.exact(log_p)
        # the same noise for every class, as the classifier's common draws make it
        return LogLikelihood.lower_bound(log_p - torch.rand(len(x), dtype=torch.float64))

    def _sample(self, n: int, condition: Tensor | None) -> Tensor:
        raise NotImplementedError

    def learner(self, settings: TrainSettings) -> Learner:
        raise NotImplementedError


def model(sharp: float = 1.0, kind: str = "exact") -> Truth:
    made = Truth(DataSpec((1,), classes=2))
    made.sharp, made.kind = sharp, kind
    return made


def test_the_true_model_is_the_bayes_classifier() -> None:
    """Accuracy within four standard errors of Phi(REACH) (0.023 in all), log loss of the conditional entropy by
    quadrature; calibrated within the limit of chance."""
    said = classify(model(), line(), points=N)
    scores = said.scores
    accuracy = float(torch.special.ndtr(torch.tensor(REACH)))
    assert abs(scores.accuracy - accuracy) < 4 * scores.accuracy_stderr
    assert scores.accuracy_stderr == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / N), rel=0.05)
    x = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    odds = torch.sigmoid(2 * REACH * x)
    p = (-0.5 * (x - REACH).square()).exp() / math.sqrt(2 * math.pi)  # of class 1; by symmetry half of the integral
    entropy = float(torch.trapezoid(-p * odds.log(), x))
    assert abs(scores.log_loss - entropy) < 4 * scores.log_loss_stderr
    brier = float(torch.trapezoid(2 * p * (1 - odds).square(), x))
    assert abs(scores.brier - brier) < 4 * scores.brier_stderr
    assert scores.calibration_error < scores.calibration_limit < 0.03
    assert (said.kind, said.approximate, scores.bins, scores.points) == ("exact", False, 15, N)
    assert abs(scores.log_loss - 1.1 * entropy) > 4 * scores.log_loss_stderr


def test_one_that_is_too_sure_is_as_accurate_and_not_calibrated() -> None:
    right, sure = (classify(model(sharp), line(), points=N).scores for sharp in (1.0, 3.0))
    assert sure.accuracy == pytest.approx(right.accuracy, abs=0.002)  # frequencies of 0.5 but for the sampling
    assert sure.calibration_error > 0.05 > 3 * sure.calibration_limit
    assert sure.log_loss > right.log_loss + 0.1
    assert sure.brier > right.brier


def test_class_frequencies_are_those_of_training() -> None:
    """With one in ten of class 1, Bayes by the frequencies is calibrated; by equal classes it loses 0.1 of accuracy."""
    said = classify(model(), line(rare=0.1), points=N)
    assert said.scores.calibration_error < said.scores.calibration_limit
    mixed = line(rare=0.1)
    equal = Dataset(**{**mixed.__dict__, "train": line().train})
    assert classify(model(), equal, points=N).scores.accuracy < said.scores.accuracy - 0.1


def test_bounds_make_an_approximate_classifier_with_common_draws() -> None:
    said = classify(model(kind="lower_bound"), line(), points=1000)
    assert said.approximate
    assert "approximate, from answers of kind lower_bound" in str(said)
    # the noise of a point is the same under both classes, so that it cancels
    exact = classify(model(), line(), points=1000)
    torch.testing.assert_close(said.log_posterior, exact.log_posterior, atol=1e-10, rtol=0)


def test_a_model_without_classes_is_refused() -> None:
    data = api.load_dataset("8gaussians", points=100)
    with pytest.raises(CapabilityError, match="has no classes: train it on labelled data"):
        classify(api.build_model("gaussian", data.spec), data)


def test_scores_against_scikit_learn_and_by_hand() -> None:
    torch.manual_seed(0)
    log_p = torch.randn(500, 4, dtype=torch.float64).log_softmax(1)
    y = torch.randint(0, 4, (500,))
    scores = scores_of(log_p, y)
    assert scores.log_loss == pytest.approx(log_loss(y, log_p.exp(), labels=range(4)), rel=1e-10)
    assert scores.accuracy == pytest.approx(float((log_p.argmax(1) == y).double().mean()))
    assert scores.brier == pytest.approx(float((log_p.exp() - torch.eye(4)[y]).square().sum(1).mean()))
    # two bins of two: confidences 0.6, 0.7 with one right, 0.8, 0.9 with both: |0.5 - 0.65| and |1 - 0.85|
    p = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]], dtype=torch.float64)
    hand = scores_of(p.log(), torch.tensor([0, 0, 1, 0]), bins=2)
    assert hand.calibration_error == pytest.approx((0.15 + 0.15) / 2)
    assert scores_of(p.log(), torch.tensor([0, 0, 1, 0])).bins == 4


def test_calibration_limit_is_passed_by_one_calibrated_sample_in_twenty() -> None:
    """600 classifiers of 300 points, labels by their own probabilities: 5 % above the limit, deviation 0.9 %."""
    torch.manual_seed(1)
    log_p = (2 * torch.randn(300, 3, dtype=torch.float64)).log_softmax(1)
    above = 0
    for _ in range(600):
        y = torch.multinomial(log_p.exp(), 1)[:, 0]
        scores = scores_of(log_p, y)
        above += scores.calibration_error > scores.calibration_limit
    assert abs(above / 600 - 0.05) < 4 * 0.009 + 0.01  # the limit itself rests on 200 draws


def test_posteriors_of_points_that_no_class_explains() -> None:
    joint = torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf]], dtype=torch.float64)
    prior = torch.tensor([0.25, 0.75], dtype=torch.float64).log()
    expected = torch.tensor([[1.0, 0.0], [0.25, 0.75]], dtype=torch.float64)
    torch.testing.assert_close(posterior(joint, prior).exp(), expected, atol=1e-12, rtol=0)
    with pytest.raises(NumericsError, match="1 of 4"):
        posterior(joint.nan_to_num(neginf=-1).masked_fill(joint == 0, math.nan), prior)


# the noise of 2spirals is dear to evaluate on its grid
TOYS = [pytest.param(name, marks=pytest.mark.long) if name == "2spirals" else name for name in LABELLED]


@pytest.mark.parametrize("name", TOYS)
def test_labelled_toys(name: str) -> None:
    """The same points; parts that each integrate to one (1e-4, on the whole's rule) and whose mixture is the density
    (1e-9); labels that follow the posterior: the mean log posterior is its entropy's estimate, 4 standard errors."""
    density = DENSITIES[name]
    x, y = density.sample_labelled(2000, 7)
    assert torch.equal(x, density.sample(2000, 7))
    labelled = density.labelled
    each = labelled.log_prob(x)
    joint = each + labelled.log_prior
    torch.testing.assert_close(joint.logsumexp(1), density.log_prob(x), atol=1e-9, rtol=0)
    nodes, weights = density.quadrature()
    mass = labelled.log_prob(nodes).exp().T @ weights
    torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-4, rtol=0)
    p = joint.log_softmax(1).exp()
    gap = p.gather(1, y[:, None])[:, 0] - p.square().sum(1)  # mean 0 where y follows p
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(2000) + 1e-12
    value = -each.gather(1, y[:, None])[:, 0]
    assert abs(float(value.mean()) - labelled.entropy) < 4 * float(value.std()) / math.sqrt(2000)
    assert abs(float(value.mean()) - 1.2 * labelled.entropy) > 4 * float(value.std()) / math.sqrt(2000)


def test_labels_of_toys_without_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="checkerboard has no labels; these have: moons"):
        load("checkerboard", labels=True)
    data = load("moons", points=100, labels=True)
    assert data.protocol.dataset == "moons[points=100,labels=true]"
    assert (data.protocol.target, data.spec.classes) == ("p(x given y)", 2)


@pytest.mark.parametrize("of", ["none", "joint", "marginal"])
def test_targets_have_their_own_truth(of: str) -> None:
    """One Gaussian a class is 8gaussians itself: KL to the truth is 0 within four errors and 0.003 for each target
    (2,000 training points a class cost 5 parameters / 2n each), and the entropies differ by log 8."""
    data = api.load_dataset("8gaussians[labels=true]", points=16_000)
    fitted = api.build_model("gaussian", data.spec, class_mixture=of)
    api.fit(fitted, data, "1steps")
    result = api.evaluate(fitted, data, points=4000)
    assert result.kl is not None
    assert result.kl_stderr is not None
    assert abs(result.kl) < 0.003 + 4 * result.kl_stderr
    assert result.kl_stderr < 0.003
    closed = math.log(2 * math.pi * math.e * (0.5 / 1.414) ** 2)
    entropy = {"none": closed, "joint": closed + math.log(8), "marginal": DENSITIES["8gaussians"].entropy}
    assert result.entropy == pytest.approx(entropy[of], abs=1e-4)
    assert isinstance(fitted, ClassMixture) == (of != "none")
    said = classify(fitted, data, points=4000)
    assert said.bayes is not None
    assert abs(said.scores.accuracy - said.bayes.accuracy) < 0.003
    assert abs(said.scores.log_loss - said.bayes.log_loss) < 0.003


def run(*args: object) -> int:
    return main([str(arg) for arg in args])


def test_bench_and_command(tiny: Path, tmp_path: Path, inline: Executor, capsys: Streams) -> None:
    """Conditional models, p(x, y) and p(x) from start to end; a diffusion's p(x) is skipped with its reason."""
    names = [
        "gaussian", "gaussian[class_mixture=joint]", "flow[layers=1,hidden=8,bins=4,class_mixture=marginal]",
        "vae[hidden=[8],latents=2,class_mixture=marginal]", "ddpm[steps=8,width=8,blocks=1,class_mixture=joint]",
        "ddpm[steps=8,width=8,blocks=1,class_mixture=marginal]",
    ]  # fmt: skip
    args = ("-d", f"{tiny / 'labelled.npz'}[labels=true]", "--budget", "20steps", "--points", 16, "--num-samples", 2)
    assert run("bench", "-m", ",".join(names), *args, "-o", tmp_path) == 0
    records = {cell.record.label: cell.record for cell in find_cells(tmp_path)}
    skipped = records.pop(names[-1])
    assert skipped.status == "skipped"
    assert skipped.error is not None
    assert "kind exact or weights; this one is lower_bound" in skipped.error["message"]
    targets = {label: record.protocol["target"] for label, record in records.items()}
    assert [targets[name] for name in names[:-1]] == ["p(x given y)", "p(x, y)", "p(x)", "p(x)", "p(x, y)"]
    for label, record in records.items():
        assert record.status == "ok"
        assert record.classifier["points"] == 16
        assert record.classifier["approximate"] == label.startswith("ddpm")
        assert isinstance(record.classifier["accuracy"], float)
    page = (tmp_path / "report.html").read_text()
    assert page.count("Classification by Bayes") >= 3  # once a protocol
    assert "whose differences are no differences of densities" in page
    joint, given = records[names[1]], records[names[0]]
    assert joint.classifier["log_loss"] == given.classifier["log_loss"]
    capsys.readouterr()
    assert run("classify", tmp_path) == 0
    out, err = capsys.readouterr()
    assert out.count("accuracy 0.") == 5
    assert "ddpm" in err
    assert "left out" in err
    cell = next(cell for cell in find_cells(tmp_path) if cell.record.label == "gaussian")
    assert f"accuracy {given.classifier['accuracy']:.4f}" in next(
        line for line in out.splitlines() if cell.path.name in line
    )
    assert run("classify", cell.path, "--json", "--points", 8) == 0
    assert '"points": 8' in capsys.readouterr().out


def test_the_report_has_a_table_of_classifiers(tmp_path: Path, inline: Executor) -> None:
    args = ("-d", "circles[points=1000,labels=true]", "--budget", "1steps", "--points", 800)
    assert run("bench", "-m", "gaussian", *args, "-o", tmp_path) == 0
    made = classifiers.table(collect([tmp_path])[0])
    assert made is not None
    held = find_cells(tmp_path)[0].record.classifier
    row = dict(zip([column.title for column in made.columns], made.rows[0].cells, strict=True))
    assert held["points"] == 400  # 800 answers over two classes
    assert row["points"] == "400"
    assert row["Bayes accuracy"] == f"{held['bayes_accuracy']:.4f}"
    assert float(row["accuracy"].split(" +- ")[0]) == pytest.approx(held["accuracy"], abs=5e-4)
    assert not any("approximate" in note for note in made.notes)


def test_runs_without_labels_are_told_what_to_do(tiny: Path, tmp_path: Path, inline: Executor, capsys: Streams) -> None:
    args = ("-d", tiny / "points.npz", "--budget", "1steps", "--points", 16)
    assert run("bench", "-m", "gaussian", *args, "-o", tmp_path) == 0
    assert find_cells(tmp_path)[0].record.classifier == {}
    assert run("classify", tmp_path) == 2
    assert "train conditional models, as in `-d 'digits[labels=true]'`" in capsys.readouterr().err


def test_labels_of_own_arrays_are_classified() -> None:
    generator = np.random.default_rng(0)
    y = np.arange(400) % 2
    x = (generator.standard_normal((400, 2)) + 6 * y[:, None]).astype(np.float32)
    data = api.load_dataset(x, y)
    fitted = api.build_model("gaussian", data.spec)
    api.fit(fitted, data, "1steps")
    assert classify(fitted, data).scores.accuracy == 1.0
