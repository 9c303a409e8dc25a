"""The doubts about each label of labelled texts, by what a classifier without it decides."""

from __future__ import annotations

import math
from typing import Any

from lmntk.attribution.changes import TrainedTexts
from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.attribution.suspects import WRONG_SHARE, Suspicion, suspicion_of
from lmntk.errors import UserError
from lmntk.estimator.choice import Choice
from lmntk.estimator.texts import LabelledTexts


def check_number(texts: LabelledTexts) -> None:
    """Refuse texts of which none can be held out.

    Raises:
        UserError: there are too few.
    """
    if not texts.are_enough:
        raise UserError(
            "audit: there are too few texts to judge a label by the others; give five different ones of each class or more"
        )


def doubts_of(
    choice: Choice, texts: LabelledTexts, false_discoveries: float, wrong_share: float = WRONG_SHARE
) -> Suspicion:
    """Return the doubts about each label, by the held-out decisions of the chosen way.

    Raises:
        UserError: there are too few texts, or the share is none.
    """
    check_number(texts)
    assert choice.held_out is not None
    refits = refits_of(choice, texts)
    return suspicion_of(
        choice.held_out.decided, texts.numbers, choice.sharpness, refits, false_discoveries, wrong_share
    )


def refits_of(choice: Choice, texts: LabelledTexts) -> RidgeRefits | None:
    """Return ridge regression on the texts, as it was chosen; None of no training, and of a kernel that is not one for each class."""
    measured = choice.measured
    if choice.form is None or measured.way.combinations is not None or measured.way.basis is not None:
        return None
    kernel, logits = measured.kernel, measured.logits
    trained = TrainedTexts.of(kernel, kernel, texts.numbers, logits, logits)
    return RidgeRefits(trained, choice.setting["regularization"], choice.f0_scale)


def rows_of(texts: LabelledTexts, suspicion: Suspicion) -> list[dict[str, Any]]:
    """Return a row for each text, the most suspicious first."""
    plain, labels = texts.plain, texts.labels
    rows = []
    for position, number in enumerate(suspicion.order.tolist()):
        rows.append(
            {
                "row": number + 1,
                "text": plain[number],
                "label": labels[texts.numbers[number]],
                "proposed": labels[suspicion.proposed[number]],
                "probability": float(suspicion.probability[number]),
                "margin": float(suspicion.margin[number]),
                "self_influence": _known(suspicion.self_influence[number]),
                "flip_gain": _known(suspicion.flip_gain[number]),
                "named": position < suspicion.named,
            }
        )
    return rows


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
