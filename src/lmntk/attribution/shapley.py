"""Shapley values of the training texts: each one's share in an outcome, fair over all orders in which texts might have come."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from lmntk.attribution.changes import Changes
from lmntk.attribution.descent_refits import DescentRefits
from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.errors import UserError
from lmntk.solvers.inputs import Array, flatten

MOST_ENUMERATED = 10  # texts: 2^N trainings


@dataclass(frozen=True, eq=False)
class Shapley:
    """Shapley values, which sum to the outcome of all texts less that of none.

    Attributes:
        values: of each text for each outcome [N, M, C].
        errors: their standard errors over the orders that were tried; zeros where all parts were.
        orders: how many were tried; None where all parts were.
    """

    values: Array
    errors: Array
    orders: int | None


def enumerated(refits: RidgeRefits | DescentRefits, direction: Array | None = None) -> Shapley:
    """Return the values by training on every part: 2^N trainings.

    Args:
        refits: the training.
        direction: what the outcomes are multiplied with [M, C]; the values are then [N, M, 1]. By default each logit has its own.

    Raises:
        UserError: there are more than ten texts.
    """
    n = refits.texts.texts
    if n > MOST_ENUMERATED:
        raise UserError(
            f"shapley: {n} texts have {2**n:,} parts, too many to train on each; `by_orders` tries random orders instead"
        )
    parts = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(float)
    outcomes = _along(refits.outcomes(Changes(parts)), direction)
    sizes = parts.sum(axis=1).astype(int)
    values = np.zeros((n, *outcomes.shape[1:]))
    for text in range(n):
        without = np.flatnonzero(parts[:, text] == 0)
        weights = 1.0 / (n * np.array([comb(n - 1, size) for size in sizes[without]]))
        values[text] = np.tensordot(weights, outcomes[without + (1 << text)] - outcomes[without], axes=1)
    return Shapley(values, np.zeros_like(values), None)


def by_orders(
    refits: RidgeRefits | DescentRefits, orders: int = 200, seed: int = 0, direction: Array | None = None
) -> Shapley:
    """Return estimates over random orders, with their standard errors.

    In each order the texts come one by one, and each is credited with what its coming changes. For ridge regression one Cholesky factor
    L L^T of K + rho I in that order has all N refits in it: the k-th text adds (L^-1 k(x))_k (L^-1 t)_k. Cost: O((N C)^3) an order; for an
    emulated training N trainings an order.

    Args:
        refits: the training.
        orders: how many are tried.
        seed: of the orders.
        direction: as ``enumerated`` has it; the errors are those of the products.

    Raises:
        UserError: fewer than two orders, of which there is no error.
    """
    if orders < 2:
        raise UserError(f"shapley: {orders} orders have no error; try at least two")
    random = np.random.default_rng(seed)
    added = _of_ridge if isinstance(refits, RidgeRefits) else _of_descent
    total = _along(np.zeros((refits.texts.texts, *refits.offset.shape)), direction)
    squares = np.zeros_like(total)
    for _ in range(orders):
        order = random.permutation(refits.texts.texts)
        credit = _along(added(refits, order), direction)  # type: ignore[arg-type]
        total += credit
        squares += credit**2
    mean = total / orders
    variance = np.maximum(0.0, squares / orders - mean**2) * orders / (orders - 1)
    return Shapley(mean, np.sqrt(variance / orders), orders)


def _along(outcomes: Array, direction: Array | None) -> Array:
    """Return outcomes [..., M, C], or their products with a direction [..., M, 1]."""
    return (
        outcomes
        if direction is None
        else np.asarray(np.einsum("...mc,mc->...m", outcomes, direction)[..., None])
    )


def _of_ridge(refits: RidgeRefits, order: Array) -> Array:
    n, c = refits.texts.texts, refits.texts.outputs
    rows = (order[:, None] * c + np.arange(c)).ravel()
    matrix = refits.matrix[np.ix_(rows, rows)] + refits.ridge * np.eye(n * c)
    factor = cholesky(matrix, lower=True)
    targets = refits.rows_of(refits.targets())[rows]
    solved = solve_triangular(
        factor, np.column_stack([targets, flatten(refits.texts.cross)[rows]]), lower=True
    )
    of_targets, of_cross = (part.reshape(n, c, -1) for part in np.split(solved, [targets.shape[1]], axis=1))
    steps = (of_cross.transpose(0, 2, 1) @ of_targets).reshape(n, *refits.offset.shape)
    credit = np.empty_like(steps)
    credit[order] = steps
    return np.asarray(credit)


def _of_descent(refits: DescentRefits, order: Array) -> Array:
    n = len(order)
    parts = np.zeros((n + 1, n))
    for position, text in enumerate(order):
        parts[position + 1 :, text] = 1.0
    credit = np.empty((n, *refits.offset.shape))
    credit[order] = np.diff(refits.outcomes(Changes(parts)), axis=0)
    return credit
