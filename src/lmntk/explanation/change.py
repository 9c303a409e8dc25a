"""Predictions after training without some texts, or with other labels, by exact refits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lmntk.attribution.changes import Changes
from lmntk.attribution.parts import Margins, without_groups
from lmntk.diagnosis.regime import Regime
from lmntk.errors import UserError
from lmntk.estimator.trust import regime_entry
from lmntk.explanation.blocks import NewTexts
from lmntk.explanation.explain import training_text
from lmntk.explanation.records import ChangedText, ChangeRecord
from lmntk.explanation.trained import Trained
from lmntk.solvers.inputs import Array, Labels
from lmntk.solvers.selection import predict_labels
from lmntk.system.hashing import versions

NONE_LEFT = "no training text is left: the offset alone decides"


@dataclass(frozen=True)
class Change:
    """A change of the training texts.

    Attributes:
        without: the numbers of those that are left out.
        relabelled: the new class of each that has another label, by number.
    """

    without: frozenset[int] = frozenset()
    relabelled: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, trained: Trained, texts: Sequence[str], rows: Sequence[int], labels: Mapping[int, str]
    ) -> Change:
        """Return the change that leaves out texts and rows, and gives rows other labels.

        Every training text that reads like one of the texts is left out.

        Raises:
            UserError: a text or a row that is not in the training set, a class that is none, or a text that is left out and relabelled.
        """
        without = {number for text in texts for number in trained.numbers_of(text)}
        without |= {trained.number_of(row) for row in rows}
        relabelled = {trained.number_of(row): trained.class_of(label) for row, label in labels.items()}
        for number in without & set(relabelled):
            raise UserError(
                f"relabel: row {trained.rows[number]} is also left out by this command; take it out of one of the two"
            )
        for number, label in relabelled.items():
            if trained.numbers[number] == label:
                raise UserError(
                    f"relabel: row {trained.rows[number]} is labelled {trained.labels[label]!r} already; name another class"
                )
        return cls(frozenset(without), relabelled)

    def labels(self, trained: Trained) -> Labels:
        """Return the class numbers [N] after the change."""
        return np.array(
            [self.relabelled.get(n, label) for n, label in enumerate(trained.numbers)], dtype=np.int64
        )

    def left(self, trained: Trained) -> dict[str, int]:
        """Return how many texts of each class are left."""
        left = [label for n, label in enumerate(self.labels(trained)) if n not in self.without]
        return {name: left.count(number) for number, name in enumerate(trained.labels)}

    def remarks(self, trained: Trained) -> list[str]:
        """Return what is worth saying of the texts that are left."""
        classes = [name for name, count in self.left(trained).items() if count]
        if not classes:
            return [NONE_LEFT]
        if len(classes) == 1:
            return [f"all remaining texts are of class {classes[0]!r}; training on them works as usual"]
        return []


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Decisions before and after a change [M, C], of texts with their rows and labels where they have any."""

    plain: Sequence[str]
    rows: Sequence[int | None]
    labels: Sequence[int | None]
    before: Array
    after: Array


def on_new_texts(trained: Trained, change: Change, new: NewTexts) -> Outcomes:
    """Return the outcomes on new texts.

    Raises:
        UserError: nothing was trained.
    """
    refits = trained.solution.refits(new.cross, new.logits)
    count, everything = len(trained.plain), Changes(np.ones((1, len(trained.plain))))
    weights = np.array([[0.0 if number in change.without else 1.0 for number in range(count)]])
    before = refits.outcomes(everything)[0]
    after = refits.outcomes(Changes(weights, change.labels(trained)[None]))[0]
    unknown: list[int | None] = [None] * len(new.plain)
    labels = unknown if new.labels is None else new.labels
    return Outcomes(new.plain, unknown, labels, before + trained.intercept, after + trained.intercept)


def on_held_out_texts(trained: Trained, change: Change) -> Outcomes:
    """Return the outcomes on the training texts that are not left out, each decided without itself and its like.

    Raises:
        UserError: nothing was trained.
    """
    refits = trained.solution.refits()
    changed = replace(refits, texts=replace(refits.texts, labels=change.labels(trained)))
    groups = [group for group in trained.groups() if not set(group) <= change.without]
    before = without_groups(refits, groups)
    after = without_groups(changed, [sorted({*group, *change.without}) for group in groups])
    order = [
        (k, number) for k, group in enumerate(groups) for number in group if number not in change.without
    ]
    numbers = [number for _, number in order]
    return Outcomes(
        [trained.plain[number] for number in numbers],
        [trained.rows[number] for number in numbers],
        [trained.numbers[number] for number in numbers],
        np.array([before[k, number] for k, number in order]).reshape(-1, before.shape[2]) + trained.intercept,
        np.array([after[k, number] for k, number in order]).reshape(-1, before.shape[2]) + trained.intercept,
    )


def change_record(
    trained: Trained, change: Change, outcomes: Outcomes, regime: Regime, notes: Sequence[str]
) -> ChangeRecord:
    """Return the record of a change, those of another class first, then by how far their margin moved."""
    margins = Margins.of(outcomes.before)
    margin, moved = (
        margins.along(outcomes.before),
        margins.along(outcomes.after) - margins.along(outcomes.before),
    )
    after = predict_labels(outcomes.after)
    order = sorted(range(len(margin)), key=lambda m: (after[m] == margins.predicted[m], -abs(moved[m])))
    texts = [
        ChangedText(
            text=outcomes.plain[m],
            row=outcomes.rows[m],
            label=None if (own := outcomes.labels[m]) is None else trained.labels[own],
            before=trained.labels[int(margins.predicted[m])],
            after=trained.labels[int(after[m])],
            margin=float(margin[m]),
            change=float(moved[m]),
            decisions=outcomes.after[m].tolist(),
        )
        for m in order
    ]
    return ChangeRecord(
        name=trained.name,
        settings=dict(trained.settings),
        labels=list(trained.labels),
        without=[training_text(trained, number) for number in sorted(change.without)],
        relabelled=[
            training_text(trained, number, label) for number, label in sorted(change.relabelled.items())
        ],
        left=change.left(trained),
        held_out=any(row is not None for row in outcomes.rows),
        texts=texts,
        flips=sum(text.before != text.after for text in texts),
        regime=regime_entry(regime),
        notes=[*notes, *change.remarks(trained)],
        versions=versions(),
    )
