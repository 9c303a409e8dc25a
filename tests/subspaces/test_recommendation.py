"""The smallest subspace that keeps up, and what cannot be told."""

from __future__ import annotations

import numpy as np
import pytest

from lmntk.errors import UserError
from lmntk.subspaces.recommendation import Contender, recommend

TEXTS = 200


def contender(name: str, parameters: int, right: int) -> Contender:
    """Return a candidate that classifies the first ``right`` of the texts as labelled."""
    return Contender(name, parameters, (np.arange(TEXTS) < right).astype(float))


@pytest.mark.parametrize(
    ("rights", "tolerance", "name", "outcome"),
    [
        ((100, 180, 182), 0.02, "medium", "smallest"),
        ((100, 150, 182), 0.02, "large", "smallest"),
        ((100, 150, 182), 0.2, "medium", "smallest"),
        ((181, 181, 181), 0.0, "small", "cannot be told"),
        ((179, 180, 182), 0.0, "small", "cannot be told"),
        ((182, 150, 100), 0.02, "small", "smallest"),
    ],
)
def test_recommended(rights: tuple[int, ...], tolerance: float, name: str, outcome: str) -> None:
    names, sizes = ("large", "medium", "small"), (1000, 100, 10)
    candidates = [contender(*each) for each in zip(names, sizes, reversed(rights), strict=True)]
    taken = recommend(candidates, tolerance)
    assert (taken.name, taken.outcome) == (name, outcome)
    assert name in taken.sentence
    best = max(candidates, key=lambda each: each.accuracy)
    assert taken.lead == pytest.approx(
        {each.name: each.accuracy for each in candidates}[name] - best.accuracy
    )


def test_noise_of_few_texts_is_no_difference() -> None:
    few = [Contender("small", 1, np.array([1.0, 0, 1, 0])), Contender("large", 2, np.array([1.0, 1, 1, 0]))]
    assert recommend(few).outcome == "cannot be told"


@pytest.mark.parametrize(
    ("candidates", "tolerance", "message"),
    [([], 0.02, "no candidate"), ([contender("a", 1, 2)], 2.0, "'?2'? is not from 0 to 1")],
)
def test_refused(candidates: list[Contender], tolerance: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recommend(candidates, tolerance)
