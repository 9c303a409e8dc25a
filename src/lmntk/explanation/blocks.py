"""The texts whose predictions are asked about, in blocks that one training decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lmntk.attribution.parts import Parts, Refits, parts_of, without_groups
from lmntk.errors import UserError
from lmntk.explanation.trained import Trained
from lmntk.solvers.inputs import Array


@dataclass(frozen=True, eq=False)
class NewTexts:
    """Texts that were not trained on.

    Attributes:
        plain: the M texts.
        cross: their kernel with the training texts [N, k, M, k].
        logits: pre-trained ones [M, C].
        groups: by layer, its part of the kernel between all logits [N, C, M, C]; empty where that is not known.
        labels: their class numbers, where they are known.
    """

    plain: Sequence[str]
    cross: Array
    logits: Array
    groups: Mapping[str, Array] = field(default_factory=dict)
    labels: Sequence[int | None] | None = None


@dataclass(frozen=True, eq=False)
class Block:
    """Texts that one training decides.

    Attributes:
        plain: the M texts.
        parts: of their decisions.
        left: the numbers of the training texts that it was trained on.
        refits: the training; None where nothing was trained.
        rows: of held-out training texts their rows, else None.
        labels: class numbers, where they are known.
        layers: of each text, by layer, its part of the contributions' sum; None where it is not known.
    """

    plain: Sequence[str]
    parts: Parts
    left: Sequence[int]
    refits: Refits | None
    rows: Sequence[int | None]
    labels: Sequence[int | None]
    layers: Sequence[dict[str, float]] | None = None


def block_of(trained: Trained, new: NewTexts) -> Block:
    """Return new texts, decided by the whole training."""
    parts = trained.solution.parts(new.cross, new.logits)
    try:
        refits: Refits | None = trained.solution.refits(new.cross, new.logits)
    except UserError:  # nothing was trained, or without a ridge
        refits = None
    layers = None
    if new.groups and refits is not None:
        sums = {
            name: parts.margins.along(refits.contributions(part)).sum(axis=0)
            for name, part in new.groups.items()
        }
        layers = [{name: float(of_all[m]) for name, of_all in sums.items()} for m in range(len(new.plain))]
    count = len(new.plain)
    labels = [None] * count if new.labels is None else new.labels
    everything = range(len(trained.plain))
    return Block(new.plain, parts, everything, refits, [None] * count, labels, layers)


def held_out_blocks(trained: Trained, most: int) -> list[Block]:
    """Return the training texts that the others decide least well, each with those that are the same, at most so many texts.

    Raises:
        UserError: nothing was trained.
    """
    refits, groups = trained.solution.refits(), trained.groups()
    margins = held_out_margins(trained, refits)
    order = sorted(groups, key=lambda group: min(margins[number] for number in group))
    blocks: list[Block] = []
    count = 0
    for group in order:
        if count + len(group) > most and blocks:
            break
        alone = refits.holding_out(group)
        if alone.texts.texts == 0:
            raise UserError(
                f"explain: all {len(trained.plain)} training texts are the same; none can be held out"
            )
        blocks.append(
            Block(
                [trained.plain[number] for number in group],
                parts_of(alone, trained.intercept),
                [number for number in range(len(trained.plain)) if number not in group],
                alone,
                [trained.rows[number] for number in group],
                [trained.numbers[number] for number in group],
            )
        )
        count += len(group)
    return blocks


def held_out_margins(trained: Trained, refits: Refits) -> Array:
    """Return of each training text the decision for its label less the best of the others [N], by training without it and its like."""
    groups = trained.groups()
    own = np.empty((len(trained.plain), refits.offset.shape[1]))
    for group, decisions in zip(groups, without_groups(refits, groups), strict=True):
        own[group] = decisions[group]
    return margin_of_labels(own + trained.intercept, trained.numbers)


def margin_of_labels(decisions: Array, labels: Sequence[int]) -> Array:
    """Return the decision for each text's label less the best of the others [M]."""
    of_class = np.concatenate([-decisions, decisions], axis=1) / 2 if decisions.shape[1] == 1 else decisions
    at = np.arange(len(of_class)), np.asarray(labels)
    others = of_class.copy()
    others[at] = -np.inf
    return np.asarray(of_class[at] - others.max(axis=1))
