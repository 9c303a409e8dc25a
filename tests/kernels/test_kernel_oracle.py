"""Every family's kernels against plain autograd on the untouched network."""

from __future__ import annotations

import pytest
import torch
from generated_models import GENERATED
from model_oracle import alone, flat, kernel_of, oracle, pad_id, plain_logits, random_texts, relative_distance
from model_table import FAMILIES, TABLE, cases

from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels, whole
from lmntk.kernels.formulas import FORMULAS
from lmntk.kernels.gram import Panel, gram
from lmntk.prompts.batching import collate
from lmntk.tangents.capture import capture
from lmntk.tangents.coverage import check_coverage
from lmntk.tangents.noise import noise_coordinates, silence

TRAIN, EVAL = [6, 3, 8, 6], [5, 9, 2]
ROUNDING = 1e-13  # of the largest entry: a gradient below it in every text is zero but for rounding


def masks_of(model, texts, trainable):
    return noise_coordinates([capture(model, batch, trainable) for batch in alone(model, texts)])


@pytest.mark.parametrize(("name", "outputs"), cases(TABLE))
def test_every_family_equals_plain_autograd(name, outputs):
    row = TABLE[name]
    model = row.model(outputs)
    trainable = row.parameters.select(model)
    texts = {"train": random_texts(row, TRAIN, 1), "eval": random_texts(row, EVAL, 2)}
    streamed = stream_kernels(
        KernelWork(model, texts, [("train", "eval")], FORMULAS, trainable, pad_id(model)),
        Settings(batch_size=3),
    )
    jacobian = {side: oracle(model, alone(model, part), trainable) for side, part in texts.items()}

    largest = max(float(part.abs().max()) for part in jacobian["train"].values())
    noise = {
        parameter: part.abs().amax((0, 1)) < ROUNDING * largest
        for parameter, part in jacobian["train"].items()
    }
    # a coordinate that comes out as zero to the last bit needs no silencing, and is not counted; which ones do is the processor's affair
    some = {parameter: (part != 0).any(0).any(0) for parameter, part in jacobian["train"].items()}
    noise = {parameter: mask & some[parameter] for parameter, mask in noise.items()}
    known = row.noise_masks(trainable)
    assert {parameter for parameter, mask in noise.items() if mask.any()} == set(known)
    assert all(torch.equal(noise[parameter], mask & some[parameter]) for parameter, mask in known.items())
    zeros = sum(
        int((mask & ~some[parameter]).sum()) for parameter, mask in known.items()
    )  # here, but perhaps not as captured
    assert -zeros <= sum(int(mask.sum()) for mask in noise.values()) - streamed.noise["train"] <= 2

    rows, columns = flat(jacobian["train"], noise), flat(jacobian["eval"])
    for kernel, groups in streamed.kernels["train", "eval"].items():
        assert relative_distance(whole(groups), kernel_of(kernel, rows, columns)) < row.tolerance, kernel
    assert set(streamed.kernels["train", "eval"]) == {"sgd", "signgd", "asigngd", "asigngd_flipped"}
    for side, part in texts.items():
        expected = torch.stack([plain_logits(model, batch) for batch in alone(model, part)])
        torch.testing.assert_close(streamed.logits[side], expected, rtol=0, atol=1e-2 * row.tolerance)
    assert streamed.coverage.batched is row.batched
    assert set(streamed.coverage.fallback) == {name for name in trainable if row.goes_by_autograd(name)}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", TABLE)
def test_coordinates_left_out_are_rounding_noise_and_no_others(name):
    row = TABLE[name]
    model = row.model(3)
    trainable = row.parameters.select(model)
    texts = random_texts(row, TRAIN, 1)
    fallback = check_coverage(model, collate(texts[:2], pad_id(model)), trainable).fallback
    tangents = [capture(model, batch, trainable, fallback) for batch in alone(model, texts)]
    found = noise_coordinates(tangents)
    jacobian = oracle(model, alone(model, texts), trainable)
    largest = max(float(part.abs().max()) for part in jacobian.values())
    known = row.noise_masks(trainable)
    assert set(found) == set(known)
    for parameter, mask in found.items():
        some = torch.stack(
            [(each.factors[parameter].gradients(mask.shape) != 0).any(0).any(0) for each in tangents]
        ).any(0)
        assert torch.equal(
            mask, known[parameter] & some
        )  # what comes out as zero to the last bit needs no silencing
        assert float(jacobian[parameter][:, :, mask].abs().max()) < ROUNDING * largest


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", FAMILIES)
def test_padding_on_either_side(name, side):
    """With absolute positions, padding on the left is another function: then the oracle gets the same padded text."""
    row = TABLE[name]
    model = row.model(2)
    trainable = row.parameters.select(model)
    texts = random_texts(row, TRAIN, 3)
    batch = collate(texts, pad_id(model), side)
    parts = [{key: tensor[i : i + 1] for key, tensor in batch.items()} for i in range(len(texts))]
    unchanged = side == "right" or row.relative_positions
    jacobian = oracle(model, alone(model, texts) if unchanged else parts, trainable)
    coverage = check_coverage(model, batch, trainable)
    tangents = [
        capture(model, each, trainable, coverage.fallback)
        for each in ([batch] if coverage.batched else parts)
    ]
    masks = noise_coordinates(tangents)
    rows, columns = Panel([silence(each, masks) for each in tangents]), Panel(tangents)
    left, right = flat(jacobian, masks), flat(jacobian)
    for kernel, groups in gram(rows, columns, FORMULAS).items():
        assert relative_distance(whole(groups), kernel_of(kernel, left, right)) < row.tolerance, kernel


@pytest.mark.parametrize(("name", "outputs"), cases(GENERATED))
def test_generated_families_equal_plain_autograd(name, outputs):
    row = GENERATED[name]
    model = row.model(outputs, dtype=row.precision)
    trainable = row.parameters.select(model)
    texts = {"train": random_texts(row, TRAIN, 1), "eval": random_texts(row, EVAL, 2)}
    streamed = stream_kernels(
        KernelWork(model, texts, [("train", "eval")], ["sgd"], trainable, pad_id(model)),
        Settings(batch_size=3),
    )
    jacobian = {side: flat(oracle(model, alone(model, part), trainable)) for side, part in texts.items()}
    expected = kernel_of("sgd", jacobian["train"], jacobian["eval"])
    assert bool(expected.any())
    assert relative_distance(whole(streamed.kernels["train", "eval"]["sgd"]), expected) < row.tolerance


def test_the_table_is_long_and_has_every_reading():
    rows = {**TABLE, **GENERATED}
    assert len(rows) >= 90
    assert {row.reading for row in GENERATED.values()} == {"mask", "last", "decoder"}
    assert len({row.network for row in rows.values()}) >= 90


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta-own-keys-convolution", "modernbert"])
def test_padding_token_inside_a_text_has_no_row(name):
    """A lookup's padding row has no gradient by torch's definition, even where the token is read."""
    row = TABLE[name]
    model = row.model(2)
    trainable = row.parameters.select(model)
    pad = pad_id(model)
    texts = [
        text.__class__((*text.ids[:2], pad, *text.ids[3:]), 1, text.token_type_ids)
        for text in random_texts(row, [5, 4, 6], 4)
    ]
    streamed = stream_kernels(
        KernelWork(model, {"all": texts}, [("all", "all")], FORMULAS, trainable, pad), Settings(batch_size=1)
    )
    jacobian = oracle(model, alone(model, texts), trainable)
    table = next(p for p in jacobian if p.endswith(("word_embeddings.weight", "tok_embeddings.weight")))
    assert not jacobian[table].view(3, 2, *trainable[table].shape)[:, :, pad].any()
    masks = masks_of(model, texts, trainable)
    for kernel, groups in streamed.kernels["all", "all"].items():
        expected = kernel_of(kernel, flat(jacobian, masks), flat(jacobian))
        assert relative_distance(whole(groups), expected) < row.tolerance, kernel


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", FAMILIES)
def test_float32(name):
    row = TABLE[name]
    model = row.model(2)
    texts = {"train": random_texts(row, TRAIN, 1), "eval": random_texts(row, EVAL, 2)}
    exact, single = (
        stream_kernels(
            KernelWork(each, texts, [("train", "eval")], ["sgd"], row.parameters.select(each), pad_id(each))
        ).kernels["train", "eval"]
        for each in (model, row.model(2, dtype=torch.float32))
    )
    assert relative_distance(whole(single["sgd"]), whole(exact["sgd"])) < 1e-5


@pytest.mark.parametrize("name", ["bert", "albert", "electra", "deberta-own-keys-convolution"])
def test_leaving_noise_out_brings_float32_signs_closer_to_float64(name):
    row = TABLE[name]
    texts = {"train": random_texts(row, [6, 3, 8, 6, 5, 7], 1), "eval": random_texts(row, [5, 9, 2, 4], 2)}

    def compute(dtype, drop_noise):
        model = row.model(1, dtype=dtype)
        settings = Settings(drop_noise=drop_noise)
        streamed = stream_kernels(
            KernelWork(
                model, texts, [("train", "eval")], ["signgd"], row.parameters.select(model), pad_id(model)
            ),
            settings,
        )
        return whole(streamed.kernels["train", "eval"]["signgd"])

    without, with_noise = (
        relative_distance(compute(torch.float32, drop), compute(torch.float64, drop))
        for drop in (True, False)
    )
    assert without < 0.5 * with_noise


def test_untying_removes_exactly_the_cross_terms():
    """<e + d, e' + d'> - <e, e'> - <d, d'> = <e, d'> + <d, e'>, with the gradients e of the lookup and d of the decoder."""
    row = TABLE["bert"]
    texts = {"train": random_texts(row, TRAIN, 1), "eval": random_texts(row, EVAL, 2)}
    tied, untied = row.model(3), row.model(3)
    untied_network = untied.network
    from lmntk.models.logit_model import untie_head

    untie_head(untied_network)
    kernels = []
    for model in (tied, untied):
        streamed = stream_kernels(
            KernelWork(
                model, texts, [("train", "eval")], ["sgd"], row.parameters.select(model), pad_id(model)
            )
        )
        kernels.append(whole(streamed.kernels["train", "eval"]["sgd"]))
    embedding, decoder = (
        untied_network.get_input_embeddings().weight,
        untied_network.get_output_embeddings().weight,
    )
    parts = {
        side: oracle(untied, alone(untied, part), {"e": embedding, "d": decoder})
        for side, part in texts.items()
    }
    cross = kernel_of("sgd", parts["train"]["e"], parts["eval"]["d"]) + kernel_of(
        "sgd", parts["train"]["d"], parts["eval"]["e"]
    )
    assert float(cross.norm()) > 1e-3 * float(kernels[0].norm())
    torch.testing.assert_close(kernels[0] - kernels[1], cross, rtol=1e-9, atol=1e-10)
