"""Answers: a text's class with its probability, its margin, and whether a person should look at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmntk.solvers.inputs import Array
from lmntk.solvers.selection import predict_labels
from lmntk.tasks.example import Example
from lmntk.tasks.remarks import is_empty


@dataclass(frozen=True, slots=True)
class Answer:
    """A predictor's answer on a text.

    Attributes:
        index: the class's number.
        label: its name.
        probability: of this class.
        margin: the decision's distance to the runner-up's; of one logit its distance to zero.
        look: it is doubtful, and a person should look at it.
        probabilities: of all classes.
        decisions: one a logit.
    """

    index: int
    label: str
    probability: float
    margin: float
    look: bool
    probabilities: list[float]
    decisions: list[float]


def look_threshold(classes: int) -> float:
    """Return the probability below which an answer wants a look: half way from chance to certainty, (1 + 1/C) / 2.

    Of two classes that is .75, of many a little more than .5. A predictor's description may name another (``look_below``).

    Example:
        >>> look_threshold(2), look_threshold(4)
        (0.75, 0.625)
    """
    return (1.0 + 1.0 / classes) / 2.0


def answers_of(
    examples: Sequence[Example],
    decisions: Array,
    probabilities: Array,
    labels: Sequence[str],
    look_below: float | None = None,
) -> list[Answer]:
    """Return the answers on texts.

    A text that is empty wants a look whatever its probability is.

    Args:
        examples: the n texts.
        decisions: [n, c].
        probabilities: [n, classes].
        labels: the classes' names.
        look_below: the probability below which an answer wants a look; by default ``look_threshold``.

    Raises:
        UserError: a decision is NaN.
    """
    threshold = look_threshold(len(labels)) if look_below is None else look_below
    indices = predict_labels(decisions)
    if decisions.shape[1] == 1:
        margins = np.abs(decisions[:, 0])
    else:
        ordered = np.sort(decisions, axis=1)
        margins = ordered[:, -1] - ordered[:, -2]
    answers = []
    for row, example in enumerate(examples):
        index, of_all = int(indices[row]), probabilities[row].tolist()
        look = of_all[index] < threshold or is_empty(example)
        answer = Answer(
            index, labels[index], of_all[index], float(margins[row]), look, of_all, decisions[row].tolist()
        )
        answers.append(answer)
    return answers
