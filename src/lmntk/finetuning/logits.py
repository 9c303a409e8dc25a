"""Logits of texts, batch by batch, from any module that takes a LogitModel's batches."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lmntk.models.apart import MIXES, TextsApart
from lmntk.models.state import frozen
from lmntk.prompts.batching import collate, length_sorted_batches
from lmntk.prompts.encoded_text import EncodedText
from lmntk.system.notices import say
from lmntk.tangents.linearized import LinearizedModel

# by the model, so that it is asked and said once, however often its training looks at dev
_KNOWN: WeakKeyDictionary[nn.Module, TextsApart] = WeakKeyDictionary()


def logits_of(model: nn.Module, texts: Sequence[EncodedText], pad_id: int, batch_size: int = 32) -> Tensor:
    """Return the logits [n, c] of texts in eval mode, float64, on the processor, in their order.

    They do not depend on ``batch_size``: where the model mixes the texts of a batch, each goes alone, which is said once.
    """
    device = next(model.parameters()).device
    if batch_size > 1 and not _may_share_batches(model, texts, pad_id, device):
        batch_size = 1
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


def _may_share_batches(
    model: nn.Module, texts: Sequence[EncodedText], pad_id: int, device: torch.device
) -> bool:
    asked = model.model if isinstance(model, LinearizedModel) else model
    known = _KNOWN.setdefault(asked, TextsApart(pad_id))
    if known.mixes:
        return False
    with frozen(asked):
        is_apart = known.holds(asked, texts, device)
    if not is_apart:
        say(f"{MIXES}; training batches stay padded")
    return is_apart
