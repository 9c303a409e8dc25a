"""Labels that are probably wrong: closed forms against refits, planted wrong labels, and the promised share."""

from __future__ import annotations

import numpy as np
import pytest
from problems import problem

from lmntk.attribution.changes import Changes, TrainedTexts
from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.attribution.suspects import right_probability, suspicion_of
from lmntk.errors import UserError
from lmntk.solvers.inputs import target_matrix
from lmntk.solvers.ridge import KernelRidge


def held_out_one_by_one(texts: TrainedTexts, ridge: float = 0.1) -> np.ndarray:
    """Return decisions [N, C] of each text by the fit to the others."""
    return KernelRidge(ridge).fit(texts.kernel, texts.labels).leave_one_out_decision()


def onto_itself(texts: TrainedTexts) -> TrainedTexts:
    """Return the same texts, asked for their own outcome."""
    return TrainedTexts.of(texts.kernel, texts.kernel, texts.labels, texts.f0, texts.f0)


@pytest.mark.parametrize("outputs", [1, 3])
def test_influences_are_those_of_refits(outputs: int) -> None:
    texts = onto_itself(problem(outputs))
    refits = RidgeRefits(texts, 0.1)
    found = suspicion_of(held_out_one_by_one(texts), texts.labels, refits=refits)
    whole = refits.outcomes(Changes(np.ones((1, 8))))[0]
    held = refits.without([[n] for n in range(8)])[np.arange(8), np.arange(8)]
    for n, label in enumerate(texts.labels):
        sign = 2 * label - 1 if outputs == 1 else 1
        column = 0 if outputs == 1 else label
        assert found.self_influence[n] == pytest.approx(sign * (whole[n] - held[n])[column], abs=1e-8)

    def loss_of_others(labels: np.ndarray, flipped: int) -> float:
        """Return the squared held-out loss of all but one text, each refitted without itself."""
        total, targets = 0.0, target_matrix(texts.labels, outputs)
        for other in range(8):
            weights = np.ones((1, 8))
            weights[0, other] = 0.0
            outcome = refits.outcomes(Changes(weights, labels[None]))[0, other]
            total += 0.0 if other == flipped else float(((outcome - targets[other]) ** 2).sum())
        return total

    for n in range(8):
        changed = texts.labels.copy()
        changed[n] = found.proposed[n]
        expected = loss_of_others(texts.labels, n) - loss_of_others(changed, n)
        assert found.flip_gain[n] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("outputs", [1, 3])
def test_planted_wrong_labels_come_first(outputs: int) -> None:
    generator = np.random.default_rng(0)
    classes = max(2, outputs)
    truth = np.arange(60) % classes
    centres = generator.normal(size=(classes, 30))
    inputs = centres[truth] + 0.7 * generator.normal(size=(60, 30))
    kernel = np.einsum("np,mp,cd->ncmd", inputs, inputs, np.eye(outputs))
    wrong = np.array([3, 17, 31, 44])
    labels = truth.copy()
    labels[wrong] = (labels[wrong] + 1) % classes
    texts = TrainedTexts.of(kernel, kernel, labels, np.zeros((60, outputs)), np.zeros((60, outputs)))
    found = suspicion_of(held_out_one_by_one(texts, 0.01), labels, 8.0, RidgeRefits(texts, 0.01))
    assert set(found.order[:4]) == set(wrong)
    np.testing.assert_array_equal(found.proposed[wrong], truth[wrong])
    assert (found.margin[wrong] < 0).all()
    assert set(np.argsort(-found.self_influence)[:4]) == set(wrong)
    assert found.flip_gain[wrong].mean() > np.delete(found.flip_gain, wrong).mean()
    assert 4 <= found.named <= 6
    assert found.expected_false is not None and found.expected_false <= 0.2


def test_probabilities_of_rounds_are_averaged() -> None:
    decisions = np.array([[[2.0]], [[-1.0]]])
    found = suspicion_of(decisions, np.array([1]), 0.5)
    assert found.probability[0] == pytest.approx(np.mean(1 / (1 + np.exp([-1.0, 0.5]))))
    assert found.margin[0] == pytest.approx(0.5)
    assert np.isnan(found.flip_gain).all()


@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("wrong_share", [0.05, 0.2])
def test_a_label_is_right_as_often_as_is_said(classes: int, wrong_share: float) -> None:
    generator = np.random.default_rng(0)
    n = 100_000
    of_class = generator.dirichlet(np.full(classes, 0.3), size=n)
    truth = (of_class.cumsum(axis=1) > generator.random((n, 1))).argmax(axis=1)
    wrong = generator.random(n) < wrong_share
    given = np.where(wrong, (truth + generator.integers(1, classes, size=n)) % classes, truth)
    of_given = (1 - wrong_share) * of_class + wrong_share / (classes - 1) * (1 - of_class)
    said = right_probability(of_given[np.arange(n), given], classes, wrong_share)
    for low in np.arange(0, 1, 0.2):
        bin_of = (said >= low) & (said <= low + 0.2)
        error = 0.5 / np.sqrt(bin_of.sum())
        assert said[bin_of].mean() == pytest.approx(np.mean(~wrong[bin_of]), abs=4 * error)


@pytest.mark.parametrize("classes", [2, 6])
def test_a_classifier_that_knows_nothing_names_no_label(classes: int) -> None:
    found = suspicion_of(np.zeros((12, 1 if classes == 2 else classes)), np.arange(12) % classes)
    assert found.right == pytest.approx(np.full(12, 0.9))
    assert (found.named, found.expected_false) == (0, None)


@pytest.mark.parametrize("wrong_share", [0.0, 0.5])
def test_a_share_of_wrong_labels_that_would_leave_nothing_to_learn(wrong_share: float) -> None:
    with pytest.raises(UserError, match="they would say nothing"):
        suspicion_of(np.zeros((2, 1)), np.array([0, 1]), wrong_share=wrong_share)


@pytest.mark.parametrize(("share", "named"), [(0.05, 1), (0.3, 2), (0.6, 3), (0.7, 4)])
def test_named_up_to_the_promised_share(share: float, named: int) -> None:
    probability = np.array([0.9, 0.04, 0.2, 0.86])
    decisions = np.log(probability / (1 - probability))[:, None]
    found = suspicion_of(decisions, np.ones(4, dtype=np.int64), false_discoveries=share)
    assert found.order.tolist() == [1, 2, 3, 0]
    assert found.named == named


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_that_is_none(share: float) -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        suspicion_of(np.zeros((2, 1)), np.array([0, 1]), false_discoveries=share)
