"""The rivals beside the kernel: what they decide on texts left out is what a fit to the others decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from lmntk.baselines.rivals import Majority, Refitted, ZeroShot, of_words, probe, word_counts
from lmntk.solvers.folds import deal_folds
from lmntk.solvers.held_out import CentredCandidate, held_out
from lmntk.solvers.selection import predict_labels

TEXTS = ["a fine film", "a dull film", "so warm", "so cold", "fine, warm", "dull, cold", "!", "it is flat"]
LABELS = np.asarray([1, 0, 1, 0, 1, 0, 1, 0])
THREE = np.asarray([0, 1, 2, 0, 1, 2, 0, 1])
FEATURES = np.random.default_rng(0).normal(size=(8, 5))


def words_anew() -> Any:
    """Return what counts the words of the texts that it is fitted to, and knows no others."""
    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]"),
        LogisticRegression(C=10.0, max_iter=1000),
    )


# what is fitted anew without each group, to what; and its twin, to texts as they are
WAYS: dict[str, tuple[Callable[[], Any], Any, Callable[[], Any], Any]] = {
    "words": (of_words, word_counts(TEXTS), words_anew, TEXTS),
    "features": (probe, FEATURES, probe, FEATURES),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("labels", [LABELS, THREE], ids=["two", "three"])
def test_what_is_left_out_is_decided_by_the_others(way: str, labels: np.ndarray) -> None:
    make, inputs, twin, rows = WAYS[way]
    outputs = 1 if labels.max() == 1 else 3
    groups = np.asarray([[0, 1], [2, 4]])
    decisions = Refitted(make, inputs, labels, outputs).leave_out(groups)
    assert decisions.shape == (2, 2, outputs, 1)
    for group, values in zip(groups, decisions, strict=True):
        others = [number for number in range(8) if number not in group]
        fitted = twin().fit([rows[number] for number in others], labels[others])
        expected = fitted.decision_function([rows[number] for number in group])
        np.testing.assert_allclose(values[:, :, 0], expected.reshape(2, outputs), rtol=1e-6)


@pytest.mark.parametrize(
    "texts", [[" ", "\t", "  ", ""], ["a", "b", " ", "  "]], ids=["no text", "no other text"]
)
def test_texts_without_a_word_are_decided_for(texts: list[str]) -> None:
    rival = Refitted(of_words, word_counts(texts), np.asarray([0, 1, 0, 1]), 1)
    decisions = rival.leave_out(np.asarray([[0, 1]]))
    np.testing.assert_allclose(decisions[0, :, 0, 0], 0.0, atol=1e-6)


def test_a_text_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    build = CountVectorizer.build_analyzer
    monkeypatch.setattr(
        CountVectorizer,
        "build_analyzer",
        lambda self: lambda text: counted.append(text) or build(self)(text),
    )
    held_out(Refitted(of_words, word_counts(TEXTS), LABELS, 1), LABELS, deal_folds(LABELS, rounds=2))
    assert counted == TEXTS


def test_a_class_that_the_others_lack_is_not_decided_for() -> None:
    labels = np.asarray([0, 0, 1, 1, 2, 2, 0, 1])
    decisions = Refitted(of_words, word_counts(TEXTS), labels, 3).leave_out(np.asarray([[4, 5]]))
    assert set(predict_labels(decisions[0, :, :, 0])) <= {0, 1}
    alone = Refitted(of_words, word_counts(TEXTS[:4]), np.asarray([0, 0, 1, 1]), 1).leave_out(
        np.asarray([[2, 3]])
    )
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
    counts, features, f0 = word_counts(texts), random.normal(size=(12, 5)), random.normal(size=(12, 1))
    labels = np.arange(12) % 2
    rights = []
    for seed in range(200):
        labels = random.permutation(labels)
        rival: Any = {
            "words": lambda: Refitted(of_words, counts, labels, 1),  # noqa: B023
            "features": lambda: Refitted(probe, features, labels, 1),  # noqa: B023
            "the largest class": lambda: Majority(labels, 1),  # noqa: B023
            "zero-shot": lambda: ZeroShot(f0),
            "zero-shot, centred": lambda: CentredCandidate(f0),
        }[name]()
        rights.append(held_out(rival, labels, deal_folds(labels, rounds=1, most=3, seed=seed)).accuracy)
    assert np.mean(rights) == pytest.approx(0.5, abs=0.035)
