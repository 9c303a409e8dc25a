"""One parameter's part of a Gram matrix, in two exact ways.

*inner*: with a gradient a sum of few terms, sum_t g_t x_t^T,

    <G, G'> = sum_ts (x_t . x'_s) (g_t . g'_s)        2 T T' (i + c d o) operations a pair of examples

so no gradient is built. Padding, whose g_t are zero, is left out on a processor. For a table the first factor is "the same row". Signs
go through it only where each coordinate is a single product: tables (their rows are summed per token beforehand) and rank-one
gradients, sign(g x^T) = sign(g) sign(x)^T.

*materialise*: tiles of rows of G for all examples in a reused buffer, then one matrix product a formula.

Internally a Gram block is [c, n, d, m], logits first, as the factors have them; ``gram.py`` turns it round once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import isqrt

import torch
from torch import Tensor

from lmntk.kernels.formulas import SIGNS, SYMMETRIC
from lmntk.tangents.factors import NO_ROW, DenseFactors, Factors, OuterFactors, RowFactors, alive_uses

OWN_BLOCK = 32  # rows; smaller matrix products are slow ones
# Measured: a float32 product over 700,000 positive terms loses 3e-5, over this many 1e-6. Between them sums are float64.
LONGEST_SUM = 2**15
EXACT_FLOAT32_INTEGERS = 2**24  # a sum of fewer +-1 than this is exact in float32
MEMORY_BOUND_FACTOR = 8  # an elementwise multiply-add costs about this many of a matrix product's
PAIR_NUMBERS = 2**22  # gathered from tables at once
WORTH_A_COPY = 0.01  # of the terms: if fewer are padding they stay
TILE_RATE = 0.5  # measured: materialised tiles run at this share of the inner contraction's rate, which leaves padding out (not on a card)


def inner_applies(parts: Sequence[Factors], names: Sequence[str]) -> bool:
    """True when the inner contraction is exact for these kernels and these batches' factors of one parameter."""
    if all(isinstance(part, RowFactors) for part in parts):
        return True
    if not all(isinstance(part, OuterFactors) for part in parts):
        return False
    return set(names) <= {"sgd"} or all(part.is_rank_one for part in parts if isinstance(part, OuterFactors))


Uses = Sequence[tuple[float, float]]  # batches of examples: how many, and the terms of each


def inner_columns(
    rows: Uses, columns: Uses, i: int, o: int, c: int, made_anyway: bool = False, together: bool = False
) -> list[bool]:
    """Returns for which batches of columns the inner contraction of a weight [o, i] takes less time than materialised gradients do.

    It is for short texts, for its cost grows with the terms of both sides. Where any batch is materialised, so are the rows, once.
    ``made_anyway``: another kernel needs the gradients, so only the matrix product is saved, if all batches go one way.
    ``together``: the columns are the rows, and stay whole.
    """
    examples, terms = (sum(count for count, _ in rows), sum(count * uses for count, uses in rows))
    gradient = (
        2 * c * i * o / TILE_RATE
    )  # one term of an example made, or one example multiplied with another's logit
    contracted = [
        2 * terms * count * uses * (i + c * c * o + MEMORY_BOUND_FACTOR * c * c) for count, uses in columns
    ]
    materialised = [
        gradient * count * (c * examples + (0 if made_anyway else uses)) for count, uses in columns
    ]
    made = 0 if made_anyway else gradient * terms
    if made_anyway or together:
        return [sum(contracted) < sum(materialised) + made] * len(columns)
    if sum(contracted) < sum(map(min, contracted, materialised)) + made:
        return [True] * len(columns)
    return [one < other for one, other in zip(contracted, materialised, strict=True)]


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


Block = tuple[
    slice, slice
]  # of a weight's outputs and inputs; of any other gradient of its coordinates, the second being all


def blocks_of(factors: Factors, most: int) -> Iterator[Block]:
    """Yields the blocks of at most ``most`` coordinates into which a parameter's gradient is cut.

    A weight's are about as high as wide: measured on 768 x 768 at 27 terms, blocks of 64 x 128 are made a third faster than as many
    coordinates in whole rows, for the terms are few and a block is a product of two short sides.
    """
    if isinstance(factors, OuterFactors):
        o, i = int(factors.output_gradients.shape[-1]), int(factors.inputs.shape[-1])
        high = _even(o, max(1, isqrt(most), most // i))
        wide = _even(i, max(1, most // high))
        for top in range(0, o, high):
            for start in range(0, i, wide):
                yield slice(top, min(top + high, o)), slice(start, min(start + wide, i))
    elif isinstance(factors, DenseFactors):
        step = max(1, most)
        for start in range(0, factors.values.shape[-1], step):
            yield slice(start, min(start + step, factors.values.shape[-1])), slice(0, 1)
    else:
        raise TypeError(f"{type(factors).__name__} is contracted by rows, not materialised")


def _even(whole: int, most: int) -> int:
    """Returns the extent of the fewest nearly equal parts of at most ``most``."""
    return -(-whole // -(-whole // most))


def coordinates_in(block: Block) -> int:
    """Returns the number of coordinates in a block."""
    outputs, inputs = block
    return len(range(outputs.start, outputs.stop)) * len(range(inputs.start, inputs.stop))


def materialise(factors: Factors, block: Block, out: Tensor) -> None:
    """Writes a block of the gradients of n examples into ``out`` [c, n, coordinates]."""
    outputs, inputs = block
    if isinstance(factors, DenseFactors):
        out.copy_(factors.values[:, :, outputs])
        return
    if not isinstance(factors, OuterFactors):
        raise TypeError(f"{type(factors).__name__} is contracted by rows, not materialised")
    cut = factors.inputs[:, :, inputs]
    for logit, gradients in enumerate(factors.output_gradients):
        found = out[logit].view(len(cut), outputs.stop - outputs.start, cut.shape[-1])
        torch.bmm(gradients[:, :, outputs].transpose(1, 2), cut, out=found)


@dataclass(frozen=True)
class Tile:
    """Materialised gradients [a, p] of one side, and their signs where a kernel wants them.

    ``stack`` [2 a, p], if there is one, is the memory that both lie in, one below the other: one product of it is two kernels'.
    """

    values: Tensor
    signs: Tensor | None = None
    stack: Tensor | None = None

    @classmethod
    def of(cls, values: Tensor, names: Sequence[str]) -> Tile:
        """Returns the tile of gradients in memory of their own, with the signs if one of the named kernels wants any."""
        return cls(values) if set(names) <= {"sgd"} else cls(values, values.sign())

    def __len__(self) -> int:
        """Returns the number of its rows."""
        return len(self.values)

    def __getitem__(self, rows: slice) -> Tile:
        """Returns some of its rows."""
        return Tile(self.values[rows], None if self.signs is None else self.signs[rows])

    @cached_property
    def bits(self) -> Tensor:
        """The signs as 8-bit integers."""
        assert self.signs is not None
        return self.signs.to(torch.int8)


def tile_products(rows: Tile, columns: Tile, names: Sequence[str]) -> dict[str, Tensor]:
    """Returns the products [a, b] of materialised tiles, of a and b rows, for every named kernel.

    The sign-sign product is exact: in 8-bit integers where there is enough to do, else in floats on p < 2^24 terms.
    """
    products = {}
    if rows.stack is not None and {"sgd", "asigngd"} <= set(
        names
    ):  # one long product is faster than two short ones
        both = _longer_first(rows.stack, columns.values, torch.mm)
        products = {"sgd": both[: len(rows)], "asigngd": both[len(rows) :]}
    return products | {name: _product(rows, columns, name) for name in names if name not in products}


def _product(rows: Tile, columns: Tile, name: str) -> Tensor:
    row_sign, column_sign = SIGNS[name]
    if row_sign and column_sign:
        return _sign_products(rows, columns)
    left, right = rows.signs if row_sign else rows.values, columns.signs if column_sign else columns.values
    assert left is not None
    assert right is not None
    return _longer_first(left, right, torch.mm)


def own_products(tile: Tile, names: Sequence[str]) -> dict[str, Tensor]:
    """Returns the products [a, a] of a tile with itself; of the symmetric kernels, half of the blocks are the others' mirror."""
    products = {name: _product(tile, tile, name) for name in names if name not in SYMMETRIC}
    blocks = list(pairwise([*range(0, len(tile), max(OWN_BLOCK, -(-len(tile) // 4))), len(tile)]))
    for name in names:
        if name not in SYMMETRIC:
            continue
        product = None
        for first, last in blocks:
            block = _product(tile[first:last], tile[first:], name)
            product = block.new_empty(len(tile), len(tile)) if product is None else product
            product[first:last, first:] = block
            if first:
                product[first:last, :first] = product[:first, first:last].T
        assert product is not None
        products[name] = product
    return products


def _sign_products(rows: Tile, columns: Tile) -> Tensor:
    left, right = rows.signs, columns.signs
    assert left is not None
    assert right is not None
    terms = LONGEST_SUM if _in_pieces(left) else left.shape[1]
    if terms >= EXACT_FLOAT32_INTEGERS and left.dtype == torch.float32:
        raise ValueError(f"a tile of {terms} coordinates has no exact float32 sign product")
    if left.device.type == "cpu" and min(len(left), len(right)) >= 32 and hasattr(torch, "_int_mm"):
        return _longer_first(rows.bits, columns.bits, torch._int_mm)
    return _longer_first(left, right, torch.mm)


def _in_pieces(tile: Tensor) -> bool:
    return tile.shape[1] > LONGEST_SUM and tile.shape[1] % LONGEST_SUM == 0


def _longer_first(rows: Tensor, columns: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Returns rows columns^T; measured on 32 x 256 rows of 8192: a quarter faster with the longer side first, in int8 twice.

    Of tiles that are whole multiples of the longest sum the pieces are one batch of products, summed in float64: a card wants much to
    do at a time.
    """
    if _in_pieces(rows):
        left, right = (
            side.view(len(side), -1, LONGEST_SUM).transpose(0, 1) for side in (rows, columns)
        )  # (pieces, a, p)
        return torch.bmm(left, right.transpose(1, 2)).sum(0, dtype=torch.float64)
    if len(rows) < len(columns):
        return product(columns, rows.T).T
    return product(rows, columns.T)
