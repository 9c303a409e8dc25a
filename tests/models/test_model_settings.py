"""Settings that a family need not have, ids without a row, weights that are no numbers: served, or one line."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from saved_models import BART, BERT, GPT2, LLAMA, T5, logits_of, one_line, save, seeded, tokenizer
from tiny_architectures import tiny_config

from lmntk import Example, HeadEncoder, PromptEncoder, UserError
from lmntk.models.configuration import setting
from lmntk.models.loading import load_pretrained
from lmntk.models.vocabulary import head_weight, is_tied, word_table
from lmntk.prompts import Limits

LIMITS = Limits(12)


def with_words(folder, *words, pad=None):
    """Adds words to a saved tokenizer, and not to the model's table of 40."""
    added = hf.AutoTokenizer.from_pretrained(folder)
    filler = [f"<{index}>" for index in range(len(added), 40)]
    added.add_tokens([*filler, *words])
    if pad is not None:
        added.add_special_tokens({"pad_token": pad})
    added.save_pretrained(folder)
    return folder


def test_a_setting_is_asked_of_the_text_too_and_has_a_default():
    class Inner:
        pad_token_id, is_decoder = 3, False

    class Outer:
        pad_token_id = None

        def get_text_config(self):
            return Inner

    assert setting(Outer(), "pad_token_id") == 3
    assert setting(Outer(), "is_decoder", True) is False
    assert setting(Outer(), "nothing", 7) == 7
    assert setting(None, "nothing", 7) == 7


@pytest.mark.parametrize("kind", ["codegen", "cpmant", "got_ocr2"])
def test_a_family_whose_configuration_names_no_padding(tmp_path, kind):
    network = hf.AutoModelForCausalLM.from_config(tiny_config(hf.CONFIG_MAPPING[kind]))
    assert not hasattr(network.config, "pad_token_id")
    assert load_pretrained(save(network, tmp_path)).pad_id == 0


def test_a_family_that_has_no_limit_of_positions(tmp_path):
    network = hf.AutoModelForCausalLM.from_config(tiny_config(hf.CONFIG_MAPPING["xlnet"]))
    assert network.config.max_position_embeddings == -1
    assert load_pretrained(save(network, tmp_path)).tokenizer.model_max_length > 10**9


def test_a_model_that_is_filed_as_sequence_to_sequence_and_is_none(tmp_path):
    network = hf.AutoModelForSeq2SeqLM.from_config(tiny_config(hf.CONFIG_MAPPING["glmasr"]))
    loaded = load_pretrained(save(network, tmp_path))
    assert (loaded.kind, loaded.reading("prompt"), loaded.decoder_start) == ("causal", "last", None)
    assert type(loaded.network) is type(network)


@pytest.mark.parametrize(("build", "own"), [(LLAMA, None), (BERT, 0), (lambda: GPT2(pad_token_id=7), 7)])
def test_padding_without_a_row_is_any_id_that_has_one(tmp_path, build, own):
    folder = with_words(save(build(), tmp_path), pad="[NEW]")
    loaded = load_pretrained(folder)
    assert loaded.tokenizer.pad_token_id == 40
    assert loaded.pad_id == (own or 0)


@pytest.mark.parametrize("where", ["text", "template", "label word", "head mode"])
def test_a_word_without_a_row(tmp_path, where):
    loaded = load_pretrained(with_words(save(LLAMA(), tmp_path), "new"))

    def encode():
        if where == "head mode":
            return HeadEncoder(loaded.tokenizer, LIMITS, reading="last").encode(Example("a new b"))
        template = "{a} new" if where == "template" else "{a} it"
        words = ["a", "new" if where == "label word" else "b"]
        encoder = PromptEncoder(loaded.tokenizer, template, words, LIMITS, reading="last")
        return encoder.encode(Example("a new" if where == "text" else "a"))

    with pytest.raises(
        UserError, match=r"new' has the id 40 .* rows for 40 words.*resize_token_embeddings"
    ) as caught:
        encode()
    one_line(caught)


def test_a_decoder_starts_as_its_library_generates(tmp_path):
    assert load_pretrained(save(BART(), tmp_path / "bart")).decoder_start == 2
    network = T5()
    network.config.decoder_start_token_id = network.generation_config.decoder_start_token_id = None
    loaded = load_pretrained(save(network, tmp_path / "t5"))
    loaded.network.config.decoder_start_token_id = None
    loaded.network.generation_config.decoder_start_token_id = None
    with pytest.raises(UserError, match="does not say with which token its decoder starts") as caught:
        _ = loaded.decoder_start
    one_line(caught)
    loaded.network.generation_config.bos_token_id = 5
    assert loaded.decoder_start == 5


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(tmp_path, number):
    network = BERT()
    with torch.no_grad():
        network.bert.encoder.layer[1].output.dense.bias[3] = number
    with pytest.raises(
        UserError, match=r"not finite, in 'bert\.encoder\.layer\.1\.output\.dense\.bias'"
    ) as caught:
        load_pretrained(save(network, tmp_path))
    one_line(caught)


def test_tables_of_the_vocabulary():
    class Without(torch.nn.Module):
        def get_input_embeddings(self):
            raise NotImplementedError

    assert is_tied(BERT()) and not is_tied(LLAMA()) and not is_tied(Without())
    assert word_table(Without()) is None and head_weight(Without()) is None
    assert word_table(seeded(GPT2)) is not None


def test_an_encoder_s_causal_twin_counts_its_own_positions(tmp_path):
    """RoBERTa's positions count from another number than 0, which the padding's id gives."""
    from lmntk.models.logit_model import PromptModel

    network = hf.RobertaForCausalLM(tiny_config(hf.RobertaConfig, is_decoder=True, pad_token_id=0)).eval()
    loaded = load_pretrained(save(network, tmp_path))
    assert loaded.kind == "causal"
    ids = torch.tensor([[6, 7, 8, 9]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "read_position": torch.tensor([3])}
    expected = logits_of(network, ids.tolist())[:, 3, [5, 7]]
    with torch.no_grad():
        torch.testing.assert_close(PromptModel(loaded.network, (5, 7))(batch), expected)
    assert tokenizer().pad_token_id == 0
