"""The base of the estimators: scikit-learn's conventions over lmntk's kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from lmntk.errors import UserError
from lmntk.solvers.inputs import (
    Array,
    Labels,
    as_array,
    as_kernel,
    as_train_kernel,
    encode_labels,
    offset,
    target_matrix,
)
from lmntk.solvers.selection import predict_labels
from lmntk.solvers.settings import check_settings


class TrainData(NamedTuple):
    """Checked input of `fit`: kernel [N, C, N, C], class numbers [N], targets [N, C], f0 / s [N, C]."""

    kernel: Array
    indices: Labels
    targets: Array
    offset: Array


class KernelClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose input is a precomputed kernel.

    Two layouts. 4-D arrays are lmntk's: `fit` takes [N, C, N, C], `predict` [N, C, M, C] (train first), and
    decisions are [M, C]. 2-D arrays are scikit-learn's, for one output a text: `fit` takes [N, N], `predict`
    [M, N] (train last), decisions are [M], so that the estimators work in `cross_val_score` and
    `GridSearchCV` (the `pairwise` tag is set).

    Labels are class numbers; with one output any two numbers (0 and 1, or -1 and +1), the larger being the
    positive class.
    """

    f0_scale: float = np.inf

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = True
        return tags

    def _read_train(self, kernel: Any, labels: Any, f0: Any) -> TrainData:
        check_settings(self.get_params(deep=False))
        train = as_train_kernel(kernel)
        n, c = train.shape[:2]
        given = as_array(labels, "the labels")
        if given.shape != (n,):
            raise UserError(
                f"labels have shape {given.shape} for a kernel of {n} train examples; "
                "pass one class number an example"
            )
        if c == 1 and len(np.unique(given)) == 2:
            self.classes_, codes = np.unique(given, return_inverse=True)
            indices = codes.astype(np.int64)
        else:
            indices = encode_labels(given, c)
            self.classes_ = np.arange(max(c, 2))
        self.n_outputs_, self.n_examples_ = c, n
        self.n_features_in_ = n * c
        return TrainData(
            train,
            indices,
            target_matrix(indices, c),
            offset(f0, self.f0_scale, (n, c), "f0 of the train set"),
        )

    def _read_eval(self, kernel: Any, name: str = "the eval kernel") -> Array:
        check_is_fitted(self)
        checked = as_kernel(kernel, name, self.n_outputs_)
        if checked.shape[0] != self.n_examples_:
            raise UserError(
                f"{name} has {checked.shape[0]} train examples but the solver was fitted on "
                f"{self.n_examples_}"
            )
        return checked

    def _decision(self, kernel: Array) -> Array:
        """Return the part of the decision that the kernel makes, [M, C]."""
        raise NotImplementedError

    def _offset(self, f0: Any, shape: tuple[int, ...]) -> Array:
        """f0 / s of the eval set, [M, C]."""
        return offset(f0, self.f0_scale, (shape[0], self.n_outputs_), "f0 of the eval set")

    def _to_labels(self, decision: Array) -> Any:
        return self.classes_[predict_labels(decision)]

    def decision_function(self, kernel: Any, f0: Any = None) -> Array:
        """Return decisions [M, C] for a 4-D kernel [N, C, M, C], [M] for a 2-D one [M, N].

        f0 (eval, [M, C]) is needed if f0_scale is finite.
        """
        checked = self._read_eval(kernel)
        decision = self._decision(checked)
        decision = decision + self._offset(f0, decision.shape)
        return decision[:, 0] if np.ndim(kernel) == 2 else decision

    def predict(self, kernel: Any, f0: Any = None) -> Any:
        """Predicted labels [M], out of `classes_`: f > 0 for one output, the argmax otherwise."""
        return self._to_labels(self.decision_function(kernel, f0))

    def score(self, kernel: Any, labels: Any, f0: Any = None) -> float:
        """Accuracy."""
        return float(np.mean(self.predict(kernel, f0) == np.asarray(labels)))
