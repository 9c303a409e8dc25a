"""The question whether a model keeps the texts of a batch apart, asked of real texts before any batch is believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lmntk.models.rounding import same
from lmntk.models.state import Batch
from lmntk.prompts.batching import collate
from lmntk.prompts.encoded_text import EncodedText
from lmntk.system.precision import FULL, products

MIXES = "the model's logits depend on padding or on the rest of a batch: texts are classified one at a time, unpadded"

Ends = tuple[EncodedText, EncodedText]


class TextsApart:
    """The knowledge of one model: a text has the same logits alone and padded beside others, or not.

    It is looked at on the shortest and the longest of all texts so far, and again once there is a shorter or a longer one: texts of
    one length show no padding. That a model mixes texts stays.

    Attributes:
        mixes: some text's logits depended on its batch.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id
        self.mixes = False
        self._ends: dict[int, Ends] = {}  # that were compared, by the number of an ensemble's template

    def holds(
        self, logits: Callable[[Batch], Tensor], texts: Sequence[EncodedText], device: torch.device
    ) -> bool:
        """Return whether texts may share a batch; ``logits`` is called on the two ends of what is new."""
        for template in range(len(texts[0].others) + 1 if texts else 0):
            if not self.mixes:
                self._look(logits, texts, template, device)
        return not self.mixes

    def _look(
        self,
        logits: Callable[[Batch], Tensor],
        texts: Sequence[EncodedText],
        template: int,
        device: torch.device,
    ) -> None:
        def width(text: EncodedText) -> int:
            return len((text, *text.others)[template].ids)

        before = self._ends.get(template, ())
        ordered = sorted([*before, *texts], key=width)
        if len(ordered) < 2:
            return  # alone anyway
        ends = ordered[0], ordered[-1]
        if [*map(width, before)] == [*map(width, ends)]:
            return

        def batch_of(some: Sequence[EncodedText]) -> Batch:
            return {name: tensor.to(device) for name, tensor in collate(some, self.pad_id).items()}

        with torch.no_grad(), products(FULL):
            alone = torch.cat([logits(batch_of([text])) for text in ends])
            if not bool(torch.isfinite(alone).all()):
                return  # weights that diverged tell nothing
            self.mixes = not same(logits(batch_of(ends)), alone)
        self._ends[template] = ends
