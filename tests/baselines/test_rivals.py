"""The rivals beside the kernel: what they decide on texts left out is what a fit to the others decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lmntk.baselines.rivals import Majority, Refitted, ZeroShot, probe, word_counts
from lmntk.solvers.folds import deal_folds
from lmntk.solvers.held_out import CentredCandidate, held_out
from lmntk.solvers.selection import predict_labels

TEXTS = ["a fine film", "a dull film", "so warm", "so cold", "fine, warm", "dull, cold", "!", "it is flat"]
LABELS = np.asarray([1, 0, 1, 0, 1, 0, 1, 0])
THREE = np.asarray([0, 1, 2, 0, 1, 2, 0, 1])
FEATURES = np.random.default_rng(0).normal(size=(8, 5))
WAYS: dict[str, tuple[Callable[[], Any], Any]] = {
    "words": (word_counts, TEXTS),
    "features": (probe, FEATURES),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("labels", [LABELS, THREE], ids=["two", "three"])
def test_what_is_left_out_is_decided_by_the_others(way: str, labels: np.ndarray) -> None:
    make, inputs = WAYS[way]
    outputs = 1 if labels.max() == 1 else 3
    groups = np.asarray([[0, 1], [2, 5]])
    decisions = Refitted(make, inputs, labels, outputs).leave_out(groups)
    assert decisions.shape == (2, 2, outputs, 1)
    for group, values in zip(groups, decisions, strict=True):
        others = [number for number in range(8) if number not in group]
        fitted = make().fit([inputs[number] for number in others], labels[others])
        expected = fitted.predict([inputs[number] for number in group])
        assert predict_labels(values[:, :, 0]).tolist() == expected.tolist()


def test_a_class_that_the_others_lack_is_not_decided_for() -> None:
    labels = np.asarray([0, 0, 1, 1, 2, 2, 0, 1])
    decisions = Refitted(word_counts, TEXTS, labels, 3).leave_out(np.asarray([[4, 5]]))
    assert set(predict_labels(decisions[0, :, :, 0])) <= {0, 1}
    alone = Refitted(word_counts, TEXTS[:4], np.asarray([0, 0, 1, 1]), 1).leave_out(np.asarray([[2, 3]]))
    assert predict_labels(alone[0, :, :, 0]).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("labels", "group", "expected"),
    [([0, 1, 1, 1, 0], [0, 1], 1), ([0, 0, 0, 1, 1], [3, 4], 0), ([0, 0, 1, 1], [0, 2], 0)],
    ids=["the second", "the first", "of equals the first"],
)
def test_the_largest_class_is_that_of_the_others(labels: list[int], group: list[int], expected: int) -> None:
    decisions = Majority(np.asarray(labels), 1).leave_out(np.asarray([group]))
    assert predict_labels(decisions[0, :, :, 0]).tolist() == [expected, expected]


def test_zero_shot_and_its_centred_twin() -> None:
    f0 = np.random.default_rng(0).normal(size=(6, 3))
    group = np.asarray([[1, 4]])
    np.testing.assert_array_equal(ZeroShot(f0).leave_out(group)[0, :, :, 0], f0[[1, 4]])
    centred = CentredCandidate(f0).leave_out(group)[0, :, :, 0]
    np.testing.assert_allclose(centred, f0[[1, 4]] - f0[[0, 2, 3, 5]].mean(axis=0))


@pytest.mark.parametrize(
    "name", ["words", "features", "the largest class", "zero-shot", "zero-shot, centred"]
)
def test_labels_that_mean_nothing_come_out_at_chance(name: str) -> None:
    # 200 permutations of 12 texts leave an error of 1.1 points at most, and words take a fit for each fold
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(list("abcdefgh"), 4)) for _ in range(12)]
    features, f0 = random.normal(size=(12, 5)), random.normal(size=(12, 1))
    labels = np.arange(12) % 2
    rights = []
    for seed in range(200):
        labels = random.permutation(labels)
        rival: Any = {
            "words": lambda: Refitted(word_counts, texts, labels, 1),  # noqa: B023
            "features": lambda: Refitted(probe, features, labels, 1),  # noqa: B023
            "the largest class": lambda: Majority(labels, 1),  # noqa: B023
            "zero-shot": lambda: ZeroShot(f0),
            "zero-shot, centred": lambda: CentredCandidate(f0),
        }[name]()
        rights.append(held_out(rival, labels, deal_folds(labels, rounds=1, most=3, seed=seed)).accuracy)
    assert np.mean(rights) == pytest.approx(0.5, abs=0.035)
