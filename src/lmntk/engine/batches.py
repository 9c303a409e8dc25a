"""Texts in, tangents out: batches of similar length, after a look at how this model is to be captured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lmntk.engine.phases import Trial
from lmntk.engine.start_up import check_texts
from lmntk.engine.transfers import Batch, Transfers
from lmntk.models.logit_model import LogitModel
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.prompts.encoding import EncodedText
from lmntk.system.device_memory import DeviceMemory, memory_of
from lmntk.system.memory import Result, peak_of, resident, trim
from lmntk.system.precision import FULL, Precision, passes_dtype, products
from lmntk.tangents.coverage import Coverage
from lmntk.tangents.factors import Tangents
from lmntk.tangents.fallback import BatchAxisLostError

TRIED = 4  # of the longest texts, for the memory that they take


class Capturer:
    """Captures tangents of one model's texts, batch by batch.

    Args:
        model: from a batch to logits [n, c].
        trainable: the parameters that count.
        pad_id: the padding token.
        texts: all that will come, or some of them with the shortest and the longest; two are compared with plain autograd.
        batch_size: texts in one forward pass, at most; where the model does not keep texts apart it is one.
        precision: of the passes; the comparison with autograd is in full precision all the same.
        gpu: the device's memory, where it is not the host's.
    """

    def __init__(
        self,
        model: LogitModel,
        trainable: Mapping[str, torch.nn.Parameter],
        pad_id: int,
        texts: Sequence[EncodedText],
        batch_size: int,
        coverage: Coverage | None = None,
        precision: Precision = FULL,
        gpu: DeviceMemory | None = None,
    ) -> None:
        self.model, self.trainable, self.pad_id = model, trainable, pad_id
        self.device = next(model.parameters()).device
        self.precision, self.gpu = precision, memory_of(self.device) if gpu is None else gpu
        self.transfers = Transfers(self.device)
        self._coming: list[tuple[Sequence[EncodedText], Batch]] = []
        self.longest = sorted(texts, key=lambda text: text.length)
        self.batch_size = batch_size
        # the most that was held while the captured gradients were checked
        self.checked = self.gpu_checked = 0
        if coverage is None:
            trim()
            before = resident()
            with products(FULL):
                grown, (gpu_grown, coverage) = peak_of(
                    lambda: self._peak_of(lambda: check_texts(model, trainable, self.longest, self._batch))
                )
            self.checked = before + grown
            self.gpu_checked = 0 if self.gpu is None else self.gpu.held() + gpu_grown
        self.coverage = coverage

    def _batch(self, texts: Sequence[EncodedText]) -> dict[str, Tensor]:
        for index, (expected, started) in enumerate(self._coming):
            if expected == texts:
                del self._coming[index]
                return started.ready()
        return self.transfers.batch_in(collate(texts, self.pad_id)).ready()

    def expect(self, texts: Sequence[EncodedText]) -> None:
        """Start to bring a batch to the device that will be captured after the next one, beside the work on that."""
        if texts:
            self._coming = [*self._coming[-1:], (texts, self.transfers.batch_in(collate(texts, self.pad_id)))]

    def of_batch(self, texts: Sequence[EncodedText]) -> list[Tangents]:
        """Return the tangents of one batch; of one that a module cannot be cut into texts for, text by text."""
        return self._of_batch(texts, self.precision)

    def of_batch_in_full(self, texts: Sequence[EncodedText]) -> list[Tangents]:
        """Return the tangents of one batch in full precision, whatever the others' is."""
        return self._of_batch(texts, FULL)

    def _of_batch(self, texts: Sequence[EncodedText], precision: Precision) -> list[Tangents]:
        with products(precision):
            try:
                return [self._captured(texts, precision)]
            except BatchAxisLostError:
                if len(texts) == 1:
                    raise
                return [self._captured([text], precision) for text in texts]

    def _captured(self, texts: Sequence[EncodedText], precision: Precision) -> Tangents:
        return self.coverage.capture(self.model, self._batch(texts), self.trainable, passes_dtype(precision))

    def batches(self, texts: Sequence[EncodedText]) -> list[list[int]]:
        """Return which texts go together, by similar length."""
        return length_sorted_batches(
            [text.length for text in texts], self.batch_size if self.coverage.batched else 1
        )

    def try_out(self) -> Trial:
        """Capture a few of the longest texts, to see what they take; of a lower precision in full precision too."""
        few = self.longest[-(TRIED if self.coverage.batched else 1) :]
        host_grown, (grown, tangents) = peak_of(lambda: self._peak_of(lambda: self._tried(few)))
        grown = host_grown if self.gpu is None else grown
        sizes = [
            replace(batch, factors={name: factors}).nbytes
            for batch in tangents
            for name, factors in batch.factors.items()
        ]
        factors, largest = sum(batch.nbytes for batch in tangents), max(sizes, default=0)
        if len(tangents) > 1:
            largest *= len(tangents)
        padded = few[-1].length * len(few)
        outputs = int(tangents[0].logits.shape[1])
        del tangents
        trial = Trial(padded, few[-1].length, factors, largest, max(grown, factors), 0, outputs)
        return self.held_now(replace(trial, checked=self.checked, gpu_checked=self.gpu_checked))

    def held_now(self, trial: Trial) -> Trial:
        """Return a trial with what is held now, which may be more than when it was made, for kernels have come since."""
        trim()
        return replace(trial, resident=resident(), held=0 if self.gpu is None else self.gpu.held())

    def _tried(self, few: Sequence[EncodedText]) -> list[Tangents]:
        tangents = self.of_batch(few)
        if self.precision != FULL:
            self.of_batch_in_full(few)
        return tangents

    def _peak_of(self, body: Callable[[], Result]) -> tuple[int, Result]:
        return (0, body()) if self.gpu is None else self.gpu.peak_of(body)
