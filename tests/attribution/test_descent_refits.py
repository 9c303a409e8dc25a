"""Emulated training on changed texts, against the emulator on those texts alone and against plain descent."""

from __future__ import annotations

import numpy as np
import pytest
from problems import part_of, problem

from lmntk.attribution.changes import Changes
from lmntk.attribution.descent_refits import DescentRefits
from lmntk.errors import UserError
from lmntk.solvers.emulator import descend, emulated_logits, learning_rates

PARTS = [[0, 1, 2, 3], [5], [0, 3, 6], list(range(8))]
RATES = learning_rates(0.02, 12, "linear")


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_a_part_is_its_own_run(outputs: int, loss: str, clip: float | None) -> None:
    texts = problem(outputs)
    outcomes = DescentRefits(texts, RATES, loss, clip).outcomes(Changes.parts(PARTS, texts.texts))
    for outcome, part in zip(outcomes, PARTS, strict=True):
        alone = part_of(texts, part)
        coefficients = descend(alone.kernel, alone.labels.tolist(), alone.f0, RATES, loss=loss, clip=clip)
        expected = emulated_logits(coefficients, alone.cross, alone.cross_f0)[-1]
        np.testing.assert_allclose(outcome, expected, atol=1e-8)


@pytest.mark.parametrize("outputs", [1, 3])
def test_batches_are_those_of_the_part(outputs: int) -> None:
    texts = problem(outputs)

    def draw(present: list[int]) -> list[list[int]]:
        return [[present[(step + k) % len(present)] for k in range(2)] for step in range(len(RATES))]

    outcomes = DescentRefits(texts, RATES, batches=draw).outcomes(Changes.parts(PARTS, texts.texts))
    for outcome, part in zip(outcomes, PARTS, strict=True):
        alone = part_of(texts, part)
        batches = draw(list(range(len(part))))
        coefficients = descend(alone.kernel, alone.labels.tolist(), alone.f0, RATES, batches=batches)
        expected = emulated_logits(coefficients, alone.cross, alone.cross_f0)[-1]
        np.testing.assert_allclose(outcome, expected, atol=1e-8)


def test_labels_weights_and_no_text() -> None:
    texts = problem(3)
    refits = DescentRefits(texts, RATES)
    changed = refits.outcomes(Changes.relabelled([1], [0], texts.labels))[0]
    labels = texts.labels.copy()
    labels[1] = 0
    coefficients = descend(texts.kernel, labels.tolist(), texts.f0, RATES)
    np.testing.assert_allclose(
        changed, emulated_logits(coefficients, texts.cross, texts.cross_f0)[-1], atol=1e-8
    )
    weights = np.ones((1, 8))
    weights[0, 2] = 2.0
    twice = part_of(texts, [*range(8), 2])
    expected = DescentRefits(twice, RATES).outcomes(Changes(np.ones((1, 9))))
    np.testing.assert_allclose(refits.outcomes(Changes(weights)), expected, atol=1e-8)
    np.testing.assert_array_equal(refits.outcomes(Changes.parts([[]], 8))[0], texts.cross_f0)


@pytest.mark.parametrize("outputs", [1, 3])
def test_together_and_one_by_one(outputs: int) -> None:
    texts = problem(outputs)
    refits = DescentRefits(texts, RATES)
    together = refits.outcomes(Changes.parts(PARTS, 8))
    alone = [refits.outcomes(Changes.parts([part], 8))[0] for part in PARTS]
    np.testing.assert_allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
def test_contributions_and_f0_sum_to_the_logits(outputs: int) -> None:
    texts = problem(outputs)
    refits = DescentRefits(texts, RATES)
    total = refits.offset + refits.contributions().sum(axis=0)
    np.testing.assert_allclose(total, refits.outcomes(Changes(np.ones((1, 8))))[0], atol=1e-8)


def test_no_trainer_draws_batches_of_half_a_text() -> None:
    refits = DescentRefits(problem(1), RATES, batches=lambda present: [list(present)] * len(RATES))
    with pytest.raises(UserError, match="weights are 0 or 1"):
        refits.outcomes(Changes(np.full((1, 8), 0.5)))
