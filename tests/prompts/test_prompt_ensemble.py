import pytest
from prompts_tokenizers import small_tokenizer

from lmntk.errors import UserError
from lmntk.prompts import EnsembleEncoder, Limits, PromptEncoder, collate, make_prompt_encoder, members
from lmntk.tasks.example import Example

WORDS = ("terrible", "great|good")
TEMPLATES = ["{a} It was {mask}.", "{mask}: {a}", "{a} This article is about {mask} news."]
EXAMPLES = [Example("great film"), Example("It was a great film, no?")]


def ensemble(templates: list[str] = TEMPLATES, **more: object) -> EnsembleEncoder:
    made = make_prompt_encoder(small_tokenizer("byte-bpe"), templates, WORDS, **more)  # type: ignore[arg-type]
    assert isinstance(made, EnsembleEncoder)
    return made


def test_every_template_is_encoded_as_if_it_were_alone() -> None:
    together = ensemble()
    alone = [PromptEncoder(small_tokenizer("byte-bpe"), template, WORDS) for template in TEMPLATES]
    encoded = together.encode(EXAMPLES[0])
    expected = [encoder.encode(EXAMPLES[0]) for encoder in alone]
    assert (encoded.ids, encoded.read_position) == (expected[0].ids, expected[0].read_position)
    assert encoded.others == tuple(expected[1:])
    assert encoded.length == sum(len(text.ids) for text in expected)
    assert [str(template) for template in together.templates] == TEMPLATES
    assert together.max_length == 128
    for name in ("label_words", "label_ids", "label_weights", "classes", "reading"):
        assert getattr(together, name) == getattr(alone[0], name)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("reading", ["mask", "decoder"])
def test_a_batch_falls_apart_into_those_of_its_templates(side: str, reading: str) -> None:
    start = 7 if reading == "decoder" else None
    together = ensemble(reading=reading, decoder_start=start)
    texts = [together.encode(example) for example in EXAMPLES]
    batch = collate(texts, pad_id=1, padding_side=side)  # type: ignore[arg-type]
    assert "1.input_ids" in batch and "2.read_position" in batch and "3.input_ids" not in batch
    split = members(batch)
    assert len(split) == 3
    for encoder, found in zip(together.encoders, split, strict=True):
        expected = collate([encoder.encode(example) for example in EXAMPLES], pad_id=1, padding_side=side)  # type: ignore[arg-type]
        assert found.keys() == expected.keys()
        assert all(found[name].equal(expected[name]) for name in expected)
    assert (
        len({found["input_ids"].shape[1] for found in split}) > 1
    )  # every template has its own longest text
    plain = collate([text.others[0] for text in texts], pad_id=1)
    [same] = members(plain)
    assert same.keys() == plain.keys()
    assert same is not plain


def test_one_template_is_no_ensemble() -> None:
    tokenizer = small_tokenizer("byte-bpe")
    for templates in (TEMPLATES[0], TEMPLATES[:1]):
        encoder = make_prompt_encoder(
            tokenizer, templates, WORDS, Limits(64, 9), reading="last", reduce="mean"
        )
        assert isinstance(encoder, PromptEncoder)
        direct = PromptEncoder(tokenizer, TEMPLATES[0], WORDS, Limits(64, 9), reading="last", reduce="mean")
        assert encoder.fingerprint() == direct.fingerprint()
        assert encoder.templates == (encoder.template,)


def test_fingerprints() -> None:
    prints = [
        ensemble().fingerprint(),
        ensemble(TEMPLATES[::-1]).fingerprint(),
        ensemble(TEMPLATES[:2]).fingerprint(),
        ensemble(limits=Limits(64)).fingerprint(),
        ensemble(reduce="mean").fingerprint(),
        ensemble(reading="decoder", decoder_start=1).fingerprint(),
        ensemble().encoders[0].fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    assert ensemble().fingerprint() == prints[0]


def test_what_cannot_be_averaged() -> None:
    tokenizer = small_tokenizer("byte-bpe")
    first = PromptEncoder(tokenizer, TEMPLATES[0], WORDS)
    with pytest.raises(UserError, match=r"given '\{a\} It was \{mask\}.' alone: give at least two"):
        EnsembleEncoder([first])
    with pytest.raises(UserError, match="given no template"):
        make_prompt_encoder(tokenizer, [], WORDS)
    with pytest.raises(UserError, match=r"template '\{a\} It was \{mask\}.' is given twice"):
        ensemble([TEMPLATES[0], TEMPLATES[2], TEMPLATES[0]])
    with pytest.raises(UserError, match=r"'\{a\} It was' is given twice"):  # nothing differs before the mask
        ensemble([TEMPLATES[0], "{a} It was {mask}!"], reading="last")
    with pytest.raises(ValueError, match="different label words"):
        EnsembleEncoder([first, PromptEncoder(tokenizer, TEMPLATES[1], ("great|good", "terrible"))])
    with pytest.raises(ValueError, match="different readings: 'mask' and 'last'"):
        EnsembleEncoder([first, PromptEncoder(tokenizer, TEMPLATES[0], WORDS, reading="last")])
