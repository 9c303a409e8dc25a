"""Gram matrices of captured tangents, accumulated in float64 over parameters and tiles."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmntk.errors import ModelError
from lmntk.kernels.contraction import (
    LONGEST_SUM,
    Block,
    Terms,
    Tile,
    blocks_of,
    coordinates_in,
    inner,
    inner_applies,
    inner_columns,
    materialise,
    own_products,
    tile_products,
    without_padding,
)
from lmntk.kernels.formulas import FLIPPED, SYMMETRIC, kernel_names
from lmntk.tangents.factors import DenseFactors, Factors, OuterFactors, StackedFactors, Tangents

TILE_BYTES = (
    16 * 2**20
)  # rows and columns of one tile together; measured best of 4 to 32 MiB with a cache of 32
COPY_BYTES = (
    64 * 2**20
)  # at most, of the factors of parameters with the same inputs that are copied without padding, of each side
GPU_TILE_BYTES = 512 * 2**20  # a GPU has no cache to stay in, and small products leave it idle
EVERYTHING = "all"

Grouping = Callable[[str], str]


@dataclass(frozen=True)
class Panel:
    """One side of a Gram matrix: batches of tangents, one after the other."""

    batches: Sequence[Tangents]

    def __len__(self) -> int:
        """Returns the number of examples."""
        return sum(len(batch) for batch in self.batches)

    @property
    def outputs(self) -> int:
        """The number of logits."""
        return int(self.batches[0].logits.shape[1])

    def of(self, parameter: str) -> Iterator[tuple[slice, Factors]]:
        """Yields each batch's factors of a parameter with its place; batches in which it has none are left out."""
        start = 0
        for batch in self.batches:
            place = slice(start, start + len(batch))
            if parameter in batch.factors:
                yield place, batch.factors[parameter]
            start = place.stop


def gram(
    rows: Panel,
    columns: Panel,
    formulas: Sequence[str],
    grouping: Grouping | None = None,
    tile_bytes: int | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Returns ``{kernel: {group: K}}`` with K [n, c, m, d] in float64, for ``kernel_names(formulas)``.

        sgd K = <g_c(x_n), g_d(x_m)>,  signgd <sign g, sign g>,  asigngd <sign g, g>,  asigngd_flipped <g, sign g>

    Args:
        rows: the side of n examples (training texts).
        columns: the side of m examples; the very same panel for training texts against themselves.
        formulas: of ``sgd``, ``signgd``, ``asigngd``.
        grouping: from a parameter's name to its group; without it there is one group, ``"all"``.
        tile_bytes: how large the reused buffers may be; by default what suits the device.

    Cost: a pair of examples takes 2 c d P operations a kernel, materialising (n + m) c 2 T P once; or less, where the
    inner contraction wins. Memory: the result, ``tile_bytes``, and on a processor what is copied without padding: ``COPY_BYTES`` a side.
    """
    names = kernel_names(formulas)
    mirrored = rows is columns and FLIPPED in names  # <g_n, sign g_m> is then <sign g_m, g_n>
    if mirrored:
        names.remove(FLIPPED)
    c, n, d, m = rows.outputs, len(rows), columns.outputs, len(columns)
    device = rows.batches[0].logits.device
    totals: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    buffers = _Buffers(tile_bytes or (TILE_BYTES if device.type == "cpu" else GPU_TILE_BYTES))
    parameters = dict.fromkeys(name for batch in rows.batches for name in batch.factors)
    waiting: list[_Inner] = []
    held = all(
        isinstance(batch.factors, dict) for batch in (*rows.batches, *columns.batches)
    )  # what is read when needed shares nothing
    for parameter in parameters:
        group = EVERYTHING if grouping is None else grouping(parameter)
        sums = {}
        for name in names:
            if group not in totals[name]:
                totals[name][group] = torch.zeros(c, n, d, m, dtype=torch.float64, device=device)
            sums[name] = totals[name][group]
        _add_parameter(parameter, rows, columns, names, sums, buffers, waiting, held)
    _add_inner(waiting)
    if not parameters:
        raise ModelError("no parameter has a gradient: nothing to contract")
    if not all(bool(torch.isfinite(total).all()) for groups in totals.values() for total in groups.values()):
        raise not_finite(first_not_finite(rows, columns))
    if (
        names == ["signgd"] and held and (where := first_not_finite(rows, columns))
    ):  # whose signs are zeros, which a sum does not show
        raise not_finite(where)
    if mirrored:
        totals[FLIPPED] = {group: total.permute(2, 3, 0, 1) for group, total in totals["asigngd"].items()}
    return {
        name: {group: total.permute(1, 0, 3, 2).contiguous() for group, total in groups.items()}
        for name, groups in totals.items()
    }


def not_finite(where: str) -> ModelError:
    """Returns the error of gradients that are no numbers."""
    return ModelError(f"the gradients are not finite{where}: try another dtype or attention implementation")


def first_not_finite(*panels: Panel) -> str:
    """Returns in which parameter, if one batch's factors tell; nothing where all are finite."""
    for panel in panels:
        for batch in panel.batches:
            for name, factors in batch.factors.items():
                if not all(
                    bool(torch.isfinite(tensor).all())
                    for tensor in factors.tensors()
                    if tensor.is_floating_point()
                ):
                    return f", in {name}"
    return ""


Placed = Sequence[tuple[slice, Factors]]


def _add_parameter(
    parameter: str,
    rows: Panel,
    columns: Panel,
    names: Sequence[str],
    sums: Mapping[str, Tensor],
    buffers: _Buffers,
    waiting: list[_Inner],
    held: bool,
) -> None:
    """Adds the named kernels of one parameter to the sums [c, n, d, m]; see ``_add``.

    Unless factors are ``held`` anyway, what is read for them is let go of at the end: it is not held beside the next parameter's.
    """
    left = list(rows.of(parameter))
    right = left if rows is columns else list(columns.of(parameter))
    if right:  # else no column text uses it: zeros
        for left_part, right_part in _stacked_pairs(left, right):
            _add(left_part, right_part, names, sums, buffers, waiting)
            if not held:
                _add_inner(waiting)


def _stacked_pairs(left: Placed, right: Placed) -> Iterator[tuple[Placed, Placed]]:
    """Yields both sides of a parameter; of a stack of weights index by index, where both sides have something there."""
    depths = {len(part.parts) if isinstance(part, StackedFactors) else 0 for _, part in (*left, *right)}
    if depths == {0}:
        yield left, right
        return
    if len(depths) > 1:
        raise TypeError("one parameter's factors are stacked in some batches, and not in others")
    for index in range(depths.pop()):
        left_part = _at(left, index)
        right_part = left_part if right is left else _at(right, index)
        if left_part and right_part:
            yield left_part, right_part


def _at(placed: Placed, index: int) -> Placed:
    """Returns one index of a stack, in the batches that use it."""
    stacks = ((place, part.parts[index]) for place, part in placed if isinstance(part, StackedFactors))
    return [(place, part) for place, part in stacks if part is not None]


@dataclass(frozen=True)
class _Inner:
    """One parameter's kernels that the inner contraction shall compute."""

    left: Placed
    right: Placed
    names: Sequence[str]
    sums: Mapping[str, Tensor]

    @property
    def inputs(self) -> tuple[object, ...]:
        """What tells whether another parameter has the same inputs in all batches."""
        parts = [part for _, part in (*self.left, *self.right)]
        if not all(isinstance(part, OuterFactors) for part in parts):
            return (id(self),)
        tensors = [part.inputs for part in parts if isinstance(part, OuterFactors)]
        return tuple((tensor.data_ptr(), tensor.shape, tensor.stride()) for tensor in tensors)


def _add(
    left: Placed,
    right: Placed,
    names: Sequence[str],
    sums: Mapping[str, Tensor],
    buffers: _Buffers,
    waiting: list[_Inner],
) -> None:
    """Adds the named kernels of one parameter, each in the cheaper way, to the sums [c, n, d, m].

    What goes by the inner contraction waits for parameters with the same inputs, until ``_add_inner``.
    """
    by_inner, short, long = _by_inner(left, right, names)
    if by_inner and short:
        work = _Inner(left, short, by_inner, sums)
        if waiting and waiting[0].inputs != work.inputs:
            _add_inner(waiting)
        waiting.append(work)
    by_tiles = [name for name in names if name not in by_inner]
    if by_tiles and short:
        _add_tiles(left, short, by_tiles, sums, buffers)
    if long:
        _add_tiles(left, long, names, sums, buffers)


def _add_inner(waiting: list[_Inner]) -> None:
    """Adds what waits, of parameters with the same inputs, batch by batch, so that the inputs' products are made once; none is left."""
    if not waiting:
        return
    rows = _batches([work.left for work in waiting])
    own = all(work.left is work.right for work in waiting)
    for other in range(len(waiting[0].right)):
        columns = rows[other] if own else _batches([work.right[other : other + 1] for work in waiting])[0]
        _add_inner_columns(waiting, rows, columns, other)
        del columns  # before the next copy
    waiting.clear()


Batch = Sequence[Factors | Terms]  # of several parameters


def _add_inner_columns(waiting: Sequence[_Inner], rows: Sequence[Batch], columns: Batch, other: int) -> None:
    """Adds what waits, of all batches of rows with the batch ``other`` of columns."""
    column_place, _ = waiting[0].right[other]
    for index, (row_place, _) in enumerate(waiting[0].left):
        shared: dict[str, Tensor] = {}
        for work, row_part, column_part in zip(waiting, rows[index], columns, strict=True):
            symmetric = [name for name in work.names if work.left is work.right and name in SYMMETRIC]
            wanted = [name for name in work.names if name not in symmetric or index <= other]
            if not wanted:
                continue
            for name, block in inner(row_part, column_part, wanted, shared).items():
                work.sums[name][:, row_place, :, column_place] += block
                if name in symmetric and index < other:
                    work.sums[name][:, column_place, :, row_place] += block.permute(2, 3, 0, 1)


def _batches(sides: Sequence[Placed]) -> list[Batch]:
    """Returns, batch by batch, one side's factors of parameters with the same inputs, without padding as long as the copies are small."""
    found: list[Batch] = []
    copied = 0
    for index in range(len(sides[0])):
        batch = [placed[index][1] for placed in sides]
        outer = [part for part in batch if isinstance(part, OuterFactors)]
        most = sum(part.output_gradients.nbytes for part in outer) + (outer[0].inputs.nbytes if outer else 0)
        if outer and outer[0].inputs.device.type == "cpu" and copied + most <= COPY_BYTES:
            terms = without_padding(outer)
            if terms[0].owners is not None:
                copied += sum(each.output_gradients.nbytes for each in terms) + terms[0].inputs.nbytes
            found.append(terms)
        else:
            found.append(batch)
    return found


def _by_inner(left: Placed, right: Placed, names: Sequence[str]) -> tuple[list[str], Placed, Placed]:
    """Returns the kernels of a parameter that the inner contraction shall compute, of which columns, and the columns that are left."""
    parts = [part for _, part in (*left, *right)]
    for wanted, made_anyway in ((list(names), False), (["sgd"], True)):
        if set(wanted) <= set(names) and inner_applies(parts, wanted):
            rows, columns = (
                [
                    (len(part.inputs), part.inputs.shape[1])
                    for _, part in side
                    if isinstance(part, OuterFactors)
                ]
                for side in (left, right)
            )
            if not rows:  # a table's rows
                return wanted, right, []
            first = next(part for part in parts if isinstance(part, OuterFactors))
            (c, _, _, o), i = first.output_gradients.shape, first.inputs.shape[-1]
            chosen = inner_columns(rows, columns, i, o, c, made_anyway, together=left is right)
            short, long = (
                [batch for batch, inner in zip(right, chosen, strict=True) if inner is which]
                for which in (True, False)
            )
            return wanted, right if all(chosen) else short, right if not any(chosen) else long
    return [], [], right


class _Buffers:
    """Two reused blocks of memory: fresh memory costs more than the arithmetic done in it."""

    def __init__(self, tile_bytes: int) -> None:
        self.tile_bytes = tile_bytes
        self._blocks: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(self, side: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Returns a block of this shape, zeroed only where a batch will not write (the caller's business)."""
        size = 1
        for extent in shape:
            size *= extent
        key = (side, like.dtype, like.device)
        block = self._blocks.get(key)
        if block is None or block.numel() < size:
            block = self._blocks[key] = like.new_empty(size)
        return block[:size].view(shape)


def _sample(part: Factors) -> Tensor:
    return part.values if isinstance(part, DenseFactors) else part.tensors()[1]


def _is_wide(device: torch.device) -> bool:
    """True where a tile shall be as large as its memory, since there is no cache to stay in and small products leave the device idle."""
    return device.type != "cpu"


def _add_tiles(
    left: Placed, right: Placed, names: Sequence[str], sums: Mapping[str, Tensor], buffers: _Buffers
) -> None:
    """Adds the named kernels of one parameter, tile by tile, to the sums [c, n, d, m]."""
    like = _sample(left[0][1])
    c, n, d, _ = sums[names[0]].shape
    # columns go through in chunks of about the rows' size, so that a tile is worth materialising and stays in cache
    wide = _is_wide(like.device)
    chunks = [] if left is right else list(_chunks(right, sys.maxsize if wide else max(128, n * c) // d + 1))
    largest = max((stop - start for start, stop, _ in chunks), default=0)
    stacked = 2 if any(name != "sgd" for name in names) else 1  # the signs lie beside the gradients
    most = buffers.tile_bytes // like.element_size() // (c * n + d * largest) // stacked
    most = most if wide else min(most, LONGEST_SUM)
    for block in blocks_of(left[0][1], most):
        rows = _tile(buffers, "rows", left, 0, c, n, block, names, like)
        if left is right:
            for name, product in own_products(rows, names).items():
                sums[name] += product.reshape(c, n, c, n)
        for first, last, parts in chunks:
            columns = _tile(buffers, "columns", parts, first, d, last - first, block, names, like)
            for name, product in tile_products(rows, columns, names).items():
                sums[name][:, :, :, first:last] += product.reshape(c, n, d, last - first)


def _chunks(parts: Placed, size: int) -> Iterator[tuple[int, int, Placed]]:
    """Yields (first example, last example, batches) of about ``size`` examples each."""
    chosen: list[tuple[slice, Factors]] = []
    for place, part in parts:
        if chosen and place.stop - chosen[0][0].start > size:
            yield chosen[0][0].start, chosen[-1][0].stop, chosen
            chosen = []
        chosen.append((place, part))
    yield chosen[0][0].start, chosen[-1][0].stop, chosen


def _tile(
    buffers: _Buffers,
    side: str,
    parts: Placed,
    offset: int,
    c: int,
    n: int,
    block: Block,
    names: Sequence[str],
    like: Tensor,
) -> Tile:
    """Materialises a block of all batches' gradients, from example ``offset`` on; examples without factors get zeros."""
    width = coordinates_in(block)
    padded = (
        width if width <= LONGEST_SUM else -(-width // LONGEST_SUM) * LONGEST_SUM
    )  # summed in pieces of one length
    signed = any(name != "sgd" for name in names)
    stack = buffers.take(side, ((2 if signed else 1) * c * n, padded), like)
    values = stack[: c * n]
    if sum(place.stop - place.start for place, _ in parts) != n:
        values.zero_()
    values[:, width:].zero_()
    tile = values.view(c, n, padded)[:, :, :width]
    for place, part in parts:
        materialise(part, block, tile[:, place.start - offset : place.stop - offset])
    return Tile(values, torch.sign(values, out=stack[c * n :]), stack) if signed else Tile(values)
