"""Kernels from gradients that are built, tile by tile in a reused buffer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from lmntk.kernels.formulas import SIGNS, SYMMETRIC
from lmntk.kernels.sides import Sides
from lmntk.tangents.form import Block

OWN_BLOCK = 32  # rows; smaller matrix products are slow ones
# Measured: a float32 product over 700,000 positive terms loses 3e-5, over this many 1e-6. Between them sums
# are float64.
LONGEST_SUM = 2**15
EXACT_FLOAT32_INTEGERS = 2**24  # a sum of fewer +-1 than this is exact in float32


def coordinates_in(block: Block) -> int:
    """Return the number of coordinates in a block."""
    outputs, inputs = block
    return len(range(outputs.start, outputs.stop)) * len(range(inputs.start, inputs.stop))


@dataclass(frozen=True)
class Tile:
    """Materialised gradients [a, p] of one side, and their signs where a kernel wants them.

    ``stack`` [2 a, p], if there is one, is the memory that both lie in, one below the other: one product of
    it is two kernels'.
    """

    values: Tensor
    signs: Tensor | None = None
    stack: Tensor | None = None

    @classmethod
    def of(cls, values: Tensor, names: Sequence[str]) -> Tile:
        """Return the tile of gradients in their own memory, with signs if a named kernel wants any."""
        return cls(values) if set(names) <= {"sgd"} else cls(values, values.sign())

    def __len__(self) -> int:
        """Return the number of its rows."""
        return len(self.values)

    def __getitem__(self, rows: slice) -> Tile:
        """Return some of its rows."""
        return Tile(self.values[rows], None if self.signs is None else self.signs[rows])

    @cached_property
    def bits(self) -> Tensor:
        """Return the signs as 8-bit integers."""
        assert self.signs is not None
        return self.signs.to(torch.int8)


def tile_products(rows: Tile, columns: Tile, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the products [a, b] of materialised tiles, of a and b rows, for every named kernel.

    The sign-sign product is exact: in 8-bit integers where there is enough to do, else in floats on p < 2^24
    terms.
    """
    products = {}
    # one long product is faster than two short ones
    if rows.stack is not None and {"sgd", "asigngd"} <= set(names):
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
    """Return the products [a, a] of a tile with itself; of symmetric kernels half are mirror images."""
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
    """Return rows columns^T, computed with the longer side first.

    Measured on 32 x 256 rows of 8192: that is a quarter faster, in int8 twice as fast.

    Of tiles that are whole multiples of the longest sum the pieces are one batch of products, summed in
    float64: a GPU wants much to do at a time.
    """
    if _in_pieces(rows):
        # (pieces, a, p)
        left, right = (side.view(len(side), -1, LONGEST_SUM).transpose(0, 1) for side in (rows, columns))
        return torch.bmm(left, right.transpose(1, 2)).sum(0, dtype=torch.float64)
    if len(rows) < len(columns):
        return product(columns, rows.T).T
    return product(rows, columns.T)


class Buffers:
    """Two reused blocks of memory: fresh memory costs more than the arithmetic done in it."""

    def __init__(self, tile_bytes: int) -> None:
        self.tile_bytes = tile_bytes
        self._blocks: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(self, side: str, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return a block of this shape, zeroed only where a batch will not write (the caller's business)."""
        size = 1
        for extent in shape:
            size *= extent
        key = (side, like.dtype, like.device)
        block = self._blocks.get(key)
        if block is None or block.numel() < size:
            block = self._blocks[key] = like.new_empty(size)
        return block[:size].view(shape)


def is_wide(device: torch.device) -> bool:
    """Return whether tiles fill their memory: a GPU has no cache, and small products leave it idle."""
    return device.type != "cpu"


class Built(Protocol):
    """A writer of a block of gradients into memory."""

    def materialise(self, block: Block, out: Tensor) -> None:
        """Write a block of the gradients into ``out`` [c, n, coordinates]."""


Parts = Sequence[tuple[slice, Built]]  # batches of examples, each with its examples among all of them


@dataclass(frozen=True)
class Chunk:
    """Neighbouring examples of one side, from the first to before the last, and their batches' factors."""

    first: int
    last: int
    parts: Parts

    def __len__(self) -> int:
        """Return the number of its examples."""
        return self.last - self.first


def add_tiles(sides: Sides, buffers: Buffers) -> None:
    """Add the kernels of one parameter, tile by tile."""
    names, sums = sides.names, sides.sums
    first = sides.left[0][1]
    like = first.tensors()[-1]
    c, n, d, _ = sides.shape
    # columns go through in chunks of about the rows' size, so that a tile is worth materialising and stays in
    # cache
    wide = is_wide(like.device)
    size = sys.maxsize if wide else max(128, n * c) // d + 1
    chunks = [] if sides.is_own else list(chunks_of(sides.right, size))
    largest = max(map(len, chunks), default=0)
    signed = any(name != "sgd" for name in names)
    most = buffers.tile_bytes // like.element_size() // (c * n + d * largest)
    most //= 2 if signed else 1  # the signs lie beside the gradients
    most = most if wide else min(most, LONGEST_SUM)
    for block in first.blocks(most):
        rows = tile_of(partial(buffers.take, "rows", like), Chunk(0, n, sides.left), c, block, signed)
        if sides.is_own:
            for name, product in own_products(rows, names).items():
                for total in sums[name]:
                    total += product.reshape(c, n, c, n)
        for chunk in chunks:
            columns = tile_of(partial(buffers.take, "columns", like), chunk, d, block, signed)
            for name, product in tile_products(rows, columns, names).items():
                for total in sums[name]:
                    total[:, :, :, chunk.first : chunk.last] += product.reshape(c, n, d, len(chunk))


def chunks_of(parts: Parts, size: int) -> Iterator[Chunk]:
    """Yield chunks of whole batches, of about ``size`` examples each."""
    chosen: list[tuple[slice, Built]] = []
    for examples, part in parts:
        if chosen and examples.stop - chosen[0][0].start > size:
            yield Chunk(chosen[0][0].start, chosen[-1][0].stop, chosen)
            chosen = []
        chosen.append((examples, part))
    yield Chunk(chosen[0][0].start, chosen[-1][0].stop, chosen)


def tile_of(
    take: Callable[[tuple[int, int]], Tensor], chunk: Chunk, logits: int, block: Block, signed: bool
) -> Tile:
    """Return a block of a chunk's gradients, in memory from ``take``; examples without factors get zeros."""
    rows, width = logits * len(chunk), coordinates_in(block)
    padded = width
    if width > LONGEST_SUM:  # summed in pieces of one length
        padded = -(-width // LONGEST_SUM) * LONGEST_SUM
    stack = take(((2 if signed else 1) * rows, padded))
    values = stack[:rows]
    if sum(examples.stop - examples.start for examples, _ in chunk.parts) != len(chunk):
        values.zero_()
    values[:, width:].zero_()
    tile = values.view(logits, len(chunk), padded)[:, :, :width]
    for examples, part in chunk.parts:
        part.materialise(block, tile[:, examples.start - chunk.first : examples.stop - chunk.first])
    return Tile(values, torch.sign(values, out=stack[rows:]), stack) if signed else Tile(values)
