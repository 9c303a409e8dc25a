"""Kernel logistic regression proper: the cross-entropy twin of kernel ridge regression."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from lmntk.errors import UserError
from lmntk.solvers.base import KernelClassifier
from lmntk.solvers.inputs import (
    Array,
    Labels,
    as_train_kernel,
    check_positive,
    flatten,
    symmetric_matrix,
    warn,
)

_MAX_NEWTON_STEPS = 200
# Newton's decrement falls quadratically near the minimum: a step from 1e-10 lands at the rounding of the
# objective.
_LAST_DECREMENT = 1e-10


class LogisticSolution(NamedTuple):
    """The solution alpha [N, C], its Newton steps, and the coefficients in feature space.

    The next solve starts from them.
    """

    alpha: Array
    steps: int
    start: Array


class LogisticPath:
    """The minimum of a logistic loss with a ridge, for every lambda and s.

    It is the minimum over alpha of sum_n loss(f0_n / s + (K alpha)_n, y_n) + (lambda ||K||_op / 2) alpha^T K
    alpha.

    The loss is cross-entropy: softmax over the C logits, or log(1 + exp(-y f)) for the difference output (C =
    1). In the notation f^T K^-1 f / (2 C') this is C' = 1 / (lambda ||K||_op), and with the squared loss it
    would be RidgePath: lambda means the same. K [N, C, N, C] is decomposed once into features Phi = V sqrt(w
    / ||K||_op), [n, r] (n = N C, rank r); negative eigenvalues count as zero. Then Newton's method with a
    line search on r coefficients: O(n r^2) a step, 5 to 30 steps.
    """

    def __init__(self, train: Any) -> None:
        kernel = as_train_kernel(train)
        self.examples, self.outputs = kernel.shape[:2]
        matrix = symmetric_matrix(kernel, "logistic")
        # near the operator norm, and a power of two: no square below over- or underflows, and no bit changes
        scale = 2.0 ** (np.frexp(np.abs(matrix).max())[1])
        eigenvalues, vectors = np.linalg.eigh(matrix / scale)
        check_positive(eigenvalues)
        norm = float(np.abs(eigenvalues).max())
        self.operator_norm = norm * scale
        kept = eigenvalues > len(eigenvalues) * np.finfo(np.float64).eps * norm
        if not kept.any():
            raise UserError(
                "the train kernel has no positive eigenvalue; check that any trainable parameter is left in "
                "the kernel"
            )
        self.numerical_rank = int(kept.sum())
        self._features = vectors[:, kept] * np.sqrt(eigenvalues[kept] / norm)  # (n c, r)
        self._to_dual = vectors[:, kept] / np.sqrt(eigenvalues[kept] * norm) / scale  # (n c, r)

    def solve(
        self, indices: Labels, offset: Array, regularization: float, start: Array | None = None
    ) -> LogisticSolution:
        """Minimise for class numbers [N] and f0 / s [N, C].

        `start` of a neighbouring setting saves steps and changes nothing else.

        Raises:
            UserError: lambda is not positive: on separable data, the rule in few shots, the unpenalised loss
                has no minimum.
        """
        if not (np.isfinite(regularization) and regularization > 0):
            raise UserError(
                f"regularization is {regularization}; kernel logistic regression needs a positive number "
                "(separable data have no unpenalised solution); the smallest of the default grid is 0.0001"
            )
        features = self._features
        beta = np.zeros(features.shape[1]) if start is None else start
        value, residual, curved = self._loss(offset, beta, indices)
        value += 0.5 * regularization * float(beta @ beta)
        steps = 0
        while steps < _MAX_NEWTON_STEPS:
            steps += 1
            gradient = features.T @ residual.reshape(-1) + regularization * beta
            hessian = features.T @ curved
            hessian[np.diag_indices_from(hessian)] += regularization
            direction = -cho_solve(cho_factor(hessian, overwrite_a=True), gradient)
            decrement = float(-gradient @ direction)
            length = 1.0
            while True:
                trial = beta + length * direction
                trial_loss, trial_residual, trial_curved = self._loss(offset, trial, indices)
                trial_value = trial_loss + 0.5 * regularization * float(trial @ trial)
                # The slack lets the last steps pass, whose decrease is below the rounding of the objective.
                if trial_value <= value - 1e-4 * length * decrement + 1e-14 * abs(value) or length < 1e-8:
                    break
                length /= 2
            beta, value, residual, curved = trial, trial_value, trial_residual, trial_curved
            if decrement <= _LAST_DECREMENT * value:
                break
        else:
            warn(
                f"kernel logistic regression did not converge in {_MAX_NEWTON_STEPS} Newton steps; "
                "use a larger regularization"
            )
        return LogisticSolution((self._to_dual @ beta).reshape(self.examples, self.outputs), steps, beta)

    def _loss(self, offset: Array, beta: Array, indices: Labels) -> tuple[float, Array, Array]:
        """Return the summed cross-entropy, d loss / d f [N, C], and W Phi [N C, r].

        W is the second derivative in f.
        """
        logits: Array = offset + (self._features @ beta).reshape(offset.shape)
        features = self._features.reshape(self.examples, self.outputs, -1)
        if self.outputs == 1:
            signed = np.where(indices == 1, 1.0, -1.0)[:, None] * logits
            loss = float(np.logaddexp(0.0, -signed).sum())
            p: Array = np.exp(-np.logaddexp(0.0, -logits))  # (n, 1)
            residual: Array = p - indices[:, None]
            curved = (p * np.exp(-np.logaddexp(0.0, logits)))[:, :, None] * features
        else:
            log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
            loss = float(-log_p[np.arange(self.examples), indices].sum())
            p = np.exp(log_p)
            residual = p - np.eye(self.outputs, dtype=np.float64)[indices]
            curved = p[:, :, None] * (features - np.einsum("nc,ncr->nr", p, features)[:, None, :])
        return loss, residual, curved.reshape(self._features.shape)


class KernelLogistic(KernelClassifier):
    """Kernel logistic regression, the solver `logistic`; see LogisticPath for the objective.

    It needs a symmetric PSD kernel (sgd, signgd).

    `regularization` is lambda relative to ||K||_op, as for ridge (inverse penalty C' = 1 / (lambda
    ||K||_op)): predictions do not change when K is multiplied by a number. `f0_scale` is s: the decision is
    K^T alpha + f0 / s, and alpha is fitted with f0 / s in place. LM-Kernel-FT's "logistic" is another thing:
    see RowLogistic.

    Attributes: dual_coef_ [N, C], numerical_rank_, n_iter_, classes_.

    Raises:
        UserError: not finite, not symmetric, one class only, regularization 0, or f0 missing though f0_scale
            is finite.

    Example:
        KernelLogistic(regularization=0.01).fit(train_kernel, labels).predict(test_kernel)  # [M]
    """

    def __init__(self, regularization: float = 0.01, f0_scale: float = np.inf) -> None:
        self.regularization = regularization
        self.f0_scale = f0_scale

    def fit(self, kernel: Any, labels: Any, f0: Any = None) -> KernelLogistic:
        """Minimise the penalised cross-entropy."""
        data = self._read_train(kernel, labels, f0)
        path = LogisticPath(data.kernel)
        self.numerical_rank_ = path.numerical_rank
        self.dual_coef_, self.n_iter_, _ = path.solve(data.indices, data.offset, self.regularization)
        return self

    def _decision(self, kernel: Array) -> Array:
        return (flatten(kernel).T @ self.dual_coef_.reshape(-1)).reshape(-1, self.n_outputs_)
