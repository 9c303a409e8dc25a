"""The model before its training, as rows of the table: zero-shot and its two thresholds, the linear probe, the own head.

A prompt's zero-shot logits lean to one class or another, and much of what a training gains may be a better threshold. Two rows
say how much: their offsets, one a class, are taken from the training texts, never from those that are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmntk.solvers.inputs import Array
from lmntk.solvers.outcome import Outcome
from lmntk.solvers.selection import predict_labels
from lmntk.tasks.metrics import score

ZERO_SHOT, LINEAR_PROBE, OWN_HEAD = "zero-shot", "linear probe", "own head"
CENTRED = f"{ZERO_SHOT}, centred"
FITTED = f"{ZERO_SHOT}, threshold fitted"
BASELINE_NAMES = (ZERO_SHOT, CENTRED, FITTED, LINEAR_PROBE, OWN_HEAD)


def names_of(mode: str, is_classifier: bool = False) -> tuple[str, ...]:
    """Return the names of a mode's baselines, the plain one first."""
    if is_classifier:
        return (OWN_HEAD,)
    return (ZERO_SHOT, CENTRED, FITTED) if mode == "prompt" else (LINEAR_PROBE,)


def baselines(
    names: Sequence[str], metric: str, logits: Mapping[str, Array], labels: Mapping[str, Sequence[int]]
) -> list[Outcome]:
    """Return the outcomes of the model before its training, one a name.

    Args:
        names: as of ``names_of``.
        metric: ``accuracy`` or ``f1``.
        logits: [n, c] of train, dev and test; without a threshold, train's are not needed.
        labels: class numbers of the same sides.
    """
    found = []
    for name in names:
        offsets: Array | None = None
        if name == CENTRED:
            offsets = -np.asarray(logits["train"], dtype=np.float64).mean(0)
        elif name == FITTED:
            offsets = fitted_offsets(logits["train"], labels["train"])
        moved = {side: logits[side] + (0 if offsets is None else offsets) for side in ("dev", "test")}
        dev, test = (predict_labels(moved[side]).tolist() for side in ("dev", "test"))
        outcome = Outcome(
            method=name,
            formula="",
            solver="",
            metric=metric,
            dev=score(metric, labels["dev"], dev),
            test=score(metric, labels["test"], test),
            setting={} if offsets is None else {f"offset_{c}": float(b) for c, b in enumerate(offsets)},
            notes=(),
            predictions=tuple(test),
        )
        found.append(outcome)
    return found


def fitted_offsets(logits: Any, labels: Sequence[int]) -> Array:
    """Return the offsets [c] that make the labels likeliest: argmin_b sum_n -log softmax(f(x_n) + b)[y_n].

    It is logistic regression with the offsets alone free: convex, and at its end the classes' mean probabilities are their
    shares of the labels. One logit is the difference of two, and has one offset.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    is_difference = values.shape[1] == 1
    if is_difference:
        values = np.concatenate([np.zeros_like(values), values], axis=1)  # (n, 2)
    targets = np.eye(values.shape[1])[truth]  # (n, c)

    def loss(offsets: Array) -> tuple[float, Array]:
        logs = log_softmax(values + offsets, axis=1)
        return -float((targets * logs).sum(1).mean()), (np.exp(logs) - targets).mean(0)

    # from the centre of the logits, where large ones do not saturate
    start = -values.mean(0)
    offsets: Array = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-8}).x
    offsets -= offsets.mean()
    return offsets[1:] - offsets[:1] if is_difference else offsets
