"""Models from folders: loaded as they were saved, or a one-line error that says what is wrong."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
import transformers as hf
from model_oracle import plain_logits, random_texts
from model_row import LABELS
from model_table import TABLE
from saved_models import BERT, BERT_CONFIG, GPT2, adapted, logits_of, one_line, save, seeded
from torch import nn

from lmntk.errors import UserError
from lmntk.models.loading import fingerprint, load_pretrained
from lmntk.models.logit_model import HeadModel, PromptModel, untie_head
from lmntk.prompts.batching import collate
from lmntk.system import notices

load_masked = partial(load_pretrained, kind="masked")


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
    torch.testing.assert_close(
        plain_logits(PromptModel(loaded.network, LABELS), batch), expected, rtol=1e-6, atol=1e-6
    )
    decoder, table = (
        loaded.network.get_output_embeddings().weight,
        loaded.network.get_input_embeddings().weight,
    )
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
        (
            lambda: hf.BertForSequenceClassification(hf.BertConfig(**TABLE["bert"].settings)),
            "cls.predictions",
        ),
        (
            lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**TABLE["roberta"].settings)),
            "lm_head",
        ),
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


def test_layers_that_the_config_does_not_count_are_said(tmp_path):
    folder = save(TABLE["bert"].build(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with notices.kept() as said:
        load_masked(folder)
    (line,) = said
    assert "weights of layers that its configuration does not have, 'bert.encoder.layer.1." in line


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
        UserError,
        match="gpt2 model, which has no masked-language-model head; it can be loaded as causal or classifier",
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


@pytest.mark.parametrize(
    "name", ["bert", "roberta", "distilbert", "albert", "electra", "deberta-shared-keys", "modernbert"]
)
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


@pytest.mark.parametrize(
    "name", ["bert", "roberta", "distilbert", "albert", "electra", "deberta-shared-keys", "modernbert"]
)
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


QUANTISED = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "_load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
}


def quantise(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": QUANTISED}))


def test_quantised_weights_are_refused_but_for_an_adapter(tmp_path):
    base = save(GPT2(), tmp_path / "base")
    adapter = adapted(GPT2(), tmp_path / "adapter", base)
    quantise(tmp_path / "base")
    with pytest.raises(
        UserError,
        match=r"quantised weights, which have no gradient; use the unquantised checkpoint, or train an",
    ) as caught:
        load_pretrained(base)
    one_line(caught)
    with pytest.raises(
        UserError
    ) as caught:  # beyond that check, and stopped by the library that is not installed here
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
    with pytest.raises(
        UserError, match="is a whole model, not an adapter; leave the base 'gpt2' out"
    ) as caught:
        load_pretrained(folder, base="gpt2")
    one_line(caught)


def test_untying_keeps_what_is_trained():
    network = GPT2().requires_grad_(False)
    untie_head(network)
    assert not network.get_output_embeddings().weight.requires_grad


def test_a_mixture_of_experts_loads_in_float64(tmp_path):
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
    }
    mixture = hf.MixtralForCausalLM(hf.MixtralConfig(vocab_size=31, num_local_experts=3, **sizes)).eval()
    loaded = load_pretrained(save(mixture, tmp_path), "float64")
    rows = [[6, 7, 8, 9]]
    torch.testing.assert_close(
        logits_of(loaded.network, rows), logits_of(mixture, rows).double(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("build", "limit"),
    [
        (lambda: BERT(), 20),
        # rows of its table are counted from the padding's on: of 20 rows 18 are for tokens
        (lambda: seeded(lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**BERT_CONFIG, pad_token_id=1))), 18),
        (lambda: GPT2(), 20),
    ],
)
def test_a_text_may_be_as_long_as_the_table_of_positions_and_no_longer(tmp_path, build, limit):
    loaded = load_pretrained(save(build(), tmp_path))
    assert loaded.tokenizer.model_max_length == limit

    def passes(length):
        return loaded.network(input_ids=torch.full((1, length), 5)).logits.shape[1] == length

    assert passes(limit)
    with pytest.raises((IndexError, RuntimeError)):
        passes(limit + 1)


def test_the_tokenizers_own_limit_is_kept_where_it_is_lower(tmp_path):
    save(BERT(), tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 12}))
    assert load_pretrained(str(tmp_path)).tokenizer.model_max_length == 12
