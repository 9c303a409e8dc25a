"""The measures of one candidate beside training all parameters, read off their kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import log_softmax

from lmntk.diagnosis.stability import stable_rates
from lmntk.solvers.emulator import descend
from lmntk.solvers.held_out import RidgeCandidates, held_out
from lmntk.solvers.inputs import Array, Labels
from lmntk.subspaces.likeness import Likeness, condition_number, likeness

STEPS = 64  # of the emulated training, full batches, at half the largest stable rate: a rate that people would dare
SHARE_OF_STABLE = 0.5


@dataclass(frozen=True, eq=False)
class Measures:
    """The measures of one kernel; of LoRA, of one draw.

    Attributes:
        to_all: likeness to the kernel of all parameters.
        to_adapted: of LoRA, likeness to the kernel of the weights that it adapts, trained in full.
        condition: largest eigenvalue over the smallest.
        stable_rate: the largest of full-batch descent near the start (2 / the loss's sharpness; ``diagnosis.stability``).
        correct: the share of held-out rounds in which each text is classified rightly [N].
        loss: the training loss [steps + 1] of the emulated training.
        outputs: C.
        adam: likeness of ``asigngd`` to that of all parameters, where it was computed.
    """

    to_all: Likeness
    to_adapted: Likeness | None
    condition: float
    stable_rate: float
    correct: Array
    loss: Array
    outputs: int
    adam: Likeness | None = None


@dataclass(frozen=True, eq=False)
class Question:
    """The labelled texts that every candidate is measured on.

    Attributes:
        labels: class numbers [N].
        f0: pre-trained logits [N, C], from which training starts.
        scaled_f0: the same where they mean something to the solver; None of a head that was drawn.
        rounds: folds, as ``deal_folds`` gives them; none where nothing can be held out.
    """

    labels: Labels
    f0: Array
    scaled_f0: Array | None
    rounds: Sequence[Sequence[Labels]] = field(default=())


def measures_of(
    kernel: Array,
    whole: Array,
    question: Question,
    adapted: Array | None = None,
    signs: tuple[Array, Array] | None = None,
) -> Measures:
    """Return the measures of a candidate's ``sgd`` kernel [N, C, N, C].

    Args:
        kernel: the candidate's.
        whole: of all parameters.
        question: the texts.
        adapted: of LoRA, the kernel of the adapted weights.
        signs: ``asigngd`` of the candidate and of all parameters.

    Cost: two eigendecompositions and the folds' systems of N C x N C.
    """
    rate = stable_rates(kernel, question.f0, "cross-entropy").full_batch
    correct = np.full(len(question.labels), np.nan)
    if question.rounds:
        candidates = RidgeCandidates(kernel, question.labels, question.scaled_f0)
        correct = held_out(candidates, question.labels, question.rounds).correct
    return Measures(
        to_all=likeness(kernel, whole),
        to_adapted=None if adapted is None else likeness(kernel, adapted),
        condition=condition_number(kernel),
        stable_rate=rate,
        correct=correct,
        loss=emulated_loss(kernel, question, SHARE_OF_STABLE * rate),
        outputs=kernel.shape[1],
        adam=None if signs is None else likeness(*signs),
    )


def emulated_loss(kernel: Array, question: Question, rate: float, steps: int = STEPS) -> Array:
    """Return the mean cross-entropy [steps + 1] of the training texts in full-batch descent, emulated by the kernel."""
    when = range(steps + 1)
    coefficients = descend(kernel, question.labels.tolist(), question.f0, np.full(steps, rate), steps=when)
    moved = np.einsum("snc,ncmd->smd", coefficients, kernel)
    return np.asarray([_cross_entropy(logits, question.labels) for logits in question.f0 - moved])


def _cross_entropy(logits: Array, labels: Labels) -> float:
    if logits.shape[1] == 1:
        signs = np.where(labels == 1, -1.0, 1.0)
        return float(np.logaddexp(0.0, signs * logits[:, 0]).mean())
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())
