"""Models that are not read, padded or batched as others are: right all the same, or refused, and never in silence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers as hf
from model_oracle import alone, flat, oracle, pad_id, random_texts
from model_row import SMALL, Row
from model_table import ENCODER_DECODER, GROUPED, TABLE
from torch import nn

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.start_up import check_reading, check_texts
from lmntk.engine.stream import stream_kernels, whole
from lmntk.models.invariants import InvariantError
from lmntk.prompts.batching import collate

fnet = Row(
    hf.FNetConfig, SMALL | {"tpu_short_seq_length": 24}, hf.FNetForMaskedLM, token_types=True, noise={}
)
big_bird = Row(
    hf.BigBirdConfig,
    SMALL
    | {
        "attention_type": "block_sparse",
        "block_size": 2,
        "num_random_blocks": 1,
        "max_position_embeddings": 64,
    },
    hf.BigBirdForMaskedLM,
    token_types=True,
)
pegasus = Row(
    hf.PegasusConfig, ENCODER_DECODER, hf.PegasusForConditionalGeneration, reading="decoder", noise={}
)
llama4 = Row(
    hf.Llama4TextConfig,
    GROUPED
    | {"intermediate_size_mlp": 12, "num_local_experts": 2, "attention_chunk_size": 8, "moe_layers": []},
    hf.Llama4ForCausalLM,
    reading="last",
    tolerance=1e-6,
    noise={},
)
marian = Row(hf.MarianConfig, ENCODER_DECODER, hf.MarianMTModel, reading="decoder", noise={})


def kernel_of(row, model, lengths, **settings):
    texts = random_texts(row, lengths, 1)
    work = KernelWork(
        model, {"all": texts}, [("all", "all")], ["sgd"], row.parameters.select(model), pad_id(model)
    )
    return texts, stream_kernels(work, Settings(**settings))


def agrees(row, outputs, lengths=(3, 7, 5, 9)):
    """The kernel is plain autograd's on the user's own network, each text alone; returns how it was captured."""
    model = row.model(outputs).requires_grad_(True)  # sinusoidal tables do not, but are among the parameters
    trainable = row.parameters.select(model)
    texts = random_texts(row, lengths, 1)
    jacobian = flat(oracle(model, alone(model, texts), trainable))
    expected = torch.einsum("ncp,mdp->ncmd", jacobian, jacobian)
    coverages = []
    for size in (1, 4):
        _, streamed = kernel_of(row, row.model(outputs), lengths, batch_size=size)
        found = whole(streamed.kernels["all", "all"]["sgd"])
        assert float((found - expected).norm() / expected.norm()) < row.tolerance, size
        coverages.append(streamed.coverage)
    return coverages[-1]


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("row", [pegasus, marian], ids=["pegasus", "marian"])
def test_tables_that_are_computed_without_a_gradient(row, outputs):
    coverage = agrees(row, outputs)
    assert coverage.batched
    assert (
        not coverage.unreached and not coverage.unused
    )  # frozen by their family, they are no parameters that count
    model = row.model(outputs)
    frozen = {name.split(".", 2)[2] for name, p in model.named_parameters() if not p.requires_grad}
    assert {"encoder.embed_positions.weight", "decoder.embed_positions.weight"} <= frozen


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("head_mode", [False, True])
def test_a_text_model_that_calls_itself_its_decoder(outputs, head_mode):
    coverage = agrees(replace(llama4, head_mode=head_mode), outputs)
    assert coverage.reading is not None and coverage.reading < 1e-6


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_model_that_mixes_padding_in_goes_one_text_at_a_time(outputs):
    coverage = agrees(fnet, outputs)
    assert not coverage.batched
    assert "one text at a time" in coverage.describe() and "padding" in coverage.describe()


def test_long_texts_of_a_sparse_attention():
    """A text is padded to whole blocks, and the padding is attended to in part: alone each is what it is."""
    coverage = agrees(big_bird, 1, (23, 30, 27, 33))
    assert not coverage.batched and "padding" in coverage.describe()


def test_a_model_that_a_short_text_changes_is_refused():
    """BigBird goes over to full attention at the first short text, for good."""
    model = big_bird.model(1)
    texts = random_texts(big_bird, [3, 40], 1)
    with pytest.raises(
        InvariantError, match=r"two passes of one text differ by .* changes from text to text"
    ) as caught:
        check_texts(model, dict(model.named_parameters()), texts, lambda some: collate(some, 0))
    assert caught.value.invariant == "repeatable"


READ_AT = {
    "bert": "the label words' logits",
    "gpt2": "the label words' logits",
    "llama": "the label words' logits",
    "t5": "the label words' logits",
    "bert-classifier": "the classifier's own logits",
    "gpt2-classifier": "the classifier's own logits",
    "bert-head-mode": "the hidden state",
    "gpt2-head-mode": "the hidden state",
    "bert-mean": "the mean hidden state",
    "bert-pooled": "the pooler's output",
    "gpt2-lora": "the label words' logits",
}


class Elsewhere(nn.Module):
    """A network that its user calls, and that does something with the tokens first."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, input_ids, **keywords):
        return self.network(input_ids=input_ids.flip(1), **keywords)


@pytest.mark.parametrize("name", READ_AT)
def test_every_kind_is_read_as_its_user_calls_it(name):
    row = TABLE[name]
    model = row.model(1)
    texts = alone(model, random_texts(row, [7, 3], 1))
    error, scale = check_reading(model, texts)
    assert error < 1e-6 and scale > 0
    model.users = (Elsewhere(model.users[0]),)
    with pytest.raises(InvariantError, match=rf"{READ_AT[name]}.* of Elsewhere differ by") as caught:
        check_reading(model, texts)
    assert caught.value.invariant == "reading"
