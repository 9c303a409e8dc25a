from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_pieces import PAIR, pieces_of
from prompts_tokenizers import ADDS_SPACE, KINDS, SENTENCES, shared_tokenizer, small_tokenizer
from transformers import PreTrainedTokenizerBase

from lmntk.errors import UserError
from lmntk.prompts import HeadEncoder, Limits, PromptEncoder, collate
from lmntk.prompts.tokenization import PieceEncoder, Space
from lmntk.tasks.example import Example

SENTIMENT = ("{a} It was {mask}.", "*cls**sent_0*_It_was*mask*.*sep+*")
ENTAILMENT = ("{a|drop-last}? {mask}, {b|lower-first}", "*cls**sent-_0*?*mask*,*+sentl_1**sep+*")
PARAPHRASE = ("{a} {mask}, {b|lower-first}", "*cls**sent_0**mask*,*+sentl_1**sep+*")

TASKS = {
    **dict.fromkeys(["sst-2", "mr", "cr", "mpqa"], (*SENTIMENT, ("terrible", "great"))),
    "sst-5": (*SENTIMENT, ("terrible", "bad", "okay", "good", "great")),
    "subj": ("{a} This is {mask}.", "*cls**sent_0*_This_is*mask*.*sep+*", ("subjective", "objective")),
    "trec": (
        "{mask}: {a}",
        "*cls**mask*:*+sent_0**sep+*",
        ("Description", "Entity", "Expression", "Human", "Location", "Number"),
    ),
    "ag-news": (
        "{a} This article is about {mask} news.",
        "*cls**sent_0*_This_article_is_about*mask*_news.*sep+*",
        ("world", "sports", "business", "tech"),
    ),
    **dict.fromkeys(["mnli", "snli"], (*ENTAILMENT, ("No", "Yes", "Maybe"))),
    **dict.fromkeys(["qnli", "rte"], (*ENTAILMENT, ("No", "Yes"))),
    **dict.fromkeys(["mrpc", "qqp"], (*PARAPHRASE, ("No", "Yes"))),
}


def lm_bff_ids(tokenizer: PreTrainedTokenizerBase, template: str, example: Example) -> list[int]:
    """LM-BFF's own loop over the parts, for RoBERTa: the oracle."""
    texts = [example.text_a, example.text_b]
    specials = {
        "cls": tokenizer.cls_token_id,
        "mask": tokenizer.mask_token_id,
        "sep": tokenizer.sep_token_id,
        "sep+": tokenizer.sep_token_id,
    }
    ids: list[int] = []
    for part in template.split("*"):
        if part in specials:
            ids.append(specials[part])
        elif "sent" in part and part[-2] == "_":
            text = texts[int(part[-1])] or ""
            if "l" in part:
                text = text[:1].lower() + text[1:]
            if "-" in part:
                text = text[:-1]
            ids += tokenizer.encode((" " if part[0] == "+" else "") + text, add_special_tokens=False)
        else:
            ids += tokenizer.encode(part.replace("_", " "), add_special_tokens=False)
    return ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", sorted(TASKS))
def test_both_spellings_of_every_task_give_the_same_ids(task: str, kind: str) -> None:
    readable, lm_bff, words = TASKS[task]
    tokenizer = small_tokenizer(kind)
    first, second = PromptEncoder(tokenizer, readable, words), PromptEncoder(tokenizer, lm_bff, words)
    assert first.encode(PAIR) == second.encode(PAIR)
    assert first.fingerprint() == second.fingerprint()
    assert len(set(first.label_ids)) == len(words)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_byte_bpe_ids_are_those_of_lm_bff(task: str) -> None:
    _, lm_bff, words = TASKS[task]
    tokenizer = small_tokenizer("byte-bpe")
    assert list(PromptEncoder(tokenizer, lm_bff, words).encode(PAIR).ids) == lm_bff_ids(
        tokenizer, lm_bff, PAIR
    )


def test_spaces_in_byte_bpe() -> None:
    assert pieces_of("byte-bpe", "{a} It was {mask}.", Example("great")) == [
        "<s>",
        *_bare("great"),
        "ĠIt",
        "Ġwas",
        "<mask>",
        ".",
        "</s>",
    ]
    assert pieces_of("byte-bpe", "{mask}: {a}", Example("great")) == ["<s>", "<mask>", ":", "Ġgreat", "</s>"]
    assert pieces_of("byte-bpe", "({mask}) {a}", Example("great"))[:4] == ["<s>", "(", "<mask>", ")"]


def _bare(word: str) -> list[str]:
    tokenizer = small_tokenizer("byte-bpe")
    return tokenizer.convert_ids_to_tokens(tokenizer.encode(word, add_special_tokens=False))


@pytest.mark.parametrize("kind", ADDS_SPACE)
def test_spaces_where_the_tokenizer_adds_one(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    mark = "Ġ" if kind == "byte-bpe-prefix" else "▁"
    it, was, great = (
        mark + word for word in (("it", "was", "great") if kind == "albert" else ("It", "was", "great"))
    )
    cls, sep, mask = tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token
    assert pieces_of(kind, "{a} It was {mask}.", Example("great")) == [cls, great, it, was, mask, ".", sep]
    assert pieces_of(kind, "{mask}: {a}", Example("great")) == [cls, mask, ":", great, sep]
    assert pieces_of(kind, "{mask} It was {a}", Example("great")) == [cls, mask, it, was, great, sep]
    assert pieces_of(kind, "{mask}{sep}{a}", Example("great")) == [cls, mask, sep, great, sep]
    glued = PieceEncoder(tokenizer).encode("It was", Space.GLUED)
    assert [piece.startswith(mark) for piece in tokenizer.convert_ids_to_tokens(glued)][
        :: len(glued) - 1
    ] == [False, True]


def test_spaces_do_not_matter_in_word_piece() -> None:
    for template in ("{a} It was {mask}.", "{a} It was{mask}."):
        assert pieces_of("word-piece", template, Example("great")) == [
            "[CLS]",
            "great",
            "it",
            "was",
            "[MASK]",
            ".",
            "[SEP]",
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_starting_the_sequence_is_encoded_as_the_tokenizer_does(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    pieces = PieceEncoder(tokenizer)
    for sentence in SENTENCES:
        assert pieces.encode(sentence, Space.START) == tokenizer.encode(sentence, add_special_tokens=False)
        whole = pieces.encode(sentence + " It was", Space.START)
        assert whole == pieces.encode(sentence, Space.START) + pieces.encode("It was", Space.SPACED)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    [
        "[MASK]",
        "<mask>",
        "a </s> <s> b",
        "[SEP] it [CLS]",
        "<mask><mask>",
        "▁<mask>",
        "x[MASK]",
        "<pad> [PAD]",
    ],
)
def test_text_never_becomes_a_special_token(kind: str, text: str) -> None:
    tokenizer = small_tokenizer(kind)
    before = tokenizer.backend_tokenizer.to_str()
    for template in (
        "{a} It was {mask}.",
        "{mask}{a}",
        "{mask}: {a}",
        "{mask} " + text.replace("{", "") + " {a}",
    ):
        encoded = PromptEncoder(tokenizer, template, ("great", "terrible")).encode(Example(text))
        specials = [
            token
            for token in encoded.ids
            if token in set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        ]
        assert sorted(specials) == sorted(
            [tokenizer.cls_token_id, tokenizer.mask_token_id, tokenizer.sep_token_id]
        )
        assert encoded.ids[encoded.read_position] == tokenizer.mask_token_id
    assert tokenizer.backend_tokenizer.to_str() == before
    assert not tokenizer.backend_tokenizer.encode_special_tokens


def test_special_strings_keep_their_characters() -> None:
    assert pieces_of("xlm-roberta", "{a} {mask}", Example("<mask>"))[1:-2] == ["▁", *"<mask>"]
    tokenizer = small_tokenizer("byte-bpe")
    assert (
        tokenizer.decode(PieceEncoder(tokenizer).encode("a <mask>", Space.START), skip_special_tokens=True)
        == "a <mask>"
    )
    assert pieces_of("whole-words", "{a} {mask}", Example("film [MASK]"))[1:-2] == ["film", "[UNK]"]


def test_a_model_that_still_finds_a_special_string_gets_the_unknown_token() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"?": 0, "[MASK]": 1, "film": 2}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="?", ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", mask_token="[MASK]")
    assert PieceEncoder(tokenizer).encode("film [MASK] film", Space.START) == [2, 0, 2]


def test_added_tokens_beyond_the_vocabulary_keep_their_ids() -> None:
    from transformers import XLMRobertaTokenizer

    tokenizer = XLMRobertaTokenizer(
        vocab=[*small_tokenizer("xlm-roberta")._vocab], extra_special_tokens=["<first>"]
    )
    tokenizer.add_tokens(["plain"])
    encoded = PieceEncoder(tokenizer).encode("a plain <first>", Space.START)
    assert tokenizer.convert_tokens_to_ids("plain") in encoded
    assert tokenizer.convert_tokens_to_ids("<first>") not in encoded


_unicode = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=60) | st.sampled_from(
    ["", " ", "[MASK]", "<mask>", "a", "\u200b", "\n "]
)


@pytest.mark.parametrize("kind", KINDS)
@given(
    text_a=_unicode,
    text_b=_unicode,
    max_length=st.integers(16, 40),
    template=st.sampled_from([task[0] for task in TASKS.values()]),
)
@settings(max_examples=40, deadline=None)
def test_any_text_leaves_one_mask_at_the_read_position(
    kind: str, text_a: str, text_b: str, max_length: int, template: str
) -> None:
    tokenizer = small_tokenizer(kind)
    encoder = _encoder(kind, template, max_length)
    encoded = encoder.encode(Example(text_a, text_b))
    assert len(encoded.ids) <= max_length
    assert encoded.ids.count(tokenizer.mask_token_id) == 1
    assert encoded.ids[encoded.read_position] == tokenizer.mask_token_id
    assert encoded.ids[0] == tokenizer.cls_token_id
    assert encoded.ids[-1] == tokenizer.sep_token_id
    other = encoder.encode(Example("film", "film"))
    for side in ("left", "right"):
        batch = collate([encoded, other], pad_id=tokenizer.pad_token_id, padding_side=side)
        for row, text in enumerate((encoded, other)):
            assert tuple(batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()) == text.ids
            assert batch["input_ids"][row, batch["read_position"][row]] == tokenizer.mask_token_id


_cache: dict[tuple[str, str, int], PromptEncoder] = {}


def _encoder(kind: str, template: str, max_length: int) -> PromptEncoder:
    key = (kind, template, max_length)
    if key not in _cache:
        _cache[key] = PromptEncoder(
            small_tokenizer(kind), template, ("great", "terrible"), Limits(max_length)
        )
    return _cache[key]


@pytest.mark.parametrize("kind", KINDS)
def test_empty_and_one_token_texts(kind: str) -> None:
    empty = pieces_of(kind, "{a} It was {mask}.", Example(""))
    assert len(pieces_of(kind, "{a} It was {mask}.", Example("great"))) - len(empty) in (1, 2, 3)  # great
    head = HeadEncoder(small_tokenizer(kind))
    assert len(head.encode(Example("")).ids) == 2
    assert len(head.encode(Example("", "")).ids) == 3


def test_a_missing_second_text_is_named() -> None:
    encoder = PromptEncoder(small_tokenizer("byte-bpe"), "{a} {mask}, {b}", ("Yes", "No"))
    with pytest.raises(
        UserError, match=r"uses \{b\}, but the example 'A film' has no second text: .* without \{b\}$"
    ):
        encoder.encode(Example("A film"))


def test_half_a_surrogate_pair_is_the_users_to_mend() -> None:
    for template in ("{a} {mask}", "{mask}{a}"):
        for kind in ("byte-bpe", "xlm-roberta", "albert"):
            with pytest.raises(UserError, match="not valid Unicode"):
                PromptEncoder(small_tokenizer(kind), template, ("great", "terrible")).encode(
                    Example("x\ud800")
                )


def test_head_mode_and_token_types() -> None:
    tokenizer = small_tokenizer("byte-bpe")
    encoded = HeadEncoder(tokenizer).encode(PAIR)
    a, b = (tokenizer.encode(text, add_special_tokens=False) for text in (PAIR.text_a, PAIR.text_b))
    assert list(encoded.ids) == [0, *a, 2, *b, 2]
    assert encoded.read_position == 0
    assert encoded.token_type_ids is None

    tokenizer = small_tokenizer("word-piece")
    encoded = HeadEncoder(tokenizer).encode(PAIR)
    theirs = tokenizer(PAIR.text_a, PAIR.text_b)
    assert list(encoded.ids) == theirs["input_ids"]
    assert list(encoded.token_type_ids or ()) == theirs["token_type_ids"]
    assert len(HeadEncoder(tokenizer, Limits(9)).encode(PAIR).ids) == 9

    encoded = PromptEncoder(tokenizer, "{a}{sep+}{mask} {b}", ("yes", "no")).encode(Example("film", "film"))
    first = list(encoded.ids).index(tokenizer.sep_token_id)
    assert list(encoded.token_type_ids or ()) == [0] * (first + 1) + [1] * (len(encoded.ids) - first - 1)
    with pytest.raises(UserError, match="two token types"):
        PromptEncoder(tokenizer, "{a}{sep+}{mask}{sep+}{b}", ("yes", "no"))


def test_fingerprints_follow_what_decides_the_ids_and_nothing_else() -> None:
    tokenizer = small_tokenizer("word-piece")

    def print_of(template: str = "{a} {mask}", words: tuple[str, ...] = ("yes", "no"), **limits: int) -> str:
        return PromptEncoder(tokenizer, template, words, Limits(**limits)).fingerprint()

    same = print_of()
    tokenizer(["a", "b c d"], padding="max_length", truncation=True, max_length=8)
    assert print_of() == same
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    others = [
        print_of("{a} so {mask}"),
        print_of(words=("no", "yes")),
        print_of(max_length=64),
        print_of(text_a=5),
        print_of(text_b=5),
        HeadEncoder(tokenizer).fingerprint(),
        HeadEncoder(tokenizer, Limits(64)).fingerprint(),
        PromptEncoder(small_tokenizer("byte-bpe"), "{a} {mask}", ("Yes", "No")).fingerprint(),
    ]
    assert len({same, *others}) == 1 + len(others)


def test_tokenizers_without_what_a_mode_needs() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?")), unk_token="?"
    )
    with pytest.raises(UserError, match="has no mask token"):
        PromptEncoder(bare, "{a} {mask}", ("a", "b"))
    with pytest.raises(UserError, match="no token such as"):
        HeadEncoder(bare)


def test_real_word_piece_tokenizer() -> None:
    tokenizer = shared_tokenizer("minilm-mlm")
    encoded = PromptEncoder(tokenizer, "{a} It was {mask}.", ("terrible", "great")).encode(
        Example("A [MASK] film.")
    )
    assert tokenizer.decode(list(encoded.ids)) == "[CLS] a [ mask ] film. it was [MASK]. [SEP]"
    assert encoded.token_type_ids == (0,) * len(encoded.ids)


def test_real_metaspace_tokenizer_without_a_mask() -> None:
    tokenizer = shared_tokenizer("stories3m")
    pieces = PieceEncoder(tokenizer)
    assert pieces.prefix == (tokenizer.bos_token_id,)
    assert pieces.tokens(pieces.encode("It was.", Space.SPACED)) == ["▁It", "▁was", "."]
    assert pieces.tokens(pieces.encode("It was.", Space.GLUED)) == ["It", "▁was", "."]
    assert pieces.tokens(pieces.encode(" was", Space.GLUED)) == ["▁was"]
    assert pieces.tokens(pieces.encode("日", Space.GLUED)) == ["<0xE6>", "<0x97>", "<0xA5>"]
    with pytest.raises(UserError, match="no mask token"):
        PromptEncoder(tokenizer, "{a} It was {mask}.", ("good", "bad"))
