"""The measures of a candidate, against plain training of a linear model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmntk.solvers.folds import deal_folds
from lmntk.subspaces.measures import STEPS, Question, emulated_loss, measures_of

TEXTS = 12


def features_and_question(outputs: int, seed: int = 0) -> tuple[np.ndarray, Question]:
    """Return random features [n, c, p] of a linear model, and labels with logits to start from."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(TEXTS, outputs, 30))
    labels = np.arange(TEXTS) % max(2, outputs)
    f0 = generator.normal(size=(TEXTS, outputs))
    rounds = deal_folds(labels, list(range(TEXTS)), rounds=2, most=20, seed=0)
    return features, Question(labels, f0, f0, rounds)


def kernel_of(features: np.ndarray) -> np.ndarray:
    """Return K [n, c, n, c]."""
    return np.einsum("ncp,mdp->ncmd", features, features)


@pytest.mark.parametrize("outputs", [1, 3])
def test_emulated_loss_is_that_of_training_the_linear_model(outputs: int) -> None:
    features, question = features_and_question(outputs)
    inputs, start = torch.from_numpy(features), torch.from_numpy(question.f0)
    weights = torch.zeros(features.shape[2], dtype=torch.float64, requires_grad=True)
    labels = torch.from_numpy(question.labels)
    losses = []
    for _ in range(9):
        logits = start + inputs @ weights
        loss = (
            torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels.double())
            if outputs == 1
            else torch.nn.functional.cross_entropy(logits, labels)
        )
        losses.append(loss.item())
        (slope,) = torch.autograd.grad(loss, weights)
        weights = (weights - 0.05 * slope).detach().requires_grad_()
    emulated = emulated_loss(kernel_of(features), question, 0.05, 8)
    np.testing.assert_allclose(emulated, losses, rtol=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
def test_same_kernel_at_another_scale(outputs: int) -> None:
    """A kernel four times as large takes a quarter of the rate and trains alike."""
    features, question = features_and_question(outputs)
    whole = kernel_of(features)
    of_all, of_scaled = (measures_of(factor * whole, whole, question) for factor in (1.0, 4.0))
    assert of_scaled.to_all.distance == pytest.approx(0, abs=1e-7)
    assert of_scaled.to_all.scale == pytest.approx(0.25)
    assert of_scaled.stable_rate == pytest.approx(of_all.stable_rate / 4)
    assert of_scaled.condition == pytest.approx(of_all.condition)
    np.testing.assert_allclose(of_scaled.loss, of_all.loss, rtol=1e-9)
    assert len(of_all.loss) == STEPS + 1
    assert of_all.loss[-1] < of_all.loss[0]


def test_adapted_weights_and_signs_are_compared_with_what_they_stand_for() -> None:
    features, question = features_and_question(1)
    whole, part = kernel_of(features), kernel_of(features[:, :, :7])
    found = measures_of(part, whole, question, adapted=part, signs=(3 * part, part))
    assert found.to_adapted is not None and found.to_adapted.distance == pytest.approx(0, abs=1e-7)
    assert found.to_all.distance > 0.1
    assert found.adam is not None and found.adam.scale == pytest.approx(1 / 3)


def test_nothing_held_out_where_nothing_can_be() -> None:
    features, question = features_and_question(1)
    alone = Question(question.labels, question.f0, None)
    assert np.isnan(measures_of(kernel_of(features), kernel_of(features), alone).correct).all()
