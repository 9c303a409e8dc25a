"""The inner contraction of parameters: products of terms, on a processor without padding's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lmntk.kernels.formulas import SIGNS, SYMMETRIC
from lmntk.kernels.sides import Placed, Sides
from lmntk.tangents.form import Factors
from lmntk.tangents.terms import Terms


def inner_applies(parts: Sequence[Factors], names: Sequence[str]) -> bool:
    """Return whether the inner contraction is exact for these kernels and one parameter's factors."""
    signed = not set(names) <= {"sgd"}
    return len({type(part) for part in parts}) == 1 and all(part.is_exact_in_terms(signed) for part in parts)


def inner(
    rows: Factors | Terms,
    columns: Factors | Terms,
    names: Sequence[str],
    shared: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the Gram block [c, n, d, m] of every named kernel, by the inner contraction.

    ``shared`` holds the inputs' products of a parameter that has the same inputs, by kernel, and gets those
    that it lacks: query, key and value have one input.
    """
    left, right = rows.terms(), columns.terms()
    if type(left) is not type(right):
        raise TypeError(f"inner contraction of {type(rows).__name__} with {type(columns).__name__}")
    return left.products(right, {name: SIGNS[name] for name in names}, {} if shared is None else shared)


def inputs_of(sides: Sides) -> tuple[object, ...]:
    """Return what tells whether another parameter has the same inputs in all batches."""
    return tuple(part.inputs_key() for _, part in (*sides.left, *sides.right))


def add_inner(several: Sequence[Sides], copy_bytes: int) -> None:
    """Add the kernels of parameters with the same inputs, whose products are made once a pair of batches.

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
    column_examples, _ = several[0].right[number]
    for index, (row_examples, _) in enumerate(several[0].left):
        shared: dict[str, Tensor] = {}
        for sides, row_part, column_part in zip(several, rows[index], columns, strict=True):
            symmetric = [name for name in sides.names if sides.is_own and name in SYMMETRIC]
            wanted = [name for name in sides.names if name not in symmetric or index <= number]
            if not wanted:
                continue
            for name, block in inner(row_part, column_part, wanted, shared).items():
                for total in sides.sums[name]:
                    total[:, row_examples, :, column_examples] += block
                    if name in symmetric and index < number:
                        total[:, column_examples, :, row_examples] += block.permute(2, 3, 0, 1)


def _batches(several: Sequence[Placed], copy_bytes: int) -> list[Batch]:
    """Return one side's batches of several parameters, without padding as long as the copies are small."""
    batches: list[Batch] = []
    copied = 0
    for placed in zip(*several, strict=True):
        first, *others = (part for _, part in placed)
        tensors = {tensor.data_ptr(): tensor for part in (first, *others) for tensor in part.tensors()}
        most = sum(tensor.nbytes for tensor in tensors.values())
        if first.tensors()[-1].device.type == "cpu" and copied + most <= copy_bytes:
            terms, more = first.without_padding(others)
            batches.append(terms)
            copied += more
        else:
            batches.append([first, *others])
    return batches
