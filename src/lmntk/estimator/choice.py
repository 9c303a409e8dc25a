"""The choice of a way and a setting by held-out texts, and the estimate of what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmntk.baselines.rivals import Majority, Refitted, ZeroShot, of_words, probe, word_counts
from lmntk.estimator.standing import LARGEST, Standing, standing_of
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import Measured
from lmntk.solvers.calibration import Calibration, fit_calibration
from lmntk.solvers.folds import MOST_FOLDS, ROUNDS, deal_folds
from lmntk.solvers.held_out import (
    REGULARIZATIONS,
    Candidates,
    CentredCandidate,
    HeldOut,
    Pool,
    RidgeCandidates,
    choose,
    held_out,
)
from lmntk.solvers.inputs import Array, Labels
from lmntk.solvers.linear_form import LinearForm
from lmntk.solvers.selection import predict_labels

# Rows N C of a kernel from which fewer rounds of folds are dealt, since each costs a system for every pair of folds.
ROWS_FOR_FEWER, FEWER_ROUNDS = 200, 5
MOST_ROWS, FEWEST_FOLDS = 6000, 10
LAMBDA_OF_FEW = (0.1,)


@dataclass(frozen=True, eq=False)
class Choice:
    """A chosen way and setting, with an estimate.

    Attributes:
        measured: the way.
        setting: by name; of no training ``{"no_training": "centred"}``.
        form: the solution; None for no training.
        intercepts: what is added to each logit's decision; the calibration's offsets are part of it.
        held_out: decisions of the choice made inside each fold; None where nothing can be held out.
        calibration: from these to probabilities.
        standing: what they come to.
        taken: of each way, in order, the share of folds whose other texts chose it; none where nothing is held out.
    """

    measured: Measured
    setting: Mapping[str, Any]
    form: LinearForm | None
    intercepts: tuple[float, ...]
    held_out: HeldOut | None
    calibration: Calibration
    standing: Standing | None
    taken: tuple[float, ...] = ()

    @property
    def has_direction(self) -> bool:
        """Return whether a single direction stands for the solution: not for no training, nor for that of a shared kernel."""
        return self.form is not None and not self._is_shared

    @property
    def coefficients(self) -> Array:
        """The coefficients of the training texts, an output each, of a shared kernel a class each; zeros for no training."""
        if self.form is not None:
            return self.form.coefficients
        return np.zeros(self.measured.logits.shape if self._is_shared else self.measured.kernel.shape[:2])

    @property
    def _is_shared(self) -> bool:
        return self.measured.way.combinations is not None

    @property
    def f0_scale(self) -> float:
        """The number s that the pre-trained logits are divided by."""
        return 1.0 if self.form is None else self.form.f0_scale

    def decisions(self, kernel: Array, logits: Array) -> Array:
        """Return decisions [M, C] on texts with a kernel of [N, C, M, C] and pre-trained logits [M, C]."""
        slopes = self._summed(kernel, "mc" if self._is_shared else "md")
        return np.asarray(slopes + logits / self.f0_scale + np.asarray(self.intercepts))

    def parts(self, kernel: Array) -> Array:
        """Return what each training text adds to the decisions on M texts, [N, M, C]."""
        return self._summed(kernel, "nmc" if self._is_shared else "nmd")

    def _summed(self, kernel: Array, axes: str) -> Array:
        of_texts = "nimj,nc" if self._is_shared else "ncmd,nc"  # i and j are of size 1
        sums = np.einsum(f"{of_texts}->{axes}", kernel, self.coefficients)
        return self.measured.way.of_classes(sums)

    @property
    def sharpness(self) -> float:
        """The factor of decisions whose probabilities fit the held-out labels best."""
        return self.calibration.sharpness


class _OfMode:
    """Candidates whose settings say which mode they are of."""

    def __init__(self, mode: str, candidates: Candidates) -> None:
        self.candidates = candidates
        self.settings = [{"mode": mode, **setting} for setting in candidates.settings]

    def leave_out(self, groups: Labels) -> Array:
        return self.candidates.leave_out(groups)


def choose_way(
    ways: Sequence[Measured],
    texts: LabelledTexts,
    features: Array | None = None,
    *,
    seed: int = 0,
    regularization: float | None = None,
) -> Choice:
    """Return the best way and setting, with an estimate whose choice was made inside each fold.

    With less than five texts of a class nothing is chosen: lambda is 0.1, the pre-trained logits take no part, and of several ways the
    first is taken. With a single text of a class nothing can be held out, and there is no estimate.

    Args:
        ways: measured, the preferred one first.
        texts: their labels.
        features: what the linear probe reads of the texts [N, i].
        seed: of the folds.
        regularization: lambda, if it is not to be chosen.
    """
    labels, few = texts.numbers, texts.are_few
    parts = parts_of(ways, labels, few=few, regularization=regularization)
    pool = pool_of(parts)
    estimate, standing, number, calibration = None, None, 0, Calibration()
    if texts.can_be_held_out:
        rounds = folds_of(texts, ways[0].kernel.shape[1], seed)
        estimate = held_out(pool, labels, rounds, calibrate=not few)
        number, calibration = choose(pool, labels, rounds), _calibration(estimate, with_offsets=not few)
        rivals = [(name, held_out(each, labels, rounds)) for name, each in rivals_of(ways, texts, features)]
        standing = standing_of(estimate, rivals, texts.labels, is_estimate=not few)
    owners = [(part, k) for part, (_, each) in enumerate(parts) for k in range(len(each.settings))]
    part, k = owners[number]
    way, candidates = parts[part]
    of_way = [ways.index(parts[part][0]) for part, _ in owners]
    setting = candidates.settings[k]
    form, intercepts = _solution(way, candidates, setting)
    moved = tuple((np.asarray(intercepts) + calibration.shift).tolist())
    taken = () if estimate is None else shares_taken(estimate, of_way, len(ways))
    return Choice(way, setting, form, moved, estimate, calibration, standing, taken)


def parts_of(
    ways: Sequence[Measured], labels: Labels, *, few: bool, regularization: float | None = None
) -> list[tuple[Measured, Candidates]]:
    """Return all that is chosen from, each with its way: of few texts the first way's alone; see ``candidates_of``."""
    return [
        (way, candidates)
        for way in (ways[:1] if few else ways)
        for candidates in candidates_of(way, labels, few=few, regularization=regularization)
    ]


def pool_of(parts: Sequence[tuple[Measured, Candidates]]) -> Pool:
    """Return what ``parts_of`` returned as one pool, whose settings say their mode."""
    return Pool([_OfMode(way.way.mode, candidates) for way, candidates in parts])


def shares_taken(estimate: HeldOut, owners: Sequence[int], count: int) -> tuple[float, ...]:
    """Return of each of so many owners the share of folds in which a setting of its own was chosen.

    Args:
        estimate: with the numbers of the chosen settings.
        owners: of each setting, the number of whose it is.
        count: of the owners.
    """
    chosen = [owners[number] for of_round in estimate.chosen for number in of_round]
    return tuple((np.bincount(chosen, minlength=count) / len(chosen)).tolist())


def candidates_of(
    way: Measured, labels: Labels, *, few: bool = False, regularization: float | None = None
) -> list[Candidates]:
    """Return what a way is trained as: ridge regression in every setting, and where its logits mean something no training.

    Args:
        way: measured.
        labels: class numbers [N].
        few: there are too few texts to choose by.
        regularization: lambda, if it is not to be chosen.
    """
    f0 = way.logits if way.way.has_logits and not few else None
    given = (LAMBDA_OF_FEW if few else REGULARIZATIONS) if regularization is None else (regularization,)
    classes = None if way.way.combinations is None else way.logits.shape[1]
    ridge = RidgeCandidates(way.kernel, labels, f0, given, classes=classes, basis=way.way.basis)
    return [ridge] if f0 is None or regularization is not None else [ridge, CentredCandidate(f0)]


def _calibration(estimate: HeldOut, *, with_offsets: bool) -> Calibration:
    """Return the calibration of held-out decisions; those of a text in several rounds count as one text."""
    rounds, texts, outputs = estimate.decisions.shape
    decisions = estimate.decisions.reshape(rounds * texts, outputs)
    return fit_calibration(decisions, np.tile(estimate.labels, rounds), texts, with_offsets=with_offsets)


def folds_of(texts: LabelledTexts, outputs: int, seed: int) -> list[list[Labels]]:
    """Return the rounds of folds that all estimates are made on; fewer where the kernel is large."""
    rows = len(texts.examples) * outputs
    rounds = ROUNDS if rows <= ROWS_FOR_FEWER else FEWER_ROUNDS if rows <= MOST_ROWS else 1
    most = MOST_FOLDS if rows <= MOST_ROWS else FEWEST_FOLDS
    return deal_folds(texts.numbers, texts.names, rounds=rounds, most=most, seed=seed)


def rivals_of(
    ways: Sequence[Measured], texts: LabelledTexts, features: Array | None
) -> list[tuple[str, Candidates]]:
    """Return the classifiers that the kernel is compared with, by name."""
    labels, outputs = texts.numbers, ways[0].logits.shape[1]
    rivals: list[tuple[str, Candidates]] = [(LARGEST, Majority(labels, outputs))]
    asked = [way.logits for way in ways if way.way.has_logits]
    if asked:  # of several prompts each rival takes its own, inside each fold
        rivals += [
            ("zero-shot", Pool([ZeroShot(logits) for logits in asked])),
            ("zero-shot, centred", Pool([CentredCandidate(logits) for logits in asked])),
        ]
    counts = word_counts(texts.plain)
    rivals.append(("TF-IDF with logistic regression", Refitted(of_words, counts, labels, outputs)))
    if features is not None:
        rivals.append(("the linear probe", Refitted(probe, features, labels, outputs)))
    return rivals


def fitted_share(choice: Choice, labels: Labels) -> float:
    """Return the share of the training texts that the solution itself classifies as labelled."""
    decisions = choice.decisions(choice.measured.kernel, choice.measured.logits)
    return float(np.mean(predict_labels(decisions) == labels))


def _solution(
    way: Measured, candidates: Candidates, setting: Mapping[str, Any]
) -> tuple[LinearForm | None, tuple[float, ...]]:
    outputs = way.logits.shape[1]
    if not isinstance(candidates, RidgeCandidates):
        return None, tuple((-way.logits.mean(axis=0)).tolist())
    return LinearForm(candidates.solution(setting), f0_scale=setting["f0_scale"]), (0.0,) * outputs
