"""The predicted largest stable rate: a little under it kernel descent converges, a little over it does not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from toys import mean_loss

from lmntk.diagnosis.stability import stable_rates
from lmntk.errors import UserError
from lmntk.solvers.emulator import SquaredLossTraining, descend, emulated_logits

N = 8


def kernel_of(c, seed=0, p=60):
    generator = np.random.default_rng(seed)
    gradients = generator.normal(size=(N, c, p)) * np.linspace(0.5, 2, N)[:, None, None]
    return (
        np.einsum("ncp,mdp->ncmd", gradients, gradients),
        generator.normal(size=(N, c)),
        [i % max(c, 2) for i in range(N)],
    )


@pytest.mark.parametrize("c", [1, 2, 3])
def test_squared_loss(c):
    kernel, f0, labels = kernel_of(c)
    rate = stable_rates(kernel).full_batch
    closed = SquaredLossTraining.of_labels(kernel, labels, f0)

    def loss_after(share, steps=400):
        f = emulated_logits(closed.descent(np.full(steps, share * rate)), kernel, f0)
        return float(mean_loss(torch.tensor(f), labels, "squared"))

    start = float(mean_loss(torch.tensor(f0), labels, "squared"))
    assert loss_after(0.95) < 0.2 * start
    assert loss_after(0.95, 800) < loss_after(0.95)
    assert loss_after(1.05) > 1e6 * start


def sharpness(kernel, f, c):
    """The largest eigenvalue of K H / n, not symmetric, one text's Hessian after the other."""
    n = len(kernel)
    hessian = np.zeros((n * c, n * c))
    for i in range(n):
        p = expit(f[i]) if c == 1 else softmax(f[i])
        hessian[i * c : (i + 1) * c, i * c : (i + 1) * c] = np.diag(p) - np.outer(p, p)
    return float(np.linalg.eigvals(kernel.reshape(n * c, n * c) @ hessian / n).real.max())


@pytest.mark.parametrize("c", [1, 2, 3])
def test_cross_entropy_at_its_minimum(c):
    """Every text comes once with each label: f = 0 is the minimum, and around it descent is that of a quadratic."""
    classes = max(c, 2)
    kernel, _, _ = kernel_of(c)
    kernel = np.tile(kernel[:3, :, :3], (classes, 1, classes, 1))
    labels = [label for label in range(classes) for _ in range(3)]
    minimum = np.zeros((len(labels), c))
    rate = stable_rates(kernel, minimum, "cross-entropy").full_batch
    assert rate == pytest.approx(2 / sharpness(kernel, minimum, c), rel=1e-6)
    push = np.einsum(
        "ncmd,nc->md", kernel, np.random.default_rng(0).normal(size=minimum.shape)
    )  # where training can go
    start = 1e-6 * push / np.linalg.norm(push)

    def distance(share, steps):
        f = emulated_logits(descend(kernel, labels, start, np.full(steps, share * rate))[0], kernel, start)
        return float(
            np.linalg.norm(f - f.mean(1, keepdims=True) * (c > 1))
        )  # what all logits share changes no probability

    assert distance(0.95, 600) < 1e-2 * distance(0.95, 0)
    assert distance(1.05, 120) > 10 * distance(1.05, 60) > 1e-6


@pytest.mark.parametrize("c", [1, 2, 3])
def test_below_the_bound_for_every_f_no_step_raises_the_loss(c):
    kernel, f0, labels = kernel_of(c, seed=3)
    rates = stable_rates(kernel, f0, "cross-entropy")
    assert rates.full_batch == pytest.approx(2 / sharpness(kernel, f0, c), rel=1e-9)
    assert rates.for_every_f <= rates.full_batch * (1 + 1e-9)
    for start in (f0, 10 * f0, 0 * f0):
        steps = list(range(60))
        found = emulated_logits(
            descend(kernel, labels, start, np.full(60, rates.for_every_f), steps=steps), kernel, start
        )
        losses = [float(mean_loss(torch.tensor(f), labels, "cross-entropy")) for f in found]
        assert all(after <= before + 1e-12 for before, after in pairwise(losses))


@pytest.mark.parametrize("size", [1, 2, 5, N, 50])
@pytest.mark.parametrize("c", [1, 2])
def test_no_minibatch_is_sharper_than_the_bound(size, c):
    kernel, *_ = kernel_of(c)
    rate = stable_rates(kernel, batch_size=size).every_minibatch
    generator = np.random.default_rng(0)
    size = min(size, N)
    for _ in range(50):
        batch = generator.choice(N, size, replace=False)
        block = kernel[np.ix_(batch, range(c), batch, range(c))].reshape(size * c, -1)
        assert rate <= 2 * size / np.linalg.eigvalsh(block)[-1] * (1 + 1e-12)
    if size == 1:
        worst = max(np.linalg.eigvalsh(kernel[i, :, i])[-1] for i in range(N))
        assert rate == pytest.approx(2 / worst)


def test_mistakes_are_said():
    kernel, f0, _ = kernel_of(1)
    with pytest.raises(UserError, match="pre-trained logits f0"):
        stable_rates(kernel, loss="cross-entropy")
    with pytest.raises(UserError, match="'hinge' is not one of"):
        stable_rates(kernel, f0, loss="hinge")
    assert stable_rates(0 * kernel, f0).full_batch == float("inf")


def test_the_smaller_last_batch_of_a_pass_is_a_minibatch_too():
    kernel = np.diag([10.0, 1.0, 1.0])[:, None, :, None]
    assert stable_rates(kernel, loss="squared", batch_size=2).every_minibatch == pytest.approx(
        2 * 1 / 10
    )  # the first text alone
    assert stable_rates(kernel[:2, :, :2], loss="squared", batch_size=2).every_minibatch == pytest.approx(
        2 * 2 / 10
    )
