"""The learning curve: flat at chance on labels that mean nothing, rising where more of them help, and its last point the estimate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from few_texts import numbered

from lmntk import Example
from lmntk.estimator.choice import folds_of, parts_of, pool_of
from lmntk.estimator.learning_curve import CurvePoint, LearningCurve, learning_curve
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import Measured
from lmntk.solvers.held_out import HeldOut, held_out


def texts_of(labels: np.ndarray, same: int = 1) -> LabelledTexts:
    """Return texts with these class numbers, so many of each being the same to the model."""
    examples = tuple(Example(numbered(n), None, int(label)) for n, label in enumerate(labels))
    tokens = tuple(n // same for n in range(len(labels)))
    return LabelledTexts(examples, tuple("abc"[: labels.max() + 1]), tokens)


def measured(labels: np.ndarray, signal: float, seed: int, classes: int = 2) -> Measured:
    """Return a way whose features have a part along each class, and noise of norm 1 along 200 others."""
    random = np.random.default_rng(seed)
    features = np.concatenate(
        [signal * np.eye(classes)[labels], random.normal(size=(len(labels), 200)) / 200**0.5], axis=1
    )
    outputs = 1 if classes == 2 else classes
    kernel = np.einsum("nm,cd->ncmd", features @ features.T, np.eye(outputs))
    way = SimpleNamespace(mode="head", has_logits=False, combinations=None, basis=None)
    return Measured(cast("Any", way), [], kernel, np.zeros((len(labels), outputs)))


def curve_of(way: Measured, texts: LabelledTexts) -> tuple[LearningCurve, HeldOut]:
    """Return the curve and the estimate that it ends in."""
    pool = pool_of(parts_of([way], texts.numbers, few=False))
    held = held_out(pool, texts.numbers, folds_of(texts, way.kernel.shape[1], 0)[:1], calibrate=True)
    curve = learning_curve([way], texts, held)
    assert curve is not None
    return curve, held


@pytest.mark.parametrize("classes", [2, 3])
def test_permuted_labels_come_out_at_chance_whatever_their_number(classes: int) -> None:
    true, accuracies, errors, answers = np.arange(36) % classes, [], [], []
    for seed in range(6):
        way = measured(true, 0.2, seed, classes)
        curve, _ = curve_of(way, texts_of(np.random.default_rng(seed).permutation(true)))
        accuracies.append([point.accuracy for point in curve.points])
        errors.append([point.error for point in curve.points])
        answers.append(curve.answer)
        assert curve.chance == 1 / classes
    assert len(accuracies[0]) == 4
    assert (np.abs(np.mean(accuracies, axis=0) - 1 / classes) < 3 * np.mean(errors, axis=0) / 6**0.5).all()
    assert (np.abs(np.asarray(accuracies) - 1 / classes) < 4 * np.asarray(errors)).all()
    assert answers.count("yes") <= 1


def test_it_rises_where_labels_are_what_is_missing() -> None:
    labels = np.arange(120) % 2
    curve, held = curve_of(measured(labels, 0.15, 0), texts_of(labels))
    assert curve.answer == "yes"
    assert "More labels would probably help" in curve.sentence
    assert [point.labels for point in curve.points] == [30, 60, 90, 120]
    assert [point.draws for point in curve.points] == [12, 6, 12, 1]
    # without those that are held out at a time: a tenth, of all labels a twentieth
    assert [point.trained for point in curve.points] == pytest.approx([27, 54, 81, 114], abs=1)
    accuracies = [point.accuracy for point in curve.points]
    assert accuracies[-1] == held.accuracy
    assert accuracies[0] + 0.08 < accuracies[-1]
    assert curve.gain == pytest.approx(accuracies[-1] - accuracies[1])


def test_where_all_is_right_more_would_not_help() -> None:
    labels = np.arange(100) % 2
    curve, _ = curve_of(measured(labels, 9.0, 0), texts_of(labels))
    assert curve.answer == "no"
    assert "probably not help" in curve.sentence
    assert {point.accuracy for point in curve.points} == {1.0}


@pytest.mark.parametrize(
    ("each", "same", "shares", "tells"),
    [
        (8, 1, [0.25, 0.5, 0.75, 1], False),
        (7, 1, [0.5, 0.75, 1], False),
        (10, 2, [0.5, 0.75, 1], False),
        (10, 1, [0.25, 0.5, 0.75, 1], True),
    ],
    ids=["eight of a class", "seven", "ten, two of them the same", "ten"],
)
def test_a_part_of_which_nothing_can_be_held_out_has_no_point(
    each: int, same: int, shares: list[float], tells: bool
) -> None:
    labels = np.repeat([0, 1], each)
    curve, _ = curve_of(measured(labels, 1.0, 0), texts_of(labels, same))
    assert [point.labels / len(labels) for point in curve.points] == pytest.approx(shares, abs=0.01)
    # where half is fitted with a fixed ridge, and all with one that was chosen, the difference is not that of the labels
    assert (curve.gain is not None) is tells
    assert tells or "too few to choose a setting by" in curve.sentence


@pytest.mark.parametrize("alone", [2, 3, 4, 8])
def test_texts_with_both_labels_are_of_one_class_where_parts_are_dealt(alone: int) -> None:
    labels = np.repeat([0, 1], 12)
    examples = tuple(Example(numbered(n), None, int(label)) for n, label in enumerate(labels))
    tokens = (
        *range(12),
        *range(alone, 12),
        *range(100, 100 + alone),
    )  # the others stand in the file with both
    texts = LabelledTexts(examples, ("a", "b"), tokens)
    curve, _ = curve_of(measured(labels, 1.0, 0), texts)
    assert curve.points[-1].labels == 24
    assert curve.points[-1].trained == pytest.approx(24 * (1 - 1 / alone))  # a fold for each text of b alone
    assert len(curve.points) == (4 if alone >= 8 else 3 if alone >= 4 else 1)


def test_a_large_kernel_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(20) % 2
    way, texts = measured(labels, 1.0, 0), texts_of(labels)
    monkeypatch.setattr("lmntk.estimator.learning_curve.DEALS", ((19, 1),))
    held = HeldOut(np.zeros((1, 20, 1)), labels)
    assert learning_curve([way], texts, held) is None
    monkeypatch.setattr("lmntk.estimator.learning_curve.DEALS", ((20, 1),))
    assert learning_curve([way], texts, held) is not None
    assert learning_curve([way], texts, None) is None


@pytest.mark.parametrize(
    ("gain", "error", "answer"),
    [
        (0.05, 0.02, "yes"),
        (0.04, 0.02, "unclear"),
        (0.01, 0.01, "no"),
        (-0.1, 0.03, "no"),
        (None, None, "unclear"),
    ],
)
def test_the_answer_by_hand(gain: float | None, error: float | None, answer: str) -> None:
    point = CurvePoint(labels=10, trained=9, draws=1, accuracy=0.5, error=0.1)
    curve = LearningCurve(points=[point], gain=gain, error=error, chance=0.5)
    assert curve.answer == answer
    assert gain is None or f"{100 * gain:+.1f} ± {100 * error:.1f} points" in curve.sentence
