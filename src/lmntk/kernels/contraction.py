"""One parameter's part of a Gram matrix, in two exact ways.

*inner*: with a gradient a sum of few terms, sum_t g_t x_t^T,

    <G, G'> = sum_ts (x_t . x'_s) (g_t . g'_s)        2 T T' (i + c d o) operations a pair of examples

so no gradient is built. For a table the first factor is "the same row". Signs go through it only where each coordinate is a
single product: tables (their rows are summed per token beforehand) and rank-one gradients, sign(g x^T) = sign(g) sign(x)^T.

*materialise*: tiles of rows of G for all examples in a reused buffer, then one matrix product a formula.

Internally a Gram block is [c, n, d, m], logits first, as the factors have them; ``gram.py`` turns it round once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lmntk.tangents.factors import NO_ROW, DenseFactors, Factors, OuterFactors, RowFactors

FORMULAS = ("sgd", "signgd", "asigngd")
# kernel name -> (sign on the row side, sign on the column side)
SIGNS = {
    "sgd": (False, False),
    "signgd": (True, True),
    "asigngd": (True, False),
    "asigngd_flipped": (False, True),
}
SYMMETRIC = ("sgd", "signgd")  # of texts with themselves
OWN_BLOCK = 32  # rows; smaller matrix products are slow ones
EXACT_FLOAT32_INTEGERS = 2**24  # a sum of fewer +-1 than this is exact in float32
MEMORY_BOUND_FACTOR = 8  # an elementwise multiply-add costs about this many of a matrix product's
PAIR_NUMBERS = 2**22  # gathered from tables at once
TILE_RATE = 0.6  # measured: materialised tiles run at this share of the inner contraction's rate


def kernel_names(formulas: Sequence[str]) -> list[str]:
    """Returns the kernels that the formulas need; ``asigngd`` needs both orientations."""
    names = []
    for formula in formulas:
        names += ["asigngd", "asigngd_flipped"] if formula == "asigngd" else [formula]
    return names


def inner_applies(parts: Sequence[Factors], names: Sequence[str]) -> bool:
    """True when the inner contraction is exact for these kernels and these batches' factors of one parameter."""
    if all(isinstance(part, RowFactors) for part in parts):
        return True
    if not all(isinstance(part, OuterFactors) for part in parts):
        return False
    return set(names) <= {"sgd"} or all(part.is_rank_one for part in parts if isinstance(part, OuterFactors))


Uses = Sequence[tuple[float, float]]  # batches of examples: how many, and the terms of each


def inner_is_cheaper(rows: Uses, columns: Uses, i: int, o: int, c: int, made_anyway: bool = False) -> bool:
    """True when the inner contraction of a weight [o, i] takes less time than materialised gradients do, over all batches.

    ``made_anyway``: another kernel needs the gradients, so only the matrix product is saved.
    """
    terms, other_terms = (sum(count * uses for count, uses in side) for side in (rows, columns))
    examples, others = (sum(count for count, _ in side) for side in (rows, columns))
    contracted = 2 * terms * other_terms * (i + c * c * o + MEMORY_BOUND_FACTOR * c * c)
    multiplied = 2 * c * c * i * o * examples * others
    made = 0.0 if made_anyway else 2 * c * i * o * (terms + other_terms)
    return contracted < (multiplied + made) / TILE_RATE


def inner(rows: Factors, columns: Factors, names: Sequence[str]) -> dict[str, Tensor]:
    """Returns the Gram block [c, n, d, m] of every named kernel, by the inner contraction.

    Memory: n t m s numbers; of tables, of which examples share few rows, less.
    """
    if isinstance(rows, RowFactors) and isinstance(columns, RowFactors):
        by_rows = _aligned_rows if _are_aligned(rows, columns) else _common_rows
        return by_rows(rows, columns, names)
    if isinstance(rows, OuterFactors) and isinstance(columns, OuterFactors):
        left = {name: _products(rows.inputs, columns.inputs, *SIGNS[name]) for name in names}
        row_terms, column_terms = rows.output_gradients, columns.output_gradients
    else:
        raise TypeError(f"inner contraction of {type(rows).__name__} with {type(columns).__name__}")
    blocks = {}
    for name in names:
        row_sign, column_sign = SIGNS[name]
        block = row_terms.new_empty(row_terms.shape[0], row_terms.shape[1], column_terms.shape[0], column_terms.shape[1])
        for c, row_term in enumerate(row_terms):
            for d, column_term in enumerate(column_terms):
                terms = _products(row_term, column_term, row_sign, column_sign)  # (n, t, m, s)
                block[c, :, d] = terms.mul_(left[name]).sum((1, 3))
        blocks[name] = block
    return blocks


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
        product = (left.sign() if row_sign else left).flatten(0, 1) @ (right.sign() if column_sign else right).flatten(0, 1).T
        blocks[name] = product.view(*left.shape[:2], *right.shape[:2])
    return blocks


def _common_rows(rows: RowFactors, columns: RowFactors, names: Sequence[str]) -> dict[str, Tensor]:
    """Returns the blocks of tables by the pairs of slots that hold the same row, a bounded number of them at a time.

    Cost: c d i a pair of equal slots; of two texts few are equal.
    """
    n, t = rows.ids.shape
    m, s = columns.ids.shape
    c, d, i = rows.values.shape[0], columns.values.shape[0], rows.values.shape[-1]
    equal = (rows.ids.flatten()[:, None] == columns.ids.flatten()) & (rows.ids != NO_ROW).flatten()[:, None]  # (n t, m s)
    row_slots, column_slots = equal.nonzero(as_tuple=True)
    places = (row_slots // t) * m + column_slots // s
    blocks = {name: rows.values.new_zeros(c, d, n * m) for name in names}
    row_values, column_values = rows.values.flatten(1, 2), columns.values.flatten(1, 2)  # (c, n t, i)
    for part in torch.split(torch.arange(len(places), device=places.device), max(1, PAIR_NUMBERS // (i * (c + d)))):
        left, right = row_values[:, row_slots[part]], column_values[:, column_slots[part]]
        for name in names:
            row_sign, column_sign = SIGNS[name]
            signed = left.sign() if row_sign else left, right.sign() if column_sign else right
            blocks[name].index_add_(2, places[part], torch.einsum("cpi,dpi->cdp", *signed))
    return {name: block.view(c, d, n, m).permute(0, 2, 1, 3) for name, block in blocks.items()}


def _products(rows: Tensor, columns: Tensor, row_sign: bool, column_sign: bool) -> Tensor:
    """Returns all products [n, t, m, s] of vectors rows [n, t, i] and columns [m, s, i], signs taken as asked."""
    rows = rows.sign() if row_sign else rows
    columns = columns.sign() if column_sign else columns
    return (rows.flatten(0, 1) @ columns.flatten(0, 1).T).view(*rows.shape[:2], *columns.shape[:2])


def tile_extent(factors: Factors) -> tuple[int, int]:
    """Returns how many slices a parameter's gradient can be cut into, and the coordinates in each.

    A weight is cut along the longer of its two axes: many short rows fill a tile better than few long ones (measured on
    3072 x 768: half the time).
    """
    if isinstance(factors, OuterFactors):
        i, o = int(factors.inputs.shape[-1]), int(factors.output_gradients.shape[-1])
        return max(i, o), min(i, o)
    if isinstance(factors, DenseFactors):
        return int(factors.values.shape[-1]), 1
    raise TypeError(f"{type(factors).__name__} is contracted by rows, not materialised")


def materialise(factors: Factors, start: int, stop: int, out: Tensor) -> None:
    """Writes slices start:stop of the gradients of n examples into ``out`` [c, n, (stop - start) * coordinates]."""
    if isinstance(factors, DenseFactors):
        out.copy_(factors.values[:, :, start:stop])
        return
    if not isinstance(factors, OuterFactors):
        raise TypeError(f"{type(factors).__name__} is contracted by rows, not materialised")
    n, _, i = factors.inputs.shape
    by_input = i > factors.output_gradients.shape[-1]
    for logit, gradients in enumerate(factors.output_gradients):
        cut, kept = (factors.inputs, gradients) if by_input else (gradients, factors.inputs)
        torch.bmm(cut[:, :, start:stop].transpose(1, 2), kept, out=out[logit].view(n, stop - start, kept.shape[-1]))


def tile_products(rows: Tensor, columns: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Returns the products [a, b] of materialised tiles rows [a, p] and columns [b, p] for every named kernel.

    The sign-sign product is exact: in 8-bit integers where there is enough to do, else in floats on p < 2^24 terms.
    """
    signed = any(name != "sgd" for name in names)
    row_signs = rows.sign() if signed else rows
    column_signs = columns.sign() if signed else columns
    products = {}
    for name in names:
        row_sign, column_sign = SIGNS[name]
        if row_sign and column_sign:
            products[name] = _sign_products(row_signs, column_signs)
        else:
            products[name] = _longer_first(row_signs if row_sign else rows, column_signs if column_sign else columns, torch.mm)
    return products


def own_products(rows: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Returns the products [a, a] of a tile [a, p] with itself; of the symmetric kernels, half of the blocks are the others' mirror."""
    products = tile_products(rows, rows, [name for name in names if name not in SYMMETRIC])
    symmetric = [name for name in names if name in SYMMETRIC]
    blocks = list(pairwise([*range(0, len(rows), max(OWN_BLOCK, -(-len(rows) // 4))), len(rows)]))
    for name in symmetric:
        product = None
        for index, (first, last) in enumerate(blocks):
            block = tile_products(rows[first:last], rows[first:], [name])[name]
            product = block.new_empty(len(rows), len(rows)) if product is None else product
            product[first:last, first:] = block
            if index:
                product[first:last, :first] = product[:first, first:last].T
        assert product is not None
        products[name] = product
    return products


def _sign_products(rows: Tensor, columns: Tensor) -> Tensor:
    if rows.shape[1] >= EXACT_FLOAT32_INTEGERS and rows.dtype == torch.float32:
        raise ValueError(f"a tile of {rows.shape[1]} coordinates has no exact float32 sign product")
    if rows.device.type == "cpu" and min(rows.shape[0], columns.shape[0]) >= 32 and hasattr(torch, "_int_mm"):
        return _longer_first(rows.to(torch.int8), columns.to(torch.int8), torch._int_mm)
    return _longer_first(rows, columns, torch.mm)


def _longer_first(rows: Tensor, columns: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Returns rows columns^T; measured on 32 x 256 rows of 8192: a quarter faster with the longer side first, in int8 twice."""
    if len(rows) < len(columns):
        return product(columns, rows.T).T
    return product(rows, columns.T)
