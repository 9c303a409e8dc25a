"""Coordinates whose gradient is zero in real arithmetic, and rounding noise in floating point.

Softmax does not see a shift that all keys share, so an attention key's bias has no gradient (without rotary
positions); what autograd returns there is rounding error, and its *sign* is a coin toss that every text and
batch throws anew. Such coordinates are found by their numbers, never by name: the terms that they sum cancel
to rounding error for every text and every logit. They are set to zero, so that sign(0) = 0 leaves them out of
the sign kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lmntk.tangents.factors import Tangents
from lmntk.tangents.form import Factors

# Measured in float32 on a trained 6-layer BERT, 64 texts: key biases cancel to 10-80 epsilons, those of one
# nearly idle head to 25,000; the least cancelling of all other coordinates to 850,000.
NOISE_EPSILONS = 50_000


class NoiseSearch:
    """Look for noise batch by batch, so that none has to be kept."""

    def __init__(self) -> None:
        self._largest: dict[str, Tensor] = {}

    def add(self, batch: Tangents) -> None:
        """Take a batch into account."""
        for name, factors in batch.factors.items():
            cancellation = factors.cancellation
            if cancellation is not None:
                seen = self._largest.get(name, cancellation)
                # one from disk is not on the GPU
                self._largest[name] = torch.maximum(seen, cancellation.to(seen.device))

    def masks(self) -> dict[str, Tensor]:
        """Return the masks [p] of coordinates that are rounding noise in every batch, where there are any."""
        masks = {
            name: (ratio > 0) & (ratio < NOISE_EPSILONS * torch.finfo(ratio.dtype).eps)
            for name, ratio in self._largest.items()
        }
        return {name: mask for name, mask in masks.items() if bool(mask.any())}


def noise_coordinates(batches: Sequence[Tangents]) -> dict[str, Tensor]:
    """Return the masks [p] of coordinates that are rounding noise in every batch, where there are any."""
    search = NoiseSearch()
    for batch in batches:
        search.add(batch)
    return search.masks()


def silence(tangents: Tangents, masks: Mapping[str, Tensor]) -> Tangents:
    """Return the tangents with the masked coordinates set to zero; all else is shared, or stays on disk."""
    if not masks:
        return tangents
    names = masks.keys() & tangents.factors.keys()
    silenced = {name: tangents.factors[name].silenced(masks[name]) for name in names}
    return replace(tangents, factors=_With(tangents.factors, silenced))


class _With(Mapping[str, Factors]):
    """Factors by parameter, some replaced; in the order of the first."""

    def __init__(self, factors: Mapping[str, Factors], replaced: Mapping[str, Factors]) -> None:
        self.factors, self.replaced = factors, replaced

    def __getitem__(self, name: str) -> Factors:
        return self.replaced[name] if name in self.replaced else self.factors[name]

    def __contains__(self, name: object) -> bool:
        return name in self.factors

    def __iter__(self) -> Iterator[str]:
        return iter(self.factors)

    def __len__(self) -> int:
        return len(self.factors)
