"""The shares of predicted classes beside those of held-out decisions: an estimate of the accuracy holds where they are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LEVEL = 0.001  # of the test, fixed before any file was looked at


def compare_shares(
    labels: Sequence[str], predicted: Sequence[int], labelled: Sequence[int], decided: Sequence[int] | None
) -> dict[str, Any]:
    """Return the shares by class, and ``p``, the chance of so unlike predictions if the file were like the labelled texts.

    A classifier predicts other shares than there are where it is wrong more often in one direction, and the labelled texts are few. So
    predictions are compared with the decisions on held-out labelled texts, the numbers of both being random: by Fisher's exact test of
    each class against the rest; p is the least of these times their number (of two classes they are one). ``differ`` is p < 0.001.

    Args:
        labels: the classes' names.
        predicted: how many texts of each class.
        labelled: how many of the labelled texts have it as their label.
        decided: of how many of them it was decided while they were held out; None where none were, and then p is None.
    """
    from scipy.stats import fisher_exact

    texts, of_labelled = sum(predicted), sum(labelled)
    p = None
    if decided is not None:
        held_out, tests = sum(decided), 1 if len(labels) == 2 else len(labels)
        found = [
            fisher_exact([[new, texts - new], [old, held_out - old]]).pvalue
            for new, old in zip(predicted, decided, strict=True)
        ]
        p = min(1.0, tests * float(min(found)))
    return {
        "predicted": {label: count / texts for label, count in zip(labels, predicted, strict=True)},
        "labelled": {label: count / of_labelled for label, count in zip(labels, labelled, strict=True)},
        "held_out": None
        if decided is None
        else {label: count / sum(decided) for label, count in zip(labels, decided, strict=True)},
        "p": p,
        "differ": p is not None and p < LEVEL,
    }


def sentence_of(shares: dict[str, Any]) -> str:
    """Return what there is to say where they differ, with the class that differs most."""
    predicted, held_out = shares["predicted"], shares["held_out"]
    most = max(predicted, key=lambda label: abs(predicted[label] - held_out[label]))
    return (
        f"{most!r} is {100 * predicted[most]:.0f} % of the predicted classes and {100 * held_out[most]:.0f} % of those decided for the "
        f"labelled texts held out, a difference beyond chance (p < {LEVEL:g}): the accuracy that fit estimated does not hold for this file"
    )
