"""A solution of the shared kernel as a classifier: it stays with its training texts, for no single direction stands for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels
from lmntk.kernels.gram import EVERYTHING
from lmntk.models.logit_model import LogitModel, combined
from lmntk.prediction.limits import PassLimits
from lmntk.prediction.predictor import DecisionRule, Predictor
from lmntk.prompts.encoding import EncodedText
from lmntk.solvers.inputs import Array
from lmntk.system.memory import default_memory


@dataclass(frozen=True, eq=False)
class SharedSolution:
    """A solution of the shared kernel.

    Attributes:
        texts: the N training texts, encoded.
        coefficients: [N, C].
        combinations: of the C logits, [C, S]; the kernel is the sum over their own, divided by C - 1.
        trainable: the parameters that count, by name.
    """

    texts: Sequence[EncodedText]
    coefficients: Array
    combinations: Array
    trainable: Mapping[str, nn.Parameter]


class KernelPredictor(Predictor):
    """Decisions f0(x) / s + sum_n coefficients[n] K(x_n, x) + intercept of texts, by their kernels with the training texts.

    Args:
        model: the pre-trained model, with a logit for every class.
        solution: of the shared kernel.
        pad_id: the padding token.
        rule: intercept, s, and the sharpness of probabilities.
        limits: texts in one pass, and the memory.

    Cost: S forward and backward passes a text, and N S P products; and once for each call the same for the N training texts.
    """

    def __init__(
        self,
        model: LogitModel,
        solution: SharedSolution,
        pad_id: int,
        rule: DecisionRule | None = None,
        limits: PassLimits | None = None,
    ) -> None:
        super().__init__(model, [], pad_id, rule, limits)
        self.solution = solution

    def evaluate(self, texts: Sequence[EncodedText]) -> tuple[Array, Array]:
        """Return the decisions and the pre-trained logits, each [n, c] float64, in the order of the texts."""
        decisions, before = super().evaluate(texts)
        solution, limits = self.solution, self.limits
        settings = Settings(limits.batch_size, default_memory() if limits.memory is None else limits.memory)
        groups, pair = {"train": solution.texts, "new": texts}, ("train", "new")
        for weights in solution.combinations.T:
            single = combined(self.model, torch.from_numpy(weights.copy())[:, None])
            work = KernelWork(single, groups, [pair], ["sgd"], solution.trainable, self.pad_id)
            values = stream_kernels(work, settings).kernels[pair]["sgd"][EVERYTHING].cpu().numpy()
            decisions = decisions + np.einsum("nm,nc->mc", values[:, 0, :, 0], solution.coefficients) / (
                len(solution.combinations) - 1
            )
        return decisions, before
