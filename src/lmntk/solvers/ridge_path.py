"""Kernel ridge regression for every ridge at once, with exact leave-one-out predictions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lmntk.errors import UserError
from lmntk.solvers.inputs import Array, as_train_kernel, check_positive, flatten, symmetric_matrix, warn

# Below this gap between a leverage and 1 the closed leave-one-out form loses more than about half of the
# digits, so we refit.
_LEVERAGE_GAP = 1e-6
_BLOCK_NUMBERS = 1 << 23  # of the blocks that are solved at once

Groups = npt.NDArray[np.int64]


class _Inverse(NamedTuple):
    """The pseudo-inverse of A in factors, left diag(weights) right^T; `kept` weights are not zero."""

    left: Array  # (n c, k)
    weights: Array  # (k,)
    right: Array  # (n c, k)
    kept: int


class RidgePath:
    """All ridge solutions alpha of (K^T + lambda ||K||_op I) alpha = t for one train kernel.

    K is [N, C, N, C], flattened to n = N C. One symmetric eigendecomposition K = V diag(w) V^T (O(n^3), n^2
    numbers kept) serves every lambda and every target: O(n^2) each. With lambda = 0 the solution is the one
    of minimum norm; eigenvalues up to `rank_tolerance` ||K||_op (by default n eps) count as zero. For kernels
    from float32 gradients 1e-6 is a fair `rank_tolerance`.

    With `symmetric=False` K may be any square matrix (asigngd): a prediction is f(x_m) = sum_n alpha_n K[n,
    m], so the system is K^T alpha = t, solved through one SVD of K^T + lambda ||K||_op I *for each lambda*
    (the eigenvectors of a non-symmetric matrix are not orthogonal, so one decomposition for all would not be
    stable).

    Raises:
        UserError: no square kernel, entries that are not finite, or not symmetric while `symmetric` is true.

    Example:
        path = RidgePath(kernel)                     # [N, C, N, C]
        alpha = path.solve(targets, 0.01)            # [N, C]
    """

    def __init__(self, train: Any, *, symmetric: bool = True, rank_tolerance: float | None = None) -> None:
        kernel = as_train_kernel(train)
        self.examples, self.outputs = kernel.shape[:2]
        self.symmetric = symmetric
        self._matrix = symmetric_matrix(kernel, "ridge") if symmetric else flatten(kernel).T
        n = len(self._matrix)
        if symmetric:
            eigenvalues, self._vectors = np.linalg.eigh(self._matrix)
            self.spectrum: Array = eigenvalues[::-1]
            check_positive(eigenvalues)
        else:
            self.spectrum = np.asarray(np.linalg.svd(self._matrix, compute_uv=False), dtype=np.float64)
        self.operator_norm = float(np.abs(self.spectrum).max())
        if self.operator_norm == 0.0:
            raise UserError(
                "the train kernel is zero everywhere; check that any trainable parameter is left in the "
                "kernel"
            )
        relative = n * float(np.finfo(np.float64).eps) if rank_tolerance is None else rank_tolerance
        self._cutoff = relative * self.operator_norm
        self.numerical_rank = int(np.count_nonzero(np.abs(self.spectrum) > self._cutoff))
        self._cached: tuple[float, _Inverse] | None = None

    def condition_number(self, regularization: float = 0.0) -> float:
        """Return the largest over the smallest kept singular value of K + lambda ||K||_op I.

        Kept are those above the rank cut-off.
        """
        kept = np.abs(self._inverse(regularization).weights)
        kept = kept[kept > 0]
        return float(kept.max() / kept.min())

    def solve(self, targets: Array, regularization: float) -> Array:
        """Return coefficients alpha [N, C], or [N, C, k], for targets of the same shape; O(n^2 k)."""
        inverse = self._inverse(regularization)
        flat = targets.reshape(self.examples * self.outputs, -1)
        return (inverse.left @ (inverse.weights[:, None] * (inverse.right.T @ flat))).reshape(targets.shape)

    def leave_one_out(self, targets: Array, regularization: float) -> Array:
        """Return the prediction of each train example by the fit to all *others*, of the shape of `targets`.

        See ``leave_out``: each example is a group of its own.
        """
        groups = np.arange(self.examples)[:, None]
        return self.leave_out(targets, regularization, groups)[:, 0].reshape(targets.shape)

    def leave_out(self, targets: Array, regularization: float, groups: Groups) -> Array:
        """Return the predictions of each group of train examples by the fit to all *others*.

        Args:
            targets: [N, C] or [N, C, k].
            regularization: lambda. The ridge is the fixed number lambda ||K||_op of the **full** K.
            groups: numbers of the examples that leave together, [G, g]; a group leaves with all its g C rows.

        Returns:
            [G, g, C] or [G, g, C, k].

        With A = K^T + lambda ||K||_op I invertible, block S of the residual is [(A^-1)_SS]^-1 (A^-1 t)_S,
        exactly: O(n^2 C) for each example, and O((g C)^3) for each group. For the minimum-norm solution of a
        rank-deficient symmetric K it is (1 - P_SS)^-1 (t - P t)_S with P the projector on K's range, as long
        as the others still span that range. A group without which the rank falls, and every group of a
        deficient K that is not symmetric, is refitted: O(n^3) each. Memory: 64 MB beside A^-1 and the result.
        """
        inverse = self._inverse(regularization)
        n, c = self.examples, self.outputs
        flat = targets.reshape(n * c, -1).astype(np.float64)
        rows = (groups[:, :, None] * c + np.arange(c)).reshape(len(groups), -1)
        is_direct = inverse.kept == n * c
        if is_direct:
            matrix = (inverse.left * inverse.weights) @ inverse.right.T
            values = matrix @ flat
        elif self.symmetric:
            kept = inverse.left[:, inverse.weights != 0]
            matrix = np.eye(n * c) - kept @ kept.T
            values = matrix @ flat
        predictions = np.empty((*rows.shape, flat.shape[1]))
        ridge = regularization * self.operator_norm
        at_once = max(1, _BLOCK_NUMBERS // rows.shape[1] ** 2)
        for start in range(0, len(rows), at_once):
            chosen = slice(start, start + at_once)
            some = rows[chosen]
            refit = np.ones(len(some), dtype=bool)
            if is_direct or self.symmetric:
                blocks = matrix[some[:, :, None], some[:, None, :]]
                refit = (
                    np.zeros(len(some), dtype=bool)
                    if is_direct
                    else np.linalg.eigvalsh(blocks)[:, 0] < _LEVERAGE_GAP
                )
                residuals = np.linalg.solve(blocks[~refit], values[some[~refit]])
                predictions[chosen][~refit] = flat[some[~refit]] - residuals
            for number in np.flatnonzero(refit):
                predictions[start + number] = self._refit_without(some[number], flat, ridge)
        return predictions.reshape(*groups.shape, *targets.shape[1:])

    def _inverse(self, regularization: float) -> _Inverse:
        if not (np.isfinite(regularization) and regularization >= 0):
            raise UserError(f"regularization is {regularization}; it must be a finite number, zero or more")
        if self._cached is None or self._cached[0] != regularization:
            ridge = regularization * self.operator_norm
            if self.symmetric:
                left = right = self._vectors
                values = self.spectrum[::-1] + ridge
            else:
                right, values, transposed = np.linalg.svd(self._matrix + ridge * np.eye(len(self._matrix)))
                left = transposed.T
            kept = np.abs(values) > self._cutoff
            weights = np.divide(1.0, values, out=np.zeros_like(values), where=kept)
            self._cached = (regularization, _Inverse(left, weights, right, int(kept.sum())))
        return self._cached[1]

    def _refit_without(self, rows: Groups, flat: Array, ridge: float) -> Array:
        """Return the predictions [g C, k] for some rows by the minimum-norm fit to all others."""
        others = np.setdiff1d(np.arange(len(self._matrix)), rows)
        system = self._matrix[np.ix_(others, others)] + ridge * np.eye(len(others))
        left, values, right = np.linalg.svd(system)
        weights = np.divide(1.0, values, out=np.zeros_like(values), where=values > self._cutoff)
        alpha = right.T @ (weights[:, None] * (left.T @ flat[others]))
        prediction: Array = self._matrix[np.ix_(rows, others)] @ alpha
        return prediction


def warn_if_deficient(path: RidgePath, outputs: int | None = None) -> None:
    """Warn of a numerical rank that is not full: that of N times the outputs, by default all of the kernel's.

    The lambda = 0 solution is then the minimum-norm one and may not fit all labels.
    """
    size = path.examples * (path.outputs if outputs is None else outputs)
    if path.numerical_rank < size:
        warn(
            f"the train kernel has numerical rank {path.numerical_rank} of {size} (duplicate texts or "
            "dependent outputs); regularization 0 gives the minimum-norm least-squares fit; "
            "use a positive regularization to be stable"
        )
