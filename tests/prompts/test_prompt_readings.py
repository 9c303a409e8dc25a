"""Where a model's output is read: sequences for causal models and for encoders with a decoder."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompts_tokenizers import CAUSAL_KINDS, KINDS, SENTENCES, small_tokenizer

from lmntk.errors import UserError
from lmntk.prompts import EncodedText, HeadEncoder, Limits, PromptEncoder, collate, parse_template
from lmntk.prompts.layout import ending_at_mask
from lmntk.prompts.tokenization import PieceEncoder, Space
from lmntk.tasks import TASKS
from lmntk.tasks.example import Example

WORDS = ("terrible", "great")
PAIR = Example("What is the capital of France?", "The capital of France is Paris.")
START = 3  # any id will do as the decoder's start


def prompt(kind: str, template: str, reading: str = "last", **more: object) -> PromptEncoder:
    start = START if reading == "decoder" else None
    return PromptEncoder(small_tokenizer(kind), template, WORDS, reading=reading, decoder_start=start, **more)  # type: ignore[arg-type]


def tokens(kind: str, encoded: EncodedText) -> list[str]:
    return small_tokenizer(kind).convert_ids_to_tokens(list(encoded.ids))


@pytest.mark.parametrize("kind", CAUSAL_KINDS)
def test_a_causal_prompt_is_what_the_tokenizer_makes_of_the_whole_without_its_end(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    for sentence in SENTENCES[-4:]:
        encoded = prompt(kind, "{a} It was").encode(Example(sentence))
        whole = tokenizer(sentence + " It was")["input_ids"]
        assert list(encoded.ids) == (whole[:-1] if kind == "llama-eos" else whole)
        assert encoded.read_position == len(encoded.ids) - 1
        assert encoded.decoder_ids is encoded.token_type_ids is None
    begins = [tokenizer.bos_token_id] if kind.startswith("llama") else []
    assert list(encoded.ids[: len(begins)]) == begins
    assert tokenizer.eos_token_id not in encoded.ids
    labels = prompt(kind, "{a} It was").label_ids
    assert tokenizer.convert_ids_to_tokens(list(labels)) == [
        ("Ġ" if kind == "gpt2" else "▁") + word for word in WORDS
    ]


@pytest.mark.parametrize(
    ("written", "cut"),
    [
        ("{a} It was {mask}.", "{a} It was"),
        ("{a} It was  {mask}", "{a} It was"),
        ("{a} It was{mask}{sep}!", "{a} It was"),
        ("{a} {mask} so.", "{a}"),
        ("{b}? {a}{sep}{mask}", "{b}? {a}{sep}"),
        ("*cls**sent_0*_It_was*mask*.*sep+*", "{a} It was"),
        ("{a} It was", "{a} It was"),
    ],
)
def test_templates_are_cut_at_the_mask(written: str, cut: str) -> None:
    assert ending_at_mask(parse_template(written, require_mask=False)) == parse_template(
        cut, require_mask=False
    )
    encoder = prompt("gpt2", written)
    assert str(encoder.template) == cut
    assert encoder.encode(PAIR) == prompt("gpt2", cut).encode(PAIR)
    assert encoder.fingerprint() == prompt("gpt2", cut).fingerprint()


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{mask}: {a}", "begins with the mask"),
        (" {mask} {a}", "begins with the mask"),
        ("{a} {mask}, {b}", "puts a text after the mask"),
        ("So {mask}, {a}", "puts a text after the mask"),
        ("{a}\nSo {mask}\n{b}", "puts a text after the mask"),
    ],
)
def test_a_text_that_would_not_be_read_is_refused(template: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        prompt("gpt2", template)
    assert "ends where the word is to come, such as '{a} It was'" in str(caught.value)
    assert repr(str(parse_template(template))) in str(caught.value)
    assert "\n" not in str(caught.value)


_texts = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=50) | st.sampled_from(
    ["", " ", "\n", "</s>", "<|endoftext|>", "<extra_id_0>", "<mask>", "a </s> b"]
)


@pytest.mark.parametrize("kind", [*CAUSAL_KINDS, "byte-bpe", "xlm-roberta"])
@given(text_a=_texts, text_b=_texts, max_length=st.integers(16, 30))
@settings(max_examples=30, deadline=None)
def test_any_text_leaves_the_prompts_words_at_the_end(
    kind: str, text_a: str, text_b: str, max_length: int
) -> None:
    tokenizer = small_tokenizer(kind)
    encoder = _cached(kind, "{a} so {b} It was {mask}.", max_length)
    encoded, other = encoder.encode(Example(text_a, text_b)), encoder.encode(Example("film", "film"))
    ending = PieceEncoder(tokenizer).encode("It was", Space.SPACED)
    assert len(encoded.ids) <= max_length
    assert list(encoded.ids[-len(ending) :]) == ending
    assert encoded.read_position == len(encoded.ids) - 1
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert [token for token in encoded.ids if token in special] == list(PieceEncoder(tokenizer).prefix)
    for side in ("left", "right"):
        batch = collate([encoded, other], pad_id=0, padding_side=side)
        assert [batch["input_ids"][row, batch["read_position"][row]].item() for row in (0, 1)] == [
            ending[-1]
        ] * 2
        for row, text in enumerate((encoded, other)):
            assert tuple(batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()) == text.ids


_cache: dict[tuple[str, str, int], PromptEncoder] = {}


def _cached(kind: str, template: str, max_length: int) -> PromptEncoder:
    key = (kind, template, max_length)
    if key not in _cache:
        _cache[key] = prompt(kind, template, limits=Limits(max_length))
    return _cache[key]


def test_lengths_of_causal_prompts() -> None:
    text = Example(" ".join(["great"] * 600))
    assert tokens("gpt2", prompt("gpt2", "So: {a} It was", limits=Limits(7)).encode(text))[2:] == [
        ":",
        "Ġgreat",
        "Ġgreat",
        "ĠIt",
        "Ġwas",
    ]
    assert tokens("gpt2", prompt("gpt2", "{a} It was", limits=Limits(text_a=1)).encode(text))[-2:] == [
        "ĠIt",
        "Ġwas",
    ]
    assert len(prompt("llama", "{a} It was", limits=Limits(4)).encode(text).ids) == 4
    with pytest.raises(UserError, match="max_length 3 leaves no room for the text: use at least 4"):
        prompt("llama", "{a} It was", limits=Limits(3))
    assert len(prompt("gpt2", "{a} It was", limits=Limits(3)).encode(text).ids) == 3
    with pytest.raises(UserError, match="use at least 3"):
        prompt("gpt2", "{a} It was", limits=Limits(2))
    with pytest.raises(UserError, match="more than the 512 tokens"):
        prompt("gpt2", "{a} It was", limits=Limits(513))


def test_nothing_to_read_is_an_error() -> None:
    for encoder in (prompt("gpt2", "{a} {mask}"), HeadEncoder(small_tokenizer("gpt2"), reading="last")):
        with pytest.raises(UserError, match=r"example '' has no token, .* take the example out"):
            encoder.encode(Example(""))
        assert encoder.encode(Example("x")).read_position == 0
    assert prompt("llama", "{a} {mask}").encode(Example("")).ids == (1,)  # the prefix can be read


def test_t5_has_a_sentinel_at_the_mask_and_reads_behind_it() -> None:
    tokenizer = small_tokenizer("t5")
    sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    encoded = prompt("t5", "{a} It was {mask}.", "decoder").encode(Example("great <extra_id_0>"))
    characters = list("<extra_id_0>")
    assert tokens("t5", encoded) == ["▁great", "▁", *characters, "▁It", "▁was", "<extra_id_0>", ".", "</s>"]
    assert encoded.ids.count(sentinel) == 1
    assert (encoded.decoder_ids, encoded.read_position, encoded.token_type_ids) == (
        (START, sentinel),
        1,
        None,
    )
    assert encoded.length == len(encoded.ids) + 2

    encoded = prompt("t5", "{a} It was", "decoder").encode(Example("great"))
    assert list(encoded.ids) == tokenizer("great It was")["input_ids"]
    assert (encoded.decoder_ids, encoded.read_position) == ((START,), 0)
    assert tokens("t5", prompt("t5", "{mask}: {a}", "decoder").encode(Example("great"))) == [
        "<extra_id_0>",
        ":",
        "▁great",
        "</s>",
    ]


def test_bart_has_its_mask_in_the_encoder_and_reads_the_decoders_first_token() -> None:
    tokenizer = small_tokenizer("byte-bpe")
    encoded = prompt("byte-bpe", "{a} It was {mask}.", "decoder").encode(Example("great"))
    assert encoded.ids == prompt("byte-bpe", "{a} It was {mask}.", "mask").encode(Example("great")).ids
    assert tokenizer.mask_token_id in encoded.ids
    assert (encoded.decoder_ids, encoded.read_position) == ((START,), 0)
    encoded = prompt("byte-bpe", "{a} It was", "decoder").encode(Example("great"))
    assert list(encoded.ids) == tokenizer("great It was")["input_ids"]
    assert (encoded.decoder_ids, encoded.read_position) == ((START,), 0)


def test_a_decoder_without_a_mask_of_any_kind() -> None:
    with pytest.raises(
        UserError,
        match=r"'\{a\} \{mask\}' has a mask, but tokenizer GPT2Tokenizer has no mask token .*leave \{mask\} out",
    ):
        prompt("gpt2", "{a} {mask}", "decoder")
    assert prompt("gpt2", "{a} It was", "decoder").encode(Example("film")).decoder_ids == (START,)
    with pytest.raises(UserError, match="GPT2Tokenizer has no mask token: use a masked language model"):
        prompt("gpt2", "{a} {mask}", "mask")
    with pytest.raises(UserError, match="has no mask: write"):
        prompt("byte-bpe", "{a} It was", "mask")


def test_decoder_lengths_are_the_encoders() -> None:
    text = Example(" ".join(["great"] * 600))
    encoded = prompt("t5", "{a} It was {mask}.", "decoder", limits=Limits(8)).encode(text)
    assert tokens("t5", encoded) == ["▁great"] * 3 + ["▁It", "▁was", "<extra_id_0>", ".", "</s>"]
    assert prompt("t5", "{a} It was {mask}.", "decoder", limits=Limits(6))
    with pytest.raises(UserError, match="use at least 6"):
        prompt("t5", "{a} It was {mask}.", "decoder", limits=Limits(5))


def test_misuse() -> None:
    for reading in ("first", "middle"):
        with pytest.raises(ValueError, match="not one that a prompt has"):
            prompt("byte-bpe", "{a} {mask}", reading)
    for reading in ("mask", "middle"):
        with pytest.raises(ValueError, match="not one that head mode has"):
            HeadEncoder(small_tokenizer("byte-bpe"), reading=reading)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs decoder_start"):
        PromptEncoder(small_tokenizer("t5"), "{a} {mask}", WORDS, reading="decoder")
    with pytest.raises(ValueError, match="needs decoder_start"):
        HeadEncoder(small_tokenizer("t5"), reading="decoder")


@pytest.mark.parametrize("kind", CAUSAL_KINDS)
def test_head_mode_of_a_causal_model(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    encoder = HeadEncoder(tokenizer, reading="last")
    encoded = encoder.encode(Example("great film"))
    whole = tokenizer("great film")["input_ids"]
    assert list(encoded.ids) == (whole[:-1] if kind == "llama-eos" else whole)
    assert encoded.read_position == len(encoded.ids) - 1
    pair = encoder.encode(Example("great film", "It was."))
    break_ = "Ċ" if kind == "gpt2" else "<0x0A>"
    assert tokens(kind, pair) == [
        *tokens(kind, encoded),
        break_,
        "It",
        *(["Ġwas"] if kind == "gpt2" else ["▁was"]),
        ".",
    ]
    assert pair.read_position == len(pair.ids) - 1
    assert len(HeadEncoder(tokenizer, Limits(6), reading="last").encode(PAIR).ids) == 6
    with pytest.raises(UserError, match="too small for two texts"):
        HeadEncoder(tokenizer, Limits(len(whole[:1]) + kind.startswith("llama")), reading="last").encode(PAIR)


def test_head_mode_at_the_last_token_with_a_separator_or_without_a_line_break() -> None:
    example = Example("great", "It was")
    encoder = HeadEncoder(small_tokenizer("byte-bpe"), reading="last")
    great = tokens("byte-bpe", encoder.encode(Example("great")))
    assert tokens("byte-bpe", encoder.encode(example)) == [*great, "</s>", "It", "Ġwas"]
    assert tokens("t5", HeadEncoder(small_tokenizer("t5"), reading="last").encode(example)) == [
        "▁great",
        "▁It",
        "▁was",
    ]
    assert HeadEncoder(small_tokenizer("word-piece"), reading="last").encode(example).token_type_ids is None


def test_head_mode_of_an_encoder_with_a_decoder() -> None:
    encoder = HeadEncoder(small_tokenizer("t5"), reading="decoder", decoder_start=START)
    encoded = encoder.encode(Example("great", "It was"))
    assert tokens("t5", encoded) == ["▁great", "</s>", "▁It", "▁was", "</s>"]
    assert (encoded.decoder_ids, encoded.read_position) == ((START,), 0)
    encoded = HeadEncoder(small_tokenizer("byte-bpe"), reading="decoder", decoder_start=START).encode(PAIR)
    assert encoded.ids == HeadEncoder(small_tokenizer("byte-bpe")).encode(PAIR).ids
    assert encoded.decoder_ids == (START,)
    with pytest.raises(UserError, match="puts no token such as"):
        HeadEncoder(small_tokenizer("t5"))


def test_token_types_are_for_masked_models_only() -> None:
    assert prompt("word-piece", "{a}{sep+}{b} {mask}", "mask").encode(PAIR).token_type_ids is not None
    for reading in ("last", "decoder"):
        assert prompt("word-piece", "{a}{sep+}{b}{sep+} {mask}", reading).encode(PAIR).token_type_ids is None


def test_fingerprints_follow_the_reading() -> None:
    tokenizer = small_tokenizer("byte-bpe")
    template = "{a} It was {mask}."
    prints = [
        *(prompt("byte-bpe", template, reading).fingerprint() for reading in ("mask", "last", "decoder")),
        prompt("byte-bpe", "{a} It was", "decoder").fingerprint(),
        PromptEncoder(tokenizer, template, WORDS, reading="decoder", decoder_start=0).fingerprint(),
        *(
            PromptEncoder(tokenizer, template, WORDS, reduce=reduce).fingerprint()
            for reduce in ("first", "mean")
        ),
        PromptEncoder(tokenizer, template, ("terrible|bad", "great")).fingerprint(),
        *(
            HeadEncoder(tokenizer, reading=reading, decoder_start=START).fingerprint()
            for reading in ("first", "last", "decoder")
        ),
        HeadEncoder(tokenizer, reading="decoder", decoder_start=0).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    aside = PromptEncoder(tokenizer, template, WORDS, decoder_start=START).fingerprint()
    assert aside == prints[0]  # which only "decoder" looks at


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_every_task_has_a_causal_prompt(task: object, kind: str) -> None:
    assert isinstance(task, type(TASKS["mr"]))
    prompt, tokenizer = task.prompt("last"), small_tokenizer(kind)
    encoder = PromptEncoder(
        tokenizer,
        prompt.template,
        prompt.label_words,
        Limits(task.max_length, task.text_a_limit),
        reading="last",
        reduce="mean",  # of the pieces that a small tokenizer cuts a word into
    )
    encoded = encoder.encode(PAIR)
    text = tokenizer.decode(list(encoded.ids), skip_special_tokens=True)
    assert PAIR.text_a + "\n" in text
    assert (PAIR.text_b + "\n" in text) == task.pair
    assert "{mask}" not in str(encoder.template)
    assert encoder.classes == len(task.labels)
    assert text.endswith(":")


@pytest.mark.parametrize("kind", ["t5", "byte-bpe"])
@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_every_task_has_a_prompt_for_a_decoder(task: object, kind: str) -> None:
    assert isinstance(task, type(TASKS["mr"]))
    encoder = PromptEncoder(
        small_tokenizer(kind),
        task.prompt("decoder").template,
        task.label_words,
        Limits(task.max_length),
        reading="decoder",
        decoder_start=START,
    )
    encoded = encoder.encode(PAIR)
    assert encoded.read_position == len(encoded.decoder_ids or ()) - 1
    assert sum(token in ("<extra_id_0>", "<mask>") for token in tokens(kind, encoded)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_at_the_mask_have_no_decoder(kind: str) -> None:
    encoded = prompt(kind, "{a} It was {mask}.", "mask").encode(Example("great"))
    assert encoded.decoder_ids is None
    assert encoded.length == len(encoded.ids)
