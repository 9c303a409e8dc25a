"""The shares of predicted classes beside those of the labelled texts: an estimate of the accuracy holds where they are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LEVEL = 0.001  # of the test, fixed before any file was looked at
LEAST_EXPECTED = 5.0  # texts of a class; with fewer the test's distribution is not chi-square's


def compare_shares(
    labels: Sequence[str], predicted: Sequence[int], labelled: Sequence[int]
) -> dict[str, Any]:
    """Return both shares by class, and ``p``, the chance of so unlike ones if the file had the labelled texts' shares.

    Pearson's test: the sum of (n_c - N s_c)^2 / (N s_c) over classes is chi-square's of C - 1 degrees of freedom, with n_c predicted of N
    and the labelled share s_c. ``p`` is None where fewer than five texts of a class are expected. ``differ`` is p < 0.001.

    Args:
        labels: the classes' names.
        predicted: how many texts of each class.
        labelled: the same of the labelled texts, each at least 1.
    """
    from scipy.stats import chisquare

    texts, of_labelled = sum(predicted), sum(labelled)
    expected = [texts * count / of_labelled for count in labelled]
    p = float(chisquare(predicted, expected).pvalue) if min(expected) >= LEAST_EXPECTED else None
    return {
        "predicted": {label: count / texts for label, count in zip(labels, predicted, strict=True)},
        "labelled": {label: count / of_labelled for label, count in zip(labels, labelled, strict=True)},
        "p": p,
        "differ": p is not None and p < LEVEL,
    }


def sentence_of(shares: dict[str, Any]) -> str:
    """Return what there is to say where they differ, with the class that differs most."""
    predicted, labelled = shares["predicted"], shares["labelled"]
    most = max(predicted, key=lambda label: abs(predicted[label] - labelled[label]))
    return (
        f"{most!r} is {100 * predicted[most]:.0f} % of the predicted classes and {100 * labelled[most]:.0f} % of the labelled ones, "
        f"more than chance allows (p < {LEVEL:g}): the accuracy that fit estimated does not hold for this file"
    )
