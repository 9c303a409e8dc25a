"""Operations of a piece of work, from the shapes of a few texts' factors, and with a machine's rates the time.

With P coordinates, T tokens, N row and M column texts, C logits and kernels k (one a formula, two of asigngd), a weight of rank T takes

    making      2 C T P (M + N for each tile)        gradients from factors, where they are made
    products    2 C^2 P N M k                        int8 for the sign-sign kernel
    inner       2 T T' (i + C^2 o) N M               in place of both, where that is less

and everything a forward and C backward passes, which are timed and not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lmntk.kernels.contraction import MEMORY_BOUND_FACTOR, inner_columns
from lmntk.kernels.formulas import SIGNS
from lmntk.kernels.subspaces import Subspaces
from lmntk.tangents.factors import Tangents


@dataclass(frozen=True)
class Shape:
    """Shape of one parameter's factors.

    A text of ``tokens`` tokens has ``uses`` terms of i inputs and o outputs; 0 uses: the gradient itself.
    """

    uses: int
    inputs: int
    outputs: int
    tokens: int
    copies: int = 1

    def uses_at(self, tokens: float) -> float:
        """Return the terms of a text of so many tokens: one stays one, and a table's are its tokens."""
        return self.uses if self.uses <= 1 else self.uses * tokens / self.tokens

    @property
    def coordinates(self) -> int:
        """The number of the gradient's coordinates."""
        return self.inputs * self.outputs * self.copies


def shapes_of(tangents: Tangents, tokens: int) -> list[Shape]:
    """Return the shapes of a batch's factors, its texts having so many tokens."""
    return [Shape(*extent, tokens) for factors in tangents.factors.values() for extent in factors.extents()]


def low_rank_shapes(tangents: Tangents, tokens: int, subspaces: Subspaces | None) -> list[Shape]:
    """Return the shapes of LoRA's columns of a batch's factors: as many inputs as there are columns."""
    if subspaces is None:
        return []
    return [
        replace(Shape(*extent, tokens), inputs=columns)
        for name, factors in tangents.factors.items()
        if (columns := subspaces.columns_of(name))
        for extent in factors.extents()
    ]


@dataclass(frozen=True)
class Operations:
    """Floating-point operations, by how fast they go."""

    making: float = 0.0
    products: float = 0.0
    sign_products: float = 0.0
    inner: float = 0.0
    signed: float = 0.0  # numbers whose sign is taken

    def __add__(self, other: Operations) -> Operations:
        """Return the sums."""
        return Operations(*(a + b for a, b in zip(self.as_tuple(), other.as_tuple(), strict=True)))

    def as_tuple(self) -> tuple[float, ...]:
        """Return the figures in order."""
        return self.making, self.products, self.sign_products, self.inner, self.signed

    @property
    def total(self) -> float:
        """All of them but the signs."""
        return self.making + self.products + self.sign_products + self.inner


def contraction(
    shapes: Sequence[Shape],
    rows: Sequence[tuple[int, int]],
    columns: Sequence[tuple[int, int]],
    c: int,
    names: Sequence[str],
    tiles: int,
    own: bool = False,
) -> Operations:
    """Return the operations of the Gram matrix of row texts with column texts.

    Both are given as batches: (how many texts, tokens of the longest).

    Args:
        shapes: of the parameters.
        rows: batches of the row texts.
        columns: batches of the column texts.
        c: logits.
        names: kernels, as of ``kernel_names``.
        tiles: into how many chunks the columns are cut: the rows' gradients are made for each.
        own: the columns are the rows, so symmetric kernels take about five eighths.
    """
    n, m = (sum(count for count, _ in side) for side in (rows, columns))
    total = Operations()
    share = 0.625 if own and n * c > 32 else 1.0
    for shape in shapes:
        row_uses, column_uses = (
            [(count, shape.uses_at(tokens)) for count, tokens in side] for side in (rows, columns)
        )
        row_terms, column_terms = (
            sum(count * uses for count, uses in side) for side in (row_uses, column_uses)
        )
        work = [
            (list(names), m, column_terms)
        ]  # kernels to be materialised, of how many columns, of how many terms
        if shape.uses:
            all_inner = shape.uses == 1 or list(names) == ["sgd"]
            by_inner = list(names) if all_inner else [name for name in names if name == "sgd"]
            chunk = [(count / tiles, uses) for count, uses in column_uses]
            chosen = (
                inner_columns(row_uses, chunk, shape.inputs, shape.outputs, c, not all_inner, own)
                if by_inner
                else [False] * len(chunk)
            )
            short, long = (
                [use for use, inner in zip(column_uses, chosen, strict=True) if inner is which]
                for which in (True, False)
            )
            per_pair = 2.0 * (shape.inputs + c * c * (shape.outputs + MEMORY_BOUND_FACTOR))
            short_terms = sum(count * uses for count, uses in short)
            total += Operations(
                inner=per_pair * row_terms * short_terms * len(by_inner) * shape.copies * share
            )
            work = [
                (
                    [name for name in names if name not in by_inner],
                    sum(count for count, _ in short),
                    short_terms,
                ),
                (list(names), sum(count for count, _ in long), column_terms - short_terms),
            ]
        for left, others, other_terms in work:
            if not left or not others:
                continue
            made = (n * tiles + (0 if own else others)) * c
            both = [name for name in left if SIGNS[name] == (True, True)]
            size = 2.0 * c * c * n * others * shape.coordinates
            total += Operations(
                making=2.0 * c * (row_terms * tiles + (0.0 if own else other_terms)) * shape.coordinates,
                products=size * sum(share if name == "sgd" else 1.0 for name in left if name not in both),
                sign_products=size * share * len(both),
                signed=float(made * shape.coordinates) if any(name != "sgd" for name in left) else 0.0,
            )
    return total
