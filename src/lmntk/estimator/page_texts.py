"""The texts that a fit's page shows: the hardest and the most doubtful with those that speak for and against, and suspects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from lmntk.attribution.parts import without_each
from lmntk.attribution.suspects import FALSE_DISCOVERIES, suspicion_of
from lmntk.estimator.choice import Choice
from lmntk.estimator.solved import Solved
from lmntk.estimator.texts import LabelledTexts
from lmntk.solvers.inputs import Array

HARDEST, DOUBTFUL, SPEAKING, SUSPECTS = 5, 5, 3, 5
NOISE = 1e-12  # of a lead: a fall of this size is rounding


class SpeakingText(BaseModel):
    """A training text that speaks for the label of another text, or against it.

    Attributes:
        row: its number, from 1.
        text: its beginning.
        label: its own.
        value: by how much the lead of the label over the rival would fall if training had gone without it.
    """

    row: int
    text: str
    label: str
    value: float


class DoubtfulText(BaseModel):
    """A labelled text that is hard, or in doubt, to a classifier that was trained without it.

    Attributes:
        kind: ``hardest``: its label is least probable; ``doubtful``: it is decided least surely.
        row: its number, from 1.
        text: its beginning.
        label: its own.
        rival: the class that is decided where it is another one, else the second.
        decided: the class that is decided.
        probability: of its label.
        speak_for: the texts that its label's lead over the rival needs most, by the chosen setting trained on all other texts.
        speak_against: those that take most from it.
    """

    kind: str
    row: int
    text: str
    label: str
    rival: str
    decided: str
    probability: float
    speak_for: list[SpeakingText]
    speak_against: list[SpeakingText]


def doubtful_texts(
    choice: Choice, texts: LabelledTexts, solved: Solved, held_out: Sequence[Mapping[str, Any]]
) -> list[DoubtfulText]:
    """Return the hardest texts, then the most doubtful of the others; none where nothing was held out.

    Nothing speaks where nothing was trained.

    Args:
        choice: what was chosen.
        texts: the labelled ones.
        solved: the solution with its kernel.
        held_out: of each text what was decided without it; see ``FitRecord``.
    """
    by_probability = sorted(range(len(held_out)), key=lambda row: held_out[row]["probability"])
    hardest = by_probability[:HARDEST]
    others = sorted(by_probability[HARDEST:], key=lambda row: held_out[row]["confidence"])
    speaking = _Speaking(choice, texts, solved, held_out)
    return [
        speaking.of(row, kind)
        for kind, rows in (("hardest", hardest), ("doubtful", others[:DOUBTFUL]))
        for row in rows
    ]


class _Speaking:
    def __init__(
        self, choice: Choice, texts: LabelledTexts, solved: Solved, held_out: Sequence[Mapping[str, Any]]
    ) -> None:
        self.choice, self.texts, self.solved, self.held_out = choice, texts, solved, held_out
        self.refits = solved.refits() if solved.record.regularization else None

    def of(self, row: int, kind: str) -> DoubtfulText:
        """Return one text with those that speak for and against its label."""
        own, labels = self.held_out[row], self.texts.labels
        label, rival = int(self.texts.numbers[row]), self._rival(row)
        values = self._values(row, label, rival)
        order = np.argsort(values, kind="stable")
        spoken = [other for other in order[::-1][:SPEAKING].tolist() if values[other] > 0]
        against = [other for other in order[:SPEAKING].tolist() if values[other] < 0]
        return DoubtfulText(
            kind=kind,
            row=row + 1,
            text=own["text"],
            label=labels[label],
            rival=labels[rival],
            decided=own["decided"],
            probability=own["probability"],
            speak_for=[self._speaker(other, values) for other in spoken],
            speak_against=[self._speaker(other, values) for other in against],
        )

    def _speaker(self, row: int, values: Array) -> SpeakingText:
        own = self.held_out[row]
        return SpeakingText(row=row + 1, text=own["text"], label=own["label"], value=float(values[row]))

    def _rival(self, row: int) -> int:
        """Return the decided class where it is not the text's own, else the best of the others."""
        label, labels = int(self.texts.numbers[row]), self.texts.labels
        decided = labels.index(self.held_out[row]["decided"])
        if decided != label:
            return decided
        if len(labels) == 2:
            return 1 - label
        assert self.choice.held_out is not None
        mean = self.choice.held_out.decided[:, row].mean(axis=0)
        mean[label] = -np.inf
        return int(mean.argmax())

    def _values(self, row: int, label: int, rival: int) -> Array:
        """Return by how much one class's lead over another falls on a text without each other one [N]; training went without the text.

        Cost: a factorization of the other texts' kernel. Falls that are rounding noise are 0.
        """
        values = np.zeros(len(self.texts.examples))
        if self.refits is None:
            return values
        same = self.solved.same_as(row)
        held, place = self.refits.holding_out(same), list(same).index(row)
        others = np.setdiff1d(np.arange(len(values)), same)
        lead = _lead(held.decisions[place], label, rival)
        falls = lead - _lead(without_each(held)[:, place], label, rival)
        values[others] = np.where(np.abs(falls) > NOISE * max(1.0, abs(float(lead))), falls, 0.0)
        return values


def _lead(decisions: Array, label: int, rival: int) -> Array:
    """Return one class's lead over another [...] in decisions [..., C]."""
    if decisions.shape[-1] == 1:  # one logit is the second class's over the first
        return np.asarray(decisions[..., 0] if label == 1 else -decisions[..., 0])
    return np.asarray(decisions[..., label] - decisions[..., rival])


def suspects_of(choice: Choice, texts: LabelledTexts) -> list[dict[str, Any]] | None:
    """Return the labels that are probably wrong, the most suspicious first, as ``lmntk audit`` names them; None: too few texts."""
    if choice.held_out is None or not texts.are_enough:
        return None
    doubts = suspicion_of(choice.held_out.decided, texts.numbers, choice.sharpness, None, FALSE_DISCOVERIES)
    return [
        {
            "row": row + 1,
            "text": texts.plain[row],
            "label": texts.labels[texts.numbers[row]],
            "proposed": texts.labels[doubts.proposed[row]],
            "probability": float(doubts.probability[row]),
        }
        for row in doubts.order[: min(doubts.named, SUSPECTS)].tolist()
    ]
