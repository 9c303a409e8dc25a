"""Kernel ridge regression on changed texts: refits, and closed forms of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from lmntk.attribution.changes import Changes, TrainedTexts
from lmntk.errors import UserError
from lmntk.solvers.inputs import Array, Labels, flatten, offset, symmetric_matrix, target_matrix

SINGULAR = 1e-12  # smallest over largest eigenvalue, where float64 leaves nothing of a solution


@dataclass(frozen=True, eq=False)
class RidgeRefits:
    """Outcomes of alpha = (K_SS + rho I)^-1 (y - f0 / s)_S on any part S, f(x) = K_S(x)^T alpha + f0(x) / s.

    Weights w make it (K + rho W^-1) alpha = y - f0 / s: text i counts w_i times in the squared loss.
    rho = lambda ||K||_op, of all texts' K. Of a kernel that C classes share each class has its own alpha, by the same matrix.

    Attributes:
        texts: which.
        regularization: lambda, above 0; 0 too where K is not singular.
        f0_scale: s; inf leaves the pre-trained logits out.
        fixed_ridge: rho, of texts that were a part of others; by default lambda ||K||_op of these.

    Raises:
        UserError: lambda is negative, it is 0 and K is singular, or K is not symmetric.

    Example:
        refits = RidgeRefits(TrainedTexts.of(kernel, cross, labels, f0, cross_f0), 0.01)
        refits.outcomes(Changes.without([[3]], 32))       # [1, M, C]: without text 3
    """

    texts: TrainedTexts
    regularization: float
    f0_scale: float = float("inf")
    fixed_ridge: float | None = None

    def __post_init__(self) -> None:
        """Refuse a ridge of nothing where the kernel is singular: an outcome is not unique there."""
        if not (np.isfinite(self.regularization) and self.regularization >= 0):
            raise UserError(f"attribution: regularization is {self.regularization}; give a number from 0 on")
        if self.fixed_ridge is None and self.ridge == 0:  # a part of the texts is not nearer to singular
            if not self.matrix.any():
                raise UserError(
                    "attribution: the kernel is zero, so no text says anything; look at `lmntk check`"
                )
            eigenvalues = np.linalg.eigvalsh(self.matrix)
            if eigenvalues[0] <= SINGULAR * eigenvalues[-1]:
                raise UserError(
                    f"attribution: regularization is {self.regularization:g} and the kernel is singular; a refit needs one above 0"
                )

    @cached_property
    def matrix(self) -> Array:
        """K [N C, N C]."""
        return symmetric_matrix(self.texts.kernel, "attribution")

    @cached_property
    def ridge(self) -> float:
        """The number rho."""
        if self.fixed_ridge is not None:
            return self.fixed_ridge
        return float(self.regularization * np.abs(np.linalg.eigvalsh(self.matrix)).max())

    @cached_property
    def offset(self) -> Array:
        """The decisions without any text, f0 / s [M, C]."""
        return offset(self.texts.cross_f0, self.f0_scale, self.texts.cross_f0.shape)

    @cached_property
    def inverse(self) -> Array:
        """(K + rho I)^-1 [N C, N C], of all texts."""
        size = len(self.matrix)
        factor = cho_factor(self.matrix + self.ridge * np.eye(size), lower=True)
        return np.asarray(cho_solve(factor, np.eye(size)))

    @cached_property
    def coefficients(self) -> Array:
        """Those of all texts, alpha [N, C]."""
        return np.asarray((self.inverse @ self.rows_of(self.targets())).reshape(self.texts.f0.shape))

    def rows_of(self, targets: Array) -> Array:
        """Return targets [N, C] as K's matrix takes them: [N C, 1]; of a shared kernel [N, C], every class a column."""
        return targets.reshape(len(self.matrix), -1)

    @cached_property
    def _reach(self) -> Array:
        """K(x)^T (K + rho I)^-1 [M C, N C]: how a target moves an outcome."""
        return np.asarray(flatten(self.texts.cross).T @ self.inverse)

    def holding_out(self, group: Sequence[int]) -> RidgeRefits:
        """Return the training on all other texts, by the same ridge, whose outcomes are those of the group."""
        return replace(self, texts=self.texts.without(group), fixed_ridge=self.ridge)

    def targets(self, labels: Labels | None = None) -> Array:
        """Return y - f0 / s [N, C]."""
        numbers = self.texts.labels if labels is None else labels
        return target_matrix(numbers, self.texts.classes) - offset(
            self.texts.f0, self.f0_scale, self.texts.f0.shape
        )

    def outcomes(self, changes: Changes) -> Array:
        """Return decisions [S, M, C], each refitted: O((|S| C)^3) a change."""
        cross, shape = flatten(self.texts.cross), self.texts.cross_f0.shape
        decisions = np.empty((len(changes), *shape))
        for number, weights in enumerate(changes.weights):
            rows = np.repeat(weights > 0, self.texts.outputs)
            if not rows.any():
                decisions[number] = self.offset
                continue
            ridges = self.ridge / np.repeat(weights, self.texts.outputs)[rows]
            targets = self.rows_of(self.targets(changes.labels_of(number, self.texts.labels)))[rows]
            factor = cho_factor(self.matrix[np.ix_(rows, rows)] + np.diag(ridges), lower=True)
            decisions[number] = self.offset + (cross[rows].T @ cho_solve(factor, targets)).reshape(shape)
        return decisions

    def without(self, groups: Sequence[Sequence[int]]) -> Array:
        """Return decisions [G, M, C] without each group of texts, in closed form.

        With B = (K + rho I)^-1 and alpha = B t, what is left of alpha without S is alpha - B_S (B_SS)^-1 alpha_S.
        Cost: once O((N C)^3), then O(M C g C) a group of g texts.
        """
        c, alpha, whole = self.texts.outputs, self.rows_of(self.coefficients), self.decisions
        decisions = np.empty((len(groups), *whole.shape))
        for number, group in enumerate(groups):
            rows = (np.asarray(group, dtype=np.int64)[:, None] * c + np.arange(c)).ravel()
            lost = self._reach[:, rows] @ np.linalg.solve(self.inverse[np.ix_(rows, rows)], alpha[rows])
            decisions[number] = whole - lost.reshape(whole.shape)
        return decisions

    def coefficients_without(self, group: Sequence[int]) -> Array:
        """Return the coefficients [N, C] of training without a group, whose own are zero, in closed form; see ``without``."""
        c, alpha = self.texts.outputs, self.rows_of(self.coefficients)
        rows = (np.asarray(group, dtype=np.int64)[:, None] * c + np.arange(c)).ravel()
        left = alpha - self.inverse[:, rows] @ np.linalg.solve(self.inverse[np.ix_(rows, rows)], alpha[rows])
        left[rows] = 0.0
        return np.asarray(left.reshape(self.texts.f0.shape))

    def relabelled(self, numbers: Sequence[int], classes: Sequence[int]) -> Array:
        """Return decisions [S, M, C] with the label of one text changed, in closed form: O(M C C) each."""
        c, shape, whole = self.texts.outputs, self.offset.shape, self.decisions
        decisions = np.empty((len(numbers), *shape))
        for row, (number, label) in enumerate(zip(numbers, classes, strict=True)):
            labels = np.array([label, self.texts.labels[number]])
            new, old = target_matrix(labels, self.texts.classes)
            at = slice(number * c, (number + 1) * c)
            decisions[row] = whole + (self._reach[:, at] @ (new - old).reshape(c, -1)).reshape(shape)
        return decisions

    def contributions(self, cross: Array | None = None) -> Array:
        """Return what each training text adds [N, M, C]; with the offset they sum to the decisions of all texts.

        Args:
            cross: a part of the kernel with the others, such as a layer's [N, C, M, C], whose part of them is wanted.
        """
        n, c = self.texts.texts, self.texts.outputs
        towards = flatten(self.texts.cross if cross is None else cross).reshape(n, c, -1)
        moved = towards.transpose(0, 2, 1) @ self.coefficients.reshape(n, c, -1)
        return np.asarray(moved.reshape(n, *self.offset.shape))

    @property
    def decisions(self) -> Array:
        """Those of training on all texts [M, C]."""
        moved = flatten(self.texts.cross).T @ self.rows_of(self.coefficients)
        return np.asarray(self.offset + moved.reshape(self.offset.shape))
