"""Support vector machines on tangent kernels: `svc` (classes) and `svr` (regression on the targets)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from lmntk.errors import UserError
from lmntk.solvers.base import KernelClassifier
from lmntk.solvers.inputs import NEGATIVE_TOLERANCE, Array, Labels, flatten, symmetric_matrix


def average_over_logits(kernel: Array) -> Array:
    """(1 / C) sum_c K[n, c, m, c], a scalar kernel of examples [N, 1, M, 1]; PSD if K is."""
    return np.asarray(np.einsum("ncmc->nm", kernel) / kernel.shape[1])[:, None, :, None]


class SupportVectorProblem:
    """The train matrix of an SVM, checked and decomposed once for all its settings.

    The kernel is divided by the mean of its diagonal, so that the cost has no unit and multiplying K changes
    nothing. For "svc" K is averaged over logits first ([N, N]); for "svr" it is flattened ([N C, N C], one
    sample a row).

    Raises:
        UserError: not symmetric, or the smallest eigenvalue of K + lambda ||K||_op I below -1e-6 trace.
    """

    def __init__(self, kernel: Array, kind: Literal["svc", "svr"]) -> None:
        self.kind = kind
        matrix = symmetric_matrix(self._reduce(kernel), kind)
        eigenvalues = np.linalg.eigvalsh(matrix)
        self._lowest, self._highest = float(eigenvalues[0]), float(np.abs(eigenvalues).max())
        self._trace = float(np.trace(matrix))
        if self._trace <= 0:
            raise UserError(
                f"the train kernel has trace {self._trace:g}, so it is not a kernel of {kind}; "
                "check how it was computed"
            )
        self.scale = self._trace / len(matrix)
        self._matrix = matrix / self.scale

    def __len__(self) -> int:
        """The number of samples."""
        return len(self._matrix)

    def regularized(self, regularization: float) -> Array:
        """(K + lambda ||K||_op I) / mean diagonal of K."""
        if not (np.isfinite(regularization) and regularization >= 0):
            raise UserError(f"regularization is {regularization}; it must be a finite number, zero or more")
        ridge = regularization * self._highest
        if self._lowest + ridge < -NEGATIVE_TOLERANCE * self._trace:
            raise UserError(
                f"{self.kind} needs a positive semi-definite kernel but the smallest eigenvalue is "
                f"{self._lowest:.3g} (trace {self._trace:.3g}); "
                "use the sgd or signgd formula, or a regularization above "
                f"{-self._lowest / self._highest:.2g}"
            )
        return np.asarray(self._matrix + (ridge / self.scale) * np.eye(len(self._matrix)))

    def rows(self, kernel: Array) -> Array:
        """Return the eval kernel as scikit-learn wants it, [M, N] or [M C, N C]."""
        return flatten(self._reduce(kernel)).T / self.scale

    def _reduce(self, kernel: Array) -> Array:
        return average_over_logits(kernel) if self.kind == "svc" else kernel


def fit_classes(matrix: Array, indices: Labels, cost: float) -> Any:
    """Return a fitted SVC on a regularised matrix."""
    from sklearn.svm import SVC

    return SVC(kernel="precomputed", C=_positive(cost), decision_function_shape="ovr").fit(matrix, indices)


def decide_classes(model: Any, rows: Array, outputs: int) -> Array:
    """Return decisions [M, C] of an SVC: d for one output; (-d/2, d/2) for two classes of several.

    Absent classes get the lowest value - 1.
    """
    raw = np.asarray(model.decision_function(rows))
    if outputs == 1:
        return raw[:, None]
    present = np.stack([-raw / 2, raw / 2], axis=1) if raw.ndim == 1 else raw
    decision = np.full((len(raw), outputs), present.min() - 1.0)
    decision[:, model.classes_] = present
    return decision


def fit_targets(matrix: Array, targets: Array, cost: float, epsilon: float) -> Any:
    """Return a fitted SVR on a regularised matrix and the flattened targets."""
    from sklearn.svm import SVR

    return SVR(kernel="precomputed", C=_positive(cost), epsilon=epsilon).fit(matrix, targets.reshape(-1))


def _positive(cost: float) -> float:
    if not (np.isfinite(cost) and cost > 0):
        raise UserError(f"cost is {cost}; it must be a positive finite number")
    return cost


class KernelSVC(KernelClassifier):
    """Support vector classification, the solver `svc`: scikit-learn's SVC with an intercept.

    The kernel is K / mean diagonal.

    C >= 2: one scalar kernel of examples, the average over logits of K[n, c, m, c] (`average_over_logits`),
    then SVC's own multi-class rule (one-vs-one, shown as one-vs-rest decisions). f0 has no place in it.
    `cost` is SVC's C (here C counts logits).

    Raises:
        UserError: not finite, not symmetric, indefinite, or one class only.
    """

    def __init__(self, regularization: float = 0.0, cost: float = 1.0) -> None:
        self.regularization = regularization
        self.cost = cost

    def fit(self, kernel: Any, labels: Any) -> KernelSVC:
        """Fit the SVC."""
        data = self._read_train(kernel, labels, None)
        self.problem_ = SupportVectorProblem(data.kernel, "svc")
        self.model_ = fit_classes(self.problem_.regularized(self.regularization), data.indices, self.cost)
        return self

    def decision_function(self, kernel: Any, f0: Any = None) -> Array:
        """Return decisions [M, C] for a 4-D kernel, [M] for a 2-D one; f0 is not used."""
        return super().decision_function(kernel, None)

    def _decision(self, kernel: Array) -> Array:
        return decide_classes(self.model_, self.problem_.rows(kernel), self.n_outputs_)


class KernelSVR(KernelClassifier):
    """Support vector regression on the targets, the solver `svr`: scikit-learn's SVR with an intercept.

    The kernel is K / mean diagonal.

    Every flattened row (n, c) is one sample with the target y_nc - f0_nc / s (-1 / +1, or one-hot), so the
    cross-logit entries of K are used; f(x) = SVR + f0(x) / s. `cost` is SVR's C.

    Raises:
        UserError: not finite, not symmetric, indefinite, one class only, or f0 missing though f0_scale is
            finite.
    """

    def __init__(
        self,
        regularization: float = 0.0,
        cost: float = 1.0,
        f0_scale: float = np.inf,
        *,
        epsilon: float = 0.1,
    ) -> None:
        self.regularization = regularization
        self.cost = cost
        self.f0_scale = f0_scale
        self.epsilon = epsilon

    def fit(self, kernel: Any, labels: Any, f0: Any = None) -> KernelSVR:
        """Fit the SVR."""
        data = self._read_train(kernel, labels, f0)
        self.problem_ = SupportVectorProblem(data.kernel, "svr")
        matrix = self.problem_.regularized(self.regularization)
        self.model_ = fit_targets(matrix, data.targets - data.offset, self.cost, self.epsilon)
        return self

    def _decision(self, kernel: Array) -> Array:
        return np.asarray(self.model_.predict(self.problem_.rows(kernel))).reshape(-1, self.n_outputs_)
