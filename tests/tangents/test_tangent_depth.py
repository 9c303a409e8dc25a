"""The backward pass ends at the lowest parameter that counts: what lies below costs its forward pass alone."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from model_oracle import alone, oracle, pad_id, random_texts
from model_table import FAMILIES, TABLE
from torch.utils.flop_counter import FlopCounterMode

from lmntk.models.filters import ParameterFilter
from lmntk.prompts.batching import collate
from lmntk.tangents.capture import capture
from lmntk.tangents.coverage import check_coverage

DEPTHS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "decoder_layers", "encoder_layers")
DEEP = [name for name in FAMILIES if name != "albert"]  # its layers are one


def deep(name, layers=6):
    """Returns a row of so many layers, in place of two."""
    row = TABLE[name]
    return replace(row, settings=row.settings | {key: layers for key in DEPTHS if key in row.settings})


def last_block(names):
    """Returns the names of a network's last block; of an encoder and a decoder, the decoder's."""
    numbers = {name: [int(each) for each in re.findall(r"\.(\d+)\.", name)][:1] for name in names}
    decoder = [name for name in names if ".decoder.block." in name or ".decoder.layers." in name]
    blocks = {name: numbers[name] for name in decoder or names if numbers[name]}
    return [name for name in blocks if blocks[name] == max(blocks.values())]


def operations(body):
    with FlopCounterMode(display=False) as counter:
        body()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "embeddings_ask"), [*((name, False) for name in DEEP), ("bert", True), ("llama", True)]
)
def test_the_last_block_costs_half_a_forward_pass_more_at_most(name, embeddings_ask):
    row = deep(name)
    model = row.model(1)
    trainable = row.parameters.select(model)
    chosen = {each: trainable[each] for each in last_block(trainable)}
    batch = collate(random_texts(row, [9, 9], 1), pad_id(model))
    model.prepare(batch)
    with torch.no_grad():
        forward = operations(lambda: model(batch))
    if embeddings_ask:
        model.network.enable_input_require_grads()
    assert operations(lambda: capture(model, batch, chosen)) <= 1.5 * forward
    assert operations(lambda: capture(model, batch, trainable)) > 1.5 * forward


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_block_has_the_same_factors_alone_as_among_all(name):
    row = TABLE[name]
    model = row.model(2)
    trainable = row.parameters.select(model)
    batch = collate(random_texts(row, [6, 3], 1), pad_id(model))
    fallback = check_coverage(model, batch, trainable).fallback
    chosen = {each: trainable[each] for each in last_block(trainable)}
    assert chosen
    among, alone = (capture(model, batch, names, fallback).factors for names in (trainable, chosen))
    assert set(alone) == set(among) & set(chosen)
    for each in alone:
        shape = trainable[each].shape
        one, other = (factors[each].gradients(shape) for factors in (alone, among))
        torch.testing.assert_close(one, other, rtol=row.tolerance, atol=row.tolerance)


@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("name", ["t5", "umt5"])
def test_a_table_of_biases_for_one_token_has_no_batch_axis_to_be_given(name, embeddings):
    row = TABLE[name]
    model = row.model(2)
    trainable = ParameterFilter(embeddings=embeddings).select(model)
    texts = [replace(text, decoder_ids=(2,), read_position=0) for text in random_texts(row, [6, 3], 1)]
    batch = collate(texts, pad_id(model))
    tangents = capture(model, batch, trainable)
    expected = oracle(model, alone(model, texts), trainable)
    for each, factors in tangents.factors.items():
        found = factors.gradients(trainable[each].shape).flatten(2).transpose(0, 1)
        torch.testing.assert_close(found, expected[each], rtol=1e-6, atol=1e-9)
