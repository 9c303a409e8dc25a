"""Shapley values: enumeration against the definition, orders against enumeration."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from problems import problem

from lmntk.attribution.changes import Changes
from lmntk.attribution.descent_refits import DescentRefits
from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.attribution.shapley import _of_ridge, by_orders, enumerated
from lmntk.errors import UserError
from lmntk.solvers.emulator import learning_rates

RATES = learning_rates(0.05, 5)


def refits_of(kind: str, outputs: int, texts: int) -> RidgeRefits | DescentRefits:
    """Return refits of a small problem."""
    small = problem(outputs, texts, 2)
    return RidgeRefits(small, 0.1, 4.0) if kind == "ridge" else DescentRefits(small, RATES)


@pytest.mark.parametrize("kind", ["ridge", "descent"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_enumeration_is_the_mean_over_all_orders(kind: str, outputs: int) -> None:
    refits = refits_of(kind, outputs, 4)
    expected = np.zeros((4, *refits.offset.shape))
    orders = list(permutations(range(4)))
    for order in orders:
        parts = [list(order[:size]) for size in range(5)]
        outcomes = refits.outcomes(Changes.parts(parts, 4))
        for position, text in enumerate(order):
            expected[text] += (outcomes[position + 1] - outcomes[position]) / len(orders)
    np.testing.assert_allclose(enumerated(refits).values, expected, atol=1e-10)


@pytest.mark.parametrize("outputs", [1, 3])
def test_one_factor_has_all_refits_of_an_order(outputs: int) -> None:
    refits = refits_of("ridge", outputs, 6)
    order = np.array([3, 0, 5, 1, 4, 2])
    outcomes = refits.outcomes(Changes.parts([order[:size].tolist() for size in range(7)], 6))
    np.testing.assert_allclose(_of_ridge(refits, order)[order], np.diff(outcomes, axis=0), atol=1e-10)


@pytest.mark.parametrize("kind", ["ridge", "descent"])
@pytest.mark.parametrize("estimate", [False, True])
def test_values_sum_to_the_outcome_less_the_offset(kind: str, estimate: bool) -> None:
    refits = refits_of(kind, 3, 8)
    shapley = by_orders(refits, 5) if estimate else enumerated(refits)
    whole = refits.outcomes(Changes(np.ones((1, 8))))[0]
    np.testing.assert_allclose(shapley.values.sum(axis=0), whole - refits.offset, atol=1e-8)


@pytest.mark.parametrize("kind", ["ridge", "descent"])
def test_orders_come_close_to_enumeration_within_their_error(kind: str) -> None:
    refits = refits_of(kind, 1, 8)
    exact, estimate = enumerated(refits), by_orders(refits, 300, seed=1)
    away = np.abs(estimate.values - exact.values) / estimate.errors
    assert estimate.errors.max() < np.abs(exact.values).max() / 4
    assert np.mean(away < 2) > 0.8
    assert away.max() < 4.5


def test_refused() -> None:
    with pytest.raises(UserError, match="11 texts have 2,048 parts"):
        enumerated(RidgeRefits(problem(1, 11), 0.1))
    with pytest.raises(UserError, match="at least two"):
        by_orders(RidgeRefits(problem(1), 0.1), 1)
