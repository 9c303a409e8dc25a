"""Models and adapters from folders: loaded as they were saved, or a one-line error that says what is wrong."""

from __future__ import annotations

import json
import sys
from functools import lru_cache, partial

import peft
import pytest
import torch
import transformers as hf
from model_table import LABELS, TABLE, plain_logits, random_texts
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from lmntk.errors import UserError
from lmntk.models.filters import ParameterFilter
from lmntk.models.loading import fingerprint, load_pretrained
from lmntk.models.logit_model import HeadModel, PromptModel, untie_head
from lmntk.prompts.batching import collate

load_masked = partial(load_pretrained, kind="masked")


@lru_cache
def tokenizer():
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def save(network, folder, **options):
    network.save_pretrained(folder, **options)
    tokenizer().save_pretrained(folder)
    return str(folder)


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["bert", "distilbert", "albert", "modernbert"])
def test_round_trip(tmp_path, name):
    row = TABLE[name]
    network = row.build(dtype=torch.float32)
    folder = save(network, tmp_path / "model")
    loaded = load_masked(folder, "float64")
    assert loaded.name == folder
    assert loaded.stored_dtype == "float32"
    assert not loaded.network.training
    assert all(p.dtype == torch.float64 for p in loaded.network.parameters())
    assert loaded.tokenizer.mask_token_id == 4
    batch = collate(random_texts(row, [6], 1), 0)
    expected = plain_logits(PromptModel(network.double(), LABELS), batch)
    torch.testing.assert_close(plain_logits(PromptModel(loaded.network, LABELS), batch), expected, rtol=1e-6, atol=1e-6)
    decoder, table = loaded.network.get_output_embeddings().weight, loaded.network.get_input_embeddings().weight
    assert decoder is table


def test_attention_implementation_is_chosen(tmp_path):
    folder = save(TABLE["bert"].build(), tmp_path)
    assert load_masked(folder, attention="eager").network.config._attn_implementation == "eager"
    assert load_masked(folder, attention="sdpa").network.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_computed_with_in_full(tmp_path, stored):
    network = TABLE["roberta"].build(dtype=stored)
    loaded = load_masked(save(network, tmp_path))
    assert loaded.stored_dtype == str(stored).removeprefix("torch.")
    for (name, parameter), kept in zip(loaded.network.named_parameters(), network.parameters(), strict=True):
        assert parameter.dtype == torch.float32, name
        assert torch.equal(parameter, kept.float()), name


def test_a_name_that_looks_like_a_folder_and_is_none(tmp_path):
    for name in (str(tmp_path / "nothing"), str(tmp_path), "./nowhere"):
        with pytest.raises(UserError, match=r"not a folder with a config\.json") as caught:
            load_masked(name)
        assert name in one_line(caught)


def test_a_folder_without_weights(tmp_path):
    folder = save(TABLE["bert"].build(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load") as caught:
        load_masked(folder)
    one_line(caught)


def test_pickled_weights_are_not_read(tmp_path):
    network = TABLE["bert"].build()
    folder = save(network, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot load") as caught:
        load_masked(folder)
    one_line(caught)


def test_a_config_that_is_no_config(tmp_path):
    folder = save(TABLE["bert"].build(), tmp_path)
    for content in ("{}", "not json", '{"model_type": "no-such-model"}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match="cannot load") as caught:
            load_masked(folder)
        one_line(caught)


def test_a_truncated_weights_file(tmp_path):
    folder = save(TABLE["bert"].build(), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot load") as caught:
        load_masked(folder)
    one_line(caught)


@pytest.mark.parametrize(
    ("network", "missing"),
    [
        (lambda: hf.BertModel(hf.BertConfig(**TABLE["bert"].settings)), "cls.predictions"),
        (lambda: hf.BertForSequenceClassification(hf.BertConfig(**TABLE["bert"].settings)), "cls.predictions"),
        (lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**TABLE["roberta"].settings)), "lm_head"),
        (lambda: hf.DistilBertModel(hf.DistilBertConfig(**TABLE["distilbert"].settings)), "vocab_"),
    ],
)
def test_weights_without_a_masked_word_head(tmp_path, network, missing):
    folder = save(network(), tmp_path)
    with pytest.raises(UserError, match="no masked-language-model head") as caught:
        load_masked(folder)
    assert missing in one_line(caught)


def test_weights_that_lack_a_layer(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save(TABLE["bert"].build(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"bert\.encoder\.layer\.1\.output\.dense\.weight") as caught:
        load_masked(folder)
    assert "incomplete" in one_line(caught)


def test_weights_that_do_not_fit_the_config(tmp_path):
    folder = save(TABLE["bert"].build(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 20}))
    with pytest.raises(UserError, match="cannot load") as caught:
        load_masked(folder)
    one_line(caught)


def test_a_dtype_that_is_none(tmp_path):
    with pytest.raises(UserError, match="dtype: 'int8' is not one of float32, float64"):
        load_masked(str(tmp_path), "int8")


def test_a_decoder_model_is_refused(tmp_path):
    config = hf.GPT2Config(vocab_size=37, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    folder = save(hf.GPT2LMHeadModel(config), tmp_path)
    with pytest.raises(
        UserError, match="gpt2 model, which has no masked-language-model head; it can be loaded as causal or classifier"
    ) as caught:
        load_masked(folder)
    one_line(caught)


def test_the_fingerprint_is_of_the_weights(tmp_path):
    first, same, other = TABLE["bert"].build(0), TABLE["bert"].build(0), TABLE["bert"].build(0)
    assert fingerprint(first) == fingerprint(same)
    with torch.no_grad():
        other.bert.encoder.layer[1].output.dense.weight[3, 2] += 1e-12
    assert fingerprint(first) != fingerprint(other)
    assert fingerprint(first) != fingerprint(TABLE["bert"].build(0, torch.float32))
    folder = save(first, tmp_path / "a")
    loaded = load_masked(folder, "float64")
    assert loaded.fingerprint == load_masked(save(same, tmp_path / "b"), "float64").fingerprint
    assert loaded.fingerprint == fingerprint(first)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["model_type"] == "bert"


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "albert", "electra", "deberta-shared-keys", "modernbert"])
def test_untying_gives_the_decoder_its_own_weight_and_keeps_the_logits(name):
    row = TABLE[name]
    network = row.build()
    model = PromptModel(network, LABELS)
    batch = collate(random_texts(row, [6], 1), int(network.config.pad_token_id or 0))
    before, count = plain_logits(model, batch), sum(p.numel() for p in model.parameters())
    untie_head(network)
    decoder, table = network.get_output_embeddings().weight, network.get_input_embeddings().weight
    assert decoder is not table
    assert torch.equal(decoder, table)
    assert sum(p.numel() for p in model.parameters()) == count + decoder.numel()
    assert torch.equal(plain_logits(model, batch), before)
    with torch.no_grad():
        decoder += 1
    assert not torch.equal(decoder, table)
    untie_head(network)
    assert network.get_output_embeddings().weight is decoder


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "albert", "electra", "deberta-shared-keys", "modernbert"])
def test_logit_models_read_what_the_network_says(name):
    row = TABLE[name]
    network = row.build()
    texts = random_texts(row, [6, 3, 8], 1)
    pad = int(network.config.pad_token_id or 0)
    batch = collate(texts, pad)
    head = nn.Linear(8, 2).double()
    for model in (
        PromptModel(network, LABELS),
        PromptModel(network, LABELS[:2], True),
        HeadModel(network, head),
        HeadModel(network, head, True),
    ):
        expected = torch.stack([plain_logits(model, collate([text], pad)) for text in texts])
        assert expected.shape == (3, model.outputs)
        torch.testing.assert_close(model(batch), expected, rtol=1e-12, atol=1e-13)
        assert not network.base_model._forward_hooks
        assert "forward" not in vars(network.get_output_embeddings())


def test_a_difference_needs_two_classes():
    with pytest.raises(UserError, match="exactly two classes, not 3"):
        PromptModel(TABLE["bert"].build(), LABELS, difference=True)


def test_a_network_without_a_decoder():
    class Wrapped(nn.Module):
        config = hf.BertConfig(**TABLE["bert"].settings)

        def get_output_embeddings(self):
            return None

    with pytest.raises(UserError, match="no head over a vocabulary") as caught:
        PromptModel(Wrapped(), LABELS)
    one_line(caught)


SIZES = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
T5_SIZES = {"vocab_size": 40, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2}
SIDES = ("encoder", "decoder")
BART_SIZES = {f"{side}_{size}": n for side in SIDES for size, n in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 12))}
BERT_CONFIG = {**SIZES, "max_position_embeddings": 20}


def seeded(build):
    torch.manual_seed(5)
    return build()


def GPT2(kind=hf.GPT2LMHeadModel, **settings):  # noqa: N802
    return seeded(lambda: kind(hf.GPT2Config(vocab_size=40, n_embd=8, n_layer=2, n_head=2, n_positions=20, **settings)))


def LLAMA(kind=hf.LlamaForCausalLM, **settings):  # noqa: N802
    return seeded(lambda: kind(hf.LlamaConfig(**SIZES, max_position_embeddings=20, **settings)))


def T5(kind=hf.T5ForConditionalGeneration, **settings):  # noqa: N802
    return seeded(lambda: kind(hf.T5Config(**T5_SIZES, decoder_start_token_id=0, **settings)))


def BART(kind=hf.BartForConditionalGeneration):  # noqa: N802
    return seeded(lambda: kind(hf.BartConfig(vocab_size=40, d_model=8, max_position_embeddings=20, **BART_SIZES)))


def BERT(kind=hf.BertForMaskedLM, **settings):  # noqa: N802
    return seeded(lambda: kind(hf.BertConfig(**BERT_CONFIG, **settings)))


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
    "bert classifier": (lambda: BERT(hf.BertForSequenceClassification, num_labels=3), "classifier", None, "first"),
    "llama classifier": (lambda: LLAMA(hf.LlamaForSequenceClassification, num_labels=3), "classifier", None, "last"),
    "gpt2 classifier": (lambda: GPT2(hf.GPT2ForSequenceClassification), "classifier", None, "last"),
}


def logits_of(network, rows):
    batch = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor([[int(i != 0) for i in row] for row in rows])}
    if network.config.is_encoder_decoder:
        batch["decoder_input_ids"] = torch.zeros(len(rows), 1, dtype=torch.long)
    with torch.no_grad():
        return network.eval()(**batch).logits


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_found_loaded_and_read(tmp_path, name):
    build, kind, prompt, head = KINDS[name]
    network = build()
    loaded = load_pretrained(save(network, tmp_path), "float64")
    assert (loaded.kind, loaded.adapter, loaded.revision) == (kind, False, None)
    assert loaded.reading("head") == head
    assert all(parameter.dtype == torch.float64 and parameter.requires_grad for parameter in loaded.network.parameters())
    if prompt is None:
        with pytest.raises(UserError, match="a classifier has no vocabulary to read label words from; use head mode") as caught:
            loaded.reading("prompt")
        one_line(caught)
    else:
        assert loaded.reading("prompt") == prompt
        assert loaded.network.get_output_embeddings().weight.shape[0] == 40
    if kind in ("causal", "seq2seq"):
        assert loaded.network.config.use_cache is False
    saved = network.double().state_dict()
    found = loaded.network.state_dict()
    shared = [(key, key if key in found else f"transformer.{key}") for key in saved if key in found or f"transformer.{key}" in found]
    assert shared and len(shared) >= len(saved) - 8  # BertForPreTraining has 8 tensors that a masked LM has not
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
        (BERT, "causal", "a bert model, which has no causal-language-model head; it can be loaded as masked or classifier"),
        (BERT, "seq2seq", "a bert model, which has no sequence-to-sequence head"),
        (T5, "masked", "a t5 model, which has no masked-language-model head; it can be loaded as seq2seq"),
        (BART, "classifier", "an encoder-decoder, which is not read as a classifier; use kind seq2seq and head mode"),
        (lambda: BART(hf.BartForSequenceClassification), "auto", "not read as a classifier; use kind seq2seq and head mode"),
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
    with pytest.raises(UserError, match="needs a padding token to find a text's end; give its tokenizer a pad_token") as caught:
        load_pretrained(str(tmp_path))
    one_line(caught)


QUANTISED = {"quant_method": "bitsandbytes", "load_in_4bit": True, "_load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def quantise(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": QUANTISED}))


def test_quantised_weights_are_refused_but_for_an_adapter(tmp_path):
    base = save(GPT2(), tmp_path / "base")
    adapter = adapted(GPT2(), tmp_path / "adapter", base)
    quantise(tmp_path / "base")
    with pytest.raises(
        UserError, match=r"quantised weights, which have no gradient; use the unquantised checkpoint, or train an"
    ) as caught:
        load_pretrained(base)
    one_line(caught)
    with pytest.raises(UserError) as caught:  # beyond that check, and stopped by the library that is not installed here
        load_pretrained(str(adapter))
    assert "no gradient" not in one_line(caught) and "bitsandbytes" in str(caught.value)


def test_a_repository_s_code_is_not_run(tmp_path):
    folder = save(GPT2(), tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(stored | own))
    (tmp_path / "own.py").write_text("raise SystemExit('the code was run')")
    with pytest.raises(UserError, match="needs Python code of its own, which is never run") as caught:
        load_pretrained(folder)
    one_line(caught)
    (tmp_path / "config.json").write_text(json.dumps(stored | {"auto_map": own["auto_map"]}))
    assert load_pretrained(folder).kind == "causal"


def test_a_folder_has_no_revision_and_no_base(tmp_path):
    folder = save(GPT2(), tmp_path)
    with pytest.raises(UserError, match="is a folder, which has no revision 'main'") as caught:
        load_pretrained(folder, revision="main")
    one_line(caught)
    with pytest.raises(UserError, match="is a whole model, not an adapter; leave the base 'gpt2' out") as caught:
        load_pretrained(folder, base="gpt2")
    one_line(caught)


def adapted(network, folder, base, config=None, scale=1.0):
    """Writes an adapter with random weights and returns its folder; its config names ``base``."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4) if config is None else config
    torch.manual_seed(7)
    network = peft.get_peft_model(network, config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.copy_(1 + scale * torch.randn_like(parameter))
    network.peft_config["default"].base_model_name_or_path = base
    network.save_pretrained(folder, save_embedding_layers=False)
    return folder


ADAPTERS = {
    "lora": (GPT2, lambda: peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4), "causal", "lora_"),
    "dora": (LLAMA, lambda: peft.LoraConfig(task_type="CAUSAL_LM", r=2, use_dora=True), "causal", "lora_"),
    "ia3": (LLAMA, lambda: peft.IA3Config(task_type="CAUSAL_LM"), "causal", "ia3_"),
    "lora of t5": (T5, lambda: peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=2), "seq2seq", "lora_"),
    "lora of bert": (BERT, lambda: peft.LoraConfig(r=2, target_modules=["query", "value"]), "masked", "lora_"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_put_on_its_base(tmp_path, name):
    build, config, kind, mark = ADAPTERS[name]
    base = save(build(), tmp_path / "base")
    trained = build()
    folder = adapted(trained, tmp_path / "adapter", base, config())
    loaded = load_pretrained(str(folder), "float64")
    assert (loaded.kind, loaded.adapter, loaded.name, loaded.stored_dtype) == (kind, True, str(folder), "float32")
    assert type(loaded.network) is type(build())
    assert not loaded.network.training
    for parameter_name, parameter in loaded.network.named_parameters():
        assert parameter.requires_grad == (mark in parameter_name), parameter_name
        assert parameter.dtype == torch.float64
    rows = [[6, 7, 8, 9]]
    found = logits_of(loaded.network, rows)
    torch.testing.assert_close(found, logits_of(trained.double(), rows), rtol=1e-6, atol=1e-6)
    assert (found - logits_of(build().double(), rows)).abs().max() > 1e-3
    assert loaded.tokenizer.mask_token_id == 4


def test_the_fingerprint_is_of_the_adapter_too(tmp_path):
    base = save(GPT2(), tmp_path / "base")

    def written(name, alpha=4, scale=1.0):
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=alpha, target_modules=["c_attn", "c_fc", "c_proj"])
        return str(adapted(GPT2(), tmp_path / name, base, config, scale))

    plain = load_pretrained(base).fingerprint
    first, same, other_weights, other_scaling = written("a"), written("b"), written("c", scale=0.5), written("d", alpha=8)
    prints = [load_pretrained(folder).fingerprint for folder in (first, other_weights, other_scaling)]
    assert len({plain, *prints}) == 4
    assert load_pretrained(same).fingerprint == prints[0]
    network = load_pretrained(first).network
    network.peft_config["default"].use_rslora = True
    assert fingerprint(network) != prints[0]
    network.peft_config["default"].use_rslora = False
    assert fingerprint(network) == prints[0]
    network.transformer.h[0].attn.c_attn.set_scale("default", 3.0)
    assert fingerprint(network) != prints[0]


def test_the_fingerprint_says_which_adapter_is_on():
    network = peft.get_peft_model(GPT2(), peft.LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False))
    network.add_adapter("other", peft.LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False))
    first = fingerprint(network)
    network.set_adapter("other")
    second = fingerprint(network)
    with network.disable_adapter():
        off = fingerprint(network)
    assert len({first, second, off}) == 3
    network.set_adapter("default")
    assert fingerprint(network) == first


def test_a_merged_adapter_is_refused():
    network = peft.get_peft_model(GPT2(), peft.LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False))
    network.merge_adapter()
    with pytest.raises(UserError, match=r"the adapter is merged.*call unmerge_adapter\(\) first"):
        ParameterFilter().select(PromptModel(network, [0, 1]))
    network.unmerge_adapter()
    assert ParameterFilter().select(PromptModel(network, [0, 1]))


def test_untying_keeps_what_is_trained():
    network = GPT2().requires_grad_(False)
    untie_head(network)
    assert not network.get_output_embeddings().weight.requires_grad


def test_a_mixture_of_experts_loads_in_float64(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32}
    mixture = hf.MixtralForCausalLM(hf.MixtralConfig(vocab_size=31, num_local_experts=3, **sizes)).eval()
    loaded = load_pretrained(save(mixture, tmp_path), "float64")
    rows = [[6, 7, 8, 9]]
    torch.testing.assert_close(logits_of(loaded.network, rows), logits_of(mixture, rows).double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("build", [LLAMA, BERT])
def test_a_classifier_s_adapter_brings_its_head(tmp_path, build, classes):
    classifier = hf.LlamaForSequenceClassification if build is LLAMA else hf.BertForSequenceClassification
    base = save(build(hf.LlamaModel if build is LLAMA else hf.BertModel), tmp_path / "base")
    trained = build(classifier, num_labels=classes)
    if build is BERT:
        trained.bert.load_state_dict(load_pretrained(base, kind="classifier", needs_head=False).network.bert.state_dict())
    else:
        trained.model.load_state_dict(load_pretrained(base, needs_head=False).network.model.state_dict())
    folder = str(adapted(trained, tmp_path / "adapter", base, peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4)))
    loaded = load_pretrained(folder)
    assert (loaded.kind, loaded.network.config.num_labels) == ("classifier", classes)
    trainable = {name for name, parameter in loaded.network.named_parameters() if parameter.requires_grad}
    assert [name for name in trainable if "modules_to_save" in name]
    assert all("lora_" in name or "modules_to_save" in name for name in trainable)
    rows = [[6, 7, 8, 9]]
    torch.testing.assert_close(logits_of(loaded.network, rows), logits_of(trained, rows), rtol=1e-5, atol=1e-5)
    assert load_pretrained(folder).fingerprint == loaded.fingerprint


def test_where_the_base_is_looked_for(tmp_path, monkeypatch):
    base = save(GPT2(), tmp_path / "models" / "base")
    expected = load_pretrained(str(adapted(GPT2(), tmp_path / "models" / "adapter", base))).fingerprint
    beside = str(adapted(GPT2(), tmp_path / "models" / "beside", "base"))
    assert load_pretrained(beside).fingerprint == expected
    below = str(adapted(GPT2(), tmp_path / "below", "models/base"))
    monkeypatch.chdir(tmp_path)
    assert load_pretrained(below).fingerprint == expected
    gone = str(adapted(GPT2(), tmp_path / "gone", "/no/such/base"))
    with pytest.raises(
        UserError, match=r"the base '/no/such/base' of '.*gone' is not a folder with a config.json; give the base"
    ) as caught:
        load_pretrained(gone)
    one_line(caught)
    assert load_pretrained(gone, base=base).fingerprint == expected
    on_hub = str(adapted(GPT2(), tmp_path / "on-hub", "owner/no-such-base"))
    with pytest.raises(UserError, match=r"the base 'owner/no-such-base' of '.*on-hub' is no folder here and not in the cache") as caught:
        load_pretrained(on_hub)
    one_line(caught)
    unnamed = str(adapted(GPT2(), tmp_path / "unnamed", None))
    with pytest.raises(UserError, match="names no base model; give one, with base") as caught:
        load_pretrained(unnamed)
    one_line(caught)
    with pytest.raises(UserError, match="is a folder, which has no revision 'main'") as caught:
        load_pretrained(beside, revision="main")
    one_line(caught)


def test_a_base_that_is_an_adapter_and_an_adapter_beside_a_whole_model(tmp_path):
    base = save(GPT2(), tmp_path / "base")
    mixed = tmp_path / "mixed"
    save(GPT2(), mixed)
    adapted(GPT2(), mixed, base)
    with pytest.raises(UserError, match="holds a whole model beside the adapter; say which is the base") as caught:
        load_pretrained(str(mixed))
    one_line(caught)
    on_mixed = adapted(GPT2(), tmp_path / "on-mixed", str(mixed))
    with pytest.raises(UserError, match="is an adapter itself; merge it into its own base first") as caught:
        load_pretrained(str(on_mixed))
    one_line(caught)
    assert load_pretrained(str(mixed), base=base).adapter


def test_the_tokenizer_of_an_adapter_s_folder_goes_first(tmp_path):
    base = save(GPT2(), tmp_path / "base")
    folder = adapted(GPT2(), tmp_path / "adapter", base)
    assert load_pretrained(str(folder)).tokenizer.eos_token is None
    own = hf.AutoTokenizer.from_pretrained(base)
    own.eos_token = "z"
    own.save_pretrained(folder)
    assert load_pretrained(str(folder)).tokenizer.eos_token == "z"


@pytest.mark.parametrize("method", [peft.PromptTuningConfig, peft.PrefixTuningConfig, peft.PromptEncoderConfig])
def test_prompt_learning_is_refused(tmp_path, method):
    base = save(GPT2(), tmp_path / "base")
    folder = adapted(GPT2(), tmp_path / "adapter", base, method(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(UserError, match=r"is one of prompt learning \(.*_TUNING\), which changes no layer; use LoRA") as caught:
        load_pretrained(str(folder))
    one_line(caught)


def test_an_adapter_s_pickle_is_never_read(tmp_path, monkeypatch):
    base = save(GPT2(), tmp_path / "base")
    folder = adapted(GPT2(), tmp_path / "adapter", base)
    weights = folder / "adapter_model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    (folder / "adapter_model.bin").write_bytes(b"a pickle")
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: pytest.fail("a pickle was read"))
    with pytest.raises(UserError, match=r"only a pickle, adapter_model.bin, which is never read; save it again") as caught:
        load_pretrained(str(folder))
    one_line(caught)
    weights.write_bytes(kept)
    assert load_pretrained(str(folder)).adapter
    weights.write_bytes(kept[:-10])
    with pytest.raises(UserError, match=r"cannot read the adapter_model.safetensors") as caught:
        load_pretrained(str(folder))
    one_line(caught)


def test_an_adapter_that_does_not_fit(tmp_path):
    base = save(GPT2(), tmp_path / "base")
    folder = str(adapted(GPT2(), tmp_path / "adapter", base))
    shallow = seeded(lambda: hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, n_positions=20)))
    deep = seeded(lambda: hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=40, n_embd=8, n_layer=3, n_head=2, n_positions=20)))
    wide = seeded(lambda: hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=20)))
    cases = [
        (shallow, "does not fit its base, .* no place for"),
        (deep, "it lacks .*h.2"),
        (wide, "cannot put"),
        (LLAMA(), "cannot put|fit"),
    ]
    for number, (network, message) in enumerate(cases):
        with pytest.raises(UserError, match=message) as caught:
            load_pretrained(folder, base=save(network, tmp_path / str(number)))
        one_line(caught)


def test_an_adapter_without_peft_installed(tmp_path, monkeypatch):
    base = save(GPT2(), tmp_path / "base")
    folder = adapted(GPT2(), tmp_path / "adapter", base)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"needs PEFT to be read; install it with pip install 'lmntk\[peft\]'") as caught:
        load_pretrained(str(folder))
    one_line(caught)


def test_an_adapter_s_config_that_is_no_config(tmp_path):
    folder = adapted(GPT2(), tmp_path / "adapter", save(GPT2(), tmp_path / "base"))
    stored = json.loads((folder / "adapter_config.json").read_text())
    for content in ("not json", "[]", "{}", json.dumps(stored | {"peft_type": "NOTHING"})):
        (folder / "adapter_config.json").write_text(content)
        with pytest.raises(UserError, match=r"cannot read the adapter_config.json") as caught:
            load_pretrained(str(folder))
        one_line(caught)
    (folder / "adapter_config.json").write_text(json.dumps(stored | {"task_type": "TOKEN_CLS"}))
    with pytest.raises(UserError, match=r"is for the task TOKEN_CLS, not one of CAUSAL_LM, SEQ_2_SEQ_LM, SEQ_CLS") as caught:
        load_pretrained(str(folder))
    one_line(caught)
