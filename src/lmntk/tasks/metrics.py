"""Task metrics, as scikit-learn computes them."""

from __future__ import annotations

from collections.abc import Sequence

from lmntk.errors import UserError

METRICS = ("accuracy", "f1")


def score(metric: str, labels: Sequence[int], predictions: Sequence[int]) -> float:
    """Return the metric of the predicted classes, between 0 and 1.

    Args:
        metric: ``accuracy``, or ``f1``: 2 TP / (2 TP + FP + FN) of class 1, and 0 when no row is or is
            predicted class 1.
        labels: True class of each row, [M]; any sequence or array of integers.
        predictions: Predicted class of each row, [M].

    Raises:
        UserError: The metric is unknown, the lengths differ or there are no rows.
    """
    if metric not in METRICS:
        raise UserError(f"there is no metric {metric!r}: use one of {', '.join(METRICS)}")
    if len(labels) != len(predictions):
        raise UserError(
            f"{len(labels)} labels and {len(predictions)} predictions cannot be compared: "
            "give one prediction per label"
        )
    if len(labels) == 0:
        raise UserError(f"{metric} of no rows is undefined: give at least one labelled text")
    from sklearn.metrics import accuracy_score, f1_score

    if metric == "f1":
        return float(f1_score(labels, predictions, labels=[1], average="macro", zero_division=0))
    return float(accuracy_score(labels, predictions))
