"""One parameter's part of a Gram matrix, in the cheaper of two exact ways.

``inner.py`` multiplies factors, which is for short texts; ``materialised.py`` builds gradients. Inside a
Gram block is [c, n, d, m], logits first, as the factors have them; ``gram.py`` turns it round at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lmntk.kernels.columns import Cut, add_columns, cut_out, is_built
from lmntk.kernels.inner import add_inner, inner_applies, inputs_of
from lmntk.kernels.materialised import Buffers, add_tiles
from lmntk.kernels.sides import Placed, Sides

MEMORY_BOUND_FACTOR = 8  # an elementwise multiply-add costs about this many of a matrix product's
PAIR_NUMBERS = 2**22  # gathered from tables at once
WORTH_A_COPY = 0.01  # of the terms: if fewer are padding they stay
# measured: tiles run at this share of the inner contraction's rate, which leaves padding out (not on a GPU)
TILE_RATE = 0.5


Uses = Sequence[tuple[float, float]]  # batches of examples: how many, and the terms of each


def inner_columns(
    rows: Uses, columns: Uses, i: int, o: int, c: int, made_anyway: bool = False, together: bool = False
) -> list[bool]:
    """Return, batch by batch of columns, whether the inner contraction of a weight [o, i] takes less time.

    Otherwise gradients are materialised. The inner contraction is for short texts, for its cost grows with
    the terms of both sides. Where any batch is materialised, so are the rows, once. ``made_anyway``: another
    kernel needs the gradients, so only the matrix product is saved, if all batches go one way. ``together``:
    the columns are the rows, and stay whole.
    """
    examples, terms = (sum(count for count, _ in rows), sum(count * uses for count, uses in rows))
    # one term of an example made, or one example multiplied with another's logit
    gradient = 2 * c * i * o / TILE_RATE
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
    return [short < long for short, long in zip(contracted, materialised, strict=True)]


class Contraction:
    """Add kernels of parameters to their sums, each in the cheaper way.

    What goes by the inner contraction waits for parameters with the same inputs (query, key and value have
    one), until ``finish``.

    Args:
        tile_bytes: how large the reused buffers may be.
        copy_bytes: how much of the factors of each side may be copied, to leave padding out.
        waits: False where factors are not held anyway: then none of a parameter's is kept beside the next
            one's.
    """

    def __init__(self, tile_bytes: int, copy_bytes: int, waits: bool) -> None:
        self._buffers, self._copy_bytes, self._waits = Buffers(tile_bytes), copy_bytes, waits
        self._waiting: list[Sides] = []

    def add(self, sides: Sides) -> None:
        """Add one parameter's kernels, or let some of them wait."""
        by_inner, short, long = _by_inner(sides.left, sides.right, sides.names)
        by_tiles = [name for name in sides.names if name not in by_inner]
        if by_inner and short:
            work = replace(sides, right=short, names=by_inner)
            if self._waiting and inputs_of(self._waiting[0]) != inputs_of(work):
                self.finish()
            self._waiting.append(work)
        if by_tiles and short:
            add_tiles(replace(sides, right=short, names=by_tiles), self._buffers)
        if long:
            add_tiles(replace(sides, right=long), self._buffers)
        if not self._waits:
            self.finish()

    def add_columns(self, left: Placed, right: Placed, cuts: Sequence[Cut]) -> None:
        """Add the kernels of one draw's columns of a parameter; the cheaper way for single terms is by them."""
        if is_built([part for _, part in (*left, *right)]):
            add_columns(left, right, cuts, self._buffers)
            return
        for cut in cuts:
            part = cut_out(left, cut)
            self.add(Sides(part, part if right is left else cut_out(right, cut), list(cut.sums), cut.sums))

    def finish(self) -> None:
        """Add what waits; nothing waits then."""
        if self._waiting:
            add_inner(self._waiting, self._copy_bytes)
            self._waiting.clear()


def _by_inner(left: Placed, right: Placed, names: Sequence[str]) -> tuple[list[str], Placed, Placed]:
    """Return the kernels for the inner contraction, the columns it shall take, and those that are left."""
    parts = [part for _, part in (*left, *right)]
    for wanted, made_anyway in ((list(names), False), (["sgd"], True)):
        if set(wanted) <= set(names) and inner_applies(parts, wanted):
            if not parts[0].extents():  # a table's rows
                return wanted, right, []
            rows, columns = (
                [(examples.stop - examples.start, part.extents()[0].uses) for examples, part in side]
                for side in (left, right)
            )
            _, i, o = parts[0].extents()[0]
            c = len(parts[0].tensors()[-1])
            chosen = inner_columns(rows, columns, i, o, c, made_anyway, together=left is right)
            short, long = (
                [batch for batch, inner in zip(right, chosen, strict=True) if inner is which]
                for which in (True, False)
            )
            return wanted, right if all(chosen) else short, right if not any(chosen) else long
    return [], [], right
