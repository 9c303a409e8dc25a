"""Two computations of the same logits: how far apart they may be by rounding."""

from __future__ import annotations

import torch
from torch import Tensor

# Of the largest logit. Measured in float32: 1e-7 to 1e-6. Llama-like models compute norms in float32 whatever
# their weights are.
LOGITS = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 0.1}


def distance(left: Tensor, right: Tensor, scale: float = 0.0) -> float:
    """Return the largest difference of logits, of the largest of ``right``, or of ``scale`` if that is more."""
    largest = max(float(right.abs().max()), scale)
    return float((left - right).abs().max()) / (largest or 1.0)


def same(left: Tensor, right: Tensor, scale: float = 0.0) -> bool:
    """Return whether logits are the same but for rounding; what is no number is not."""
    return distance(left, right, scale) <= LOGITS.get(right.dtype, 1e-2)
