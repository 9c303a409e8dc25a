"""The reference's "logistic" solver: a cross-validated logistic regression on the kernel's rows as features."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from lmntk.errors import UserError
from lmntk.solvers.base import KernelClassifier
from lmntk.solvers.inputs import Array, flatten, symmetric_matrix


class RowLogistic(KernelClassifier):
    """scikit-learn's LogisticRegressionCV on kernel rows, the solver `row-logistic` (LM-Kernel-FT's `logistic`).

    The features of an example x are its kernel against all train examples and logits, K[:, :, x, :], N C C
    numbers; an intercept is fitted; the inverse penalty is chosen among ten by stratified cross-validation on
    train (5 folds, or as many as the smallest class has examples). It does not treat K as a kernel, so any
    formula will do, asigngd too; it depends on the kernel's unit, as the reference's does. f0 does not enter.
    C >= 2 is multinomial. For a proper kernel logistic regression use KernelLogistic.

    Decision: [M, 1] log p_1 - log p_0 for one output, else log-probabilities [M, C], with log(tiny) = -708
    for classes absent from train. `regularization` lambda adds lambda ||K||_op to the diagonal of the train
    kernel (symmetric kernels only).

    Raises:
        UserError: fewer than two examples of some class (nothing to cross-validate), or those of the other
            solvers.
    """

    def __init__(self, regularization: float = 0.0, *, max_iter: int = 10000) -> None:
        self.regularization = regularization
        self.max_iter = max_iter

    def fit(self, kernel: Any, labels: Any) -> RowLogistic:
        """Choose the penalty by cross-validation and fit."""
        from sklearn.linear_model import LogisticRegressionCV

        data = self._read_train(kernel, labels, None)
        counts = np.unique(data.indices, return_counts=True)[1]
        if counts.min() < 2:
            raise UserError(
                "row-logistic cross-validates on train but some class has a single example; "
                "use solver 'logistic'"
            )
        values = data.kernel
        if self.regularization:
            matrix = symmetric_matrix(values, "row-logistic with regularization")
            ridge = self.regularization * np.abs(np.linalg.eigvalsh(matrix)).max()
            values = (matrix + ridge * np.eye(len(matrix))).reshape(values.shape)
        self.model_ = LogisticRegressionCV(
            max_iter=self.max_iter, cv=int(min(5, counts.min())), scoring="accuracy", random_state=0
        )
        with warnings.catch_warnings():
            # scikit-learn 1.8 and 1.9 announce new defaults of arguments that we do not use.
            warnings.simplefilter("ignore", FutureWarning)
            self.model_.fit(_rows(values), data.indices)
        return self

    def decision_function(self, kernel: Any, f0: Any = None) -> Array:
        """Return decisions [M, C] for a 4-D kernel, [M] for a 2-D one; f0 is not used."""
        return super().decision_function(kernel, None)

    def _decision(self, kernel: Array) -> Array:
        log_p = np.maximum(self.model_.predict_log_proba(_rows(kernel)), np.log(np.finfo(np.float64).tiny))
        if self.n_outputs_ == 1:
            return np.asarray(log_p[:, 1:] - log_p[:, :1])
        decision = np.full((len(log_p), self.n_outputs_), np.log(np.finfo(np.float64).tiny))
        decision[:, self.model_.classes_] = log_p
        return decision


def _rows(kernel: Array) -> Array:
    """[N, C, M, C] as features [M, N C C]."""
    n, c, m, d = kernel.shape
    return flatten(kernel).reshape(n * c, m, d).swapaxes(0, 1).reshape(m, n * c * d)
