"""Weighted sums of per-example gradients, by parameter: the direction v in which a solved model has moved.

    v = sum_nc weights[n, c] phi(grad f_c(x_n)),   phi the identity or the sign

so that sum_nc weights[n, c] <phi(grad f_c(x_n)), grad f_d(x)> = <v, grad f_d(x)> for every x, whatever the
number of examples.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lmntk.tangents.factors import Tangents


def weighted_sum(
    tangents: Tangents, weights: Tensor, parameters: Mapping[str, nn.Parameter], signs: bool = False
) -> dict[str, Tensor]:
    """Return sum_nc weights[n, c] phi(gradient[c, n]) in float64, for each parameter that has a gradient.

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
    """Add the weighted sum to ``total``, in place; beside it one parameter's part is held, not all."""
    weights = weights.to(tangents.logits.device, torch.float64)
    for name, factors in tangents.factors.items():
        part = factors.weighted_sum(weights, parameters[name].shape, signs)
        if name in total:
            total[name] += part
        else:
            total[name] = part
