"""Training that leaves the kernel: the mean of the kernels before and after it foretells training on a part better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from problems import problem

from lmntk.attribution.changes import Changes, TrainedTexts
from lmntk.attribution.descent_refits import DescentRefits
from lmntk.errors import UserError
from lmntk.solvers.emulator import logit_error

TEXTS, OTHERS, STEPS, RATE = 12, 6, 20, 0.3


class Network:
    """A narrow network of two layers in float64, which few steps move far."""

    def __init__(self, seed: int, outputs: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        sizes = [(5, 8), (8, outputs)]
        self.start = [torch.randn(size, generator=generator, dtype=torch.float64) / 2 for size in sizes]
        self.x = torch.randn(TEXTS + OTHERS, 5, generator=generator, dtype=torch.float64)
        self.labels = torch.arange(TEXTS) % max(2, outputs)

    def logits(self, weights: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.tanh(self.x @ weights[0]) @ weights[1]

    def trained(self, part: Sequence[int]) -> list[torch.Tensor]:
        """Return the weights after plain gradient descent on a part."""
        weights = [weight.clone().requires_grad_() for weight in self.start]
        for _ in range(STEPS):
            logits, labels = self.logits(weights)[list(part)], self.labels[list(part)]
            if logits.shape[1] == 1:
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels.double())
            else:
                loss = torch.nn.functional.cross_entropy(logits, labels)
            slopes = torch.autograd.grad(loss, weights)
            weights = [(w - RATE * g).detach().requires_grad_() for w, g in zip(weights, slopes, strict=True)]
        return [weight.detach() for weight in weights]

    def kernel(self, weights: Sequence[torch.Tensor]) -> np.ndarray:
        """Return K [n, C, n, C] of all texts at some weights, by autograd."""
        rows = torch.autograd.functional.jacobian(lambda *w: self.logits(w), tuple(weights))
        flat = torch.cat([row.flatten(2) for row in rows], dim=2)
        return torch.einsum("ncp,mdp->ncmd", flat, flat).numpy()


def missed(seed: int, outputs: int, parts: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Return what the emulator misses of the moves of training on parts, with K before training and with the mean of both ends."""
    network = Network(seed, outputs)
    ends = [network.kernel(network.start), network.kernel(network.trained(range(TEXTS)))]
    (train, cross), after = ((k[:TEXTS, :, :TEXTS], k[:TEXTS, :, TEXTS:]) for k in ends)
    f0 = network.logits(network.start).numpy()
    start = TrainedTexts.of(train, cross, network.labels, f0[:TEXTS], f0[TEXTS:])
    real = [network.logits(network.trained(part)).numpy()[TEXTS:] for part in parts]

    def of(texts: TrainedTexts) -> float:
        emulated = DescentRefits(texts, np.full(STEPS, RATE)).outcomes(Changes.parts(parts, TEXTS))
        return float(np.mean([logit_error(f0[TEXTS:], *pair) for pair in zip(real, emulated, strict=True)]))

    return of(start), of(start.at_both_ends(*after))


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_mean_of_both_ends_misses_less(outputs: int) -> None:
    parts = [[n for n in range(TEXTS) if n != left] for left in range(TEXTS)]
    misses = np.array([missed(seed, outputs, parts) for seed in range(8)])
    before, both = misses.T
    assert before.min() > 0.05  # each network leaves the kernel
    assert both.mean() < 0.7 * before.mean()
    assert (both < before).sum() >= 7  # of one network of these sixteen it is a little more


def test_a_kernel_that_stays_changes_nothing() -> None:
    texts = problem(3)
    both = texts.at_both_ends(texts.kernel, texts.cross)
    np.testing.assert_allclose(both.kernel, texts.kernel)
    np.testing.assert_allclose(both.cross, texts.cross)
    assert both.f0 is texts.f0


def test_kernels_of_other_texts_are_refused() -> None:
    texts = problem(1)
    with pytest.raises(
        UserError, match=r"a kernel \[7, 1, 7, 1\] after training for one \[8, 1, 8, 1\] before"
    ):
        texts.at_both_ends(texts.kernel[:7, :, :7], texts.cross)
    with pytest.raises(UserError, match="take both of the same texts"):
        texts.at_both_ends(texts.kernel, texts.cross[:, :, :2])
