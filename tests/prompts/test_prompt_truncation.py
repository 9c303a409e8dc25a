"""Texts that are too long: cut from their ends, the longest first, and never what is around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_pieces import PAIR, pieces_of
from prompts_tokenizers import small_tokenizer

from lmntk.errors import UserError
from lmntk.prompts import HeadEncoder, Limits, PromptEncoder
from lmntk.prompts.assembly import share_length
from lmntk.tasks.example import Example


def test_truncation_cuts_texts_from_their_ends_and_keeps_the_rest() -> None:
    text = " ".join(["great"] * 50)
    tokens = pieces_of("byte-bpe", "{mask}: {a} It was.", Example(text), max_length=12)
    assert tokens == ["<s>", "<mask>", ":", *["Ġgreat"] * 5, "ĠIt", "Ġwas", ".", "</s>"]
    tokens = pieces_of("byte-bpe", "{mask}: {a} It was.", Example(text), text_a=3)
    assert tokens == ["<s>", "<mask>", ":", *["Ġgreat"] * 3, "ĠIt", "Ġwas", ".", "</s>"]
    pair = Example(text, "terrible terrible terrible")
    tokens = pieces_of("byte-bpe", "{mask}, {a}, {b}", pair, max_length=12)
    assert tokens.count("Ġgreat") == 4
    assert tokens.count("Ġterrible") == 3
    tokens = pieces_of("byte-bpe", "{mask}, {a}, {b}", pair, text_b=1, text_a=2)
    assert tokens == ["<s>", "<mask>", ",", "Ġgreat", "Ġgreat", ",", "Ġterrible", "</s>"]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(0, 100))
def test_shared_length_shortens_the_longest_first(lengths: list[int], budget: int) -> None:
    kept = list(lengths)
    while sum(kept) > budget:  # the slow twin: one token at a time, from the longest
        kept[kept.index(max(kept))] -= 1
    shared = share_length(lengths, budget)
    assert sorted(shared) == sorted(kept)
    assert all(part <= length for part, length in zip(shared, lengths, strict=True))


def test_max_length_too_small_or_beyond_the_model() -> None:
    tokenizer = small_tokenizer("byte-bpe")
    with pytest.raises(UserError, match="max_length 5 leaves no room for the text: use at least 7"):
        PromptEncoder(tokenizer, "{a} It was {mask}.", ("great", "terrible"), Limits(5))
    encoder = PromptEncoder(tokenizer, "{a} It was {mask}.", ("great", "terrible"), Limits(7))
    assert len(encoder.encode(Example("a long text")).ids) == 7
    with pytest.raises(UserError, match="max_length 513 is more than the 512 tokens"):
        PromptEncoder(tokenizer, "{a} It was {mask}.", ("great", "terrible"), Limits(513))
    with pytest.raises(UserError, match="max_length 2 leaves no room for the text: use at least 3"):
        HeadEncoder(tokenizer, Limits(2))
    with pytest.raises(UserError, match="too small for two texts: use at least 5"):
        HeadEncoder(tokenizer, Limits(3)).encode(PAIR)
    with pytest.raises(UserError, match="text_a_limit 0"):
        HeadEncoder(tokenizer, Limits(text_a=0))
