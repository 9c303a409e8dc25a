"""The kernels that are asked for: of which model, between which texts, by which formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lmntk.kernels.formulas import kernel_names
from lmntk.kernels.gram import Grouping
from lmntk.kernels.subspaces import Subspaces
from lmntk.models.logit_model import LogitModel
from lmntk.prompts.encoding import EncodedText
from lmntk.tangents.coverage import Coverage

Pair = tuple[str, str]


@dataclass(frozen=True)
class KernelWork:
    """Kernels between groups of texts, to be computed together.

    Attributes:
        model: from a batch to logits [n, c].
        texts: groups of encoded texts by name; the kernels' axes follow their order.
        pairs: (row group, column group) for each kernel wanted; rows are training texts.
        formulas: of ``sgd``, ``signgd``, ``asigngd``.
        trainable: the parameters that count.
        pad_id: the padding token.
        subspaces: candidates for what to train, of these parameters, with kernels of their own.
        coverage: how gradients are captured, where that was looked at before; without it the start-up check looks.
    """

    model: LogitModel
    texts: Mapping[str, Sequence[EncodedText]]
    pairs: Sequence[Pair]
    formulas: Sequence[str]
    trainable: Mapping[str, torch.nn.Parameter]
    pad_id: int
    subspaces: Subspaces | None = None
    coverage: Coverage | None = None

    @property
    def row_groups(self) -> list[str]:
        """The groups whose texts are rows of a kernel."""
        return list(dict.fromkeys(row for row, _ in self.pairs))

    @property
    def column_groups(self) -> list[str]:
        """The groups whose texts are columns of a kernel; some may be rows too."""
        return list(dict.fromkeys(column for _, column in self.pairs))

    @property
    def groups(self) -> list[str]:
        """The groups of all pairs."""
        return list(dict.fromkeys(name for pair in self.pairs for name in pair))

    @property
    def kernel_names(self) -> list[str]:
        """The kernels of each pair; ``asigngd`` has two."""
        return kernel_names(self.formulas)

    def sums(self, grouping: Grouping | None) -> int:
        """Return how many kernels a pair of texts has while they are computed, of all formulas."""
        labels = () if self.subspaces is None else self.subspaces.labels
        return len(self.kernel_names) * (groups_of(grouping, self.trainable) + len(labels))

    def texts_of(self, groups: Sequence[str]) -> list[EncodedText]:
        """Return the texts of some groups, one after the other."""
        return [text for name in groups for text in self.texts[name]]

    def lengths_of(self, groups: Sequence[str]) -> list[list[int]]:
        """Return the lengths of the texts of some groups, in tokens."""
        return [[text.length for text in self.texts[name]] for name in groups]

    def text_pairs(self) -> int:
        """Return the number of pairs of texts in all kernels of one formula."""
        return sum(len(self.texts[row]) * len(self.texts[column]) for row, column in self.pairs)


def groups_of(grouping: Grouping | None, trainable: Mapping[str, torch.nn.Parameter], alone: int = 1) -> int:
    """Return how many groups of parameters have kernels of their own; ``alone`` where all are summed."""
    return alone if grouping is None else len({grouping(name) for name in trainable})
