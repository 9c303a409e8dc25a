"""Kernels of LoRA's columns: G Z^T of one draw is built once, tile by tile, and its columns are multiplied rank by rank.

A tile holds columns one after the other, so that those between two ranks lie together: [c, n, r, o].
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil

import torch
from torch import Tensor

from lmntk.kernels.materialised import (
    LONGEST_SUM,
    Buffers,
    Chunk,
    Tile,
    chunks_of,
    is_wide,
    own_products,
    tile_of,
    tile_products,
)
from lmntk.kernels.sides import Placed
from lmntk.tangents.factors import OuterFactors
from lmntk.tangents.form import Block, Factors


@dataclass(frozen=True)
class Cut:
    """Columns from the first to before the last, and the sums [c, n, d, m], by kernel, that their kernels are added to."""

    first: int
    last: int
    sums: Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True)
class _Columns:
    """G Z^T of n examples, its columns one after the other."""

    inputs: Tensor  # (n, t, r)
    output_gradients: Tensor  # (c, n, t, o)

    def materialise(self, block: Block, out: Tensor) -> None:
        """Write a block of outputs, of all columns, into ``out`` [c, n, r o]."""
        outputs, _ = block
        turned = self.inputs.transpose(1, 2)  # (n, r, t)
        for logit, gradients in enumerate(self.output_gradients):
            product = out[logit].view(*turned.shape[:2], outputs.stop - outputs.start)
            torch.bmm(turned, gradients[:, :, outputs], out=product)


def is_built(placed: Sequence[Factors]) -> bool:
    """Return whether these factors' columns are built: sums of several terms; others are exact, and cheaper, by their terms."""
    return all(isinstance(part, OuterFactors) and not part.is_rank_one for part in placed)


def cut_out(placed: Placed, cut: Cut) -> Placed:
    """Return the factors of some columns, views."""
    return [
        (texts, part.with_inputs(lambda _, inputs: inputs[..., cut.first : cut.last], ""))
        for texts, part in placed
    ]


def add_columns(left: Placed, right: Placed, cuts: Sequence[Cut], buffers: Buffers) -> None:
    """Add the kernels of one draw's columns to the sums of their cuts."""
    own = right is left
    rows = _turned(left)
    names = list(cuts[0].sums)
    c, n, d, _ = cuts[0].sums[names[0]][0].shape
    like, ranks = rows[0][1].output_gradients, rows[0][1].inputs.shape[-1]
    outputs = like.shape[-1]
    chunks = [] if own else list(chunks_of(_turned(right), _chunk_size(like.device, c * n, d)))
    signed = any(name != "sgd" for name in names)
    most = buffers.tile_bytes // like.element_size() // (c * n + d * max(map(len, chunks), default=0))
    most = min(most // 2 if signed else most, LONGEST_SUM) // ranks
    high = ceil(outputs / ceil(outputs / max(1, most)))
    for start in range(0, outputs, high):
        block = slice(start, min(start + high, outputs)), slice(0, ranks)
        row_tile = tile_of(partial(buffers.take, "rows", like), Chunk(0, n, rows), c, block, signed)
        for cut in cuts if own else ():
            part = _between(row_tile, cut, block)
            for name, product in own_products(part, names).items():
                for total in cut.sums[name]:
                    total += product.reshape(c, n, c, n)
        for chunk in chunks:
            column_tile = tile_of(partial(buffers.take, "columns", like), chunk, d, block, signed)
            for cut in cuts:
                parts = _between(row_tile, cut, block), _between(column_tile, cut, block)
                for name, product in tile_products(*parts, names).items():
                    for total in cut.sums[name]:
                        total[:, :, :, chunk.first : chunk.last] += product.reshape(c, n, d, len(chunk))


def _chunk_size(device: torch.device, rows: int, logits: int) -> int:
    return sys.maxsize if is_wide(device) else max(128, rows) // logits + 1


def _turned(placed: Placed) -> list[tuple[slice, _Columns]]:
    turned = []
    for texts, part in placed:
        assert isinstance(part, OuterFactors)
        turned.append((texts, _Columns(part.inputs, part.output_gradients)))
    return turned


def _between(tile: Tile, cut: Cut, block: Block) -> Tile:
    """Return the tile of some columns, views."""
    high = block[0].stop - block[0].start
    columns = slice(cut.first * high, cut.last * high)
    parts = (None if part is None else part[:, columns] for part in (tile.values, tile.signs, tile.stack))
    values, signs, stack = parts
    assert values is not None
    return replace(tile, values=values, signs=signs, stack=stack)
