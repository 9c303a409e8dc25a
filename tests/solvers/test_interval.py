"""The interval of an accuracy: Wilson's, and by simulation how often that of a held-out accuracy holds the truth."""

from __future__ import annotations

import numpy as np
import pytest

from lmntk.errors import UserError
from lmntk.solvers.calibration import fit_calibration
from lmntk.solvers.folds import deal_folds
from lmntk.solvers.held_out import INTERVAL, HeldOut, RidgeCandidates, choose, held_out, interval

RIDGES = (0.001, 0.01, 0.1, 1.0)
DRAWINGS = 120
SETTINGS = {  # texts a class, classes, dimensions, distance of a class's mean from the origin
    "eight texts a class": (8, 2, 20, 1.0),
    "32 texts a class": (32, 2, 20, 1.2),
    "more dimensions than texts": (32, 2, 200, 2.0),
    "four classes": (16, 4, 50, 2.0),
}


@pytest.mark.parametrize("folds", [None, 2, 20])
@pytest.mark.parametrize(("accuracy", "texts"), [(0.5, 100), (0.8, 64), (1.0, 30), (0.0, 30)])
def test_bounds_lie_as_many_deviations_of_their_own_away(
    accuracy: float, texts: int, folds: int | None
) -> None:
    variance = 1 if folds is None else 1 + folds / (folds - 1)
    low, high = interval(accuracy, texts, folds)
    assert 0 <= low <= accuracy + 1e-12
    assert accuracy - 1e-12 <= high <= 1
    for bound in (low, high):
        if 1e-9 < bound < 1 - 1e-9:
            deviation = np.sqrt(variance * bound * (1 - bound) / texts)
            assert abs(bound - accuracy) == pytest.approx(INTERVAL * deviation, rel=1e-9)


def test_known_values_of_wilsons() -> None:
    assert interval(0.5, 100) == pytest.approx((0.4188, 0.5812), abs=1e-4)
    assert interval(1.0, 30) == pytest.approx((0.9173, 1.0), abs=1e-4)


def test_an_interval_needs_texts() -> None:
    with pytest.raises(UserError, match="no texts"):
        interval(0.5, 0)
    with pytest.raises(UserError, match="needs two"):
        interval(0.5, 10, 1)


def drawn(
    k: int, classes: int, dimensions: int, distance: float, seed: int, *, as_fit: bool = False
) -> tuple[HeldOut, float]:
    """Return the held-out decisions of a nested fit to normal clouds, and that fit's accuracy on 2,000 new points.

    As ``fit`` has it they come of several rounds, and offsets are fitted to the decisions.
    """
    random = np.random.default_rng(seed)
    means = random.standard_normal((classes, dimensions))
    means *= distance / np.linalg.norm(means, axis=1, keepdims=True)
    labels, new = (np.repeat(np.arange(classes), count) for count in (k, 2000 // classes))
    texts, tests = (means[of] + random.standard_normal((len(of), dimensions)) for of in (labels, new))
    outputs = 1 if classes == 2 else classes
    kernel = np.einsum("nm,cd->ncmd", texts @ texts.T, np.eye(outputs))
    candidates = RidgeCandidates(kernel, labels, None, RIDGES)
    rounds = deal_folds(labels, rounds=3 if as_fit else 1)
    solution = candidates.solution(candidates.settings[choose(candidates, labels, rounds)])
    decisions = tests @ texts.T @ solution
    held = held_out(candidates, labels, rounds, calibrate=as_fit)
    if as_fit:
        decisions = decisions + fit_calibration(held.decisions.mean(axis=0), labels).shift
    predicted = decisions[:, 0] > 0 if classes == 2 else decisions.argmax(axis=1)
    return held, float(np.mean(predicted == new))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["32 texts a class", "four classes"])
def test_with_rounds_and_offsets_it_does_so_too(name: str) -> None:
    drawings = [drawn(*SETTINGS[name], seed, as_fit=True) for seed in range(DRAWINGS)]
    assert np.mean([held.interval[0] <= truth <= held.interval[1] for held, truth in drawings]) >= 0.9


@pytest.mark.parametrize("name", SETTINGS)
def test_the_interval_of_a_held_out_accuracy_holds_the_truth_as_often_as_it_says(name: str) -> None:
    drawings = [drawn(*SETTINGS[name], seed) for seed in range(DRAWINGS)]
    covered = [held.interval[0] <= truth <= held.interval[1] for held, truth in drawings]
    as_if_apart = [interval(held.accuracy, len(held.labels)) for held, _ in drawings]
    without = [low <= truth <= high for (low, high), (_, truth) in zip(as_if_apart, drawings, strict=True)]
    assert np.mean(covered) >= 0.9  # what it promises
    assert np.mean(without) < 0.9  # why the folds count: as if other texts had trained, it promises too much
