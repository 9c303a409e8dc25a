"""Zero-shot's thresholds: taken from training texts alone, by hand and by what must not change them."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from lmntk.solvers.baselines import BASELINE_NAMES, CENTRED, FITTED, baselines, fitted_offsets, names_of

LABELS = {"train": [0, 1, 2, 0], "dev": [0, 1], "test": [0, 1, 2, 1]}
LOGITS = {  # of three classes; train's mean is (5, 1, -2)
    "train": np.array([[6.0, 0, -2], [4, 2, -3], [5, 1, 0], [5, 1, -3]]),
    "dev": np.array([[5.0, 0, -3], [5, 4, -2]]),  # centred (0, -1, -1), (0, 3, 0)
    "test": np.array([[6.0, 1, -2], [5, 1.5, -2], [5.5, 1, -1], [4, 0.5, -3]]),
}  # centred (1, 0, 0), (0, .5, 0), (.5, 0, 1), (-1, -.5, -1)


def by_name(logits, labels, metric="accuracy"):
    return {found.method: found for found in baselines(names_of("prompt"), metric, logits, labels)}


def test_centred_subtracts_the_mean_over_the_training_texts():
    found = by_name(LOGITS, LABELS)
    assert list(found) == ["zero-shot", "zero-shot, centred", "zero-shot, threshold fitted"]
    plain, centred = found["zero-shot"], found[CENTRED]
    assert plain.predictions == (0, 0, 0, 0) and plain.test == 0.25 and plain.setting == {}
    assert centred.predictions == (0, 1, 2, 1) and (centred.dev, centred.test) == (1.0, 1.0)
    assert centred.setting == {"offset_0": -5.0, "offset_1": -1.0, "offset_2": 2.0}


def test_the_centre_of_one_logit_is_a_threshold():
    logits = {
        "train": np.array([[1.0], [3.0]]),
        "dev": np.array([[0.0], [9.0]]),
        "test": np.array([[1.9], [2.1]]),
    }
    found = by_name(logits, {"train": [0, 1], "dev": [0, 1], "test": [0, 1]})
    assert found["zero-shot"].predictions == (1, 1) and found[CENTRED].predictions == (0, 1)
    assert found[CENTRED].setting == {"offset_0": -2.0}


@pytest.mark.parametrize("c", [1, 2, 3, 6])
def test_a_constant_on_every_text_changes_no_threshold(c):
    """Nor do other test texts, or, for the centre, other labels of the training texts."""
    random = np.random.default_rng(c)
    classes = max(c, 2)
    logits = {side: 3 * random.normal(size=(n, c)) for side, n in (("train", 24), ("dev", 24), ("test", 60))}
    labels = {side: (np.arange(len(f)) % classes).tolist() for side, f in logits.items()}
    before = by_name(logits, labels)
    moved = by_name({side: f + 40 * random.normal(size=c) for side, f in logits.items()}, labels)
    assert before[CENTRED].predictions != moved["zero-shot"].predictions  # the constants do matter
    constant = 40 * np.arange(1, c + 1)
    moved = by_name({side: f + constant for side, f in logits.items()}, labels)
    for name in (CENTRED, FITTED):
        assert before[name].predictions == moved[name].predictions
    others = by_name(logits | {"test": logits["test"][:1]}, labels | {"test": labels["test"][:1]})
    relabelled = by_name(logits, labels | {"train": labels["train"][::-1][:12] + labels["train"][:12]})
    for name in (CENTRED, FITTED):
        assert others[name].setting == before[name].setting
    assert relabelled[CENTRED].setting == before[CENTRED].setting
    assert relabelled[FITTED].setting != before[FITTED].setting


def test_the_fitted_offsets_are_the_likeliest():
    """At a maximum of the likelihood each class's mean probability is its share of the labels."""
    random = np.random.default_rng(0)
    logits, labels = 30 * random.normal(size=(30, 4)) + [0, 50, 0, -50], [0, 0, 1, 2, 3, 3] * 5
    offsets = fitted_offsets(logits, labels)
    shares = np.bincount(labels) / 30
    np.testing.assert_allclose(softmax(logits + offsets, axis=1).mean(0), shares, atol=1e-6)
    (offset,) = fitted_offsets(logits[:, :1], [0, 1, 1] * 10)
    assert expit(logits[:, 0] + offset).mean() == pytest.approx(2 / 3, abs=1e-6)
    absent = fitted_offsets(logits, [0, 1] * 15)  # classes without a training text are predicted of none
    assert np.isfinite(absent).all() and set((logits + absent).argmax(1)) <= {0, 1}


@pytest.mark.parametrize(
    ("mode", "is_classifier", "names"),
    [("head", False, ("linear probe",)), ("head", True, ("own head",)), ("prompt", True, ("own head",))],
)
def test_what_is_trained_has_no_thresholds(mode, is_classifier, names):
    assert names_of(mode, is_classifier) == names and set(names) < set(BASELINE_NAMES)
    logits = {side: LOGITS[side] for side in ("dev", "test")}
    assert [found.method for found in baselines(names, "accuracy", logits, LABELS)] == [*names]
