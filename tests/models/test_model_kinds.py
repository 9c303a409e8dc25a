"""What kind of model a folder holds, which heads it has, and where each is read."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as hf
from saved_models import BART, BERT, GPT2, LLAMA, SIZES, T5, logits_of, one_line, save
from tokenizers import Tokenizer, models

from lmntk.errors import UserError
from lmntk.models.loading import fingerprint, load_pretrained

KINDS = {
    "bert": (BERT, "masked", "mask", "first"),
    "bert pre-training": (lambda: BERT(hf.BertForPreTraining), "masked", "mask", "first"),
    "gpt2": (GPT2, "causal", "last", "last"),
    "gpt2 base": (lambda: GPT2(hf.GPT2Model), "causal", "last", "last"),
    "llama": (LLAMA, "causal", "last", "last"),
    "llama tied": (lambda: LLAMA(tie_word_embeddings=True), "causal", "last", "last"),
    "t5": (T5, "seq2seq", "decoder", "decoder"),
    "t5 untied": (lambda: T5(tie_word_embeddings=False), "seq2seq", "decoder", "decoder"),
    "t5 base": (lambda: T5(hf.T5Model), "seq2seq", "decoder", "decoder"),
    "bart": (BART, "seq2seq", "decoder", "decoder"),
    "bert classifier": (
        lambda: BERT(hf.BertForSequenceClassification, num_labels=3),
        "classifier",
        None,
        "first",
    ),
    "llama classifier": (
        lambda: LLAMA(hf.LlamaForSequenceClassification, num_labels=3),
        "classifier",
        None,
        "last",
    ),
    "gpt2 classifier": (lambda: GPT2(hf.GPT2ForSequenceClassification), "classifier", None, "last"),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_found_loaded_and_read(tmp_path, name):
    build, kind, prompt, head = KINDS[name]
    network = build()
    loaded = load_pretrained(save(network, tmp_path), "float64")
    assert (loaded.kind, loaded.adapter, loaded.revision) == (kind, False, None)
    assert loaded.reading("head") == head
    assert all(
        parameter.dtype == torch.float64 and parameter.requires_grad
        for parameter in loaded.network.parameters()
    )
    if prompt is None:
        with pytest.raises(
            UserError, match="a classifier has no vocabulary to read label words from; use head mode"
        ) as caught:
            loaded.reading("prompt")
        one_line(caught)
    else:
        assert loaded.reading("prompt") == prompt
        assert loaded.network.get_output_embeddings().weight.shape[0] == 40
    if kind in ("causal", "seq2seq"):
        assert loaded.network.config.use_cache is False
    saved = network.double().state_dict()
    found = loaded.network.state_dict()
    shared = [
        (key, key if key in found else f"transformer.{key}")
        for key in saved
        if key in found or f"transformer.{key}" in found
    ]
    assert (
        shared and len(shared) >= len(saved) - 8
    )  # BertForPreTraining has 8 tensors that a masked LM has not
    for old, new in shared:
        assert torch.equal(saved[old], found[new]), old
    if type(loaded.network) is type(network):
        network.config.pad_token_id = loaded.network.config.pad_token_id
        rows = [[6, 7, 8, 9]]
        torch.testing.assert_close(logits_of(loaded.network, rows), logits_of(network, rows))
        assert fingerprint(loaded.network) == loaded.fingerprint == fingerprint(network)


@pytest.mark.parametrize("name", ["gpt2", "llama tied", "t5"])
def test_a_tied_head_is_not_missing_and_stays_tied(tmp_path, name):
    from safetensors import safe_open

    folder = save(KINDS[name][0](), tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert not [key for key in file.keys() if key.startswith("lm_head")]  # noqa: SIM118
    network = load_pretrained(folder).network
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("build", "head", "lost"),
    [
        (LLAMA, "causal-language-model", "lm_head.weight"),
        (lambda: LLAMA(hf.LlamaForSequenceClassification), "classification", "score.weight"),
        (lambda: BERT(hf.BertForSequenceClassification), "classification", "bert.pooler.dense.weight"),
    ],
)
def test_a_head_that_is_missing_is_an_error_unless_it_is_not_needed(tmp_path, build, head, lost):
    drop_weight(tmp_path, save(build(), tmp_path), lost)
    with pytest.raises(UserError, match=f"no {head} head: '{lost}'") as caught:
        load_pretrained(str(tmp_path))
    one_line(caught)
    first = load_pretrained(str(tmp_path), needs_head=False)
    torch.rand(3)
    assert load_pretrained(str(tmp_path), needs_head=False).fingerprint == first.fingerprint
    if head == "classification":  # head mode reads a classifier's own head, never zeros in its place
        with pytest.raises(UserError, match="no classification head"):
            load_pretrained(str(tmp_path), needs_head=None)
    else:
        assert load_pretrained(str(tmp_path), needs_head=None).fingerprint == first.fingerprint


def test_a_head_that_was_never_saved_is_not_made_of_the_embedding(tmp_path):
    folder = save(T5(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(UserError, match=r"no sequence-to-sequence head: 'lm_head.weight'") as caught:
        load_pretrained(folder)
    one_line(caught)
    assert torch.equal(load_pretrained(folder, needs_head=False).network.shared.weight, T5().shared.weight)


def drop_weight(folder, path, name):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return path


@pytest.mark.parametrize(
    ("build", "lost"),
    [
        (GPT2, "transformer.h.1.mlp.c_fc.weight"),
        (T5, "encoder.block.0.layer.1.DenseReluDense.wi.weight"),
        (BART, "model.decoder.layers.0.fc1.weight"),
    ],
)
def test_a_layer_that_is_missing_is_an_error_in_every_mode(tmp_path, build, lost):
    drop_weight(tmp_path, save(build(), tmp_path), lost)
    for needs_head in (True, False):
        with pytest.raises(UserError, match=f"lacks weights, '{lost}'") as caught:
            load_pretrained(str(tmp_path), needs_head=needs_head)
        one_line(caught)


def test_loading_leaves_the_random_numbers_as_they_were(tmp_path):
    folder = save(GPT2(hf.GPT2Model), tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_pretrained(folder, kind="classifier", needs_head=False)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (
            BERT,
            "causal",
            "a bert model, which has no causal-language-model head; it can be loaded as masked or classifier",
        ),
        (BERT, "seq2seq", "a bert model, which has no sequence-to-sequence head"),
        (T5, "masked", "a t5 model, which has no masked-language-model head; it can be loaded as seq2seq"),
        (
            BART,
            "classifier",
            "an encoder-decoder, which is not read as a classifier; use kind seq2seq and head mode",
        ),
        (
            lambda: BART(hf.BartForSequenceClassification),
            "auto",
            "not read as a classifier; use kind seq2seq and head mode",
        ),
        (GPT2, "decoder", "kind: 'decoder' is not one of auto, masked, causal, seq2seq, classifier"),
        (
            lambda: hf.ViTModel(hf.ViTConfig(image_size=8, patch_size=4, **SIZES | {"vocab_size": None})),
            "auto",
            "no language model of a kind",
        ),
    ],
)
def test_a_kind_that_the_model_has_not(tmp_path, build, kind, message):
    with pytest.raises(UserError, match=message) as caught:
        load_pretrained(save(build(), tmp_path), kind=kind)
    one_line(caught)


def test_an_encoder_decoder_classifier_is_read_as_seq2seq_in_head_mode(tmp_path):
    folder = save(BART(hf.BartForSequenceClassification), tmp_path)
    assert load_pretrained(folder, kind="seq2seq", needs_head=False).reading("head") == "decoder"


def test_a_mode_that_is_none(tmp_path):
    with pytest.raises(UserError, match="mode: 'prompts' is not one of prompt, head"):
        load_pretrained(save(GPT2(), tmp_path)).reading("prompts")


def test_where_a_decoder_starts(tmp_path):
    assert load_pretrained(save(T5(), tmp_path / "t5")).decoder_start == 0
    assert load_pretrained(save(BART(), tmp_path / "bart")).decoder_start == 2
    assert load_pretrained(save(GPT2(), tmp_path / "gpt2")).decoder_start is None


@pytest.mark.parametrize("kind", [hf.LlamaForSequenceClassification, hf.GPT2ForSequenceClassification])
@pytest.mark.parametrize("configured", [None, 9])
def test_a_decoder_only_classifier_finds_the_last_token_in_a_padded_batch(tmp_path, kind, configured):
    build = LLAMA if kind is hf.LlamaForSequenceClassification else GPT2
    loaded = load_pretrained(save(build(kind, pad_token_id=configured), tmp_path))
    assert loaded.network.config.pad_token_id == loaded.pad_id == (0 if configured is None else configured)
    long, short, pad = [6, 7, 8], [10, 11], loaded.pad_id
    batch = torch.tensor([long, [*short, pad]])
    with torch.no_grad():
        together = loaded.network(input_ids=batch, attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]])).logits
        alone = loaded.network(input_ids=torch.tensor([short])).logits
    torch.testing.assert_close(together[1:], alone)


def test_a_decoder_only_classifier_without_any_padding_token(tmp_path):
    LLAMA(hf.LlamaForSequenceClassification, eos_token_id=None).save_pretrained(tmp_path)
    bare = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    hf.PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="[UNK]").save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match="needs a padding token to find a text's end; give its tokenizer a pad_token"
    ) as caught:
        load_pretrained(str(tmp_path))
    one_line(caught)
