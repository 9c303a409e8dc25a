"""Plain gradient descent at factors of the rate that a kernel predicts: parts b and c, which ``subspace_arms.py`` describes."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from scipy.special import log_softmax

from lmntk.diagnosis.stability import stable_rates
from lmntk.finetuning.settings import TrainingData, TrainingSettings
from lmntk.finetuning.training import fine_tune

ARMS = ("full", "query+value r=4", "query+value r=64", "all-linear r=4", "all-linear r=64")
DESCENT_SEEDS = (13, 21, 42)
STEPS = 30
HALF_OCTAVES = {"b": range(-10, 3, 2), "c": range(-6, 7)}  # factors 2^(j/2)


def descents(split: Any, kernels: dict[str, np.ndarray], table: Any, part: str) -> None:
    """Write the rows of a split's trainings: all factors of part b, or of part c those that bisection asks for."""
    for arm in ARMS:
        stable = stable_rates(kernels[arm], split.before["train"], "cross-entropy")

        def has_diverged(half_octave: int, arm: str = arm, stable: Any = stable) -> bool:
            if not table.has(split.task, split.seed, arm, half_octave):
                rate = 2 ** (half_octave / 2) * stable.full_batch
                table.add(
                    split.task,
                    split.seed,
                    arm,
                    half_octave,
                    stable_rate=stable.full_batch,
                    for_every_f=stable.for_every_f,
                    **descent(split, arm, rate),
                )
            return bool(int(table.get(split.task, split.seed, arm, half_octave)["diverged"]))

        if part == "b":
            for half_octave in HALF_OCTAVES["b"]:
                has_diverged(half_octave)
            continue
        low, high = HALF_OCTAVES["c"][0] - 1, HALF_OCTAVES["c"][-1] + 1  # both taken for granted
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if has_diverged(middle) else (middle, high)


def descent(split: Any, arm: str, rate: float) -> dict[str, Any]:
    """Return what 30 steps at a rate come to."""
    began = time.time()
    train, dev = split.labelled["train"], split.labelled["dev"]
    settings = TrainingSettings(
        "sgd",
        rate,
        batch_size=len(train),
        steps=STEPS,
        eval_every=STEPS,
        schedule="constant",
        max_grad_norm=0.0,
        dropout=False,
        seed=split.seed,
    )
    # what is looked at after the last step are train and dev together, for their losses there
    both = type(train)([*train.texts, *dev.texts], [*train.labels, *dev.labels])
    with split.subset(arm).chosen(split.model) as trained:
        tuned = fine_tune(
            trained.module, TrainingData(train, both, split.pad_id), trained.parameters, settings
        )
    start = loss(split.before["train"], train.labels)
    after, dev_after = math.inf, math.inf
    if tuned.status == "finished" and tuned.dev_logits is not None:
        logits = tuned.dev_logits.numpy()
        after, dev_after = (
            loss(logits[: len(train)], train.labels),
            loss(logits[len(train) :], dev.labels),
        )
    return {
        "rate": rate,
        "start_loss": start,
        "train_loss": after,
        "dev_loss": dev_after,
        "diverged": int(not after <= start),
        "seconds": time.time() - began,
    }


def loss(logits: np.ndarray, labels: list[int]) -> float:
    """Return the mean cross-entropy of logits [n, c]."""
    if logits.shape[1] == 1:
        signs = np.where(np.asarray(labels) == 1, -1.0, 1.0)
        return float(np.logaddexp(0.0, signs * logits[:, 0]).mean())
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())
