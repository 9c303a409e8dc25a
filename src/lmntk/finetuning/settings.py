"""The records of a training: its settings, its data, its checkpoints and its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lmntk.errors import UserError
from lmntk.finetuning import losses, optimizers
from lmntk.prompts.encoded_text import EncodedText

Status = Literal["finished", "diverged"]
SCHEDULES = ("linear", "constant")
CHECKPOINT_SECONDS = 60.0  # what an interruption costs at most; a checkpoint takes a second or two
OnEvaluation = Callable[[int, nn.Module], None]


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of one training.

    Attributes:
        optimizer: sgd, adamw or signgd.
        learning_rate: at the first step.
        batch_size: texts in a step; the last batch of a pass over the texts has what is left.
        steps: exactly so many.
        eval_every: steps between two looks at dev; the last step is always one.
        loss: cross-entropy or squared.
        schedule: ``linear``: down to zero, without warm-up; ``constant``.
        max_grad_norm: gradients are scaled down to this 2-norm; 0 leaves them.
        dropout: as the checkpoint has it; False trains without.
        seed: of the texts' order and of dropout.
    """

    optimizer: str = "sgd"
    learning_rate: float = 1e-3
    batch_size: int = 8
    steps: int = 1000
    eval_every: int = 100
    loss: str = "cross-entropy"
    schedule: str = "linear"
    max_grad_norm: float = 1.0
    dropout: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in optimizers.NAMES:
            raise UserError(f"finetune: {self.optimizer!r} is not one of {', '.join(optimizers.NAMES)}")
        if self.loss not in losses.NAMES:
            raise UserError(f"loss: {self.loss!r} is not one of {', '.join(losses.NAMES)}")
        if self.schedule not in SCHEDULES:
            raise UserError(f"schedule: {self.schedule!r} is not one of {', '.join(SCHEDULES)}")
        for name, low in (("batch_size", 1), ("steps", 1), ("eval_every", 1)):
            if getattr(self, name) < low:
                raise UserError(f"finetune: {name} {getattr(self, name)} is less than {low}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(f"finetune: the learning rate {self.learning_rate} is not above 0")
        if not self.max_grad_norm >= 0:
            raise UserError(f"finetune: max_grad_norm {self.max_grad_norm} is negative; 0 does not clip")


@dataclass(frozen=True)
class Labelled:
    """Encoded texts with their class numbers."""

    texts: Sequence[EncodedText]
    labels: Sequence[int]

    def __post_init__(self) -> None:
        if not self.texts or len(self.texts) != len(self.labels):
            raise UserError(
                f"finetune: {len(self.texts)} texts and {len(self.labels)} labels; "
                "give at least one text, each with its label"
            )

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class TrainingData:
    """The texts of a training: those that it learns from, and those that judge it.

    Attributes:
        train: texts to train on.
        dev: texts that choose the step of each training, and the best of several trainings.
        pad_id: the padding token.
        metric: of dev, accuracy or f1.
        test: texts whose logits are wanted at the best weights; None where none are.
    """

    train: Labelled
    dev: Labelled
    pad_id: int
    metric: str = "accuracy"
    test: Labelled | None = None


@dataclass(frozen=True)
class Checkpoints:
    """A folder of one training's own, and the seconds between two checkpoints in it; None writes none."""

    folder: Path
    seconds: float | None = CHECKPOINT_SECONDS


@dataclass(frozen=True)
class Look:
    """One look at dev.

    Attributes:
        step: after how many steps.
        loss: the mean of the steps since the last look; None before the first.
        dev: the metric.
    """

    step: int
    loss: float | None
    dev: float


@dataclass(frozen=True)
class FineTuned:
    """The result of a training.

    Attributes:
        settings: of the training.
        status: ``diverged`` when a loss or logit was no number any more: the training was stopped there.
        reason: in words, of one that diverged.
        curve: the looks at dev, from step 0 on.
        best_step: the first look after step 0 with the best metric; None when there was none before it
            diverged.
        dev: the metric there.
        weights: the trained parameters' values there, by the names of the model's parameters, on the
            processor. Of LoRA the adapted layers' merged weights.
        dev_logits: [n, c] there, float64.
        trained: the number of trained parameters.
        seconds: of all its parts, if it was interrupted.
    """

    settings: TrainingSettings
    status: Status
    reason: str
    curve: tuple[Look, ...]
    best_step: int | None
    dev: float | None
    weights: Mapping[str, Tensor] = field(repr=False)
    dev_logits: Tensor | None = field(repr=False)
    trained: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the run as plain data, without weights and logits."""
        return {
            "learning_rate": self.settings.learning_rate,
            "batch_size": self.settings.batch_size,
            "steps": self.settings.steps,
            "status": self.status,
            "reason": self.reason,
            "curve": [{"step": look.step, "loss": look.loss, "dev": look.dev} for look in self.curve],
            "best_step": self.best_step,
            "dev": self.dev,
            "seconds": round(self.seconds, 3),
        }


def batch_order(count: int, batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Return the texts' numbers of each step.

    Pass after pass goes over all ``count`` texts in a new random order; each pass's last batch has what is
    left.

    >>> [len(batch) for batch in batch_order(5, 2, 4, seed=0)]
    [2, 2, 1, 2]
    """
    generator = torch.Generator().manual_seed(seed)
    order: list[list[int]] = []
    while len(order) < steps:
        shuffled = torch.randperm(count, generator=generator).tolist()
        order += [shuffled[start : start + batch_size] for start in range(0, count, batch_size)]
    return order[:steps]
