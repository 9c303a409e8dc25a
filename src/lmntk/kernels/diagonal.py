"""Each text's gradients multiplied with its own: the diagonal of a Gram matrix, without the rest of it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lmntk.kernels.gram import EVERYTHING, Panel, gram, not_finite
from lmntk.tangents.factors import DenseFactors, OuterFactors, RowFactors, Tangents
from lmntk.tangents.form import Factors
from lmntk.tangents.terms import NO_ROW

MOST_NUMBERS = 2**22  # held at once: one for each logit and pair of an example's terms


def diagonal(left: Tangents, right: Tangents) -> dict[str, Tensor]:
    """Return <g_c(x_n), g'_c(x_n)> [n, c] in float64 by parameter, of the same texts on both sides.

    The sides may be captured at different weights. A parameter that one side lacks has zero gradients there, and is left out.

        <sum_t g_t x_t^T, sum_s g'_s x'_s^T> = sum_ts (x_t . x'_s) (g_t . g'_s)

    Args:
        left: the tangents of n texts.
        right: of the same n texts, in the same order.

    Cost: T^2 (i + c o) operations a text and weight [o, i], where the Gram matrix takes c n times as many. Memory: the result, and some
    32 MiB; or what a text of a few thousand tokens takes alone, c T^2 numbers.

    Raises:
        ValueError: the sides differ in their number of texts or of logits.
        ModelError: a product is no finite number.
    """
    if left.logits.shape != right.logits.shape:
        raise ValueError(f"tangents of {tuple(left.logits.shape)} and {tuple(right.logits.shape)} logits")
    products = {}
    for name, factors in left.factors.items():
        if name in right.factors:
            products[name] = _zeros(left)
            members = zip(factors.members(), right.factors[name].members(), strict=True)
            for first, second in members:
                if first is not None and second is not None:
                    products[name] += _products(first, second)
            if not bool(torch.isfinite(products[name]).all()):
                raise not_finite(f", in {name}")
    return products


def _products(left: Factors, right: Factors) -> Tensor:
    """Return the own products [n, c] of one parameter's factors, so many texts at once as ``MOST_NUMBERS`` allows."""
    if isinstance(left, OuterFactors) and isinstance(right, OuterFactors):
        c, n, t, _ = left.output_gradients.shape
        pieces = _pieces(n, c * t * right.inputs.shape[1])
        return torch.cat([_of_terms(left, right, texts) for texts in pieces])
    if isinstance(left, RowFactors) and isinstance(right, RowFactors):
        c, n, u, _ = left.values.shape
        return torch.cat([_of_rows(left, right, texts) for texts in _pieces(n, c * u * right.ids.shape[1])])
    if isinstance(left, DenseFactors) and isinstance(right, DenseFactors):
        c, n, p = left.values.shape
        pairs = ((left.values[:, texts], right.values[:, texts]) for texts in _pieces(n, c * p))
        return torch.cat([(first * second).sum(-1, dtype=torch.float64).T for first, second in pairs])
    return _one_by_one(left, right)


def _pieces(texts: int, numbers: int) -> Iterator[slice]:
    """Yield the texts, so many at once that they hold ``MOST_NUMBERS``, if each holds this number of them."""
    at_once = max(1, MOST_NUMBERS // max(1, numbers))
    for start in range(0, texts, at_once):
        yield slice(start, start + at_once)


def _of_terms(left: OuterFactors, right: OuterFactors, texts: slice) -> Tensor:
    """Return the own products of sums of terms."""
    inputs = left.inputs[texts] @ right.inputs[texts].mT
    return _summed(left.output_gradients[:, texts] @ right.output_gradients[:, texts].mT, inputs)


def _of_rows(left: RowFactors, right: RowFactors, texts: slice) -> Tensor:
    """Return the own products of rows of a table: of equal rows alone."""
    ids, others = left.ids[texts], right.ids[texts]
    is_same = (ids[:, :, None] == others[:, None, :]) & (ids != NO_ROW)[:, :, None]
    return _summed(left.values[:, texts] @ right.values[:, texts].mT, is_same)


def _summed(products: Tensor, weights: Tensor) -> Tensor:
    """Return the sums [n, c] of products [c, n, t, s] with weights [n, t, s]."""
    return products.mul_(weights).sum((2, 3), dtype=torch.float64).T


def _one_by_one(left: Factors, right: Factors) -> Tensor:
    """Return the own products of factors of any other form, from a Gram matrix for each text."""
    rows = []
    for index in range(left.tensors()[-1].shape[1]):
        rows_panel, columns_panel = (_panel(side.of_example(index)) for side in (left, right))
        rows.append(gram(rows_panel, columns_panel, ["sgd"])["sgd"][EVERYTHING][0, :, 0].diagonal())
    return torch.stack(rows)


def _panel(factors: Factors) -> Panel:
    values = factors.tensors()[-1]
    return Panel([Tangents(values.new_zeros(1, len(values)), {"": factors})])


def _zeros(tangents: Tangents) -> Tensor:
    return torch.zeros(tangents.logits.shape, dtype=torch.float64, device=tangents.logits.device)
