"""The inner contraction: kernels from products of factors, so that no gradient is built.

With a gradient a sum of few terms, sum_t g_t x_t^T,

    <G, G'> = sum_ts (x_t . x'_s) (g_t . g'_s)        2 T T' (i + c d o) operations a pair of examples

Padding, whose g_t are zero, is left out on a processor. For a table the first factor is "the same row". Signs go through it only where
each coordinate is a single product: tables (their rows are summed per token beforehand) and rank-one gradients,
sign(g x^T) = sign(g) sign(x)^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmntk.kernels.formulas import SIGNS, SYMMETRIC
from lmntk.kernels.sides import Placed, Sides
from lmntk.tangents.factors import NO_ROW, Factors, OuterFactors, RowFactors, alive_uses

PAIR_NUMBERS = 2**22  # gathered from tables at once
WORTH_A_COPY = 0.01  # of the terms: if fewer are padding they stay


def inner_applies(parts: Sequence[Factors], names: Sequence[str]) -> bool:
    """True when the inner contraction is exact for these kernels and these batches' factors of one parameter."""
    if all(isinstance(part, RowFactors) for part in parts):
        return True
    if not all(isinstance(part, OuterFactors) for part in parts):
        return False
    return set(names) <= {"sgd"} or all(part.is_rank_one for part in parts if isinstance(part, OuterFactors))


@dataclass(frozen=True)
class Terms:
    """The terms of n examples' gradients, one below the other.

    ``owners`` [n, r] has a one where a term is an example's; without it every example has as many terms, in order.
    """

    inputs: Tensor  # (r, i)
    output_gradients: Tensor  # (c, r, o)
    count: int
    owners: Tensor | None = None

    @classmethod
    def of(cls, factors: OuterFactors) -> Terms:
        """Returns all terms of a batch, padding too, in the factors' own memory."""
        return cls(factors.inputs.flatten(0, 1), factors.output_gradients.flatten(1, 2), len(factors.inputs))


def without_padding(several: Sequence[OuterFactors]) -> list[Terms]:
    """Returns the terms of parameters with the same inputs in a batch, but for those that are zero for all of them: padding's.

    What a zero is multiplied with is not looked at. Memory: a copy of the factors, where more than a hundredth of the terms goes.
    """
    first = several[0]
    n, t, _ = first.inputs.shape
    there = alive_uses(first.output_gradients)
    for factors in several[1:]:
        there |= alive_uses(factors.output_gradients)
    kept = there.flatten().nonzero().flatten()
    if len(kept) > (1 - WORTH_A_COPY) * n * t:
        return [Terms.of(factors) for factors in several]
    owners = first.inputs.new_zeros(n, len(kept))
    owners[kept // t, torch.arange(len(kept), device=kept.device)] = 1
    inputs = first.inputs.flatten(0, 1)[kept]
    return [Terms(inputs, factors.output_gradients.flatten(1, 2)[:, kept], n, owners) for factors in several]


def inner(
    rows: Factors | Terms,
    columns: Factors | Terms,
    names: Sequence[str],
    shared: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Returns the Gram block [c, n, d, m] of every named kernel, by the inner contraction.

    ``shared`` holds the inputs' products of a parameter that has the same inputs, by kernel, and gets those that it lacks: query, key and
    value have one input.

    Memory: a number for each pair of terms; of tables, of which examples share few rows, less.
    """
    if isinstance(rows, RowFactors) and isinstance(columns, RowFactors):
        by_rows = _aligned_rows if _are_aligned(rows, columns) else _common_rows
        return by_rows(rows, columns, names)
    rows, columns = (Terms.of(side) if isinstance(side, OuterFactors) else side for side in (rows, columns))
    if not isinstance(rows, Terms) or not isinstance(columns, Terms):
        raise TypeError(f"inner contraction of {type(rows).__name__} with {type(columns).__name__}")
    left = {} if shared is None else shared
    left |= {name: _products(rows.inputs, columns.inputs, *SIGNS[name]) for name in names if name not in left}
    blocks = {}
    for name in names:
        row_sign, column_sign = SIGNS[name]
        block = rows.inputs.new_empty(
            len(rows.output_gradients), rows.count, len(columns.output_gradients), columns.count
        )
        for c, row_terms in enumerate(rows.output_gradients):
            for d, column_terms in enumerate(columns.output_gradients):
                products = _products(row_terms, column_terms, row_sign, column_sign)
                block[c, :, d] = _summed(products.mul_(left[name]), rows, columns)
        blocks[name] = block
    return blocks


def _summed(products: Tensor, rows: Terms, columns: Terms) -> Tensor:
    """Returns the sums [n, m] over both examples' terms of products [r, s]."""
    r, s = products.shape
    if rows.owners is None and columns.owners is None:
        return products.view(rows.count, r // rows.count, columns.count, s // columns.count).sum((1, 3))
    by_column = columns.owners
    found = (
        products.view(r, columns.count, s // columns.count).sum(2)
        if by_column is None
        else products @ by_column.T
    )
    return (
        found.view(rows.count, r // rows.count, columns.count).sum(1)
        if rows.owners is None
        else rows.owners @ found
    )


def _are_aligned(rows: RowFactors, columns: RowFactors) -> bool:
    """True when every example has the same row in the same slot, or none: a table of positions."""
    width = min(rows.ids.shape[1], columns.ids.shape[1])
    slots = torch.cat([rows.ids[:, :width], columns.ids[:, :width]])
    return bool(((slots == slots.amax(0)) | (slots == NO_ROW)).all())


def _aligned_rows(rows: RowFactors, columns: RowFactors, names: Sequence[str]) -> dict[str, Tensor]:
    """Returns the blocks of tables whose slots agree: one matrix product; empty slots hold zeros."""
    width = min(rows.ids.shape[1], columns.ids.shape[1])
    left, right = rows.values[:, :, :width].flatten(2), columns.values[:, :, :width].flatten(2)  # (c, n, t i)
    blocks = {}
    for name in names:
        row_sign, column_sign = SIGNS[name]
        product = (left.sign() if row_sign else left).flatten(0, 1) @ (
            right.sign() if column_sign else right
        ).flatten(0, 1).T
        blocks[name] = product.view(*left.shape[:2], *right.shape[:2])
    return blocks


def _common_rows(rows: RowFactors, columns: RowFactors, names: Sequence[str]) -> dict[str, Tensor]:
    """Returns the blocks of tables by the pairs of slots that hold the same row, a bounded number of them at a time.

    Cost: c d i a pair of equal slots; of two texts few are equal.
    """
    n, t = rows.ids.shape
    m, s = columns.ids.shape
    c, d, i = rows.values.shape[0], columns.values.shape[0], rows.values.shape[-1]
    equal = (rows.ids.flatten()[:, None] == columns.ids.flatten()) & (rows.ids != NO_ROW).flatten()[
        :, None
    ]  # (n t, m s)
    row_slots, column_slots = equal.nonzero(as_tuple=True)
    places = (row_slots // t) * m + column_slots // s
    blocks = {name: rows.values.new_zeros(c, d, n * m) for name in names}
    row_values, column_values = rows.values.flatten(1, 2), columns.values.flatten(1, 2)  # (c, n t, i)
    for part in torch.split(
        torch.arange(len(places), device=places.device), max(1, PAIR_NUMBERS // (i * (c + d)))
    ):
        left, right = row_values[:, row_slots[part]], column_values[:, column_slots[part]]
        for name in names:
            row_sign, column_sign = SIGNS[name]
            signed = left.sign() if row_sign else left, right.sign() if column_sign else right
            blocks[name].index_add_(2, places[part], torch.einsum("cpi,dpi->cdp", *signed))
    return {name: block.view(c, d, n, m).permute(0, 2, 1, 3) for name, block in blocks.items()}


def _products(rows: Tensor, columns: Tensor, row_sign: bool, column_sign: bool) -> Tensor:
    """Returns all products [r, s] of vectors rows [r, i] and columns [s, i], signs taken as asked."""
    return (rows.sign() if row_sign else rows) @ (columns.sign() if column_sign else columns).T


def inputs_of(sides: Sides) -> tuple[object, ...]:
    """Return what tells whether another parameter has the same inputs in all batches."""
    parts = [part for _, part in (*sides.left, *sides.right)]
    if not all(isinstance(part, OuterFactors) for part in parts):
        return (id(sides),)
    tensors = [part.inputs for part in parts if isinstance(part, OuterFactors)]
    return tuple((tensor.data_ptr(), tensor.shape, tensor.stride()) for tensor in tensors)


def add_inner(several: Sequence[Sides], copy_bytes: int) -> None:
    """Add the kernels of parameters with the same inputs, batch by batch, so that the inputs' products are made once.

    ``copy_bytes``: how much of each side may be copied, to leave padding out.
    """
    rows = _batches([sides.left for sides in several], copy_bytes)
    own = all(sides.is_own for sides in several)
    for index in range(len(several[0].right)):
        others = [sides.right[index : index + 1] for sides in several]
        columns = rows[index] if own else _batches(others, copy_bytes)[0]
        _add_columns(several, rows, columns, index)
        del columns  # before the next copy


Batch = Sequence[Factors | Terms]  # of several parameters


def _add_columns(several: Sequence[Sides], rows: Sequence[Batch], columns: Batch, number: int) -> None:
    """Add the products of all batches of rows with one batch of columns, the one of this number."""
    column_place, _ = several[0].right[number]
    for index, (row_place, _) in enumerate(several[0].left):
        shared: dict[str, Tensor] = {}
        for sides, row_part, column_part in zip(several, rows[index], columns, strict=True):
            symmetric = [name for name in sides.names if sides.is_own and name in SYMMETRIC]
            wanted = [name for name in sides.names if name not in symmetric or index <= number]
            if not wanted:
                continue
            for name, block in inner(row_part, column_part, wanted, shared).items():
                sides.sums[name][:, row_place, :, column_place] += block
                if name in symmetric and index < number:
                    sides.sums[name][:, column_place, :, row_place] += block.permute(2, 3, 0, 1)


def _batches(several: Sequence[Placed], copy_bytes: int) -> list[Batch]:
    """Return one side's factors of several parameters, batch by batch, without padding as long as the copies are small."""
    batches: list[Batch] = []
    copied = 0
    for index in range(len(several[0])):
        batch = [placed[index][1] for placed in several]
        outer = [part for part in batch if isinstance(part, OuterFactors)]
        most = sum(part.output_gradients.nbytes for part in outer) + (outer[0].inputs.nbytes if outer else 0)
        if outer and outer[0].inputs.device.type == "cpu" and copied + most <= copy_bytes:
            terms = without_padding(outer)
            if terms[0].owners is not None:
                copied += sum(each.output_gradients.nbytes for each in terms) + terms[0].inputs.nbytes
            batches.append(terms)
        else:
            batches.append(batch)
    return batches
