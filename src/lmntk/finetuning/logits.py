"""Logits of texts, batch by batch, from any module that takes a LogitModel's batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lmntk.models.state import frozen
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.prompts.encoded_text import EncodedText


def logits_of(model: nn.Module, texts: Sequence[EncodedText], pad_id: int, batch_size: int = 32) -> Tensor:
    """Return the logits [n, c] of texts in eval mode, float64, on the processor, in their order."""
    device = next(model.parameters()).device
    parts: list[Tensor] = []
    order = length_sorted_batches([text.length for text in texts], batch_size)
    with frozen(model), torch.no_grad():
        for chosen in order:
            batch = {
                name: tensor.to(device)
                for name, tensor in collate([texts[i] for i in chosen], pad_id).items()
            }
            parts.append(model(batch).double())
    logits = torch.cat(parts).cpu()
    restored = torch.empty_like(logits)
    restored[[i for chosen in order for i in chosen]] = logits
    return restored
