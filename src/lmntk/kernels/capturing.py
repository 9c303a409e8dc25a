"""Texts in, tangents out: batches of similar length, after a look at how this model is to be captured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lmntk.kernels.schedule import Trial
from lmntk.memory import peak_of, resident, trim
from lmntk.models.logit_model import LogitModel
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.prompts.encoding import EncodedText
from lmntk.tangents.capture import capture
from lmntk.tangents.coverage import Coverage, check_coverage
from lmntk.tangents.factors import Tangents
from lmntk.tangents.local import BatchAxisLostError

TRIED = 4  # of the longest texts, for the memory that they take


class Capturing:
    """Captures texts of one model.

    Args:
        model: from a batch to logits [n, c].
        trainable: the parameters that count.
        pad_id: the padding token.
        texts: all that will come, or some of them with the shortest and the longest; two are compared with plain autograd.
        batch_size: texts in one forward pass, at most; where the model does not keep texts apart it is one.
    """

    def __init__(
        self,
        model: LogitModel,
        trainable: Mapping[str, torch.nn.Parameter],
        pad_id: int,
        texts: Sequence[EncodedText],
        batch_size: int,
        coverage: Coverage | None = None,
    ) -> None:
        self.model, self.trainable, self.pad_id = model, trainable, pad_id
        self.device = next(model.parameters()).device
        self.longest = sorted(texts, key=lambda text: text.length)
        extremes = [self.longest[0], self.longest[-1]][: len(self.longest)]
        self.coverage = coverage or check_coverage(model, self._batch(extremes), trainable)
        self.batch_size = batch_size

    def _batch(self, texts: Sequence[EncodedText]) -> dict[str, Tensor]:
        batch = collate(texts, self.pad_id)
        if self.device.type == "cuda":  # from pinned memory the copy runs beside the last batch's work
            return {name: tensor.pin_memory().to(self.device, non_blocking=True) for name, tensor in batch.items()}
        return batch

    def of_batch(self, texts: Sequence[EncodedText]) -> list[Tangents]:
        """Returns the tangents of one batch; of one that a module cannot be cut into texts for, text by text."""
        try:
            return [capture(self.model, self._batch(texts), self.trainable, self.coverage.fallback)]
        except BatchAxisLostError:
            if len(texts) == 1:
                raise
            return [capture(self.model, self._batch([text]), self.trainable, self.coverage.fallback) for text in texts]

    def batches(self, texts: Sequence[EncodedText]) -> list[list[int]]:
        """Returns which texts go together, by similar length."""
        return length_sorted_batches([text.length for text in texts], self.batch_size if self.coverage.batched else 1)

    def try_out(self) -> Trial:
        """Captures a few of the longest texts, to see what they take."""
        few = self.longest[-(TRIED if self.coverage.batched else 1) :]
        grown, found = peak_of(lambda: self.of_batch(few))
        sizes = [replace(batch, factors={name: factors}).nbytes for batch in found for name, factors in batch.factors.items()]
        factors, largest = sum(batch.nbytes for batch in found), max(sizes, default=0)
        if len(found) > 1:
            largest *= len(found)
        padded = few[-1].length * len(few)
        outputs = int(found[0].logits.shape[1])
        del found
        trim()
        return Trial(padded, few[-1].length, factors, largest, max(grown, factors), resident(), outputs)
