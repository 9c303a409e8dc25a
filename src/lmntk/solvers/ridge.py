"""Kernel ridge regression as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from lmntk.solvers.base import KernelClassifier
from lmntk.solvers.inputs import Array, flatten
from lmntk.solvers.ridge_path import RidgePath, warn_if_deficient


class KernelRidge(KernelClassifier):
    """Least squares on a tangent kernel: alpha = (K + lambda ||K||_op I)^-1 (y - f0 / s).

    The decision is f(x) = K(., x)^T alpha + f0(x) / s.

    `regularization` is lambda, relative to the operator norm, so predictions do not change when K is
    multiplied by a number; 0 gives the minimum-norm solution. `f0_scale` is s; inf leaves the pre-trained
    logits out. The main path is for symmetric PSD kernels (sgd, signgd). `symmetric=False` takes asigngd: K^T
    alpha = y with the sign on the train side, by SVD (see RidgePath).

    Shapes: K [N, C, N, C], labels [N], f0 [N, C]; cost O((N C)^3). For a grid of settings use RidgePath or
    solve_grid: one decomposition.

    Attributes: dual_coef_ [N, C], numerical_rank_ (of K, out of N C), condition_number_ (of the solved system
    on its range), operator_norm_, path_ (the RidgePath), classes_.

    Raises:
        UserError: not finite, not symmetric, one class only, or f0 missing though f0_scale is finite.

    Source: Malladi et al. 2023, section on kernel regression.

    Example:
        model = KernelRidge(regularization=0.01).fit(train_kernel, labels)
        model.predict(test_kernel)          # [M]
    """

    def __init__(
        self,
        regularization: float = 0.0,
        f0_scale: float = np.inf,
        *,
        symmetric: bool = True,
        rank_tolerance: float | None = None,
    ) -> None:
        self.regularization = regularization
        self.f0_scale = f0_scale
        self.symmetric = symmetric
        self.rank_tolerance = rank_tolerance

    def fit(self, kernel: Any, labels: Any, f0: Any = None) -> KernelRidge:
        """Solve for the coefficients; warns if lambda = 0 and K is rank-deficient."""
        data = self._read_train(kernel, labels, f0)
        path = RidgePath(data.kernel, symmetric=self.symmetric, rank_tolerance=self.rank_tolerance)
        if self.regularization == 0:
            warn_if_deficient(path)
        self.path_ = path
        self.numerical_rank_, self.operator_norm_ = path.numerical_rank, path.operator_norm
        self.condition_number_ = path.condition_number(self.regularization)
        self._residual_targets = data.targets - data.offset
        self._train_offset = data.offset
        self.dual_coef_ = path.solve(self._residual_targets, self.regularization)
        return self

    def leave_one_out_decision(self) -> Array:
        """Return decisions [N, C] for every train example by the fit to all the others.

        The ridge stays lambda ||K||_op of the full K.
        """
        check_is_fitted(self)
        return self.path_.leave_one_out(self._residual_targets, self.regularization) + self._train_offset

    def _decision(self, kernel: Array) -> Array:
        return (flatten(kernel).T @ self.dual_coef_.reshape(-1)).reshape(-1, self.n_outputs_)
