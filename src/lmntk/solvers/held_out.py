"""Held-out decisions without training anew, and an estimate of the accuracy whose settings are chosen inside each fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np

from lmntk.errors import UserError
from lmntk.solvers.calibration import fit_calibration
from lmntk.solvers.inputs import Array, Labels, as_logits, as_train_kernel, offset, target_matrix
from lmntk.solvers.ridge_path import RidgePath
from lmntk.solvers.selection import predict_labels, strength

Setting = Mapping[str, Any]
REGULARIZATIONS = (0.001, 0.01, 0.1, 1.0)
F0_SCALES = (1.0, 3.0, 10.0, 100.0, 1000.0, float("inf"))
INTERVAL = 1.6449  # of a normal's deviations: 90 in 100 lie within


class Candidates(Protocol):
    """Ways of training on some texts, each of which says what it would decide on texts that were left out."""

    @property
    def settings(self) -> Sequence[Setting]:
        """The settings of each way."""
        ...

    def leave_out(self, groups: Labels) -> Array:
        """Return decisions [G, g, C, settings] on groups [G, g] of texts, by training on all others."""
        ...


class RidgeCandidates:
    """Kernel ridge regression, every regularization with every scale of the pre-trained logits.

    The ridge is the fixed number lambda ||K||_op of the kernel of **all** texts. See ``RidgePath.leave_out``.

    Args:
        kernel: [N, C, N, C], symmetric; or [N, 1, N, 1] that C classes share, or [N, k, N, k] of k combinations of the logits.
        labels: class numbers [N].
        f0: pre-trained logits [N, C]; without them they take no part.
        regularizations: values of lambda, each above 0.
        f0_scales: values of s.
        classes: C, of a kernel that they share.
        basis: the k orthonormal combinations [C, k]; targets and pre-trained logits are combined likewise. Decisions are of all classes.
    """

    def __init__(
        self,
        kernel: Any,
        labels: Labels,
        f0: Any = None,
        regularizations: Sequence[float] = REGULARIZATIONS,
        f0_scales: Sequence[float] = F0_SCALES,
        classes: int | None = None,
        basis: Array | None = None,
    ) -> None:
        values = as_train_kernel(kernel)
        self.basis = np.eye(values.shape[1] if classes is None else classes) if basis is None else basis
        shape = len(values), len(self.basis)
        self.path = RidgePath(values)
        self.regularizations = tuple(regularizations)
        self.scales = tuple(f0_scales) if f0 is not None else (float("inf"),)
        offsets = np.stack([offset(f0, scale, shape) for scale in self.scales], axis=2)  # (n, c, s)
        self.offsets = np.einsum("ncs,ck->nks", offsets, self.basis)
        self.targets = (target_matrix(labels, shape[1]) @ self.basis)[:, :, None] - self.offsets
        self.settings: list[Setting] = [
            {"regularization": ridge, "f0_scale": scale}
            for ridge in self.regularizations
            for scale in self.scales
        ]

    def leave_out(self, groups: Labels) -> Array:
        """Return decisions [G, g, C, settings] on groups [G, g] of texts, by the fit to all others."""
        offsets = self.offsets[groups]  # (groups, g, k, s)
        by_ridge = [self.path.leave_out(self._rows, ridge, groups) for ridge in self.regularizations]
        decisions = np.concatenate([each.reshape(offsets.shape) + offsets for each in by_ridge], axis=-1)
        return np.asarray(np.einsum("Ggks,ck->Ggcs", decisions, self.basis, optimize=True))

    def solution(self, setting: Setting) -> Array:
        """Return the coefficients [N, k] of all texts with a setting."""
        number = self.scales.index(setting["f0_scale"])
        alpha = self.path.solve(self._rows, setting["regularization"]).reshape(self.targets.shape)
        return np.asarray(alpha[:, :, number])

    @property
    def _rows(self) -> Array:
        """The targets as the kernel's matrix takes them: of a shared one every class is a column."""
        n, outputs = self.path.examples, self.path.outputs
        return np.asarray(self.targets.reshape(n, outputs, -1))


class CentredCandidate:
    """No training: the pre-trained logits less their mean over the other texts, whose labels are not used.

    Args:
        f0: pre-trained logits [N, C].
    """

    settings: Sequence[Setting] = ({"no_training": "centred"},)

    def __init__(self, f0: Array) -> None:
        self.f0 = as_logits(f0, (len(f0), f0.shape[1]), "f0")

    def leave_out(self, groups: Labels) -> Array:
        """Return decisions [G, g, C, 1] on groups [G, g] of texts."""
        left = self.f0[groups]
        others = len(self.f0) - groups.shape[1]
        mean = (self.f0.sum(axis=0) - left.sum(axis=1)) / max(others, 1)  # (groups, c)
        return np.asarray(left - mean[:, None])[..., None]


class Pool:
    """Several ways beside each other, to be chosen from."""

    def __init__(self, candidates: Sequence[Candidates]) -> None:
        self.candidates = candidates
        self.settings = [setting for each in candidates for setting in each.settings]

    def leave_out(self, groups: Labels) -> Array:
        """Return decisions [G, g, C, settings] of all."""
        return np.asarray(np.concatenate([each.leave_out(groups) for each in self.candidates], axis=-1))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out decisions of every text in every round.

    Attributes:
        decisions: [R, N, C]; of each text by a training without its fold.
        labels: class numbers [N].
        chosen: for each round and fold the number of the setting that its inner folds chose.
        shifts: [R, N, C] that a calibration by its inner folds adds to the decisions; None where nothing was calibrated.
    """

    decisions: Array
    labels: Labels
    chosen: tuple[tuple[int, ...], ...] = ()
    shifts: Array | None = None

    @property
    def decided(self) -> Array:
        """The decisions with their shifts [R, N, C], by which classes are told."""
        return self.decisions if self.shifts is None else np.asarray(self.decisions + self.shifts)

    @property
    def correct(self) -> Array:
        """The share of rounds in which each text is classified as its label says, [N]."""
        predicted = [predict_labels(decisions) for decisions in self.decided]
        return np.asarray(np.mean([classes == self.labels for classes in predicted], axis=0))

    @property
    def accuracy(self) -> float:
        """The mean over texts and rounds."""
        return float(self.correct.mean())

    @property
    def folds(self) -> int | None:
        """The number of folds of a round; None where it is not known."""
        return len(self.chosen[0]) if self.chosen else None

    @property
    def interval(self) -> tuple[float, float]:
        """The accuracies on new texts that this one allows, 90 in 100; see ``interval``."""
        return interval(self.accuracy, len(self.labels), self.folds)


def held_out(
    candidates: Candidates, labels: Labels, rounds: Sequence[Sequence[Labels]], *, calibrate: bool = False
) -> HeldOut:
    """Return held-out decisions whose setting is chosen inside each fold.

    For each fold S the setting is the one that classifies most of the other folds' texts, each of these left out together with S. So no
    text takes part in any choice that its decision depends on. Of equals the most regularised is taken (``strength``). The same decisions
    on the other folds' texts calibrate those on S: offsets move them where ``fit_calibration`` takes any.

    Args:
        candidates: what is chosen from.
        labels: class numbers [N].
        rounds: of ``deal_folds``.
        calibrate: whether offsets are fitted.

    Cost: a round of F folds asks for F (F - 1) / 2 pairs of folds.
    """
    order = preference(candidates.settings)
    decisions, chosen, shifts = [], [], []
    for folds in rounds:
        single = _each(candidates, folds)
        numbers = [0] * len(folds)
        of_round = np.empty((len(labels), single[0].shape[1]))
        moved = np.zeros_like(of_round)
        if len(candidates.settings) > 1 or calibrate:
            beside = _beside(candidates, folds)
            right = [
                np.sum([_right(values, labels[other]) for other, values in each], axis=0) for each in beside
            ]
            numbers = [order[int(np.argmax(row[order]))] for row in right]
            if calibrate:
                for fold, each, number in zip(folds, beside, numbers, strict=True):
                    others = np.concatenate([values[:, :, number] for _, values in each])
                    of_others = labels[np.concatenate([other for other, _ in each])]
                    moved[fold] = fit_calibration(others, of_others).shift
        for fold, values, number in zip(folds, single, numbers, strict=True):
            of_round[fold] = values[:, :, number]
        decisions.append(of_round)
        chosen.append(tuple(numbers))
        shifts.append(moved)
    return HeldOut(np.stack(decisions), labels, tuple(chosen), np.stack(shifts) if calibrate else None)


def choose(candidates: Candidates, labels: Labels, rounds: Sequence[Sequence[Labels]]) -> int:
    """Return the number of the setting that classifies most of the texts when they are held out; see ``held_out`` for equals."""
    right = np.zeros(len(candidates.settings))
    for folds in rounds:
        for fold, values in zip(folds, _each(candidates, folds), strict=True):
            right += _right(values, labels[fold])
    order = preference(candidates.settings)
    return order[int(np.argmax(right[order]))]


def preference(settings: Sequence[Setting]) -> list[int]:
    """Return the numbers of the settings, the one first that is taken of equals: no training, then the most regularised."""
    return sorted(
        range(len(settings)),
        key=lambda number: (
            ("no_training" in settings[number], strength(settings[number]))
            if "no_training" not in settings[number]
            else (True, ())
        ),
        reverse=True,
    )


def interval(accuracy: float, texts: int, folds: int | None = None) -> tuple[float, float]:
    """Return Wilson's interval, 90 in 100, of an accuracy that was measured on so many texts.

    Held out, the texts that are decided are also those that train, so that the accuracy varies with both. With J folds the variance counts

        1 + J / (J - 1)

    times (Nadeau and Bengio, 2003, "Inference for the generalization error"). This is a rule of thumb: nothing estimates that variance
    without bias. In six simulations the interval holds the truth in 90 of 100 cases or more with it, and in fewer without it.

    Args:
        accuracy: a share.
        texts: their number.
        folds: J, of a held-out accuracy; None where the texts took no part in training.

    Raises:
        UserError: no texts, or a single fold.
    """
    if texts < 1:
        raise UserError("interval: no texts; an accuracy needs at least one")
    if folds == 1:
        raise UserError(
            "interval: one fold leaves no texts to train on; an accuracy that is held out needs two"
        )
    spread = INTERVAL**2 / texts * (1.0 if folds is None else 1 + folds / (folds - 1))
    centre = (accuracy + spread / 2) / (1 + spread)
    half = np.sqrt(spread * (accuracy * (1 - accuracy) + spread / 4)) / (1 + spread)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def _beside(candidates: Candidates, folds: Sequence[Labels]) -> list[list[tuple[Labels, Array]]]:
    """Return for each fold the decisions [g, C, settings] on every other one without both, with that other fold's texts."""
    beside: list[list[tuple[Labels, Array]]] = [[] for _ in folds]
    pairs = list(combinations(range(len(folds)), 2))
    unions = [np.concatenate([folds[i], folds[j]]) for i, j in pairs]
    for (i, j), values in zip(pairs, _each(candidates, unions), strict=True):
        split = len(folds[i])
        beside[j].append((folds[i], values[:split]))
        beside[i].append((folds[j], values[split:]))
    return beside


def _right(decisions: Array, labels: Labels) -> Array:
    """Return how many of the decisions [g, C, settings] are as the labels [g] say, [settings]."""
    by_setting = np.moveaxis(decisions, -1, 0)
    return np.asarray([np.sum(predict_labels(each) == labels) for each in by_setting], dtype=np.float64)


def _each(candidates: Candidates, groups: Sequence[Labels]) -> list[Array]:
    """Return the decisions [g, C, settings] of each group; groups of one size go together."""
    sizes: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        sizes.setdefault(len(group), []).append(number)
    decisions: list[Array] = [np.empty(0)] * len(groups)
    for numbers in sizes.values():
        values = candidates.leave_out(np.stack([groups[number] for number in numbers]))
        for number, each in zip(numbers, values, strict=True):
            decisions[number] = each
    return decisions
