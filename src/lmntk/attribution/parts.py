"""Decisions taken apart: the offset, what each training text adds, and what would be decided without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmntk.attribution.changes import Changes
from lmntk.attribution.descent_refits import DescentRefits
from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.solvers.inputs import Array, Labels
from lmntk.solvers.selection import predict_labels

Refits = RidgeRefits | DescentRefits


@dataclass(frozen=True, eq=False)
class Margins:
    """The predicted class of each of M texts over the runner-up.

    Attributes:
        predicted: class numbers [M].
        runner_up: those of the second [M]; of two classes the other one.
        direction: what the decisions are multiplied with [M, C]: +1 for the predicted class, -1 for the runner-up; of one logit its sign.
    """

    predicted: Labels
    runner_up: Labels
    direction: Array

    @classmethod
    def of(cls, decisions: Array) -> Margins:
        """Return the margins of decisions [M, C]."""
        predicted = predict_labels(decisions)
        if decisions.shape[1] == 1:
            return cls(predicted, 1 - predicted, np.where(predicted == 1, 1.0, -1.0)[:, None])
        classes = np.eye(decisions.shape[1])
        runner_up = np.where(classes[predicted] > 0, -np.inf, decisions).argmax(axis=1)
        return cls(predicted, runner_up, classes[predicted] - classes[runner_up])

    def along(self, decisions: Array) -> Array:
        """Return the margins [...] of decisions [..., M, C], or of parts of them."""
        return np.asarray(np.einsum("...mc,mc->...m", decisions, self.direction))


@dataclass(frozen=True, eq=False)
class Parts:
    """Decisions on M texts and what they are made of, by the margin of the predicted class over the runner-up.

    Attributes:
        decisions: [M, C].
        margins: whose.
        margin: [M].
        offset: what is there without any text [M].
        contributions: of each training text [N, M]; with the offset they sum to the margin.
        influence: the margin less the one after training without the text [N, M].
        without: the class that is predicted then [N, M].
    """

    decisions: Array
    margins: Margins
    margin: Array
    offset: Array
    contributions: Array
    influence: Array
    without: Labels

    @classmethod
    def of(cls, offset: Array, contributions: Array, influence: Array | float = 0.0) -> Parts:
        """Return decisions as the sum of an offset [M, C] and contributions [N, M, C]; without a text the class stays."""
        decisions = offset + contributions.sum(axis=0)
        margins = Margins.of(decisions)
        shape = contributions.shape[:2]
        return cls(
            decisions=decisions,
            margins=margins,
            margin=margins.along(decisions),
            offset=margins.along(offset),
            contributions=margins.along(contributions),
            influence=np.broadcast_to(influence, shape),
            without=np.broadcast_to(margins.predicted, shape),
        )


def parts_of(refits: Refits, intercept: Array) -> Parts:
    """Return the decisions f = offset + sum of contributions, taken apart.

    Args:
        refits: the training, and whose decisions are asked for.
        intercept: what is added to each decision whatever the training texts are [C]; it is part of the offset.
    """
    parts = Parts.of(refits.offset + intercept, refits.contributions())
    without = without_each(refits) + intercept
    return replace(
        parts,
        influence=parts.margins.along(parts.decisions[None] - without),
        without=np.stack([predict_labels(each) for each in without]),
    )


def without_each(refits: Refits) -> Array:
    """Return decisions [N, M, C] after training without each text."""
    return without_groups(refits, [[number] for number in range(refits.texts.texts)])


def without_groups(refits: Refits, groups: Sequence[Sequence[int]]) -> Array:
    """Return decisions [G, M, C] after training without each group: in closed form where there is one."""
    if isinstance(refits, RidgeRefits):
        return refits.without(groups)
    return refits.outcomes(Changes.without(groups, refits.texts.texts))
