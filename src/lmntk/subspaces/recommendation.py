"""The smallest subspace that is as good as any, within what can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmntk.errors import UserError
from lmntk.estimator.standing import lead_error
from lmntk.solvers.inputs import Array

TOLERANCE = 0.02  # of accuracy: two points
TOLD = 2.0  # errors: a smaller difference cannot be told from none


@dataclass(frozen=True, eq=False)
class Contender:
    """A candidate as the recommendation sees it.

    Attributes:
        name: of it.
        parameters: how many train.
        correct: the share of held-out rounds and seeds that classify each of the n texts right [n].
    """

    name: str
    parameters: int
    correct: Array

    @property
    def accuracy(self) -> float:
        """The held-out accuracy, a share."""
        return float(self.correct.mean())


@dataclass(frozen=True)
class Recommendation:
    """A candidate to take, and why.

    Attributes:
        name: of the candidate.
        outcome: ``cannot be told``, where none is better or worse than another; ``smallest``, of those that keep up with the best.
        lead, error: its accuracy less the best candidate's, with the standard error of the difference on the same texts.
        sentence: the same in words.
    """

    name: str
    outcome: str
    lead: float
    error: float
    sentence: str


def recommend(contenders: Sequence[Contender], tolerance: float = TOLERANCE) -> Recommendation:
    """Return the smallest candidate that keeps up with the best one.

    One keeps up if its held-out accuracy is at most ``tolerance`` below the best's, or if the difference is within ``TOLD`` of its errors.
    Where that holds of all, nothing can be told: the cheapest is taken, and the outcome says so. The best of many looks better than it
    is, so the leads are rather too small.

    Args:
        contenders: on the same n texts.
        tolerance: a share of the accuracy.

    Raises:
        UserError: no candidate, or a tolerance that is no share.
    """
    if not contenders:
        raise UserError("subspaces: there is no candidate; give --targets or --ranks")
    if not 0 <= tolerance < 1:
        raise UserError(
            f"tolerance: {tolerance:g} is not from 0 to 1; it is a share of the accuracy, such as 0.02"
        )
    best = max(contenders, key=lambda each: (each.accuracy, -each.parameters))
    by_size = sorted(contenders, key=lambda each: (each.parameters, -each.accuracy))
    leads = {each.name: _lead(each.correct, best.correct) for each in by_size}
    even = [each for each in by_size if leads[each.name][0] >= -TOLD * leads[each.name][1]]
    if len(even) == len(by_size):
        taken = by_size[0]
        lead, error = leads[taken.name]
        return Recommendation(
            taken.name,
            "cannot be told",
            lead,
            error,
            f"The candidates cannot be told apart by these {len(taken.correct)} texts: take the cheapest, {taken.name} "
            f"({taken.parameters:,} parameters; {_figures(taken, best, lead, error)}).",
        )
    kept = [each for each in by_size if leads[each.name][0] >= -tolerance or each in even]
    taken = kept[0]
    lead, error = leads[taken.name]
    return Recommendation(
        taken.name,
        "smallest",
        lead,
        error,
        f"Take {taken.name}: the smallest ({taken.parameters:,} parameters) that keeps up with the best "
        f"({_figures(taken, best, lead, error)}).",
    )


def _lead(own: Array, other: Array) -> tuple[float, float]:
    """Return the mean difference on the same texts, and its standard error."""
    leads = np.asarray(own, dtype=np.float64) - other
    return float(leads.mean()), lead_error(leads)


def _figures(taken: Contender, best: Contender, lead: float, error: float) -> str:
    if taken is best:
        return f"{100 * taken.accuracy:.1f} % held out, the best of all"
    return (
        f"{100 * taken.accuracy:.1f} % held out against {100 * best.accuracy:.1f} of {best.name}, "
        f"{100 * lead:+.1f} ± {100 * error:.1f} points"
    )
