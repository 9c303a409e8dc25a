"""A real training, as far as it is known, and its emulation by kernels beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmntk.kernels.kernel import Kernel
from lmntk.solvers.emulator import (
    Decay,
    Loss,
    SquaredLossTraining,
    descend,
    emulated_logits,
    emulation_error,
    learning_rates,
    logit_error,
    sign_descend,
)
from lmntk.solvers.inputs import Array


@dataclass(frozen=True)
class Training:
    """The course of a fine-tuning, as far as it is known.

    Attributes:
        optimizer: ``sgd``, ``adamw`` or ``signgd``.
        learning_rate: of the first step.
        steps: optimizer steps that the schedule was made for.
        loss: ``cross-entropy`` or ``squared``.
        batch_size: texts a step; None: all.
        decay: of the learning rate, ``linear`` to 0 after the last step or ``constant``.
        clip: largest norm of a step's gradient, None for none.
        batches: which training texts each step saw; None if that is not known.
        best_step: the step whose weights are the fine-tuned ones; None: the last.
    """

    optimizer: str
    learning_rate: float
    steps: int
    loss: Loss = "cross-entropy"
    batch_size: int | None = None
    decay: Decay = "linear"
    clip: float | None = None
    batches: Sequence[Sequence[int]] | None = None
    best_step: int | None = None

    @property
    def reached(self) -> int:
        """The step whose weights are the fine-tuned ones."""
        return self.steps if self.best_step is None else self.best_step

    @property
    def rates(self) -> Array:
        """The learning rate of each step."""
        return learning_rates(self.learning_rate, self.steps, self.decay)


@dataclass(frozen=True, eq=False)
class Emulation:
    """Logits [steps, m, c] of some texts in real training and in its emulation by the kernel.

    ``error`` is ``emulation_error``, whose range is that of all texts at all steps, before training too.
    ``move_error`` is ``logit_error`` at the last step, ||real - emulated|| / ||real - f0||: 0 is exact, 1 no
    better than saying that nothing moved; None where the steps do not begin with 0.
    """

    steps: tuple[int, ...]
    real: Array
    emulated: Array
    error: float
    move_error: float | None

    @classmethod
    def of(cls, steps: Sequence[int], real: Array, emulated: Array) -> Emulation:
        """Return both logits with their errors."""
        from_start = steps[0] == 0 and len(steps) > 1
        move_error = logit_error(real[0], real[-1], emulated[-1]) if from_start else None
        return cls(tuple(steps), real, emulated, emulation_error(real, emulated), move_error)

    def as_dict(self, texts: int) -> dict[str, Any]:
        """Return plain data of at most ``texts`` texts, spread evenly over them, and so over the classes.

        The errors stay those of all texts.
        """
        count = self.real.shape[1]
        few = np.s_[:, np.unique(np.linspace(0, count - 1, min(texts, count)).round().astype(int))]
        return {
            "steps": list(self.steps),
            "real": self.real[few].tolist(),
            "emulated": self.emulated[few].tolist(),
            "error": self.error,
            "move_error": self.move_error,
            "texts": count,
        }


def emulate(
    training: Training,
    kernels: Mapping[tuple[str, str], Kernel],
    labels: Sequence[int],
    f0: Mapping[str, Array],
    steps: Sequence[int],
    side: str = "dev",
) -> Array | None:
    """Return the emulated logits [steps, m, c] of a side's texts, or None where no kernel describes them.

    SGD goes by the sgd kernel: with the order of the batches step by step, else as if every step saw all
    texts, which is what minibatches do on average. SignGD goes by ``asigngd`` where there is one logit and
    one text a step in a known order. Adam has no kernel beyond its first step. Dropout is not emulated.

    Args:
        training: how the model was trained.
        kernels: by (side, formula), with ``train`` and ``side``.
        labels: of the train texts.
        f0: pre-trained logits by side.
        steps: when to look.
        side: whose texts.
    """
    formula = {"sgd": "sgd", "signgd": "asigngd"}.get(training.optimizer)
    if formula is None or any((each, formula) not in kernels for each in ("train", side)):
        return None
    train, other = kernels["train", formula].values, kernels[side, formula].values
    if formula == "asigngd":
        if training.batches is None or train.shape[1] != 1 or any(len(b) != 1 for b in training.batches):
            return None
        order = [batch[0] for batch in training.batches]
        coefficients = sign_descend(
            train, labels, f0["train"], training.rates, order, loss=training.loss, steps=steps
        )
    elif training.loss == "squared" and training.batches is None and training.clip is None:
        closed_form = SquaredLossTraining.of_labels(train, labels, f0["train"])
        coefficients = closed_form.descent_at(training.rates, steps)
    else:
        coefficients = descend(
            train,
            labels,
            f0["train"],
            training.rates,
            loss=training.loss,
            steps=steps,
            batches=training.batches,
            clip=training.clip,
        )
    return emulated_logits(coefficients, other, f0[side])
