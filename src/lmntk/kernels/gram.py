"""Gram matrices of captured tangents, accumulated in float64 over parameters and tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmntk.errors import ModelError
from lmntk.kernels.columns import Cut
from lmntk.kernels.contraction import Contraction
from lmntk.kernels.formulas import FLIPPED, kernel_names
from lmntk.kernels.sides import Placed, Sides
from lmntk.kernels.subspaces import Columns, Subspaces
from lmntk.tangents.factors import Tangents
from lmntk.tangents.form import Factors

# rows and columns of one tile together; measured best of 4 to 32 MiB with a cache of 32
TILE_BYTES = 16 * 2**20
GPU_TILE_BYTES = 512 * 2**20  # a GPU has no cache to stay in, and small products leave it idle
# at most, of the factors of parameters with the same inputs that are copied without padding, of each side
COPY_BYTES = 64 * 2**20
EVERYTHING = "all"

Grouping = Callable[[str], str]


@dataclass(frozen=True)
class Panel:
    """One side of a Gram matrix: batches of tangents, one after the other."""

    batches: Sequence[Tangents]

    def __len__(self) -> int:
        """Return the number of examples."""
        return sum(len(batch) for batch in self.batches)

    @property
    def outputs(self) -> int:
        """Return the number of logits."""
        return int(self.batches[0].logits.shape[1])

    def of(self, parameter: str) -> Iterator[tuple[slice, Factors]]:
        """Yield a parameter's factors in each batch that has any, with the batch's examples."""
        start = 0
        for batch in self.batches:
            examples = slice(start, start + len(batch))
            if parameter in batch.factors:
                yield examples, batch.factors[parameter]
            start = examples.stop


def gram(
    rows: Panel,
    columns: Panel,
    formulas: Sequence[str],
    grouping: Callable[[str], str | None] | None = None,
    tile_bytes: int | None = None,
    subspaces: Subspaces | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Return ``{kernel: {group: K}}`` with K [n, c, m, d] in float64, for ``kernel_names(formulas)``.

        sgd      K = <g_c(x_n), g_d(x_m)>
        signgd   K = <sign g_c(x_n), sign g_d(x_m)>
        asigngd  K = <sign g_c(x_n), g_d(x_m)>, and asigngd_flipped with the sign on the columns' side

    Args:
        rows: the side of n examples (training texts).
        columns: the side of m examples; the very same panel for training texts against themselves.
        formulas: of ``sgd``, ``signgd``, ``asigngd``.
        grouping: from a parameter's name to its group, or to None where it is part of none; without it there is one group, ``"all"``.
        tile_bytes: how large the reused buffers may be; by default what suits the device.
        subspaces: whose sums are groups too, beside the others; ``Subspaces.split`` makes kernels of them.

    Cost: a pair of examples takes 2 c d P operations a kernel, materialising (n + m) c 2 T P once; or less,
    where the inner contraction wins. Memory: the result, ``tile_bytes``, and on a processor what is copied
    without padding: ``COPY_BYTES`` a side.
    """
    names = kernel_names(formulas)
    mirrored = rows is columns and FLIPPED in names  # <g_n, sign g_m> is then <sign g_m, g_n>
    if mirrored:
        names.remove(FLIPPED)
    c, n, d, m = rows.outputs, len(rows), columns.outputs, len(columns)
    device = rows.batches[0].logits.device
    shape = c, n, d, m
    labels = () if subspaces is None else subspaces.labels
    totals = {name: {label: _zeros(shape, device) for label in labels} for name in names}
    parameters = dict.fromkeys(name for batch in rows.batches for name in batch.factors)
    # what is read when needed shares nothing
    held = all(isinstance(batch.factors, dict) for batch in (*rows.batches, *columns.batches))
    buffers = tile_bytes or (TILE_BYTES if device.type == "cpu" else GPU_TILE_BYTES)
    contraction = Contraction(buffers, COPY_BYTES, waits=held)
    for parameter in parameters:
        group = EVERYTHING if grouping is None else grouping(parameter)
        for groups in totals.values():
            if group is not None and group not in groups:
                groups[group] = _zeros(shape, device)
        own = [] if group is None else [group]
        _add_parameter(contraction, parameter, (rows, columns), totals, own, subspaces)
    contraction.finish()
    if not parameters:
        raise ModelError("no parameter has a gradient: nothing to contract")
    if not all(bool(torch.isfinite(total).all()) for groups in totals.values() for total in groups.values()):
        raise not_finite(first_not_finite(rows, columns))
    # the signs of what is no number are zeros, which a sum does not show
    if names == ["signgd"] and held and (where := first_not_finite(rows, columns)):
        raise not_finite(where)
    if mirrored:
        totals[FLIPPED] = {group: total.permute(2, 3, 0, 1) for group, total in totals["asigngd"].items()}
    return {
        name: {group: total.permute(1, 0, 3, 2).contiguous() for group, total in groups.items()}
        for name, groups in totals.items()
    }


def not_finite(where: str) -> ModelError:
    """Return the error of gradients that are no numbers."""
    return ModelError(f"the gradients are not finite{where}: try another dtype or attention implementation")


def first_not_finite(*panels: Panel) -> str:
    """Return in which parameter, if one batch's factors tell; nothing where all are finite."""
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


def _zeros(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, device=device)


def _add_parameter(
    contraction: Contraction,
    parameter: str,
    panels: tuple[Panel, Panel],
    totals: Mapping[str, Mapping[str, Tensor]],
    own: Sequence[str],
    subspaces: Subspaces | None,
) -> None:
    """Add all kernels of one parameter to the totals [c, n, d, m]; let go of what is read for it."""
    rows, columns = panels
    left = list(rows.of(parameter))
    right = left if rows is columns else list(columns.of(parameter))
    if not right:  # no column text uses it: zeros
        return
    labels = [*([] if subspaces is None else subspaces.labels_of(parameter)), *own]
    _add(contraction, left, right, totals, labels)
    if subspaces is not None:
        _add_low_rank(contraction, subspaces.low_rank(parameter, left, right), totals)


def _add_low_rank(
    contraction: Contraction, draws: Iterable[Columns], totals: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Add the kernels of LoRA's columns of one parameter, draw by draw."""
    for draw in draws:
        cuts = [
            Cut(first, last, {name: [groups[label] for label in labels] for name, groups in totals.items()})
            for first, last, labels in draw.cuts
        ]
        for left_part, right_part in _stacked_pairs(draw.left, draw.right):
            contraction.add_columns(left_part, right_part, cuts)


def _add(
    contraction: Contraction,
    left: Placed,
    right: Placed,
    totals: Mapping[str, Mapping[str, Tensor]],
    labels: Sequence[str],
) -> None:
    """Add one parameter's kernels to the totals [c, n, d, m] with these labels."""
    if not labels:
        return
    sums = {name: [groups[label] for label in labels] for name, groups in totals.items()}
    for left_part, right_part in _stacked_pairs(left, right):
        contraction.add(Sides(left_part, right_part, list(totals), sums))


def _stacked_pairs(left: Placed, right: Placed) -> Iterator[tuple[Placed, Placed]]:
    """Yield both sides of a parameter; of a stack of weights each index that both sides use."""
    depths = {len(part.members()) for _, part in (*left, *right)}
    if len(depths) > 1:
        raise TypeError("one parameter's factors are stacked in some batches, and not in others")
    for index in range(depths.pop()):
        left_part = _at(left, index)
        right_part = left_part if right is left else _at(right, index)
        if left_part and right_part:
            yield left_part, right_part


def _at(placed: Placed, index: int) -> Placed:
    """Return one member of the factors, in the batches that use it."""
    members = ((examples, part.members()[index]) for examples, part in placed)
    return [(examples, member) for examples, member in members if member is not None]
