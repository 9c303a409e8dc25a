"""Capturing leaves a model as it found it, and reads what it should."""

from __future__ import annotations

import pytest
import torch
from model_oracle import pad_id, random_texts
from model_row import LABELS
from model_table import FAMILIES, MASKED, TABLE
from torch import nn

from lmntk.models.state import frozen
from lmntk.prompts.batching import collate
from lmntk.tangents.capture import capture
from lmntk.tangents.coverage import check_coverage
from lmntk.tangents.factors import DenseFactors, RowFactors
from lmntk.tangents.noise import noise_coordinates, silence
from lmntk.tangents.rules import RULES


def state(model):
    """Returns everything that capturing could leave behind."""
    return (
        [
            (
                name,
                module.training,
                len(module._forward_hooks),
                len(module._backward_hooks),
                sorted(vars(module)),
                sorted(module._buffers),
            )
            for name, module in model.named_modules()
        ],
        [(name, p.requires_grad, p.grad is None, p._backward_hooks) for name, p in model.named_parameters()],
        torch.is_grad_enabled(),
    )


def mixed_flags(model):
    """Gives the model flags that are neither all on nor all off."""
    model.train()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 == 0)
    for index, module in enumerate(model.modules()):
        module.training = index % 2 == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_flags_hooks_and_grads_are_left_as_found(name):
    row = TABLE[name]
    model = row.model(2)
    mixed_flags(model)
    before = state(model)
    values = [p.detach().clone() for p in model.parameters()]
    trainable = row.parameters.select(model)
    batch = collate(random_texts(row, [5, 3], 1), pad_id(model))
    coverage = check_coverage(model, batch, trainable)
    capture(model, {key: tensor[:1] for key, tensor in batch.items()}, trainable, coverage.fallback)
    assert state(model) == before
    assert all(torch.equal(a, b) for a, b in zip(values, model.parameters(), strict=True))


@pytest.mark.parametrize("place", ["forward", "backward", "rule"])
def test_flags_and_hooks_are_left_as_found_after_an_exception(place, monkeypatch):
    row = TABLE["bert"]
    model = row.model(2)
    mixed_flags(model)
    before = state(model)
    fail = lambda *arguments, **named: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
    if place == "forward":
        monkeypatch.setattr(type(model.network.cls.predictions.transform), "forward", fail)
    elif place == "backward":
        monkeypatch.setattr(torch.autograd, "grad", fail)
    else:
        monkeypatch.setitem(RULES, nn.LayerNorm, fail)
    with pytest.raises(KeyboardInterrupt):
        capture(model, collate(random_texts(row, [5, 3], 1), pad_id(model)), row.parameters.select(model))
    assert state(model) == before


def test_dropout_is_off_whatever_the_model_was_set_to():
    row = TABLE["bert"]
    model = row.model(2)
    batch = collate(random_texts(row, [5, 3], 1), pad_id(model))
    quiet = capture(model, batch, row.parameters.select(model))
    model.train()
    loud = capture(model, batch, row.parameters.select(model))
    assert torch.equal(quiet.logits, loud.logits)
    assert all(
        torch.equal(a, b)
        for n in quiet.factors
        for a, b in zip(quiet.factors[n].tensors(), loud.factors[n].tensors(), strict=True)
    )


def test_no_grad_outside_and_no_graph_left():
    row = TABLE["roberta"]
    model = row.model(2)
    with torch.no_grad():
        tangents = capture(
            model, collate(random_texts(row, [5, 3], 1), pad_id(model)), row.parameters.select(model)
        )
    assert not tangents.logits.requires_grad
    assert not any(
        tensor.requires_grad for factors in tangents.factors.values() for tensor in factors.tensors()
    )


def test_gradient_checkpointing_switched_on_changes_nothing():
    row = TABLE["bert"]
    model = row.model(2)
    batch = collate(random_texts(row, [5, 3], 1), pad_id(model))
    plain = capture(model, batch, row.parameters.select(model))
    model.network.gradient_checkpointing_enable()
    model.train()
    again = capture(model, batch, row.parameters.select(model))
    for name, parameter in row.parameters.select(model).items():
        assert torch.equal(
            plain.factors[name].gradients(parameter.shape), again.factors[name].gradients(parameter.shape)
        )


@pytest.mark.parametrize(
    "name", [name for name in [*MASKED, "gpt2", "opt", "llama", "gemma3"] if TABLE[name].batched]
)
def test_padding_has_no_gradient(name):
    """The output gradient at every padded place is exactly zero, so the uses that are kept are the longest text's."""
    row = TABLE[name]
    model = row.model(2)
    texts = random_texts(row, [4, 7], 1)
    tangents = capture(model, collate(texts, pad_id(model), pad_to=12), row.parameters.select(model))
    weight = model.network.get_input_embeddings().weight
    table = tangents.factors[next(n for n, p in row.parameters.select(model).items() if p is weight)]
    assert isinstance(table, RowFactors)
    for text, ids in zip(texts, table.ids, strict=True):
        assert set(ids.tolist()) - {-1} <= set(text.ids) | set(LABELS)
        assert pad_id(model) not in ids
    outer = [f for f in tangents.factors.values() if hasattr(f, "inputs")]
    assert outer

    def most(tokens):
        uses = 2 if name == "albert" else 1  # albert's layers are one layer, used twice
        distances = 2 * tokens - 1 if name.startswith("deberta") else 0
        return uses * tokens + distances

    assert all(f.inputs.shape[1] <= most(7) for f in outer)
    for factors in outer:
        alive = (factors.output_gradients != 0).any(-1).any(0).sum(1)  # uses of each text
        assert alive[0] <= most(4)
        assert alive[1] <= most(7)


@pytest.mark.parametrize("name", FAMILIES)
def test_selected_rows_equal_the_whole_decoder(name, monkeypatch):
    """The label words' logits read with all rows computed have the same gradients."""
    row = TABLE[name]
    model = row.model(2)
    trainable = row.parameters.select(model)
    batch = collate(random_texts(row, [6], 1), pad_id(model))
    fallback = check_coverage(model, batch, trainable).fallback
    selected = capture(model, batch, trainable, fallback)

    def forward(batch):
        inputs = {key: tensor for key, tensor in batch.items() if key != "read_position"}
        return model.network(**inputs).logits[torch.arange(1), batch["read_position"]][:, list(LABELS[:2])]

    monkeypatch.setattr(model, "forward", forward)
    monkeypatch.setattr(model, "selected_rows", dict)
    full = capture(model, batch, trainable, fallback)
    torch.testing.assert_close(selected.logits, full.logits, rtol=1e-12, atol=1e-14)
    assert set(selected.factors) == set(full.factors)
    for each, parameter in trainable.items():
        one, other = (tangents.factors[each].gradients(parameter.shape) for tangents in (selected, full))
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_embeddings_of_repeated_tokens_are_one_row():
    row = TABLE["roberta-untied-without-embeddings"]
    model = row.model(1)
    trainable = {"table": model.network.get_input_embeddings().weight}
    batch = collate(random_texts(row, [6, 6], 1), 1)
    batch["input_ids"][0] = torch.tensor([7, 8, 7, 7, 8, 9])
    table = capture(model, batch, trainable).factors["table"]
    assert sorted(i for i in table.ids[0].tolist() if i >= 0) == [7, 8, 9]


def test_silence_zeroes_the_masked_coordinates_alone():
    row = TABLE["bert"]
    model = row.model(2)
    tangents = capture(
        model, collate(random_texts(row, [5, 3], 1), pad_id(model)), row.parameters.select(model)
    )
    masks = noise_coordinates([tangents])
    assert len(masks) == 2
    quiet = silence(tangents, masks)
    for name, factors in tangents.factors.items():
        changed = quiet.factors[name]
        if name in masks:
            assert isinstance(factors, DenseFactors)
            assert factors.values.any()
            assert not changed.values.any()
        else:
            assert changed is factors


def test_noise_must_be_noise_in_every_batch():
    values = torch.ones(1, 1, 2, dtype=torch.float64)

    def batch(*cancellation):
        from lmntk.tangents.factors import Tangents

        return Tangents(
            torch.zeros(1, 1), {"b": DenseFactors(values, torch.tensor(cancellation, dtype=torch.float64))}
        )

    assert noise_coordinates([batch(1e-16, 1e-16), batch(1e-16, 0.5)])["b"].tolist() == [True, False]
    assert noise_coordinates([batch(0.5, 0.0)]) == {}  # exactly zero has no sign to be left out


def test_frozen_restores_flags_after_an_exception():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    model[0].bias.requires_grad_(False)

    def fail():
        with frozen(model, [model[0].bias]):
            assert not model.training
            assert [p.requires_grad for p in model.parameters()] == [False, True]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert model.training
    assert model[1].training
    assert [p.requires_grad for p in model.parameters()] == [True, False]
