"""LoRA's kernel at its start, where B = 0 and A is random with variance 1 / r.

It is the kernel of the projected gradients, K_LoRA = sum over the adapted weights of <G A^T, G' A^T>, which
is K of those weights in the mean, with a spread of about 1 / sqrt(r). A gradient sum_t g_t x_t^T becomes
sum_t g_t (A x_t)^T: the inputs alone change.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from lmntk.errors import UserError
from lmntk.tangents.form import Factors


@dataclass(frozen=True)
class LowRank:
    """LoRA's random start: rank r, and the seed of A."""

    rank: int
    seed: int = 0

    def matrix(self, name: str, width: int, like: Tensor) -> Tensor:
        """Return A [r, i] of a parameter, the same whatever else is adapted."""
        start = int.from_bytes(hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:7], "big")
        generator = torch.Generator().manual_seed(start)
        drawn: Tensor = (
            torch.randn(self.rank, width, generator=generator, dtype=torch.float64) / self.rank**0.5
        )
        return drawn.to(like)

    def of(self, name: str, factors: Factors) -> Factors:
        """Return the factors of B's gradient, G A^T.

        Raises:
            UserError: G is there as a vector, whose rows are not known: it came by plain autograd.
        """
        if not factors.has_inputs:
            raise UserError(
                f"lora-rank: the gradients of {name!r} came by plain autograd, as vectors; "
                f"leave it out: --exclude {name}"
            )
        return factors.with_inputs(self._projected, name)

    def _projected(self, name: str, inputs: Tensor) -> Tensor:
        return inputs @ self.matrix(name, inputs.shape[-1], inputs).T
