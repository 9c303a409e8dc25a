"""Models from folders: loaded as they were saved, or a one-line error that says what is wrong."""

from __future__ import annotations

import json
from functools import lru_cache

import pytest
import torch
import transformers as hf
from model_table import LABELS, TABLE, plain_logits, random_texts
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from lmntk.errors import UserError
from lmntk.models.loading import fingerprint, load_masked_lm
from lmntk.models.logit_model import HeadModel, PromptModel, untie_head
from lmntk.prompts.batching import collate


@lru_cache
def tokenizer():
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def save(network, folder):
    network.save_pretrained(folder)
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
    loaded = load_masked_lm(folder, "float64")
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
    assert load_masked_lm(folder, attention="eager").network.config._attn_implementation == "eager"
    assert load_masked_lm(folder, attention="sdpa").network.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_computed_with_in_full(tmp_path, stored):
    network = TABLE["roberta"].build(dtype=stored)
    loaded = load_masked_lm(save(network, tmp_path))
    assert loaded.stored_dtype == str(stored).removeprefix("torch.")
    for (name, parameter), kept in zip(loaded.network.named_parameters(), network.parameters(), strict=True):
        assert parameter.dtype == torch.float32, name
        assert torch.equal(parameter, kept.float()), name


def test_a_name_that_looks_like_a_folder_and_is_none(tmp_path):
    for name in (str(tmp_path / "nothing"), str(tmp_path), "./nowhere"):
        with pytest.raises(UserError, match=r"not a folder with a config\.json") as caught:
            load_masked_lm(name)
        assert name in one_line(caught)


def test_a_folder_without_weights(tmp_path):
    folder = save(TABLE["bert"].build(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot load") as caught:
        load_masked_lm(folder)
    one_line(caught)


def test_pickled_weights_are_not_read(tmp_path):
    network = TABLE["bert"].build()
    folder = save(network, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot load") as caught:
        load_masked_lm(folder)
    one_line(caught)


def test_a_config_that_is_no_config(tmp_path):
    folder = save(TABLE["bert"].build(), tmp_path)
    for content in ("{}", "not json", '{"model_type": "no-such-model"}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match="cannot load") as caught:
            load_masked_lm(folder)
        one_line(caught)


def test_a_truncated_weights_file(tmp_path):
    folder = save(TABLE["bert"].build(), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot load") as caught:
        load_masked_lm(folder)
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
        load_masked_lm(folder)
    assert missing in one_line(caught)


def test_weights_that_lack_a_layer(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save(TABLE["bert"].build(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"bert\.encoder\.layer\.1\.output\.dense\.weight") as caught:
        load_masked_lm(folder)
    assert "incomplete" in one_line(caught)


def test_weights_that_do_not_fit_the_config(tmp_path):
    folder = save(TABLE["bert"].build(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 20}))
    with pytest.raises(UserError, match="cannot load") as caught:
        load_masked_lm(folder)
    one_line(caught)


def test_a_dtype_that_is_none(tmp_path):
    with pytest.raises(UserError, match="dtype: 'int8' is not one of float32, float64"):
        load_masked_lm(str(tmp_path), "int8")


def test_a_decoder_model_is_refused(tmp_path):
    config = hf.GPT2Config(vocab_size=37, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    folder = save(hf.GPT2LMHeadModel(config), tmp_path)
    with pytest.raises(UserError, match="gpt2 model, which has no masked-language-model head") as caught:
        load_masked_lm(folder)
    one_line(caught)


def test_the_fingerprint_is_of_the_weights(tmp_path):
    first, same, other = TABLE["bert"].build(0), TABLE["bert"].build(0), TABLE["bert"].build(0)
    assert fingerprint(first) == fingerprint(same)
    with torch.no_grad():
        other.bert.encoder.layer[1].output.dense.weight[3, 2] += 1e-12
    assert fingerprint(first) != fingerprint(other)
    assert fingerprint(first) != fingerprint(TABLE["bert"].build(0, torch.float32))
    folder = save(first, tmp_path / "a")
    loaded = load_masked_lm(folder, "float64")
    assert loaded.fingerprint == load_masked_lm(save(same, tmp_path / "b"), "float64").fingerprint
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

    with pytest.raises(UserError, match="no linear decoder") as caught:
        PromptModel(Wrapped(), LABELS)
    one_line(caught)
