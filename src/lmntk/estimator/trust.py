"""The regime of a fit's training, measured by one short real training beside its emulation, and kept by its key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel
from torch import nn

from lmntk.diagnosis.regime import EMULATED, Regime
from lmntk.diagnosis.stability import stable_rates
from lmntk.errors import UserError
from lmntk.finetuning.logits import logits_of
from lmntk.finetuning.settings import Labelled, TrainingData, TrainingSettings
from lmntk.finetuning.training import fine_tune
from lmntk.kernels.low_rank import TrainedPart
from lmntk.models.logit_model import LogitModel
from lmntk.prompts.encoding import EncodedText
from lmntk.solvers.emulator import descend, emulated_logits, learning_rates, logit_error
from lmntk.solvers.inputs import Array
from lmntk.system.hashing import Key, short
from lmntk.system.kept import or_none, read_form, write_record
from lmntk.system.progress import Progress

FORMAT = "lmntk trust 1"
STEPS = 12  # of the short training
SHARE = 0.5  # of the largest stable rate
OVER = "the training texts' logits"
UNMEASURED = "--trust check compares a short real training with its emulation"


class TrustRecord(BaseModel):
    """The record of a measured regime.

    Attributes:
        format: of this file.
        key: the digest of what it depends on.
        error: e; null without bound.
        rate: of the full-batch SGD steps.
        steps: how many.
    """

    format: str
    key: str
    error: float | None
    rate: float
    steps: int

    @property
    def regime(self) -> Regime:
        """The regime of the short training."""
        error = float("inf") if self.error is None else self.error
        return Regime(
            error, None, EMULATED, f"{OVER} in {self.steps} full-batch SGD steps at {self.rate:.2g}", 1
        )


@dataclass(frozen=True, eq=False)
class ShortTraining:
    """A short training that can be done for real and by its kernel.

    Attributes:
        model: from tokens to logits [n, C].
        trainable: the parameters that train.
        pad_id: the padding token.
        texts: the N training texts, encoded.
        numbers: their classes.
        kernel: of these [N, C, N, C].
        logits: before training [N, C].
    """

    model: LogitModel
    trainable: Mapping[str, nn.Parameter]
    pad_id: int
    texts: Sequence[EncodedText]
    numbers: Sequence[int]
    kernel: Array
    logits: Array

    def measure(self, on_step: Callable[[], None] | None = None) -> tuple[float, float]:
        """Return e = ||real - emulated|| / ||real - f0|| and the rate: cross-entropy, full batch, no dropout, no clipping, the last step.

        Cost: ``STEPS`` forward and backward passes a text, and two more forward passes.

        Raises:
            UserError: accelerate is not installed.
        """
        rate = SHARE * stable_rates(self.kernel, self.logits, "cross-entropy").for_every_f
        settings = TrainingSettings(
            "sgd", rate, len(self.texts), STEPS, STEPS, schedule="constant", max_grad_norm=0.0, dropout=False
        )
        reached: list[Array] = []

        def look(step: int, module: nn.Module) -> None:
            if step == STEPS:
                reached.append(logits_of(module, self.texts, self.pad_id).numpy())

        train = Labelled(self.texts, list(self.numbers))
        data = TrainingData(train, train, self.pad_id)
        fine_tune(self.model, data, self.trainable, settings, on_evaluation=look, on_step=on_step)
        if not reached or not np.isfinite(reached[0]).all():
            return float("inf"), rate
        coefficients = descend(self.kernel, self.numbers, self.logits, learning_rates(rate, STEPS))[-1]
        emulated = emulated_logits(coefficients, self.kernel, self.logits)
        return logit_error(self.logits, reached[0], emulated), rate


def refuse_unmeasured(is_shared: bool, trained: TrainedPart) -> None:
    """Refuse to measure the regime of a kernel that classes share, or of LoRA's.

    Raises:
        UserError: so it is.
    """
    if is_shared:
        raise UserError(
            "trust: the classes share a kernel, and no training has this kernel; fit with --classes full to measure it"
        )
    if trained.lora_rank is not None:
        raise UserError(
            "trust: LoRA has no short training here; "
            f"lmntk diagnose --lora-rank {trained.lora_rank} trains it, and measures its regime"
        )


def trust_key(training: str, numbers: Sequence[int]) -> Key:
    """Return all that the regime depends on: the digest of the kernel's key, and the labels."""
    return Key(format=FORMAT, training=training, numbers=list(numbers), steps=STEPS, share=SHARE)


def kept_regime(folder: Path, key: Key) -> Regime | None:
    """Return the regime that was measured earlier, if it was."""
    record: TrustRecord | None = or_none(lambda: read_form(path_of(folder, key), TrustRecord))
    return record.regime if record is not None and record.key == key.digest else None


def regime_in(
    folder: Path, key: Key, training: Callable[[], ShortTraining] | None, progress: Progress
) -> Regime:
    """Return the regime of a fit: measured earlier, else measured now and kept in the folder, else not known.

    Args:
        folder: where it is kept.
        key: all that it depends on.
        training: makes the short training, or refuses; None where none is asked for.
        progress: told of each step.
    """
    known = kept_regime(folder, key)
    if known is not None or training is None:
        return known or Regime()
    short_training = training()
    progress.work("a short real training", STEPS)
    error, rate = short_training.measure(lambda: progress.advance(1))
    finite = error if np.isfinite(error) else None
    record = TrustRecord(format=FORMAT, key=key.digest, error=finite, rate=rate, steps=STEPS)
    write_record(path_of(folder, key), record.model_dump())
    return record.regime


def path_of(folder: Path, key: Key) -> Path:
    """Return where a measured regime is kept."""
    return folder / f"trust-{short(key.digest)}.json"


def regime_entry(regime: Regime) -> dict[str, Any]:
    """Return a regime as records have it: its numbers, and a sentence that says how it is known, or what measures it."""
    entry = regime.as_dict()
    if regime.error is None:
        entry["about"] = UNMEASURED
    return entry | {"sentence": f"{entry['phrase']} ({entry['about']})"}
