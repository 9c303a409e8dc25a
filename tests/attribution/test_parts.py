"""Decisions taken apart: sums, influences and held-out texts against training on the other texts by plain algebra."""

from __future__ import annotations

import numpy as np
import pytest
from problems import part_of, problem

from lmntk.attribution.changes import Changes
from lmntk.attribution.descent_refits import DescentRefits
from lmntk.attribution.parts import Margins, Refits, parts_of
from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.attribution.shapley import by_orders, enumerated
from lmntk.solvers.emulator import learning_rates

KINDS = pytest.mark.parametrize("kind", ["ridge", "descent"])
OUTPUTS = pytest.mark.parametrize("outputs", [1, 3])


def refits_of(kind: str, outputs: int, texts: int = 8) -> Refits:
    """Return refits of a small problem."""
    small = problem(outputs, texts, 3)
    return RidgeRefits(small, 0.1, 4.0) if kind == "ridge" else DescentRefits(small, learning_rates(0.02, 6))


@KINDS
@OUTPUTS
def test_offset_and_contributions_are_the_margin(kind: str, outputs: int) -> None:
    refits, intercept = refits_of(kind, outputs), np.linspace(0.3, 0.5, outputs)
    parts = parts_of(refits, intercept)
    whole = refits.outcomes(Changes(np.ones((1, 8))))[0] + intercept
    np.testing.assert_allclose(parts.decisions, whole, atol=1e-10)
    np.testing.assert_allclose(parts.offset + parts.contributions.sum(axis=0), parts.margin, atol=1e-10)
    ordered = np.sort(whole, axis=1) if outputs > 1 else np.abs(np.hstack([0 * whole, whole]))
    np.testing.assert_allclose(parts.margin, ordered[:, -1] - ordered[:, -2], atol=1e-10)


@KINDS
@OUTPUTS
def test_influences_are_those_of_training_without_each(kind: str, outputs: int) -> None:
    refits, intercept = refits_of(kind, outputs), np.zeros(outputs)
    parts = parts_of(refits, intercept)
    for text in range(8):
        others = refits.outcomes(Changes.without([[text]], 8))[0]
        np.testing.assert_allclose(
            parts.influence[text], parts.margin - parts.margins.along(others), atol=1e-9
        )
        expected = others.argmax(axis=1) if outputs > 1 else (others[:, 0] > 0).astype(int)
        np.testing.assert_array_equal(parts.without[text], expected)


@KINDS
@OUTPUTS
@pytest.mark.parametrize("group", [[2], [0, 5]])
def test_held_out_texts_are_decided_by_the_others(kind: str, outputs: int, group: list[int]) -> None:
    refits = refits_of(kind, outputs)
    held_out = refits.holding_out(group)
    decided = held_out.outcomes(Changes(np.ones((1, 8 - len(group)))))[0]
    texts = refits.texts
    left = [number for number in range(8) if number not in group]
    alone = part_of(texts, left)
    rows = len(left) * outputs
    towards = texts.kernel[np.ix_(left, range(outputs), group, range(outputs))].reshape(rows, -1)
    if isinstance(refits, RidgeRefits):
        size = 8 * outputs
        ridge = 0.1 * np.linalg.norm(texts.kernel.reshape(size, size), 2)
        targets = refits.targets()[left].ravel()
        alpha = np.linalg.solve(alone.kernel.reshape(rows, rows) + ridge * np.eye(rows), targets)
        expected = (towards.T @ alpha).reshape(len(group), outputs) + texts.f0[group] / 4.0
    else:
        alpha = DescentRefits(alone, refits.rates).coefficients(Changes(np.ones((1, len(left)))))[0]
        expected = texts.f0[group] - (towards.T @ alpha.ravel()).reshape(len(group), outputs)
    np.testing.assert_allclose(decided, expected, atol=1e-10)


@KINDS
def test_shapley_values_along_a_direction_are_products_of_values(kind: str) -> None:
    refits = refits_of(kind, 3, 5)
    direction = Margins.of(refits.offset).direction
    each = enumerated(refits).values
    along = enumerated(refits, direction).values[..., 0]
    np.testing.assert_allclose(along, np.einsum("nmc,mc->nm", each, direction), atol=1e-10)
    tried = by_orders(refits, 30, direction=direction)
    np.testing.assert_allclose(
        tried.values[..., 0], np.einsum("nmc,mc->nm", by_orders(refits, 30).values, direction), atol=1e-10
    )
    assert tried.errors.shape == tried.values.shape


def test_the_runner_up_of_equal_decisions_is_another_class() -> None:
    margins = Margins.of(np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    assert margins.predicted.tolist() == [0, 0]
    assert margins.runner_up.tolist() == [1, 1]


@OUTPUTS
@pytest.mark.parametrize("group", [[2], [0, 5]])
def test_coefficients_without_a_group_are_those_of_the_others(outputs: int, group: list[int]) -> None:
    refits = RidgeRefits(problem(outputs, 8, 3), 0.1, 4.0)
    left = [number for number in range(8) if number not in group]
    alpha = refits.coefficients_without(group)
    np.testing.assert_allclose(alpha[left], refits.holding_out(group).coefficients, atol=1e-10)
    assert (alpha[group] == 0).all()
