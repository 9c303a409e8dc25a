"""Ridge regression on changed texts: refits against plain algebra, closed forms against refits."""

from __future__ import annotations

import numpy as np
import pytest
from problems import part_of, problem

from lmntk.attribution.changes import Changes, TrainedTexts
from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.attribution.shapley import by_orders, enumerated
from lmntk.errors import UserError
from lmntk.solvers.inputs import target_matrix
from lmntk.solvers.ridge import KernelRidge

OUTPUTS = pytest.mark.parametrize("outputs", [1, 3])
SCALES = pytest.mark.parametrize("f0_scale", [2.0, float("inf")])


def by_algebra(
    texts: TrainedTexts, whole: TrainedTexts, regularization: float, f0_scale: float
) -> np.ndarray:
    """Return decisions [M, C] of the texts alone, with the ridge of the whole."""
    size = whole.texts * whole.outputs
    ridge = regularization * np.linalg.norm(whole.kernel.reshape(size, size), 2)
    rows = texts.texts * texts.outputs
    targets = target_matrix(texts.labels, texts.outputs) - texts.f0 / f0_scale
    alpha = np.linalg.solve(texts.kernel.reshape(rows, rows) + ridge * np.eye(rows), targets.ravel())
    moved = texts.cross.reshape(rows, -1).T @ alpha
    return moved.reshape(texts.cross_f0.shape) + texts.cross_f0 / f0_scale


@OUTPUTS
@SCALES
def test_all_texts_are_the_solver_itself(outputs: int, f0_scale: float) -> None:
    texts = problem(outputs)
    solver = KernelRidge(0.01, f0_scale).fit(texts.kernel, texts.labels, texts.f0)
    expected = solver.decision_function(texts.cross, texts.cross_f0).reshape(texts.cross_f0.shape)
    outcome = RidgeRefits(texts, 0.01, f0_scale).outcomes(Changes(np.ones((1, texts.texts))))[0]
    np.testing.assert_allclose(outcome, expected, atol=1e-10)


@OUTPUTS
@SCALES
@pytest.mark.parametrize("part", [[0, 1, 2, 3], [5], [0, 3, 6], list(range(8))])
def test_a_part_is_trained_on_alone(outputs: int, f0_scale: float, part: list[int]) -> None:
    texts = problem(outputs)
    outcome = RidgeRefits(texts, 0.1, f0_scale).outcomes(Changes.parts([part], texts.texts))[0]
    np.testing.assert_allclose(outcome, by_algebra(part_of(texts, part), texts, 0.1, f0_scale), atol=1e-10)


@OUTPUTS
def test_no_text_leaves_the_offset(outputs: int) -> None:
    texts = problem(outputs)
    outcome = RidgeRefits(texts, 0.1, 3.0).outcomes(Changes.parts([[]], texts.texts))[0]
    np.testing.assert_array_equal(outcome, texts.cross_f0 / 3.0)


@OUTPUTS
@pytest.mark.parametrize("groups", [[[0], [7]], [[1, 4], [2, 3]], [[0, 1, 2, 3, 4, 5, 6]]])
def test_closed_form_without_a_group_is_a_refit(outputs: int, groups: list[list[int]]) -> None:
    texts = problem(outputs)
    refits = RidgeRefits(texts, 0.01, 5.0)
    expected = refits.outcomes(Changes.without(groups, texts.texts))
    np.testing.assert_allclose(refits.without(groups), expected, atol=1e-8)


@pytest.mark.parametrize(("outputs", "classes"), [(1, [1, 0, 1]), (3, [2, 1, 0])])
def test_closed_form_of_a_changed_label_is_a_refit(outputs: int, classes: list[int]) -> None:
    texts = problem(outputs)
    refits, numbers = RidgeRefits(texts, 0.01), [0, 3, 5]
    expected = refits.outcomes(Changes.relabelled(numbers, classes, texts.labels))
    np.testing.assert_allclose(refits.relabelled(numbers, classes), expected, atol=1e-8)
    assert not np.allclose(expected[0], expected[1])


@OUTPUTS
def test_weight_two_is_the_text_twice(outputs: int) -> None:
    texts = problem(outputs)
    weights = np.ones((1, texts.texts))
    weights[0, 2] = 2.0
    twice = part_of(texts, [*range(texts.texts), 2])
    outcome = RidgeRefits(texts, 0.1).outcomes(Changes(weights))[0]
    np.testing.assert_allclose(outcome, by_algebra(twice, texts, 0.1, float("inf")), atol=1e-8)


@OUTPUTS
@SCALES
def test_contributions_and_offset_sum_to_the_decision(outputs: int, f0_scale: float) -> None:
    texts = problem(outputs)
    refits = RidgeRefits(texts, 0.01, f0_scale)
    total = refits.offset + refits.contributions().sum(axis=0)
    np.testing.assert_allclose(total, refits.outcomes(Changes(np.ones((1, 8))))[0], atol=1e-8)


@pytest.mark.parametrize("regularization", [-1.0, float("nan"), float("inf")])
def test_a_ridge_is_a_number(regularization: float) -> None:
    with pytest.raises(UserError, match="give a number from 0 on"):
        RidgeRefits(problem(1), regularization)


@OUTPUTS
@pytest.mark.parametrize("left", [0, 1, 2])
def test_without_a_ridge_few_texts_are_left(outputs: int, left: int) -> None:
    texts, group = problem(outputs), list(range(8 - left))
    own = RidgeRefits(TrainedTexts.of(texts.kernel, texts.kernel, texts.labels, texts.f0, texts.f0), 0.0)
    outcome = own.holding_out(group).outcomes(Changes(np.ones((1, left))))[0]
    np.testing.assert_allclose(outcome, own.without([group])[0][group], atol=1e-8)


def test_a_kernel_of_zeros_is_said_to_be_one() -> None:
    texts = problem(1)
    zero = TrainedTexts.of(0 * texts.kernel, 0 * texts.cross, texts.labels, texts.f0, texts.cross_f0)
    with pytest.raises(UserError, match="the kernel is zero"):
        RidgeRefits(zero, 0.1)


@OUTPUTS
def test_without_a_ridge_the_kernel_must_not_be_singular(outputs: int) -> None:
    texts = problem(outputs)
    outcome = RidgeRefits(texts, 0.0).outcomes(Changes.parts([[0, 3, 6]], texts.texts))[0]
    expected = by_algebra(part_of(texts, [0, 3, 6]), texts, 0.0, float("inf"))
    np.testing.assert_allclose(outcome, expected, atol=1e-8)
    with pytest.raises(UserError, match="is 0 and the kernel is singular; a refit needs one above 0"):
        RidgeRefits(part_of(texts, [0, 1, 1]), 0.0)


def test_changes_that_are_none() -> None:
    texts = problem(1)
    with pytest.raises(UserError, match="text 8 is not in the training set"):
        Changes.without([[8]], texts.texts)
    with pytest.raises(UserError, match="0 or more"):
        Changes(np.array([[1.0, -1.0]]))
    with pytest.raises(UserError, match="labels \\[1, 3\\] for weights \\[1, 2\\]"):
        Changes(np.ones((1, 2)), np.zeros((1, 3), dtype=np.int64))
    with pytest.raises(UserError, match="give one for each"):
        TrainedTexts.of(texts.kernel, texts.cross, texts.labels[:-1], texts.f0, texts.cross_f0)
    with pytest.raises(UserError, match="does not begin with the 8 texts"):
        TrainedTexts.of(texts.kernel, texts.cross[:-1], texts.labels, texts.f0, texts.cross_f0)


def test_classes_that_share_a_kernel_are_those_of_its_product_with_the_identity() -> None:
    alone, classes = problem(1, 8, 3), 4
    generator = np.random.default_rng(1)
    labels, f0, cross_f0 = np.arange(8) % classes, generator.normal(size=(8, classes)), np.ones((3, classes))
    shared = TrainedTexts.of(alone.kernel, alone.cross, labels, f0, cross_f0, classes)
    full = TrainedTexts.of(
        alone.kernel * np.eye(classes)[None, :, None],
        alone.cross * np.eye(classes)[None, :, None],
        labels,
        f0,
        cross_f0,
    )
    changes = Changes(
        np.array([[1.0] * 8, [2, 0, 1, 1, 0, 1, 1, 1], [0.0] * 8]), np.tile(labels[::-1], (3, 1))
    )
    pair = [RidgeRefits(texts, 0.1, 3.0) for texts in (shared, full)]
    for asked in (
        lambda refits: refits.outcomes(changes),
        lambda refits: refits.without([[0], [2, 5]]),
        lambda refits: refits.relabelled([1, 7], [3, 0]),
        lambda refits: refits.contributions(),
        lambda refits: refits.holding_out([2, 3]).decisions,
        lambda refits: enumerated(refits).values,
        lambda refits: by_orders(refits, 3).values,
    ):
        np.testing.assert_allclose(asked(pair[0]), asked(pair[1]), atol=1e-10)
