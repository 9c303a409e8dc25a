"""The files of an explanation and of a change: ``explain.json`` and ``changes.json``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

FORMAT = "lmntk explanation 1"
CHANGE_FORMAT = "lmntk change 1"
NAME, CHANGE_NAME = "explain.json", "changes.json"


class TrainingText(BaseModel):
    """A training text: its row, from 1, and its label."""

    row: int
    text: str
    label: str


class ExplainedText(BaseModel):
    """A prediction taken apart, by the margin of the predicted class over the runner-up.

    Attributes:
        text: what was classified.
        row: of a training text that was held out; else None.
        label: its own, where it is known.
        predicted: the class.
        runner_up: the second; of two classes the other one.
        margin: offset + sum of the contributions.
        offset: what is there without any training text.
        contributions: of each training text, in their order; None of those that were held out.
        influence: by how much the margin would fall if training had gone without each text; None likewise, and where it is not known.
        without: the class that would be predicted then, where it is another one; else None.
        shapley: Shapley values, which sum to the margin less the offset; None where they were not asked for.
        shapley_errors: their standard errors; zeros where all parts were tried.
        layers: each layer's part of the sum of the contributions; None where it is not known.
    """

    text: str
    row: int | None = None
    label: str | None = None
    predicted: str
    runner_up: str
    margin: float
    offset: float
    contributions: list[float | None]
    influence: list[float | None]
    without: list[str | None]
    shapley: list[float | None] | None = None
    shapley_errors: list[float | None] | None = None
    layers: dict[str, float] | None = None


class AnswerRecord(BaseModel):
    """The record of an answer.

    Attributes:
        name: of the training that was asked.
        settings: how it was trained.
        labels: the classes' names.
        held_out: whether the texts are training texts, each decided by the others.
        regime: whether the kernel regime holds, and how that is known.
        notes: what was cut or left out.
        versions: of what computed it.
    """

    name: str
    settings: dict[str, Any]
    labels: list[str]
    held_out: bool
    regime: dict[str, Any]
    notes: list[str]
    versions: dict[str, str]


class ExplanationRecord(AnswerRecord):
    """The record of an explanation.

    Attributes:
        format: of this file.
        training: the training texts.
        texts: the predictions.
    """

    format: str = FORMAT
    training: list[TrainingText]
    texts: list[ExplainedText]


class ChangedText(BaseModel):
    """A prediction before and after a change of the training texts.

    Attributes:
        text: what was classified.
        row: of a training text that was held out; else None.
        label: its own, where it is known.
        before: the class.
        after: the class after the change.
        margin: of the class before the change over the runner-up.
        change: of that same margin.
        decisions: of every logit, after the change.
    """

    text: str
    row: int | None = None
    label: str | None = None
    before: str
    after: str
    margin: float
    change: float
    decisions: list[float]


class ChangeRecord(AnswerRecord):
    """The record of a change.

    Attributes:
        format: of this file.
        without: the training texts that were left out.
        relabelled: the training texts with another label, ``label`` being the new one.
        left: training texts of each class after the change.
        texts: the predictions, those of another class first, then by how far they moved.
        flips: how many have another class.
    """

    format: str = CHANGE_FORMAT
    without: list[TrainingText]
    relabelled: list[TrainingText]
    left: dict[str, int]
    texts: list[ChangedText]
    flips: int
