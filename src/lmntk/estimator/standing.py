"""The standing of a classifier of few texts: its held-out accuracy beside its rivals', and the sentence that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lmntk.solvers.held_out import HeldOut
from lmntk.solvers.inputs import Array

TOO_FEW = "There are too few texts to estimate the accuracy: give five of each class or more."
TOLD = 2.0  # errors: a smaller difference cannot be told from none


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
class Standing:
    """An estimate of the accuracy on new texts, and how it compares.

    Attributes:
        accuracy: held out; the setting was chosen inside each fold.
        low, high: between which the accuracy on new texts lies, 90 times in 100 or more; see ``interval``.
        texts: labelled ones.
        chance: what guessing comes to.
        rivals: by accuracy, the best first.
        shares: of each class among the labelled texts.
        is_estimate: False where there are too few texts to estimate anything.
    """

    accuracy: float
    low: float
    high: float
    texts: int
    chance: float
    rivals: tuple[Rival, ...]
    shares: tuple[float, ...]
    is_estimate: bool = True

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
        """The texts that the estimate holds for, in words."""
        if len(set(self.shares)) == 1:
            return "It holds for texts whose classes are equally frequent, as in the labelled ones."
        least, most = 100 * min(self.shares), 100 * max(self.shares)
        return f"It holds for texts with the labelled texts' shares of classes, {least:.0f} to {most:.0f} %."

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, the outcome and the sentences too."""
        words = {"outcome": self.outcome, "sentence": self.sentence, "condition": self.condition}
        return asdict(self) | words


def standing_of(
    held_out: HeldOut, rivals: Sequence[tuple[str, HeldOut]], classes: int, *, is_estimate: bool = True
) -> Standing:
    """Return the standing of held-out decisions beside those of rivals on the same folds."""
    own = held_out.correct
    texts, chance = len(own), 1.0 / classes
    compared = [Rival("chance", chance, float(own.mean() - chance), lead_error(own - chance))]
    for name, rival in rivals:
        leads = own - rival.correct
        compared.append(Rival(name, rival.accuracy, float(leads.mean()), lead_error(leads)))
    compared.sort(key=lambda rival: rival.accuracy, reverse=True)
    low, high = held_out.interval
    shares = tuple((np.bincount(held_out.labels, minlength=classes) / texts).tolist())
    return Standing(held_out.accuracy, low, high, texts, chance, tuple(compared), shares, is_estimate)


def lead_error(leads: Array) -> float:
    """Return the standard error of the mean of paired differences [N], each within -1 and 1.

    sqrt(((S + 1) / (N + 2) - (L / (N + 2))^2) / (N + 2)),  S their squares' sum and L their sum

    Half a text is added to each of the four cases of right and wrong (Agresti and Min, 2005): where all texts go one way, as where every
    prediction is right, the spread is zero, and the uncertainty is not.
    """
    texts = len(leads) + 2
    return float(np.sqrt(((np.sum(leads**2) + 1) / texts - (np.sum(leads) / texts) ** 2) / texts))
