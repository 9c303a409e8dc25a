"""The terms that gradients are sums of, multiplied with one another so that no gradient is built.

With a gradient a sum of few terms, sum_t g_t x_t^T,

    <G, G'> = sum_ts (x_t . x'_s) (g_t . g'_s)        2 T T' (i + c d o) operations a pair of examples

For a table the first factor is "the same row". Signs go through it only where each coordinate is a single
product: tables (their rows are summed per token beforehand) and rank-one gradients, sign(g x^T) = sign(g)
sign(x)^T.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from lmntk.tangents.padding import alive_uses

NO_ROW = -1  # the id of a slot that holds nothing
PAIR_NUMBERS = 2**22  # gathered from tables at once
WORTH_A_COPY = 0.01  # of the terms: if fewer are padding they stay

# whether the rows' gradients are replaced by their signs, and whether the columns' are
Signs = tuple[bool, bool]


class Terms(ABC):
    """The terms of n examples' gradients, of c logits."""

    def terms(self) -> Terms:
        """Return these, as ``Factors.terms`` does: what is contracted may be either."""
        return self

    @abstractmethod
    def products(
        self, columns: Self, signs: Mapping[str, Signs], shared: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the inner products [c, n, d, m] of two sides' gradients, for each named way to take signs.

        ``shared`` holds what parameters with the same inputs have in common, by name, and gets what it lacks.
        """


@dataclass(frozen=True)
class OuterTerms(Terms):
    """The terms g_t x_t^T of n examples, one below the other.

    ``owners`` [n, r] has a one where a term is an example's; without it every example has as many terms, in
    order. Memory of products: a number for each pair of terms.
    """

    inputs: Tensor  # (r, i)
    output_gradients: Tensor  # (c, r, o)
    count: int
    owners: Tensor | None = None

    @classmethod
    def of(cls, inputs: Tensor, output_gradients: Tensor) -> OuterTerms:
        """Return all terms of inputs (n, t, i) and output gradients (c, n, t, o), padding too, as views."""
        return cls(inputs.flatten(0, 1), output_gradients.flatten(1, 2), len(inputs))

    def products(
        self, columns: Self, signs: Mapping[str, Signs], shared: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the inner products [c, n, d, m]; the inputs' products are what is shared."""
        for name, sides in signs.items():
            if name not in shared:
                shared[name] = _products(self.inputs, columns.inputs, sides)
        blocks = {}
        for name, sides in signs.items():
            c, d = len(self.output_gradients), len(columns.output_gradients)
            block = self.inputs.new_empty(c, self.count, d, columns.count)
            for row_logit, row_terms in enumerate(self.output_gradients):
                for column_logit, column_terms in enumerate(columns.output_gradients):
                    products = _products(row_terms, column_terms, sides)
                    block[row_logit, :, column_logit] = self._summed(products.mul_(shared[name]), columns)
            blocks[name] = block
        return blocks

    def _summed(self, products: Tensor, columns: OuterTerms) -> Tensor:
        """Return the sums [n, m] over both examples' terms of products [r, s]."""
        r, s = products.shape
        n, m = self.count, columns.count
        if self.owners is None and columns.owners is None:
            return products.view(n, r // n, m, s // m).sum((1, 3))
        others = columns.owners
        by_column = products.view(r, m, s // m).sum(2) if others is None else products @ others.T
        return by_column.view(n, r // n, m).sum(1) if self.owners is None else self.owners @ by_column


def without_padding(inputs: Tensor, output_gradients: Sequence[Tensor]) -> list[OuterTerms]:
    """Return the terms of several parameters with the same inputs (n, t, i), but for padding's: zero for all.

    What a zero is multiplied with is not looked at. Memory: a copy of the factors, where more than a
    hundredth of the terms goes.
    """
    n, t, _ = inputs.shape
    alive = alive_uses(output_gradients[0])
    for gradients in output_gradients[1:]:
        alive |= alive_uses(gradients)
    kept = alive.flatten().nonzero().flatten()
    if len(kept) > (1 - WORTH_A_COPY) * n * t:
        return [OuterTerms.of(inputs, gradients) for gradients in output_gradients]
    owners = inputs.new_zeros(n, len(kept))
    owners[kept // t, torch.arange(len(kept), device=kept.device)] = 1
    inputs = inputs.flatten(0, 1)[kept]
    return [OuterTerms(inputs, gradients.flatten(1, 2)[:, kept], n, owners) for gradients in output_gradients]


@dataclass(frozen=True)
class RowTerms(Terms):
    """The rows of a table that n examples touch: row ids[n, u] has the gradient values[c, n, u, :]."""

    ids: Tensor  # (n, u)
    values: Tensor  # (c, n, u, i)

    def products(
        self, columns: Self, signs: Mapping[str, Signs], shared: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the inner products [c, n, d, m]; nothing is shared."""
        by_rows = self._aligned if self._is_aligned_with(columns) else self._common
        return by_rows(columns, signs)

    def _is_aligned_with(self, columns: RowTerms) -> bool:
        """Return whether every example has the same row in the same slot, or none: a table of positions."""
        width = min(self.ids.shape[1], columns.ids.shape[1])
        slots = torch.cat([self.ids[:, :width], columns.ids[:, :width]])
        return bool(((slots == slots.amax(0)) | (slots == NO_ROW)).all())

    def _aligned(self, columns: RowTerms, signs: Mapping[str, Signs]) -> dict[str, Tensor]:
        """Return the blocks of tables whose slots agree: one matrix product; empty slots hold zeros."""
        width = min(self.ids.shape[1], columns.ids.shape[1])
        left, right = (side.values[:, :, :width].flatten(2) for side in (self, columns))  # (c, n, t i)
        blocks = {}
        for name, sides in signs.items():
            product = _products(left.flatten(0, 1), right.flatten(0, 1), sides)
            blocks[name] = product.view(*left.shape[:2], *right.shape[:2])
        return blocks

    def _common(self, columns: RowTerms, signs: Mapping[str, Signs]) -> dict[str, Tensor]:
        """Return the blocks of tables by the pairs of slots that hold the same row, few at a time.

        Cost: c d i a pair of equal slots; of two texts few are equal.
        """
        n, t = self.ids.shape
        m, s = columns.ids.shape
        c, d, i = len(self.values), len(columns.values), self.values.shape[-1]
        equal = self.ids.flatten()[:, None] == columns.ids.flatten()  # (n t, m s)
        equal &= (self.ids != NO_ROW).flatten()[:, None]
        row_slots, column_slots = equal.nonzero(as_tuple=True)
        examples = (row_slots // t) * m + column_slots // s
        blocks = {name: self.values.new_zeros(c, d, n * m) for name in signs}
        row_values, column_values = (side.values.flatten(1, 2) for side in (self, columns))  # (c, n t, i)
        pairs = torch.arange(len(examples), device=examples.device)
        for part in torch.split(pairs, max(1, PAIR_NUMBERS // (i * (c + d)))):
            left, right = row_values[:, row_slots[part]], column_values[:, column_slots[part]]
            for name, (row_sign, column_sign) in signs.items():
                signed = left.sign() if row_sign else left, right.sign() if column_sign else right
                blocks[name].index_add_(2, examples[part], torch.einsum("cpi,dpi->cdp", *signed))
        return {name: block.view(c, d, n, m).permute(0, 2, 1, 3) for name, block in blocks.items()}


def _products(rows: Tensor, columns: Tensor, signs: Signs) -> Tensor:
    """Return all products [r, s] of vectors rows [r, i] and columns [s, i], signs taken as asked."""
    row_sign, column_sign = signs
    return (rows.sign() if row_sign else rows) @ (columns.sign() if column_sign else columns).T
