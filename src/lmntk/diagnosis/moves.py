"""The train texts' gradients and their sgd kernel at other weights beside those before: captured once at each, where that fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from lmntk.diagnosis.examples import Examples, device_of, fitted
from lmntk.diagnosis.features import (
    GradientDistance,
    captured_as,
    gradient_distance,
    gradient_norms,
    moved_gradients,
    norms_of,
    sgd_kernel,
)
from lmntk.engine.settings import Settings
from lmntk.kernels.gram import EVERYTHING, Grouping, Panel, gram
from lmntk.models.weights import at_weights
from lmntk.solvers.inputs import Array
from lmntk.system.precision import FULL
from lmntk.tangents.coverage import Coverage
from lmntk.tangents.factors import Tangents

HELD = 0.25  # of the memory, for the factors of one side


@dataclass(frozen=True, eq=False)
class Move:
    """Chosen texts' sgd kernels [n, c, n, c] before and after, and the distances of their gradients."""

    before: Array
    after: Array
    gradients: GradientDistance


class Moves:
    """Compares chosen train texts at theta_0 with the same at other weights.

    The factors at theta_0 are kept for the next weights at which the same texts are looked at. So a look costs each text one capture,
    and the first look two. Where the factors of one side pass a quarter of the memory, on a GPU, and in lower precision, nothing is
    kept: a look then captures each text three times, batch by batch for the gradients and streamed for the kernel.

    Args:
        model: at theta_0.
        train: the train examples.
        trainable: the parameters whose gradients count.
        kernel: the sgd kernel [n, c, n, c] of the train examples at theta_0.
        settings: memory, precision, scratch folder.
        coverage: how gradients are captured at theta_0. If some of them could not be compared there (those of LoRA's A are zero), it is
            looked at again at the first other weights.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Examples,
        trainable: Mapping[str, nn.Parameter],
        kernel: Array,
        settings: Settings,
        coverage: Coverage,
    ) -> None:
        self.model, self.train, self.trainable, self.kernel = model, train, trainable, kernel
        self.settings = replace(settings, grouping=None)
        self._coverage, self._is_settled = coverage, not (coverage.faint or coverage.unused)
        self._chosen: tuple[int, ...] = ()  # whose factors are kept, or did not fit
        self._kept: list[Tangents] | None = None

    def to(self, weights: Mapping[str, Tensor], chosen: Sequence[int]) -> Move:
        """Return the move of the texts in these rows. Memory: their factors, twice, within half of the settings' memory."""
        outputs = range(self.kernel.shape[1])
        before = self.kernel[np.ix_(chosen, outputs, chosen, outputs)]
        if not self._is_settled:
            with at_weights(self.model, weights):
                self._coverage = fitted(self.model, self.train, self.trainable)[1]
            self._is_settled = True
        coverage = self._coverage
        examples, _ = captured_as(coverage, self.model, self.train.choose(chosen), self.trainable)
        kept = self._factors(tuple(chosen), examples, coverage)
        if kept is None:
            after = sgd_kernel(self.model, examples, self.trainable, self.settings, weights, coverage)
            gradients = gradient_distance(self.model, examples, weights, self.trainable, coverage)
            return Move(before, after[EVERYTHING], gradients)
        with at_weights(self.model, weights):
            there = [coverage.capture(self.model, batch, self.trainable) for batch in self._batches(examples)]
        panel, order = Panel(there), examples.order()
        values = gram(panel, panel, ["sgd"])["sgd"][EVERYTHING].cpu()[order][:, :, order].numpy()
        return Move(before, values, GradientDistance.of_batches(examples, map(moved_gradients, kept, there)))

    def norms(self, chosen: Sequence[int], grouping: Grouping) -> dict[str, float]:
        """Return sum_nc ||g_c(x_n)||^2 of the texts in these rows at theta_0, by parameter group."""
        if self._kept is not None and self._chosen == tuple(chosen):
            return norms_of(self._kept, grouping)
        examples = self.train.choose(chosen)
        return gradient_norms(self.model, examples, self.trainable, grouping, self._coverage)

    def _factors(
        self, chosen: tuple[int, ...], examples: Examples, coverage: Coverage
    ) -> Sequence[Tangents] | None:
        """Return the factors of the texts in these rows at theta_0, captured or kept; nothing where they do not fit."""
        if self._chosen != chosen:
            self._chosen, self._kept = chosen, None
            if device_of(self.model).type == "cpu" and self.settings.precision == FULL:
                self._kept = self._fitting(examples, coverage)
        return self._kept

    def _fitting(self, examples: Examples, coverage: Coverage) -> list[Tangents] | None:
        """Return the factors at theta_0, as long as they fit."""
        kept, held = [], 0
        for batch in self._batches(examples):
            kept.append(coverage.capture(self.model, batch, self.trainable))
            held += kept[-1].nbytes
            if held > HELD * self.settings.share:
                return None
        return kept

    def _batches(self, examples: Examples) -> Iterator[dict[str, Tensor]]:
        return (batch for _, batch in examples.on(device_of(self.model)))
