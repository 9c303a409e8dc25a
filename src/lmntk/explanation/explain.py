"""Predictions explained: from a training and the texts that are asked about to a record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmntk.attribution.shapley import MOST_ENUMERATED, by_orders, enumerated
from lmntk.diagnosis.regime import Regime
from lmntk.errors import UserError
from lmntk.estimator.trust import regime_entry
from lmntk.explanation.blocks import Block
from lmntk.explanation.records import ExplainedText, ExplanationRecord, TrainingText
from lmntk.explanation.trained import Trained
from lmntk.solvers.inputs import Array
from lmntk.system.hashing import versions

NO_LAYERS = "the share of each layer is left out: the kernels that are kept are sums over all layers"


def explanation_record(
    trained: Trained, blocks: Sequence[Block], regime: Regime, orders: int | None, notes: Sequence[str]
) -> ExplanationRecord:
    """Return the explanation of all texts of the blocks.

    Args:
        trained: the training.
        blocks: the texts.
        regime: whether the kernel regime holds.
        orders: for Shapley values, in how many orders texts come where there are too many to enumerate; 0 where they shall be enumerated
            whatever that takes; None where they are not asked for.
        notes: what was cut beforehand.

    Raises:
        UserError: more texts than can be enumerated, or Shapley values of no training.
    """
    has_layers = all(block.layers is not None for block in blocks)
    return ExplanationRecord(
        name=trained.name,
        settings=dict(trained.settings),
        labels=list(trained.labels),
        training=[training_text(trained, number) for number in range(len(trained.plain))],
        held_out=any(row is not None for block in blocks for row in block.rows),
        texts=[text for block in blocks for text in _texts_of(trained, block, orders)],
        regime=regime_entry(regime),
        notes=[*notes, *([] if has_layers else [NO_LAYERS])],
        versions=versions(),
    )


def training_text(trained: Trained, number: int, label: int | None = None) -> TrainingText:
    """Return a training text for people, with its own label or another one."""
    named = trained.labels[trained.numbers[number] if label is None else label]
    return TrainingText(row=trained.rows[number], text=trained.plain[number], label=named)


def _texts_of(trained: Trained, block: Block, orders: int | None) -> list[ExplainedText]:
    parts, labels, total = block.parts, trained.labels, len(trained.plain)
    shapley = None if orders is None else _shapley(block, orders)
    texts = []
    for m, text in enumerate(block.plain):
        predicted, own = int(parts.margins.predicted[m]), block.labels[m]

        def spread(values: Any) -> list[Any]:
            """Return values of the texts that were trained on, in the order of all; None of the others."""
            row: list[Any] = [None] * total
            for number, value in zip(block.left, values, strict=True):
                row[number] = value
            return row

        flips = [labels[other] if other != predicted else None for other in parts.without[:, m]]
        texts.append(
            ExplainedText(
                text=text,
                row=block.rows[m],
                label=None if own is None else labels[own],
                predicted=labels[predicted],
                runner_up=labels[int(parts.margins.runner_up[m])],
                margin=float(parts.margin[m]),
                offset=float(parts.offset[m]),
                contributions=spread(_known(parts.contributions[:, m])),
                influence=spread(_known(parts.influence[:, m])),
                without=spread(flips),
                shapley=None if shapley is None else spread(_known(shapley[0][:, m])),
                shapley_errors=None if shapley is None else spread(_known(shapley[1][:, m])),
                layers=None if block.layers is None else block.layers[m],
            )
        )
    return texts


def _shapley(block: Block, orders: int) -> tuple[Array, Array]:
    if block.refits is None:
        raise UserError(
            "shapley: nothing was trained, or there was no ridge, so no text has a share in the outcome"
        )
    direction = block.parts.margins.direction
    if orders == 0 or len(block.left) <= MOST_ENUMERATED:
        values = enumerated(block.refits, direction)
    else:
        values = by_orders(block.refits, orders, direction=direction)
    return values.values[..., 0], values.errors[..., 0]


def _known(values: Array) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in np.asarray(values)]
