"""Which parameters a filter leaves."""

from __future__ import annotations

import pytest
from model_table import FAMILIES, TABLE

from lmntk.errors import UserError
from lmntk.models.filters import ParameterFilter
from lmntk.models.logit_model import untie_head


@pytest.mark.parametrize("name", [name for name in FAMILIES if TABLE[name].adapter is None])
def test_everything_is_every_parameter_once(name):
    model = TABLE[name].model(2)
    chosen = ParameterFilter().select(model)
    assert len({id(p) for p in chosen.values()}) == len(chosen)
    assert {id(p) for p in chosen.values()} == {id(p) for p in model.parameters()}
    assert model.network.get_input_embeddings().weight in set(chosen.values())


def test_without_embeddings_a_tied_decoder_goes_and_an_untied_one_stays():
    model = TABLE["bert"].model(2)
    decoder = model.network.get_output_embeddings().weight
    chosen = set(ParameterFilter(embeddings=False).select(model).values())
    assert decoder not in chosen
    untie_head(model.network)
    decoder = model.network.get_output_embeddings().weight
    names = ParameterFilter(embeddings=False).select(model)
    assert any(p is decoder for p in names.values())
    assert [n for n in names if "embeddings" in n] == [
        "network.bert.embeddings.LayerNorm.weight",
        "network.bert.embeddings.LayerNorm.bias",
    ]


def test_without_head_only_the_encoder_stays():
    model = TABLE["bert"].model(2)
    names = ParameterFilter(head=False).select(model)
    assert all(name.startswith("network.bert.") for name in names)
    assert {id(p) for p in names.values()} == {id(p) for p in model.network.bert.parameters()}
    head = TABLE["bert-head-mode"].model(2)
    assert set(ParameterFilter().select(head)) - set(ParameterFilter(head=False).select(head)) == {
        "head.weight",
        "head.bias",
    }


def test_biases_only():
    model = TABLE["bert"].model(2)
    names = ParameterFilter(biases_only=True).select(model)
    assert len(names) == 20
    assert all(name.endswith(".bias") for name in names)


def test_patterns():
    model = TABLE["bert"].model(2)
    chosen = ParameterFilter(include=("*.layer.1.*",), exclude=("*.bias",)).select(model)
    assert len(chosen) == 8
    assert all(".layer.1." in name and name.endswith(".weight") for name in chosen)


@pytest.mark.parametrize("wrong", [{"include": ("*.layer.7.*",)}, {"exclude": ("nothing",)}])
def test_a_pattern_that_matches_nothing(wrong):
    with pytest.raises(UserError, match="no name matches") as caught:
        ParameterFilter(**wrong).select(TABLE["bert"].model(2))
    assert "\n" not in str(caught.value)


def test_nothing_left():
    with pytest.raises(UserError, match=r"nothing is left after biases only; only \*\.query\.weight"):
        ParameterFilter(biases_only=True, include=("*.query.weight",)).select(TABLE["bert"].model(2))


def test_words_and_data():
    assert ParameterFilter().describe() == "all parameters"
    chosen = ParameterFilter(embeddings=False, head=False, include=("a*",), exclude=("ab",))
    assert chosen.describe() == "without embeddings; without head; only a*; not ab"
    assert ParameterFilter(**chosen.as_dict()) == chosen


@pytest.mark.parametrize("name", [name for name in TABLE if TABLE[name].adapter is not None])
def test_of_an_adapter_only_what_it_trains_counts(name):
    row = TABLE[name]
    model = row.model(2)
    names = set(ParameterFilter().select(model))
    trained = {n for n, p in model.network.named_parameters() if p.requires_grad}
    own_head = {"head.weight", "head.bias"} if row.head_mode else set()
    assert names == {f"network.{n}" for n in trained} | own_head
    assert all(any(mark in n for mark in ("lora_", "ia3_l", "modules_to_save", "head.")) for n in names)


def test_a_frozen_adapter():
    model = TABLE["gpt2-lora"].model(2)
    model.requires_grad_(False)
    with pytest.raises(UserError, match=r"the adapter is frozen.*is_trainable=True"):
        ParameterFilter().select(model)
