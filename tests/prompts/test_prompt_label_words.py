import numpy as np
import pytest
from prompts_tokenizers import CAUSAL_KINDS, KINDS, small_tokenizer

from lmntk.errors import UserError
from lmntk.prompts import LabelWords, PromptEncoder
from lmntk.prompts.tokenization import PieceEncoder, Space


def ids_of(kind: str, word: str) -> list[int]:
    return PieceEncoder(small_tokenizer(kind)).encode(word, Space.SPACED)


@pytest.mark.parametrize("kind", [*KINDS, *CAUSAL_KINDS, "t5"])
def test_label_words_are_encoded_after_a_space(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    labels = LabelWords.read(tokenizer, ["terrible", "great"])
    mark = {"byte-bpe": "Ġ", "byte-bpe-prefix": "Ġ", "gpt2": "Ġ", "word-piece": "", "whole-words": ""}.get(
        kind, "▁"
    )
    assert tokenizer.convert_ids_to_tokens(list(labels.ids)) == [mark + "terrible", mark + "great"]
    assert labels.weights is None
    assert (labels.words, labels.classes) == (("terrible", "great"), 2)
    spaced = LabelWords.read(tokenizer, [" terrible", "great "])
    assert (spaced.ids, spaced.weights) == (labels.ids, None)
    for reduce in ("first", "mean"):  # which single tokens do not need
        assert LabelWords.read(tokenizer, ["terrible", "great"], reduce) == labels


def logits_of_classes(kind: str, words: list[str], reduce: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The classes' logits by the weights, and by the words themselves, one at a time: the oracle."""
    logits = np.random.default_rng(0).normal(size=len(small_tokenizer(kind)))
    labels = LabelWords.read(small_tokenizer(kind), words, reduce)  # type: ignore[arg-type]
    assert len(set(labels.ids)) == len(labels.ids)
    assert labels.weights is not None
    assert np.shape(labels.weights) == (len(words), len(labels.ids))
    expected = []
    for entry in words:
        pieces = [ids_of(kind, word.strip()) for word in entry.split("|")]
        expected.append(np.mean([np.mean(logits[ids[:1] if reduce == "first" else ids]) for ids in pieces]))
    return np.array(labels.weights) @ logits[list(labels.ids)], np.array(expected)


@pytest.mark.parametrize(
    ("words", "reduce"),
    [
        (["great|good", "terrible"], None),
        (["great|good|okay", "terrible|bad"], None),
        (["great|good", "good|bad"], None),
        (["zzz", "great"], "mean"),
        (["zzz", "zqz"], "mean"),  # with tokens in common, and one twice
        (["zqz|great", "good | zzz", "bad"], "mean"),
        (["zqz|zzz", "bad"], "mean"),
        (["zqz|great", "good|Qzz", "bad"], "first"),
    ],
)
@pytest.mark.parametrize("kind", ["byte-bpe", "gpt2", "llama"])
def test_weights_are_means_over_words_and_tokens(kind: str, words: list[str], reduce: str | None) -> None:
    found, expected = logits_of_classes(kind, words, reduce)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_first_token_stands_for_a_word_of_several() -> None:
    tokenizer = small_tokenizer("byte-bpe")
    labels = LabelWords.read(tokenizer, ["great", "greatq", "bad"][1:], "first")
    assert labels.ids == (ids_of("byte-bpe", "great")[0], ids_of("byte-bpe", "bad")[0])
    assert labels.weights is None
    assert labels.words == ("greatq", "bad")


@pytest.mark.parametrize(
    ("kind", "words", "reduce", "reason"),
    [
        ("byte-bpe", ["great"], None, "at least two"),
        ("byte-bpe", [], None, "at least two"),
        ("byte-bpe", "great", None, "at least two"),
        ("byte-bpe", ["great", "  "], None, "'  ' is empty"),
        (
            "byte-bpe",
            ["great", "zzz"],
            None,
            r"label word 'zzz' is \d tokens .*'z'.*not one: choose a word that is one token",
        ),
        ("byte-bpe", ["great", "zzz"], None, "or pass --label-words-reduce mean or first$"),
        ("byte-bpe", ["great", "good|zzz"], None, r"label word 'zzz' is \d tokens"),
        ("byte-bpe", ["great", "<mask>"], None, "'<mask>' is"),
        ("byte-bpe", ["great", "great"], None, "'great' is given twice: choose"),
        ("byte-bpe", ["great|good", "great|good"], None, r"'great\|good' is given twice: choose"),
        (
            "byte-bpe",
            ["great|good", "good|great"],
            None,
            r"'good\|great' is the same tokens as 'great\|good'",
        ),
        ("byte-bpe", ["zzq", "zqz"], "mean", "'zqz' is the same tokens as 'zzq' for this tokenizer"),
        (
            "byte-bpe",
            ["great", "greatq"],
            "first",
            r"'greatq' begins with the same token as 'great' \('Ġgreat'\), which stands for both",
        ),
        (
            "byte-bpe",
            ["bad", "great|greatq"],
            "first",
            r"'greatq' in 'great\|greatq' begins with the same token as 'great'",
        ),
        ("byte-bpe", ["great||good", "bad"], None, r"'great\|\|good' have an empty one"),
        ("byte-bpe", ["great|", "bad"], None, r"'great\|' have an empty one"),
        (
            "byte-bpe",
            ["great|good| great", "bad"],
            None,
            r"label word ' great' in 'great\|good\| great' is given twice: keep one",
        ),
        ("word-piece", ["great", "Great"], None, "'Great' is the same token as 'great'"),
        (
            "word-piece",
            ["great|Great", "bad"],
            None,
            r"'Great' in 'great\|Great' is the same token as 'great' for this tokenizer",
        ),
        ("whole-words", ["great", "marvellous"], None, "'marvellous' is not in the tokenizer's vocabulary"),
        ("whole-words", ["great", "marvellous"], "mean", "'marvellous' is not in the tokenizer's vocabulary"),
        ("xlm-roberta", ["great", "é"], "first", "'é' is not in the tokenizer's vocabulary"),
        ("whole-words", ["great", "[MASK]"], None, "'\\[MASK\\]' is not in"),
        ("word-piece", ["great", "\u200b"], "mean", "is 0 tokens for this tokenizer"),
    ],
)
def test_errors(kind: str, words: list[str], reduce: str | None, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        LabelWords.read(small_tokenizer(kind), words, reduce)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_unknown_way_to_reduce() -> None:
    with pytest.raises(UserError, match="neither first nor mean"):
        LabelWords.read(small_tokenizer("byte-bpe"), ["great", "bad"], "last")  # type: ignore[arg-type]


def test_encoders_have_the_classes() -> None:
    tokenizer = small_tokenizer("byte-bpe")
    encoder = PromptEncoder(tokenizer, "{a} {mask}", ["great|good", "bad"])
    assert encoder.label_words == ("great|good", "bad")
    assert encoder.label_ids == tuple(ids_of("byte-bpe", word)[0] for word in ("great", "good", "bad"))
    assert encoder.label_weights == ((0.5, 0.5, 0.0), (0.0, 0.0, 1.0))
    assert encoder.classes == 2
    with pytest.raises(UserError, match="--label-words-reduce"):
        PromptEncoder(tokenizer, "{a} {mask}", ["greatq", "bad"])
    assert PromptEncoder(tokenizer, "{a} {mask}", ["greatq", "bad"], reduce="first").label_weights is None
