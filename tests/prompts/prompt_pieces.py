"""The pieces that a prompt is encoded to, and a pair of texts."""

from __future__ import annotations

from prompts_tokenizers import small_tokenizer

from lmntk.prompts import Limits, PromptEncoder
from lmntk.tasks.example import Example

PAIR = Example("What is the capital of France?", "The capital of France is Paris.")


def pieces_of(kind: str, template: str, example: Example, **limits: int) -> list[str]:
    tokenizer = small_tokenizer(kind)
    encoded = PromptEncoder(tokenizer, template, ("great", "terrible"), Limits(**limits)).encode(example)
    assert encoded.ids[encoded.read_position] == tokenizer.mask_token_id
    return tokenizer.convert_ids_to_tokens(list(encoded.ids))
