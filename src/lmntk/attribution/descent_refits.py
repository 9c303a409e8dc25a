"""Emulated training on changed texts, many changes at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmntk.attribution.changes import Changes, TrainedTexts
from lmntk.errors import UserError
from lmntk.solvers.chi import output_derivative
from lmntk.solvers.emulator import CLIP_FLOOR, Loss, descend
from lmntk.solvers.inputs import Array, flatten, symmetric_matrix

Batches = Callable[[Sequence[int]], Sequence[Sequence[int]]]


@dataclass(frozen=True, eq=False)
class DescentRefits:
    """Outcomes of gradient descent on the linearized model, on any part of the texts.

        A += eta_s w chi / sum(w),   chi = d loss / d f at f = f0 - K A,   f(x) = f0(x) - K(x)^T A

    Attributes:
        texts: which.
        rates: the learning rate of each step.
        loss: ``cross-entropy`` or ``squared``.
        clip: the largest norm of a step's gradient; None for none.
        batches: from the numbers of the texts that are there to those that each step sees; None: all of them, every step.

    Cost: 2 (N C)^2 operations a step and change; with batches the changes go one by one.

    Raises:
        UserError: a kernel that is not symmetric.
    """

    texts: TrainedTexts
    rates: Array
    loss: Loss = "cross-entropy"
    clip: float | None = None
    batches: Batches | None = None

    def holding_out(self, group: Sequence[int]) -> DescentRefits:
        """Return the same training on all other texts, whose outcomes are those of the group."""
        return replace(self, texts=self.texts.without(group))

    @property
    def offset(self) -> Array:
        """The logits before training, f0 [M, C]."""
        return self.texts.cross_f0

    def outcomes(self, changes: Changes) -> Array:
        """Return logits [S, M, C] after the last step of each.

        Raises:
            UserError: batches with weights that are neither 0 nor 1, for which no trainer draws batches.
        """
        moved = self.coefficients(changes).reshape(len(changes), -1) @ flatten(self.texts.cross)
        return np.asarray(self.offset - moved.reshape(len(changes), *self.offset.shape))

    def coefficients(self, changes: Changes) -> Array:
        """Return A [S, N, C] of each change."""
        if self.batches is not None:
            return self._by_batches(changes, self.batches)
        n, c = self.texts.f0.shape
        matrix, size = symmetric_matrix(self.texts.kernel, "attribution"), len(changes)
        labels = np.stack([changes.labels_of(number, self.texts.labels) for number in range(size)])
        totals = changes.weights.sum(axis=1)
        shares = changes.weights / np.where(totals > 0, totals, 1.0)[:, None]
        coefficients, logits = np.zeros((size, n, c)), np.tile(self.texts.f0, (size, 1, 1))
        with np.errstate(over="ignore", invalid="ignore"):
            for rate in self.rates:
                chi = output_derivative(logits.reshape(-1, c), labels.ravel(), self.loss).reshape(size, n, c)
                slope = (shares[:, :, None] * chi).reshape(size, n * c)
                change = slope @ matrix
                if self.clip is not None:
                    norms = np.sqrt(np.maximum(0.0, (change * slope).sum(axis=1)))
                    shrink = np.minimum(1.0, self.clip / (norms + CLIP_FLOOR))[:, None]
                    slope, change = shrink * slope, shrink * change
                coefficients = coefficients + rate * slope.reshape(size, n, c)
                logits = logits - rate * change.reshape(size, n, c)
        return coefficients

    def _by_batches(self, changes: Changes, draw: Batches) -> Array:
        if not np.isin(changes.weights, (0.0, 1.0)).all():
            raise UserError(
                "attribution: minibatches are drawn of texts that are there or not; weights are 0 or 1"
            )
        coefficients = np.zeros((len(changes), *self.texts.f0.shape))
        for number, weights in enumerate(changes.weights):
            present = np.flatnonzero(weights).tolist()
            if not present:
                continue
            coefficients[number] = descend(
                self.texts.kernel,
                changes.labels_of(number, self.texts.labels).tolist(),
                self.texts.f0,
                self.rates,
                loss=self.loss,
                batches=draw(present),
                clip=self.clip,
            )[-1]
        return coefficients

    def contributions(self, cross: Array | None = None) -> Array:
        """Return what each training text adds [N, M, C] in training on all; with f0 they sum to the logits.

        Args:
            cross: a part of the kernel with the others, such as a layer's [N, C, M, C], whose part of them is wanted.
        """
        everything = Changes(np.ones((1, self.texts.texts)))
        towards = self.texts.cross if cross is None else cross
        return np.asarray(-np.einsum("nc,ncmd->nmd", self.coefficients(everything)[0], towards))
