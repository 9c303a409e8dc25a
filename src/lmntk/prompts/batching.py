"""Batches of encoded texts: equal lengths by padding, similar ones by sorting, tensors for each template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from lmntk.prompts.encoded_text import EncodedText

WORTH = 8  # texts in a batch; fewer do not fill a processor
SLACK = 1.25


def collate(
    texts: Sequence[EncodedText],
    pad_id: int,
    padding_side: Literal["left", "right"] = "right",
    pad_to: int | None = None,
) -> dict[str, torch.Tensor]:
    """Return a batch of ``texts``, padded to the longest (or to ``pad_to``).

    Returns:
        int64 tensors: ``input_ids`` and ``attention_mask`` [b, t], ``read_position`` [b], ``token_type_ids``
        [b, t] if the texts have them, and ``decoder_input_ids`` [b, u] if they have those. ``read_position``
        counts the padding, unless it is one of the decoder's, which has none. An ensemble's further templates
        k = 1, 2, ... have the same tensors, each padded to its own longest, under ``k.input_ids`` and so on;
        :func:`members` takes them apart.

    Raises:
        ValueError: for no text, a text longer than ``pad_to``, ``pad_to`` with an ensemble, or texts of
            different kinds: token types on some only, decoder ids on some only or of different lengths,
            different numbers of templates.
    """
    if not texts:
        raise ValueError("a batch needs at least one text")
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side {padding_side!r} is neither 'left' nor 'right'")
    templates = {len(text.others) for text in texts}
    if len(templates) > 1:
        raise ValueError(f"texts of {sorted(count + 1 for count in templates)} templates in one batch")
    if templates != {0} and pad_to is not None:
        raise ValueError(f"pad_to {pad_to} with several templates, which have lengths of their own")
    if any(other.others for text in texts for other in text.others):
        raise ValueError("an ensemble within an ensemble: its templates are to stand side by side")
    batch = _padded(texts, pad_id, padding_side, pad_to)
    for k in range(1, templates.pop() + 1):
        of_member = _padded([text.others[k - 1] for text in texts], pad_id, padding_side, None)
        batch.update({f"{k}.{name}": tensor for name, tensor in of_member.items()})
    return batch


def members(batch: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Return one batch for each template of an ensemble, with plain names.

    >>> members({"input_ids": torch.tensor([[5]]), "1.input_ids": torch.tensor([[6]])})
    [{'input_ids': tensor([[5]])}, {'input_ids': tensor([[6]])}]
    """
    split: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in batch.items():
        number, dot, name = key.partition(".")
        is_member = bool(dot) and number.isdecimal()
        split.setdefault(int(number) if is_member else 0, {})[name if is_member else key] = tensor
    return [split[k] for k in sorted(split)]


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return indices in batches of at most ``batch_size``, from the shortest text to the longest.

    Equal lengths keep their order.

    A batch ends early, after ``WORTH`` texts, where the next would be ``SLACK`` times as long as its first:
    padding is work for nothing.

    >>> length_sorted_batches([5, 2, 5, 3], batch_size=2)
    [[1, 3], [0, 2]]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is less than 1")
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    batches: list[list[int]] = []
    for index in order:
        last = batches[-1] if batches else None
        if (
            last is None
            or len(last) == batch_size
            or (len(last) >= WORTH and lengths[index] > SLACK * lengths[last[0]])
        ):
            batches.append([])
        batches[-1].append(index)
    return batches


def _padded(
    texts: Sequence[EncodedText], pad_id: int, padding_side: str, pad_to: int | None
) -> dict[str, torch.Tensor]:
    longest = max(len(text.ids) for text in texts)
    width = longest if pad_to is None else pad_to
    if width < longest:
        raise ValueError(f"pad_to {width} is less than the longest text's {longest} tokens")
    with_types = sum(text.token_type_ids is not None for text in texts)
    if with_types not in (0, len(texts)):
        raise ValueError("some texts have token types and some have none")
    decoder_ids = [text.decoder_ids for text in texts if text.decoder_ids is not None]
    if len(decoder_ids) not in (0, len(texts)):
        raise ValueError("some texts have decoder ids and some have none")
    if len({len(ids) for ids in decoder_ids}) > 1:
        raise ValueError("texts have decoder ids of different lengths")

    batch = {
        "input_ids": torch.full((len(texts), width), pad_id, dtype=torch.int64),
        "attention_mask": torch.zeros((len(texts), width), dtype=torch.int64),
        "read_position": torch.zeros(len(texts), dtype=torch.int64),
    }
    if with_types:
        batch["token_type_ids"] = torch.zeros((len(texts), width), dtype=torch.int64)
    if decoder_ids:
        batch["decoder_input_ids"] = torch.tensor(decoder_ids, dtype=torch.int64)  # (b, u)
    for row, text in enumerate(texts):
        start = width - len(text.ids) if padding_side == "left" else 0
        filled = slice(start, start + len(text.ids))
        batch["input_ids"][row, filled] = torch.tensor(text.ids, dtype=torch.int64)
        batch["attention_mask"][row, filled] = 1
        batch["read_position"][row] = text.read_position + (start if text.decoder_ids is None else 0)
        if text.token_type_ids is not None:
            batch["token_type_ids"][row, filled] = torch.tensor(text.token_type_ids, dtype=torch.int64)
    return batch
