"""Weighted sums of per-example gradients, parameter by parameter: the direction v in which a solved model has moved.

    v = sum_nc weights[n, c] phi(grad f_c(x_n)),   phi the identity or the sign

so that sum_nc weights[n, c] <phi(grad f_c(x_n)), grad f_d(x)> = <v, grad f_d(x)> for every x, whatever the number of examples.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lmntk.tangents.factors import (
    NO_ROW,
    DenseFactors,
    Factors,
    OuterFactors,
    RowFactors,
    StackedFactors,
    Tangents,
)


def weighted_sum(
    tangents: Tangents, weights: Tensor, parameters: Mapping[str, nn.Parameter], signs: bool = False
) -> dict[str, Tensor]:
    """Returns sum_nc weights[n, c] phi(gradient[c, n]) in float64, for each parameter that has a gradient, in its shape.

    Args:
        tangents: n examples.
        weights: [n, c].
        parameters: by name, for their shapes.
        signs: phi is the sign, not the identity.

    Cost: 2 T P operations an example; with signs c as many, and c P memory.
    """
    total: dict[str, Tensor] = {}
    add_weighted_sum(total, tangents, weights, parameters, signs)
    return total


def add_weighted_sum(
    total: dict[str, Tensor],
    tangents: Tangents,
    weights: Tensor,
    parameters: Mapping[str, nn.Parameter],
    signs: bool = False,
) -> None:
    """Adds the weighted sum to ``total``, in place and parameter by parameter: beside it one parameter's part is held, not all."""
    weights = weights.to(tangents.logits.device, torch.float64)
    for name, factors in tangents.factors.items():
        part = _sum(factors, weights, parameters[name].shape, signs)
        if name in total:
            total[name] += part
        else:
            total[name] = part


def _sum(factors: Factors, weights: Tensor, shape: torch.Size, signs: bool) -> Tensor:
    if isinstance(factors, DenseFactors):
        values = factors.values.sign() if signs else factors.values
        return torch.einsum("nc,cnp->p", weights, values.double()).reshape(shape)
    if isinstance(factors, RowFactors):
        values = (factors.values.sign() if signs else factors.values).double()
        rows = torch.einsum("nc,cnui->nui", weights, values).flatten(0, 1)
        total = rows.new_zeros(shape)
        held = factors.ids.flatten() != NO_ROW
        return total.index_add_(0, factors.ids.flatten()[held], rows[held])
    if isinstance(factors, StackedFactors):
        total = weights.new_zeros(shape)
        for index, part in enumerate(factors.parts):
            if part is not None:
                total[index] = _sum(part, weights, shape[1:], signs)
        return total
    return _outer(factors, weights, signs).reshape(shape)


def _outer(factors: OuterFactors, weights: Tensor, signs: bool) -> Tensor:
    if (
        signs and not factors.is_rank_one
    ):  # the sign of a sum is no product: gradients are made, one example at a time
        total = torch.zeros((), dtype=torch.float64, device=weights.device)
        for index in range(len(factors.inputs)):
            one = factors.of_example(index)
            gradients = torch.einsum("cnto,nti->coi", one.output_gradients, one.inputs).sign()
            total = total + torch.einsum("c,coi->oi", weights[index], gradients.double())
    else:
        inputs = factors.inputs.sign() if signs else factors.inputs
        output_gradients = factors.output_gradients.sign() if signs else factors.output_gradients
        weighted = torch.einsum("nc,cnto->nto", weights, output_gradients.double())
        total = weighted.flatten(0, 1).T @ inputs.double().flatten(0, 1)
    return total.T if factors.transposed else total
