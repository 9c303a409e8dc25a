"""Figures of prediction in one pass: training texts once more for the directions, then passes of every text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from lmntk.engine.batches import Capturer
from lmntk.engine.budget import Bytes, most_held
from lmntk.engine.estimate import Estimate, matrices, pass_operations
from lmntk.engine.phases import Trial, classifying_phases
from lmntk.engine.rates import finish_work
from lmntk.engine.settings import Settings
from lmntk.prediction.direction_memory import direction_budget
from lmntk.prediction.directions import cut_directions
from lmntk.prediction.limits import limits_of
from lmntk.prediction.predictor import Predictor
from lmntk.prompts.encoding import EncodedText
from lmntk.system.memory import resident
from lmntk.tangents.weighted_sum import weighted_sum

PASS = 3  # forward passes that a linearized prediction takes, for each direction


def estimate_predictions(
    capturer: Capturer,
    trial: Trial,
    train: Sequence[EncodedText],
    tests: Sequence[EncodedText],
    solutions: Sequence[tuple[str, int]],
    settings: Settings,
) -> Estimate:
    """Return what the predictors of a split take: of each solution v, and its decisions on the test texts.

    Args:
        capturer: of the model.
        trial: what a few texts took, and what will be held beside the predictors.
        train: the training texts.
        tests: those that are classified; none where predictors are only saved.
        solutions: of each its formula and how many directions it has, at most.
        settings: memory, texts in one pass, and whether signs leave noise out, which takes a round more over the training texts.

    Cost: a batch of training texts and one of test texts, to be timed.
    """
    trainable = capturer.trainable
    budget = direction_budget(capturer, settings)
    cuts = {
        (formula, count): cut_directions(
            trial, trainable, count, settings.batch_size, budget, formula == "asigngd"
        )
        for formula, count in set(solutions)
    }
    seconds, operations = 0.0, 0.0
    held = [Bytes(cut.peak, cut.gpu_peak) for cut in cuts.values()]
    forward = 2.0 * matrices(capturer.model)
    both = pass_operations(capturer.model, trainable, trial.outputs)
    for (formula, count), cut in cuts.items():
        capturer.batch_size = cut.batch_size
        batches = capturer.batches(train)
        few = [train[index] for index in batches[len(batches) // 2]]
        started = time.perf_counter()
        captured = capturer.of_batch(few)
        finish_work(capturer.device)
        capture = time.perf_counter() - started
        for batch in captured:
            weighted_sum(batch, torch.ones(len(batch), trial.outputs), trainable, formula == "asigngd")
        finish_work(capturer.device)
        total = time.perf_counter() - started
        rounds = -(-count // cut.at_once) + (1 if formula == "asigngd" and settings.drop_noise else 0)
        tokens = _padded(train, batches)
        alike = solutions.count((formula, count))
        seconds += (
            alike * tokens / _padded(few, [range(len(few))]) * (rounds * capture + count * (total - capture))
        )
        operations += alike * tokens * (both * rounds + forward * count)
    if tests:
        # v has the weights' shapes, and a pass takes as long whatever is in it: the weights themselves stand for it
        limits = replace(limits_of(settings), gpu=capturer.gpu)
        predictor = Predictor(capturer.model, [dict(trainable)], capturer.pad_id, limits=limits)
        with torch.no_grad():
            at_once = predictor.texts_at_once(tests)
        predictor.limits = replace(limits, batch_size=at_once)
        longest = max(text.length for text in tests)
        directions = sum(count for _, count in solutions)
        weights = sum(parameter.nbytes for parameter in trainable.values())
        passes = int((predictor.token_bytes or 0) * longest * at_once)
        classifying = classifying_phases(
            max(resident(), trial.resident),
            None if capturer.gpu is None else capturer.gpu.held(),
            weights * max(count for _, count in solutions) + passes,
        )
        held.append(most_held(classifying))
        capturer.batch_size = at_once
        batches = capturer.batches(tests)
        few = [tests[index] for index in batches[len(batches) // 2]]
        predictor.evaluate(few)
        started = time.perf_counter()
        predictor.evaluate(few)
        timed = time.perf_counter() - started
        scale = _padded(tests, batches) / _padded(few, [range(len(few))])
        seconds += directions * scale * timed
        operations += directions * _padded(tests, batches) * forward * PASS
    return Estimate(
        texts=len(tests),
        pairs=0,
        capture_operations=operations,
        contraction_operations=0.0,
        factor_bytes=0.0,
        disk=0,
        peak=int(max(each.host for each in held)),
        seconds=seconds,
        gpu_peak=int(max(each.gpu for each in held)),
    )


def _padded(texts: Sequence[EncodedText], batches: Sequence[Sequence[int]]) -> int:
    return sum(len(batch) * max(texts[index].length for index in batch) for batch in batches)
