import pytest
from prompts_tokenizers import KINDS, small_tokenizer

from lmntk.errors import UserError
from lmntk.prompts import label_word_ids


@pytest.mark.parametrize("kind", KINDS)
def test_label_words_are_encoded_after_a_space(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    tokens = tokenizer.convert_ids_to_tokens(list(label_word_ids(tokenizer, ["terrible", "great"])))
    mark = {"byte-bpe": "Ġ", "byte-bpe-prefix": "Ġ", "word-piece": "", "whole-words": ""}.get(kind, "▁")
    assert tokens == [mark + "terrible", mark + "great"]
    assert label_word_ids(tokenizer, [" terrible", "great "]) == label_word_ids(tokenizer, ["terrible", "great"])


@pytest.mark.parametrize(
    ("kind", "words", "reason"),
    [
        ("byte-bpe", ["great"], "at least two"),
        ("byte-bpe", [], "at least two"),
        ("byte-bpe", "great", "at least two"),
        ("byte-bpe", ["great", "  "], "'  ' is empty"),
        ("byte-bpe", ["great", "zzz"], r"label word 'zzz' is \d tokens .*'z'.*not one: choose a word that is one token"),
        ("byte-bpe", ["great", "<mask>"], "'<mask>' is"),
        ("byte-bpe", ["great", "great"], "'great' is given twice"),
        ("word-piece", ["great", "Great"], "'Great' is the same token as 'great'"),
        ("whole-words", ["great", "marvellous"], "'marvellous' is not in the tokenizer's vocabulary"),
        ("xlm-roberta", ["great", "é"], "'é' is not in the tokenizer's vocabulary"),
        ("whole-words", ["great", "[MASK]"], "'\\[MASK\\]' is not in"),
    ],
)
def test_errors(kind: str, words: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        label_word_ids(small_tokenizer(kind), words)
    assert "\n" not in str(caught.value)
