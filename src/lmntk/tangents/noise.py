"""Coordinates whose gradient is zero in real arithmetic, and rounding noise in floating point.

Softmax does not see a shift that all keys share, so an attention key's bias has no gradient (without rotary positions);
what autograd returns there is rounding error, and its *sign* is a coin toss that every text and batch throws anew.
Such coordinates are found by their numbers, never by name: the terms that they sum cancel to rounding error for every
text and every logit. They are set to zero, so that sign(0) = 0 leaves them out of the sign kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lmntk.tangents.factors import DenseFactors, Tangents

# Measured in float32 on a trained 6-layer BERT, 64 texts: key biases cancel to 10-80 epsilons, those of one nearly idle
# head to 25,000; the least cancelling of all other coordinates to 850,000.
NOISE_EPSILONS = 50_000


def noise_coordinates(batches: Sequence[Tangents]) -> dict[str, Tensor]:
    """Returns, for each parameter that has any, the mask [p] of its coordinates that are rounding noise in every batch."""
    largest: dict[str, Tensor] = {}
    for batch in batches:
        for name, factors in batch.factors.items():
            if isinstance(factors, DenseFactors) and factors.cancellation is not None:
                seen = largest.get(name)
                largest[name] = factors.cancellation if seen is None else torch.maximum(seen, factors.cancellation)
    masks = {name: (ratio > 0) & (ratio < NOISE_EPSILONS * torch.finfo(ratio.dtype).eps) for name, ratio in largest.items()}
    return {name: mask for name, mask in masks.items() if bool(mask.any())}


def silence(tangents: Tangents, masks: Mapping[str, Tensor]) -> Tangents:
    """Returns the tangents with the masked coordinates set to zero."""
    factors = dict(tangents.factors)
    for name, mask in masks.items():
        found = factors.get(name)
        if isinstance(found, DenseFactors):
            factors[name] = replace(found, values=torch.where(mask, 0.0, found.values))
    return replace(tangents, factors=factors)
