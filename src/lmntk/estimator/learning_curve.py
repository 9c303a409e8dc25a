"""Held-out accuracy with fewer labels, from parts of the kernel that is there: it says whether more labels would help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from pydantic import BaseModel, computed_field

from lmntk.estimator.choice import parts_of, pool_of
from lmntk.estimator.standing import TOLD, lead_error
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import Measured
from lmntk.solvers.folds import MOST_FOLDS, deal_folds
from lmntk.solvers.held_out import HeldOut, held_out
from lmntk.solvers.inputs import Array, Labels

# Parts into which the texts are dealt, and how many of them are put together: a quarter, half, three quarters.
SHARES = ((4, 1), (2, 1), (4, 3))
# How often the texts are dealt anew, by the rows N C of the kernel: with more rows than the last there is no curve, since each
# deal costs as much as a choice.
DEALS = ((200, 3), (1000, 2), (3000, 1))
FOLDS = 10  # of a part, at most
WORTH = 0.02  # of the accuracy: what is surely less is not worth as many labels again


class CurvePoint(BaseModel):
    """The held-out accuracy of so many labels.

    Attributes:
        labels: how many, on average over the draws.
        trained: how many of them each decision was trained on, on average: the others were held out.
        draws: how many sets of labels were drawn.
        accuracy: held out.
        error: its standard error, over texts and over deals.
    """

    labels: float
    trained: float
    draws: int
    accuracy: float
    error: float


class LearningCurve(BaseModel):
    """The held-out accuracy by the number of labels, and what the last doubling has gained.

    Attributes:
        points: the fewest labels first, all of them last.
        gain: of the accuracy from half of the labels to all, on the same texts; None where half is too few for a setting to be chosen,
            since its accuracy is lower for that reason too.
        error: the gain's standard error.
        chance: what guessing comes to.
    """

    points: list[CurvePoint]
    gain: float | None
    error: float | None
    chance: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def answer(self) -> str:
        """Return ``yes``, ``no`` or ``unclear``: whether more labels would probably help."""
        if self.gain is None or self.error is None:
            return "unclear"
        if self.gain > TOLD * self.error:
            return "yes"
        return "no" if self.gain + self.error <= WORTH else "unclear"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def sentence(self) -> str:
        """The answer in words, with the figures that it rests on."""
        if self.gain is None or self.error is None:
            return "Whether more labels would help cannot be told: half of them are too few to choose a setting by."
        figures = f"from half of the labels to all of them the accuracy moved by {100 * self.gain:+.1f} ± {100 * self.error:.1f} points"
        return {
            "yes": f"More labels would probably help: {figures}.",
            "no": f"More labels would probably not help: {figures}.",
            "unclear": f"Whether more labels would help cannot be told: {figures}.",
        }[self.answer]


def learning_curve(
    ways: Sequence[Measured], texts: LabelledTexts, held: HeldOut | None, *, seed: int = 0
) -> LearningCurve | None:
    """Return the held-out accuracy with a quarter, half, three quarters and all of the labels; no new gradients are computed.

    The texts are dealt into parts with a like share of each class, several times. The labels of a part, or of all parts but one, are
    fitted as a file of their own: way and setting are chosen inside each fold, and with less than five texts of a class nothing is
    chosen. So every text is decided equally often at each number of labels, and differences are over the same texts.

    Args:
        ways: measured, as the choice was made from.
        texts: their labels.
        held: the held-out decisions of a choice from all of them, which are the last point.
        seed: of the dealing.

    Returns:
        The curve; None where the texts are too few for an estimate, or the kernel is too large.
    """
    rows = len(texts.examples) * ways[0].kernel.shape[1]
    deals = next((count for most, count in DEALS if rows <= most), 0)
    if held is None or not texts.are_enough or not deals:
        return None
    chance, whole = 1 / len(texts.labels), held.correct
    points, gain, error = [], None, None
    for parts, together in SHARES:
        draws = list(_draws(texts, parts, together, deals, seed))
        if not draws:
            continue
        correct = np.zeros((deals, len(whole)))
        times, trained = np.zeros_like(correct), []
        for deal, rows_of_draw in draws:
            found, share = _of_part(ways, texts, rows_of_draw, seed)
            correct[deal, rows_of_draw] += found.correct
            times[deal, rows_of_draw] += 1
            trained.append(share * len(rows_of_draw))
        by_deal = correct / times
        accuracy, spread = _mean_and_error(by_deal, chance)
        labels = float(np.mean([len(rows_of_draw) for _, rows_of_draw in draws]))
        points.append(
            CurvePoint(
                labels=labels,
                trained=float(np.mean(trained)),
                draws=len(draws),
                accuracy=accuracy,
                error=spread,
            )
        )
        if 2 * together == parts and not any(texts.part(rows_of_draw).are_few for _, rows_of_draw in draws):
            gain, error = _mean_and_error(whole - by_deal, 0.0)
    folds = held.folds or MOST_FOLDS
    points.append(
        CurvePoint(
            labels=len(whole),
            trained=len(whole) * (1 - 1 / folds),
            draws=1,
            accuracy=float(whole.mean()),
            error=lead_error(whole - chance),
        )
    )
    return LearningCurve(points=points, gain=gain, error=error, chance=chance)


def _draws(
    texts: LabelledTexts, parts: int, together: int, deals: int, seed: int
) -> Iterator[tuple[int, Labels]]:
    """Yield the number of each deal with each set of rows that is drawn; nothing where any is too small to hold texts of it out."""
    if min(texts.different) < 2 * parts // together:
        return
    dealt_anew = deal_folds(texts.numbers, texts.names, rounds=deals, most=parts, seed=seed)
    if (
        len(dealt_anew[0]) < parts
    ):  # a text that stands in the file with two labels is dealt as one of the first's
        return
    drawn = []
    for deal, dealt in enumerate(dealt_anew):
        for first in range(parts):
            chosen = [dealt[(first + number) % parts] for number in range(together)]
            drawn.append((deal, np.sort(np.concatenate(chosen))))
    if all(texts.part(rows).can_be_held_out for _, rows in drawn):
        yield from drawn


def _of_part(
    ways: Sequence[Measured], texts: LabelledTexts, rows: Labels, seed: int
) -> tuple[HeldOut, float]:
    """Return the held-out decisions of a part of the texts by the others of it, and the share of it that these were trained on."""
    part = texts.part(rows)
    measured = [
        replace(way, texts=[], kernel=_rows_of(way.kernel, rows), logits=way.logits[rows]) for way in ways
    ]
    pool = pool_of(parts_of(measured, part.numbers, few=part.are_few))
    folds = deal_folds(part.numbers, part.names, rounds=1, most=FOLDS, seed=seed)
    share = 1 - sum(len(fold) ** 2 for fold in folds[0]) / len(rows) ** 2
    return held_out(pool, part.numbers, folds, calibrate=not part.are_few), share


def _rows_of(kernel: Array, rows: Labels) -> Array:
    return np.asarray(kernel[rows][:, :, rows])


def _mean_and_error(by_deal: Array, chance: float) -> tuple[float, float]:
    """Return the mean of shares [deals, N], and its standard error over texts and over deals."""
    deals = len(by_deal)
    between = float(np.var(by_deal.mean(axis=1), ddof=1)) / deals if deals > 1 else 0.0
    over_texts = lead_error(by_deal.mean(axis=0) - chance)
    return float(by_deal.mean()), float(np.sqrt(over_texts**2 + between))
