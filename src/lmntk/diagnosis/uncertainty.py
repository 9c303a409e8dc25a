"""Standard errors of differences between metrics on one test set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmntk.solvers.inputs import Array

PSEUDO_TEXTS = 2  # Agresti and Min (2005) add half a text in each cell of the 2 x 2 table of who is right


def standard_error(metric: str, labels: Sequence[int], parts: Sequence[tuple[float, Sequence[int]]]) -> float:
    """Return the standard error of sum_j w_j metric(labels, predictions_j), all on the same m test texts.

    The jackknife's: with s_i what the sum comes to without text i, sqrt((m - 1) / m sum_i (s_i - mean)^2).
    For accuracies that is the paired binomial error. Few texts on which all agree would make it 0, so it is
    at least the error of the weighted accuracies with two texts added, spread evenly over all cases of who is
    right and who is wrong (of two methods: Agresti and Min 2005).

    Args:
        metric: ``accuracy`` or ``f1``.
        labels: true classes [m].
        parts: each method's weight and its predicted classes [m].
    """
    return error_of_mean(metric, labels, [parts])


def error_of_mean(
    metric: str, labels: Sequence[int], splits: Sequence[Sequence[tuple[float, Sequence[int]]]]
) -> float:
    """Return ``standard_error`` of the mean over splits of the same weighted sum.

    The splits share their test texts, and have predictions of their own.
    """
    truth = np.asarray(labels)
    m, n = len(truth), len(splits)
    every = [(w / n, predicted) for parts in splits for w, predicted in parts]
    scores = sum((w * (np.asarray(predicted) == truth) for w, predicted in every), np.zeros(m))
    weights = [w for w, _ in splits[0]]
    corners = np.array(
        [sum(w for j, w in enumerate(weights) if case >> j & 1) for case in range(2 ** len(weights))]
    )
    share = PSEUDO_TEXTS / len(corners)
    total = m + PSEUDO_TEXTS
    mean = (scores.sum() + share * corners.sum()) / total
    variance = ((scores**2).sum() + share * (corners**2).sum()) / total - mean**2
    left_out = sum(
        (w * _without_each(metric, truth, np.asarray(predicted)) for w, predicted in every), np.zeros(m)
    )
    jackknife = float(np.sqrt((m - 1) / m * ((left_out - left_out.mean()) ** 2).sum()))
    return max(jackknife, float(np.sqrt(max(variance, 0.0) / total)))


def error_over_splits(
    metric: str,
    margins: Array,
    labels: Sequence[Sequence[int]],
    splits: Sequence[Sequence[tuple[float, Sequence[int]]]],
) -> float:
    """Return the standard error of the mean over splits of weighted sums of metrics.

    It is the error over two splits or more and over the test texts.

    Of one test set, whose luck all splits share, their squares are added; what texts do differently in every
    split is in both, so that the error is rather too large. Test texts of each split's own are in the spread
    over the splits already: the larger of the two counts.

    Args:
        metric: ``accuracy`` or ``f1``.
        margins: each split's weighted sum.
        labels: of each split's test texts.
        splits: each split's weights and predicted classes, as ``standard_error`` has them.
    """
    spread = float(margins.std(ddof=1) / np.sqrt(len(margins)))
    if all(each == labels[0] for each in labels):
        return float(np.hypot(spread, error_of_mean(metric, labels[0], splits)))
    errors = [
        standard_error(metric, truth, parts) / len(margins)
        for truth, parts in zip(labels, splits, strict=True)
    ]
    return max(spread, float(np.linalg.norm(errors)))


def _without_each(metric: str, truth: Array, predicted: Array) -> Array:
    """Return the metric [m] without each text in turn."""
    m = len(truth)
    if metric != "f1":
        right = (truth == predicted).astype(np.float64)
        return np.asarray((right.sum() - right) / max(m - 1, 1))
    hit = ((truth == 1) & (predicted == 1)).astype(np.float64)
    wrong = ((truth == 1) != (predicted == 1)).astype(np.float64)
    twice, off = 2 * (hit.sum() - hit), wrong.sum() - wrong
    return np.asarray(np.divide(twice, twice + off, out=np.zeros(m), where=twice + off > 0))
