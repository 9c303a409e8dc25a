"""From decisions to probabilities: a temperature, and where they earn it an offset of each class, fitted to held-out decisions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmntk.solvers.inputs import Array, Labels
from lmntk.solvers.shared import contrasts

STEEPEST = 7.0  # log of the largest factor, and minus that of the smallest, of decisions whose largest is 1


@dataclass(frozen=True)
class Calibration:
    """Probabilities are the softmax (of one logit, the sigmoid) of ``sharpness`` times the decisions, plus the offsets.

    Attributes:
        sharpness: one over the temperature, above 0.
        offsets: one a logit, and of several logits their sum is 0.
    """

    sharpness: float = 1.0
    offsets: tuple[float, ...] = ()

    @property
    def moves(self) -> bool:
        """Return whether classes change by it."""
        return any(self.offsets)

    @property
    def shift(self) -> Array | float:
        """The number that is added to each logit's decision, so that the class with the highest probability is the decided one."""
        return np.asarray(self.offsets) / self.sharpness if self.offsets else 0.0


def fit_calibration(
    decisions: Array, labels: Labels, texts: int | None = None, *, with_offsets: bool = True
) -> Calibration:
    """Return the temperature, and the offsets, whose probabilities fit the labels best, by likelihood.

    At most as many parameters as classes: the temperature, and C - 1 offsets; of one logit, the temperature and an offset. Offsets change
    which class is decided, so they are taken only where they raise the log-likelihood by more than half the log of the number of texts
    for each (Schwarz's criterion): on balanced texts they mostly do not.

    Targets are a little off 0 and 1, as Platt's (1999): (n + 1) / (n + C) in place of 1, so that texts without an error do not make every
    probability 1.

    Args:
        decisions: held out, [n, c].
        labels: class numbers [n].
        texts: stands in for n where decisions are several on each text.
        with_offsets: whether there may be any.
    """
    from scipy.optimize import minimize, minimize_scalar

    scale = float(np.abs(decisions).max()) or 1.0
    count, outputs = decisions.shape
    classes, known = max(outputs, 2), texts or count
    targets = np.full((count, classes), 1.0 / (known + classes))
    targets[np.arange(count), labels] = (known + 1.0) / (known + classes)
    normalised = decisions / scale
    basis = np.ones((1, 1)) if outputs == 1 else contrasts(outputs)  # (c, k)

    def loss(values: Array) -> tuple[float, Array]:
        """Return the negative log-likelihood of a text, and its gradient by the log of the factor and the offsets' coefficients."""
        factor, shift = np.exp(values[0]), basis @ values[1:]
        log = log_probabilities(factor * normalised + shift)
        slopes = np.exp(log) - targets  # of a logit, for the targets of a text sum to 1
        slopes = slopes[:, 1:] if outputs == 1 else slopes
        down = float(np.sum(slopes * normalised)) * factor
        return -float((targets * log).sum()) / count, np.append(down, slopes.sum(axis=0) @ basis) / count

    still, bounds = np.zeros(basis.shape[1]), (-STEEPEST, STEEPEST)
    alone = minimize_scalar(
        lambda log_factor: loss(np.append(log_factor, still))[0], bounds=bounds, method="bounded"
    )
    fitted, offsets = float(alone.x), ()
    if with_offsets:
        start, limits = np.append(fitted, still), [bounds, *[(None, None)] * len(still)]
        moved = minimize(
            loss, start, jac=True, bounds=limits, method="L-BFGS-B", options={"ftol": 1e-12, "gtol": 1e-8}
        )
        if known * (alone.fun - moved.fun) > 0.5 * len(still) * np.log(known):
            fitted, offsets = float(moved.x[0]), tuple((basis @ moved.x[1:]).tolist())
    return Calibration(float(np.exp(fitted) / scale), offsets)


def fit_sharpness(decisions: Array, labels: Labels, texts: int | None = None) -> float:
    """Return the factor of the decisions [n, c] whose probabilities fit the labels [n] best; see ``fit_calibration``."""
    return fit_calibration(decisions, labels, texts, with_offsets=False).sharpness


def log_probabilities(decisions: Array) -> Array:
    """Return the logarithms of class probabilities [n, classes] of decisions [n, c], whose scale is that of log-odds."""
    if decisions.shape[1] == 1:
        return np.concatenate([-np.logaddexp(0.0, decisions), -np.logaddexp(0.0, -decisions)], axis=1)
    return np.asarray(decisions - np.logaddexp.reduce(decisions, axis=1, keepdims=True))
