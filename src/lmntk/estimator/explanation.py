"""One prediction explained: the offset, and what each training text adds to the margin over the runner-up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmntk.attribution.parts import Parts

SHOWN = 3  # texts for and against a prediction


@dataclass(frozen=True)
class Contribution:
    """A training text's part of a margin.

    Attributes:
        text: the training text.
        label: its label.
        value: its term of the sum that the margin is, in favour of the predicted class where it is positive.
        influence: by how much the margin would fall if training had gone without the text, exactly; None with a ridge of 0.
        row: the training text's number, from 0.
    """

    text: str
    label: Any
    value: float
    influence: float | None = None
    row: int = 0

    @property
    def weight(self) -> float:
        """Return how much the text speaks for the class: its influence, or where that is not known its value."""
        return self.value if self.influence is None else self.influence


@dataclass(frozen=True)
class Explanation:
    """A prediction as a sum: the offset, and what each training text adds to the margin of its class over the runner-up.

    Attributes:
        text: what was classified.
        label: the predicted class.
        runner_up: the second; of two classes the other one.
        decision: the margin of the class over the runner-up.
        offset: what is there without any training text: the pre-trained logits' part, and the intercept.
        contributions: of all training texts, the most helpful first; with the offset they sum to the decision.

    Example:
        >>> explanation = classifier.explain("a fine film")  # doctest: +SKIP
        >>> print(explanation.helpful[0].text, explanation.helpful[0].weight)  # doctest: +SKIP
        a great film 0.31
    """

    text: str
    label: Any
    runner_up: Any
    decision: float
    offset: float
    contributions: tuple[Contribution, ...]

    @property
    def helpful(self) -> tuple[Contribution, ...]:
        """The texts that speak for the class, the strongest first."""
        return tuple(each for each in self.contributions if each.weight > 0)

    @property
    def harmful(self) -> tuple[Contribution, ...]:
        """The texts that speak against it, the strongest first."""
        return tuple(each for each in reversed(self.contributions) if each.weight < 0)

    def __str__(self) -> str:
        """Return the texts that speak most for and against the class, in lines."""
        lines = [
            f"{self.text!r} is {self.label}, {self.decision:+.3f} over {self.runner_up} (offset {self.offset:+.3f})"
        ]
        lines += [
            f"  {each.weight:+.3f}  {each.label}: {each.text[:80]!r}"
            for each in (*self.helpful[:SHOWN], *self.harmful[:SHOWN])
        ]
        return "\n".join(lines)


def explanation_of(
    parts: Parts, text: str, training: Sequence[str], numbers: Sequence[int], classes: Sequence[Any]
) -> Explanation:
    """Return the explanation of one text's prediction.

    Args:
        parts: of decisions on this text alone.
        text: what was classified.
        training: the training texts.
        numbers: their class numbers.
        classes: the labels.
    """
    contributions = [
        Contribution(
            plain, classes[number], float(value), None if math.isnan(influence) else float(influence), row
        )
        for row, (plain, number, value, influence) in enumerate(
            zip(training, numbers, parts.contributions[:, 0], parts.influence[:, 0], strict=True)
        )
    ]
    contributions.sort(key=lambda each: each.weight, reverse=True)
    margins = parts.margins
    return Explanation(
        text,
        classes[margins.predicted[0]],
        classes[margins.runner_up[0]],
        float(parts.margin[0]),
        float(parts.offset[0]),
        tuple(contributions),
    )
