"""The standing of a classifier of few texts: its held-out accuracy beside its rivals', and the sentence that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lmntk.solvers.held_out import HeldOut, interval

TOO_FEW = "There are too few texts to estimate the accuracy: give five of each class or more."
TOLD = 2.0  # errors: a smaller difference cannot be told from none


@dataclass(frozen=True)
class Rival:
    """A rival's held-out accuracy, and the classifier's lead over it.

    Attributes:
        name: which.
        accuracy: a share; of chance what guessing comes to.
        lead: the classifier's accuracy less the rival's, on the same texts in the same folds.
        error: the lead's standard error, over texts.
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
        low, high: of 90 in 100.
        texts: labelled ones.
        chance: what guessing comes to.
        rivals: by accuracy, the best first.
        is_estimate: False where there are too few texts to estimate anything.
    """

    accuracy: float
    low: float
    high: float
    texts: int
    chance: float
    rivals: tuple[Rival, ...]
    is_estimate: bool = True

    @property
    def outcome(self) -> str:
        """Return ``better``, ``worse``, ``undecided``, or ``few``, by the lead over the best rival."""
        if not self.is_estimate:
            return "few"
        best = self.rivals[0]
        if abs(best.lead) <= TOLD * best.error or best.lead == 0:
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

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, the outcome and the sentence too."""
        return asdict(self) | {"outcome": self.outcome, "sentence": self.sentence}


def standing_of(
    held_out: HeldOut, rivals: Sequence[tuple[str, HeldOut]], classes: int, *, is_estimate: bool = True
) -> Standing:
    """Return the standing of held-out decisions beside those of rivals on the same folds."""
    own = held_out.correct
    texts, chance = len(own), 1.0 / classes
    compared = [Rival("chance", chance, float(own.mean() - chance), standard_error(own))]
    for name, rival in rivals:
        leads = own - rival.correct
        compared.append(Rival(name, rival.accuracy, float(leads.mean()), standard_error(leads)))
    compared.sort(key=lambda rival: rival.accuracy, reverse=True)
    low, high = interval(held_out.accuracy, texts)
    return Standing(held_out.accuracy, low, high, texts, chance, tuple(compared), is_estimate)


def standard_error(values: Any) -> float:
    """Return the standard error of the mean of one number a text."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
