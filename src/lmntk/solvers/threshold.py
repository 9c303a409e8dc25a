"""The model before its training with a threshold that is fitted to the other texts, held out: the strongest rival without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp, softmax

from lmntk.solvers.inputs import Array, Labels

MOST_STEPS, HALVINGS = 100, 30
TOLERANCE = 1e-9  # of a gradient, which is a difference of shares
FLOOR = 1e-10  # on the curvature's diagonal, where no text's probabilities move


class FittedThreshold:
    """Candidates of ``held_out``: the pre-trained logits, with an offset a class that makes the other texts' labels likeliest.

    Args:
        f0: pre-trained logits [N, C].
        labels: class numbers [N].
    """

    settings: Sequence[dict[str, Any]] = ({"no_training": "threshold"},)

    def __init__(self, f0: Array, labels: Labels) -> None:
        self.f0, self.labels = np.asarray(f0, dtype=np.float64), labels

    def leave_out(self, groups: Labels) -> Array:
        """Return decisions [G, g, C, 1] on groups [G, g] of texts."""
        others = np.ones((len(groups), len(self.f0)))
        np.put_along_axis(others, groups, 0.0, axis=1)
        offsets = offsets_of_many(self.f0, self.labels, others)
        return np.asarray(self.f0[groups] + offsets[:, None])[..., None]


def offsets_of_many(logits: Array, labels: Labels, weights: Array) -> Array:
    """Return the offsets [G, c] of ``fitted_offsets`` for many choices of texts at once, by Newton's method.

    Args:
        logits: [n, c].
        labels: class numbers [n].
        weights: [G, n], 1 for a text that takes part and 0 for one that does not.

    Cost: G n c^2 a step, ten steps or so.
    """
    is_difference = logits.shape[1] == 1
    values = np.concatenate([np.zeros_like(logits), logits], axis=1) if is_difference else logits
    classes = values.shape[1]
    targets = np.eye(classes)[labels]
    shares = weights / weights.sum(axis=1, keepdims=True)  # (G, n)

    def loss(offsets: Array) -> Array:
        moved = values[None] + offsets[:, None]
        logs = moved[:, np.arange(len(labels)), labels] - logsumexp(moved, axis=2)
        return np.asarray(-np.einsum("gn,gn->g", shares, logs))

    offsets = -shares @ values  # from the centre of the logits, where large ones do not saturate
    now = loss(offsets)
    for _ in range(MOST_STEPS):
        p = softmax(values[None] + offsets[:, None], axis=2)  # (G, n, c)
        slope = np.einsum("gn,gnc->gc", shares, p - targets)
        if np.abs(slope).max() < TOLERANCE:
            break
        curvature = -np.einsum("gn,gnc,gnd->gcd", shares, p, p, optimize=True) + 1.0 / classes
        diagonal = np.einsum("gcc->gc", curvature)
        diagonal += np.einsum("gn,gnc->gc", shares, p) + FLOOR
        step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        size = np.ones(len(step))
        for _ in range(HALVINGS):
            worse = loss(offsets - size[:, None] * step) > now
            if not worse.any():
                break
            size[worse] /= 2
        offsets = offsets - size[:, None] * step
        now = loss(offsets)
    offsets -= offsets.mean(axis=1, keepdims=True)
    return np.asarray(offsets[:, 1:] - offsets[:, :1] if is_difference else offsets)
