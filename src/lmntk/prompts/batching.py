"""Batches of encoded texts: equal lengths by padding, similar lengths by sorting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from lmntk.prompts.encoding import EncodedText


def collate(
    texts: Sequence[EncodedText], pad_id: int, padding_side: Literal["left", "right"] = "right", pad_to: int | None = None
) -> dict[str, torch.Tensor]:
    """Return a batch of ``texts``, padded to the longest (or to ``pad_to``).

    Returns:
        int64 tensors: ``input_ids`` and ``attention_mask`` [b, t], ``read_position`` [b] (counted with the padding),
        and ``token_type_ids`` [b, t] if the texts have them.

    Raises:
        ValueError: for no text, a text longer than ``pad_to``, or token types on some texts only.
    """
    if not texts:
        raise ValueError("a batch needs at least one text")
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side {padding_side!r} is neither 'left' nor 'right'")
    longest = max(len(text.ids) for text in texts)
    width = longest if pad_to is None else pad_to
    if width < longest:
        raise ValueError(f"pad_to {width} is less than the longest text's {longest} tokens")
    with_types = sum(text.token_type_ids is not None for text in texts)
    if with_types not in (0, len(texts)):
        raise ValueError("some texts have token types and some have none")

    batch = {
        "input_ids": torch.full((len(texts), width), pad_id, dtype=torch.int64),
        "attention_mask": torch.zeros((len(texts), width), dtype=torch.int64),
        "read_position": torch.zeros(len(texts), dtype=torch.int64),
    }
    if with_types:
        batch["token_type_ids"] = torch.zeros((len(texts), width), dtype=torch.int64)
    for row, text in enumerate(texts):
        start = width - len(text.ids) if padding_side == "left" else 0
        filled = slice(start, start + len(text.ids))
        batch["input_ids"][row, filled] = torch.tensor(text.ids, dtype=torch.int64)
        batch["attention_mask"][row, filled] = 1
        batch["read_position"][row] = start + text.read_position
        if text.token_type_ids is not None:
            batch["token_type_ids"][row, filled] = torch.tensor(text.token_type_ids, dtype=torch.int64)
    return batch


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return indices in batches of at most ``batch_size``, from the shortest text to the longest; equal lengths keep their order.

    >>> length_sorted_batches([5, 2, 5, 3], batch_size=2)
    [[1, 3], [0, 2]]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is less than 1")
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
