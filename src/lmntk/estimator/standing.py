"""The standing of a classifier of few texts: its held-out accuracy beside its rivals', and the sentence that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from lmntk.solvers.held_out import HeldOut
from lmntk.solvers.inputs import Array

TOO_FEW = "There are too few texts to estimate the accuracy: give five of each class or more."
TOLD = 2.0  # errors: a smaller difference cannot be told from none
LARGEST = "the largest class"  # a rival's name
RARE = 0.8  # a class that more new texts than this are of: that some rival is better then, is not worth a sentence


@dataclass(frozen=True)
class Rival:
    """A rival's held-out accuracy, and the classifier's lead over it.

    Attributes:
        name: which.
        accuracy: a share; of chance what guessing comes to.
        lead: the classifier's accuracy less the rival's, on the same texts in the same folds.
        error: the lead's standard error, over texts; see ``lead_error``.
    """

    name: str
    accuracy: float
    lead: float
    error: float


@dataclass(frozen=True)
class Turn:
    """A share of a class among new texts from which on a rival is better.

    Attributes:
        rival: its name; empty for deciding for that class always.
        label: of the class; empty for any.
        share: of it; the other classes keep their proportions.
    """

    rival: str
    label: str
    share: float


@dataclass(frozen=True)
class Standing:
    """An estimate of the accuracy on new texts, and how it compares.

    Attributes:
        accuracy: held out; the setting was chosen inside each fold.
        low, high: between which the accuracy on new texts lies, 90 times in 100; see ``interval`` for when.
        texts: labelled ones.
        chance: what guessing comes to.
        rivals: by accuracy, the best first.
        shares: of each class among the labelled texts.
        is_estimate: False where there are too few texts to estimate anything.
        turn: the least share of a class from which on a rival is better; None where no common share is, and where the outcome is ``few``
            or ``worse``.
    """

    accuracy: float
    low: float
    high: float
    texts: int
    chance: float
    rivals: tuple[Rival, ...]
    shares: tuple[float, ...]
    is_estimate: bool = True
    turn: Turn | None = None

    @property
    def outcome(self) -> str:
        """Return ``better``, ``worse``, ``undecided``, or ``few``, by the lead over the best rival."""
        if not self.is_estimate:
            return "few"
        best = self.rivals[0]
        if abs(best.lead) <= TOLD * best.error:
            return "undecided"
        return "better" if best.lead > 0 else "worse"

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        if self.outcome == "few":
            return TOO_FEW
        best = self.rivals[0]
        figures = (
            f"{100 * self.accuracy:.1f} against {100 * best.accuracy:.1f} % held out, "
            f"a difference of {100 * best.lead:+.1f} ± {100 * best.error:.1f} points"
        )
        return {
            "better": f"This is better than the best of its rivals, {best.name}: {figures}.",
            "worse": f"This is worse than {best.name}: {figures}. Do not fine-tune this; use that.",
            "undecided": f"This cannot be told from {best.name}: {figures}.",
        }[self.outcome]

    @property
    def condition(self) -> str:
        """The texts that the estimate holds for, and those for which a rival is better, in words."""
        least, most = 100 * min(self.shares), 100 * max(self.shares)
        holds = (
            "It holds for texts whose classes are equally frequent, as in the labelled ones."
            if least == most
            else f"It holds for texts with the labelled texts' shares of classes, {least:.0f} to {most:.0f} %."
        )
        if self.turn is None:
            return holds
        share = f"If more than about {100 * self.turn.share:.0f} % of new texts are"
        if not self.turn.rival:
            return f"{holds} {share} of one class, it is better to decide for that class always."
        return f"{holds} {share} {self.turn.label!r}, {self.turn.rival} is better."

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, the outcome and the sentences too."""
        words = {"outcome": self.outcome, "sentence": self.sentence, "condition": self.condition}
        return asdict(self) | words


def standing_of(
    held_out: HeldOut,
    rivals: Sequence[tuple[str, HeldOut]],
    labels: Sequence[str],
    *,
    is_estimate: bool = True,
) -> Standing:
    """Return the standing of held-out decisions beside those of rivals on the same folds, for classes with these labels."""
    own, classes = held_out.correct, len(labels)
    texts, chance = len(own), 1.0 / classes
    compared = [Rival("chance", chance, float(own.mean() - chance), lead_error(own - chance))]
    for name, rival in rivals:
        leads = own - rival.correct
        compared.append(Rival(name, rival.accuracy, float(leads.mean()), lead_error(leads)))
    compared.sort(key=lambda rival: rival.accuracy, reverse=True)
    low, high = held_out.interval
    shares = tuple((np.bincount(held_out.labels, minlength=classes) / texts).tolist())
    standing = Standing(held_out.accuracy, low, high, texts, chance, tuple(compared), shares, is_estimate)
    if standing.outcome in ("few", "worse"):
        return standing
    return replace(standing, turn=turn_of(held_out, rivals, labels))


def turn_of(held_out: HeldOut, rivals: Sequence[tuple[str, HeldOut]], labels: Sequence[str]) -> Turn | None:
    """Return the least share of a class from which on a rival is better; None where no share up to ``RARE`` is.

    The lead over a rival is d on texts of the class and e on the others. Where a share p of the texts are of it, the lead is

        p d + (1 - p) e,  which is 0 at  p = e / (e - d)

    Only a rival that is behind on all texts has such a share. For the rival that decides for a class always, it is the one from which on
    this is better whichever class it is. Both d and e are measured on few texts, so p is rough. Where one of them cannot be told from 0
    there is none; with more rivals and classes to look at, more errors are asked for (Bonferroni).
    """
    own = held_out.correct
    present = [number for number in range(len(labels)) if 0 < np.sum(held_out.labels == number) < len(own)]
    behind = [
        (name, rival) for name, rival in rivals if rival.accuracy < held_out.accuracy and name != LARGEST
    ]
    errors = errors_among(1 + len(behind) * len(present))

    def share_of(correct: Array, number: int) -> float:
        of_class = held_out.labels == number
        inside, outside = (own - correct)[of_class], (own - correct)[~of_class]
        told = is_told(-inside, errors) and is_told(outside, errors)
        return float(outside.mean() / (outside.mean() - inside.mean())) if told else 1.0

    always = [share_of((held_out.labels == number).astype(np.float64), number) for number in present]
    turns = [Turn("", "", max(always, default=1.0))] + [
        Turn(name, labels[number], share_of(rival.correct, number))
        for name, rival in behind
        for number in present
    ]
    least = min(turns, key=lambda turn: turn.share)
    return least if least.share <= RARE else None


def errors_among(comparisons: int) -> float:
    """Return the errors that a lead must exceed to be told, where the most striking of several is taken: ``TOLD`` for one."""
    normal = NormalDist()
    return float(-normal.inv_cdf(normal.cdf(-TOLD) / comparisons))


def is_told(leads: Array, errors: float) -> bool:
    """Return whether the mean of paired differences [N] is above 0 by so many errors; like its error, it is drawn in by two texts."""
    return bool(np.sum(leads) / (len(leads) + 2) > errors * lead_error(leads))


def lead_error(leads: Array) -> float:
    """Return the standard error of the mean of paired differences [N], each within -1 and 1.

    sqrt(((S + 1) / (N + 2) - (L / (N + 2))^2) / (N + 2)),  S their squares' sum and L their sum

    Half a text is added to each of the four cases of right and wrong (Agresti and Min, 2005): where all texts go one way, as where every
    prediction is right, the spread is zero, and the uncertainty is not.
    """
    texts = len(leads) + 2
    return float(np.sqrt(((np.sum(leads**2) + 1) / texts - (np.sum(leads) / texts) ** 2) / texts))
