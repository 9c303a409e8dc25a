"""Probabilities from held-out decisions: against a slow twin, against what is known of the classes, and nested."""

from __future__ import annotations

import numpy as np
import pytest
from test_held_out import classes_of, problem

from lmntk.solvers.calibration import Calibration, fit_calibration, log_probabilities
from lmntk.solvers.folds import deal_folds
from lmntk.solvers.held_out import Pool, RidgeCandidates, held_out


def drawn(
    classes: int, texts: int, moved: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Return decisions [n, c], labels that were drawn from softmax(2 decisions + offsets), the factor and the offsets."""
    random, outputs = np.random.default_rng(seed), 1 if classes == 2 else classes
    decisions = random.normal(size=(texts, outputs))
    offsets = moved * np.linspace(-1, 1, outputs) if outputs > 1 else np.full(1, moved)
    chances = np.exp(log_probabilities(2 * decisions + offsets))
    labels = np.asarray([random.choice(classes, p=row) for row in chances])
    return decisions, labels, 2.0, offsets


def descended(decisions: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Return factor and offsets by plain gradient descent, one text and one class at a time."""
    n, c = decisions.shape
    classes = max(c, 2)
    factor, offsets = 1.0, np.zeros(c)
    for _ in range(1500):
        down, moves = 0.0, np.zeros(c)
        for row, label in zip(decisions, labels, strict=True):
            logits = [0.0, factor * row[0] + offsets[0]] if c == 1 else list(factor * row + offsets)
            total = sum(np.exp(value) for value in logits)
            for number in range(classes):
                target = (n + 1) / (n + classes) if number == label else 1 / (n + classes)
                slope = np.exp(logits[number]) / total - target
                at = number - 1 if c == 1 else number
                if at >= 0:
                    down += slope * row[at]
                    moves[at] += slope
        factor -= down / n
        offsets -= moves / n
    return factor, offsets - (offsets.mean() if c > 1 else 0)


@pytest.mark.parametrize("classes", [2, 4])
def test_it_is_the_twins_minimum(classes: int) -> None:
    decisions, labels, _, _ = drawn(classes, 40, 2.0)
    fitted = fit_calibration(decisions, labels)
    factor, offsets = descended(decisions, labels)
    assert fitted.sharpness == pytest.approx(factor, rel=1e-4)
    np.testing.assert_allclose(fitted.offsets, offsets, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("moved", [0.0, 1.5])
def test_offsets_are_taken_where_there_are_any(classes: int, moved: float) -> None:
    decisions, labels, factor, offsets = drawn(classes, 4000, moved)
    fitted = fit_calibration(decisions, labels)
    assert fitted.sharpness == pytest.approx(factor, rel=0.1)
    assert fitted.moves == (moved > 0)
    if fitted.moves:
        np.testing.assert_allclose(fitted.offsets, offsets, atol=0.2)
        np.testing.assert_allclose(fitted.shift, offsets / factor, atol=0.15)
    assert not fit_calibration(decisions, labels, with_offsets=False).moves


@pytest.mark.parametrize("classes", [2, 3])
def test_repeated_decisions_are_no_more_texts(classes: int) -> None:
    decisions, labels, _, _ = drawn(classes, 60, 1.5)
    once = fit_calibration(decisions, labels)
    again = fit_calibration(np.tile(decisions, (5, 1)), np.tile(labels, 5), 60)
    assert again.sharpness == pytest.approx(once.sharpness, rel=1e-5)
    np.testing.assert_allclose(again.offsets, once.offsets, atol=1e-5)


@pytest.mark.parametrize("decisions", [[[1.0], [-1.0]], [[0.0], [0.0]], [[1e6], [-1e6]], [[1e-9], [-1e-9]]])
def test_few_and_extreme_decisions_stay_finite(decisions: list[list[float]]) -> None:
    fitted = fit_calibration(np.asarray(decisions), np.array([1, 0]))
    assert np.isfinite(fitted.sharpness)
    assert fitted.sharpness > 0


def test_no_offsets_move_nothing() -> None:
    assert Calibration(3.0).shift == 0.0
    np.testing.assert_allclose(Calibration(4.0, (1.0, -1.0)).shift, [0.25, -0.25])


@pytest.mark.parametrize("sizes", [(12, 12), (24, 6), (8, 8, 8)], ids=["balanced", "uneven", "three"])
def test_each_fold_is_moved_by_decisions_that_know_nothing_of_it(sizes: tuple[int, ...]) -> None:
    kernel, labels, f0 = problem(sizes, seed=3)
    f0 = f0 + 1.0
    kernel = kernel + 3 * np.einsum("nc,md->ncmd", f0, f0)
    pool = Pool([RidgeCandidates(kernel, labels, f0, (0.01, 1.0), (1.0, np.inf))])
    rounds = deal_folds(labels, rounds=2)
    plain, moved = held_out(pool, labels, rounds), held_out(pool, labels, rounds, calibrate=True)
    np.testing.assert_allclose(moved.decisions, plain.decisions)
    assert moved.shifts is not None
    for number, folds in enumerate(rounds):
        for i, fold in enumerate(folds):
            others = [other for j, other in enumerate(folds) if j != i]
            setting = moved.chosen[number][i]
            decisions = [
                pool.leave_out(np.concatenate([other, fold])[None])[0, : len(other), :, setting]
                for other in others
            ]
            expected = fit_calibration(np.concatenate(decisions), labels[np.concatenate(others)]).shift
            np.testing.assert_allclose(
                moved.shifts[number][fold],
                np.broadcast_to(expected, moved.shifts[number][fold].shape),
                atol=1e-6,
            )
    decided = [classes_of(each) for each in moved.decisions + moved.shifts]
    assert moved.accuracy == pytest.approx(np.mean([each == labels for each in decided]))
