"""DeBERTa's relative positions in a batch: every setting against plain autograd, and nothing left behind."""

from __future__ import annotations

import itertools

import pytest
import torch
import transformers as hf
from model_oracle import alone, oracle, pad_id, random_texts
from model_row import Row
from model_table import DEBERTA, TABLE, deberta, lora
from torch import nn

from lmntk.prompts.batching import collate
from lmntk.tangents.capture import capture
from lmntk.tangents.coverage import check_coverage
from lmntk.tangents.factors import OuterFactors, RowFactors
from lmntk.tangents.relative_positions import is_disentangled, is_distance_owner, relative_positions_watched
from lmntk.tangents.terms import NO_ROW
from lmntk.tangents.watching import Watch

NO_PLACES = {
    "position_biased_input": False,
    "type_vocab_size": 0,
}  # so that padding on the left changes nothing
SETTINGS = [
    {"pos_att_type": kinds, "share_att_key": shared, "position_buckets": buckets, "norm_rel_ebd": norm}
    for kinds, shared, buckets, norm in itertools.product(
        (["c2p"], ["p2c"], ["p2c", "c2p"]), (True, False), (4, -1), ("layer_norm", "none")
    )
]
LENGTHS = [6, 3, 9]


def assert_right(row, side="right", checkpointing=False, logits=2, lengths=LENGTHS):
    """All texts run in one batch, no parameter goes by autograd, and every gradient equals autograd's; returns the tangents."""
    model = row.model(logits)
    trainable = row.parameters.select(model)
    texts = random_texts(row, lengths, 1)
    expected = oracle(model, alone(model, texts), trainable)
    if checkpointing:
        model.network.gradient_checkpointing_enable()
        model.train()
    batch = collate(texts, pad_id(model), side)
    coverage = check_coverage(model, batch, trainable)
    assert (coverage.batched, coverage.fallback) == (True, ())
    tangents = capture(model, batch, trainable)
    for name, jacobian in expected.items():
        if name in tangents.factors:
            found = tangents.factors[name].gradients(trainable[name].shape).flatten(2).transpose(0, 1)
            torch.testing.assert_close(found, jacobian, rtol=1e-9, atol=1e-12)
        else:
            assert not jacobian.any()
    return tangents


@pytest.mark.parametrize(
    "settings", SETTINGS, ids=lambda s: "-".join(map(str, (*s["pos_att_type"], *list(s.values())[1:])))
)
def test_every_setting_equals_plain_autograd(settings):
    assert_right(
        deberta(settings=DEBERTA | NO_PLACES | settings),
        side="left" if settings["share_att_key"] else "right",
    )


@pytest.mark.parametrize("shared", [True, False])
def test_gradient_checkpointing_switched_on_changes_nothing(shared):
    assert_right(deberta(settings=DEBERTA | NO_PLACES | {"share_att_key": shared}), checkpointing=True)


@pytest.mark.parametrize("buckets", [-1, 2])
def test_texts_longer_than_the_table_reaches(buckets):
    assert_right(
        deberta(
            settings=DEBERTA
            | NO_PLACES
            | {"share_att_key": True, "max_relative_positions": 4, "position_buckets": buckets}
        )
    )


@pytest.mark.parametrize("length", [1, 2, 7])
def test_one_text_alone(length):
    assert_right(deberta(settings=DEBERTA | {"share_att_key": True}), lengths=[length], logits=3)


@pytest.mark.parametrize("targets", [["query_proj", "value_proj"], ["pos_key_proj", "query_proj"]])
def test_low_rank_layers_on_the_projections_of_the_table(targets):
    shared = "pos_key_proj" not in targets
    assert_right(deberta(settings=DEBERTA | {"share_att_key": shared}, adapter=lora(target_modules=targets)))


def test_rows_that_learn_alone():
    """A linear layer that asks for its own gradient, as in a fallback of one text, still gets it."""
    row = deberta(settings=DEBERTA | {"share_att_key": True})
    model = row.model(2)
    trainable = row.parameters.select(model)
    batch = alone(model, random_texts(row, [6], 1))[0]
    names = [
        name
        for name in trainable
        if name.endswith(("query_proj.weight", "key_proj.bias", "rel_embeddings.weight"))
    ]
    assert len(names) == 5
    expected = oracle(model, [batch], trainable)
    tangents = capture(model, batch, trainable, names)
    for name in trainable:
        found = tangents.factors[name].gradients(trainable[name].shape).flatten(2).transpose(0, 1)
        torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-12)


def test_a_table_of_biases_that_learns_alone():
    row = TABLE["t5"]
    model = row.model(2)
    trainable = row.parameters.select(model)
    batch = alone(model, random_texts(row, [6], 1))[0]
    names = [name for name in trainable if name.endswith("relative_attention_bias.weight")]
    assert len(names) == 2
    expected = oracle(model, [batch], trainable)
    tangents = capture(model, batch, trainable, names)
    for name in names:
        found = tangents.factors[name].gradients(trainable[name].shape).flatten(2).transpose(0, 1)
        torch.testing.assert_close(found, expected[name], rtol=1e-6, atol=1e-9)


def test_a_layer_whose_forward_somebody_wrapped():
    row = deberta(settings=DEBERTA | {"share_att_key": True})
    model = row.model(2)
    layer = model.network.deberta.encoder.layer[0].attention.self.query_proj
    trainable = row.parameters.select(model)
    batch = collate(random_texts(row, LENGTHS, 1), pad_id(model))
    plain = capture(model, batch, trainable)
    calls = []
    layer.forward = lambda x: calls.append(len(x)) or nn.Linear.forward(layer, x)
    wrapped = capture(model, batch, trainable)
    assert calls == [3, 3]
    for name, factors in plain.factors.items():
        shape = trainable[name].shape
        torch.testing.assert_close(
            wrapped.factors[name].gradients(shape), factors.gradients(shape), rtol=1e-10, atol=1e-13
        )


def test_by_autograd_at_its_module_in_a_batch():
    row = deberta(settings=DEBERTA | {"share_att_key": False})
    model = row.model(2)
    trainable = row.parameters.select(model)
    texts = random_texts(row, LENGTHS, 1)
    names = [
        name
        for name in trainable
        if name.endswith(("pos_key_proj.weight", "encoder.LayerNorm.weight", "rel_embeddings.weight"))
    ]
    assert len(names) == 4
    expected = oracle(model, alone(model, texts), trainable)
    tangents = capture(model, collate(texts, pad_id(model)), trainable, names)
    for name in names:
        found = tangents.factors[name].gradients(trainable[name].shape).flatten(2).transpose(0, 1)
        torch.testing.assert_close(found, expected[name], rtol=1e-9, atol=1e-12)


def test_memory_grows_with_the_texts_and_not_with_the_table():
    large = Row(
        hf.DebertaV2Config,
        DEBERTA | {"share_att_key": False, "max_position_embeddings": 512},
        hf.DebertaV2ForMaskedLM,
        noise={},
    )
    factors = assert_right(large).factors
    table = factors["network.deberta.encoder.rel_embeddings.weight"]
    projection = factors["network.deberta.encoder.layer.0.attention.self.pos_key_proj.weight"]
    assert isinstance(table, RowFactors) and isinstance(projection, OuterFactors)
    assert table.ids.shape[1] <= 2 * max(LENGTHS)
    assert projection.inputs.shape[1] <= 2 * max(LENGTHS)


def test_texts_of_different_lengths_have_the_same_rows_in_the_same_slots():
    """The table's rows lie outwards from distance 0, so that blocks of its kernel are one matrix product."""
    table = assert_right(deberta(settings=DEBERTA | {"share_att_key": True})).factors[
        "network.deberta.encoder.rel_embeddings.weight"
    ]
    assert isinstance(table, RowFactors)
    assert all(set(slot.tolist()) - {NO_ROW} == {int(slot.max())} for slot in table.ids.T)


def test_the_parts_are_found_by_what_they_have():
    model = TABLE["deberta-shared-keys"].model(1)
    assert [type(module).__name__ for module in model.modules() if is_distance_owner(module)] == [
        "DebertaV2Encoder"
    ]
    assert sum(is_disentangled(module) for module in model.modules()) == 2
    for name in ("bert", "t5"):
        assert not any(is_disentangled(m) or is_distance_owner(m) for m in TABLE[name].model(1).modules())


@pytest.mark.parametrize("place", ["projection", "norm", "score"])
def test_all_is_left_as_found_after_an_exception(place, monkeypatch):
    row = TABLE["deberta-shared-keys"]
    model = row.model(1)
    encoder = model.network.deberta.encoder
    attention = encoder.layer[1].attention.self
    before = [
        (sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks), getattr(m, "pos_ebd_size", 0))
        for m in model.modules()
    ]

    def fail(*arguments, **keywords):  # the projection of the table, which is one, not that of three texts
        if place != "projection" or len(arguments[1][0]) == 1:
            raise KeyboardInterrupt

    if place == "score":
        monkeypatch.setattr(torch, "gather", fail)
    else:
        handle = (
            attention.query_proj if place == "projection" else encoder.LayerNorm
        ).register_forward_pre_hook(fail)
    batch = collate(random_texts(row, LENGTHS, 1), pad_id(model))
    with pytest.raises(KeyboardInterrupt):
        capture(model, batch, row.parameters.select(model))
    if place != "score":
        handle.remove()
    after = [
        (sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks), getattr(m, "pos_ebd_size", 0))
        for m in model.modules()
    ]
    assert after == before
    assert attention.num_attention_heads == 2


def test_a_method_that_was_replaced_on_the_instance_is_put_back():
    model = TABLE["deberta-shared-keys"].model(1)
    encoder = model.network.deberta.encoder
    encoder.get_rel_embedding = own = lambda: type(encoder).get_rel_embedding(encoder)
    with relative_positions_watched(model, Watch(2), set(model.parameters())):
        assert encoder.get_rel_embedding is not own
    assert encoder.get_rel_embedding is own


def test_an_attention_without_an_encoder_that_is_watched_goes_one_text_at_a_time():
    """The table's batch axis starts at the encoder; an attention that is given a table of two axes is left alone."""

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            network = deberta(settings=DEBERTA | {"share_att_key": True}).build()
            self.words = network.deberta.embeddings.word_embeddings
            self.attention = network.deberta.encoder.layer[0].attention.self
            self.positions = nn.Parameter(torch.randn(48, 8, dtype=torch.float64))

        def forward(self, batch):
            ids = batch["input_ids"]
            mask = torch.ones(len(ids), 1, ids.shape[1], ids.shape[1])
            return self.attention(self.words(ids), mask, rel_embeddings=self.positions)[0][:, 0, :2]

    model = Bare()
    batch = {"input_ids": torch.tensor([[5, 7, 9], [8, 6, 5]])}
    coverage = check_coverage(model, batch, dict(model.named_parameters()))
    assert not coverage.batched
    assert coverage.fallback == ("positions",)
