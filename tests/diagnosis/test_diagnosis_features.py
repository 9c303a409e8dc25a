"""Distances of kernels and gradients against plain autograd at both weights; linearized logits against dot products."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_oracle import alone, flat, oracle, pad_id, random_texts
from model_table import TABLE
from torch.func import functional_call, jvp

from lmntk.diagnosis.examples import Examples, logits_of
from lmntk.diagnosis.features import gradient_distance, kernel_distance, sgd_kernel
from lmntk.diagnosis.linearization import change_of, linearized_logits, recovered_share
from lmntk.engine.settings import Settings
from lmntk.errors import ModelError, UserError
from lmntk.models.weights import at_weights
from lmntk.prompts.batching import collate
from lmntk.solvers.emulator import logit_error

LENGTHS = [5, 4, 6, 5, 3]
NAMES = [
    "bert",
    "gpt2",
    "t5",
    "bert-head-mode",
    "gpt2-lora",
    "bert-lora-at-start",
    "mpnet",
    "mixtral",
    "albert",
]


def moved(parameters, size=0.05, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: p.detach() + size * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for name, p in parameters.items()
    }


def setting(name, outputs):
    row = TABLE[name]
    model = row.model(outputs)
    texts = random_texts(row, LENGTHS, 1)
    return row, model, row.parameters.select(model), texts


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_distances_are_those_of_plain_autograd(name, outputs):
    row, model, parameters, texts = setting(name, outputs)
    weights = moved(parameters)
    before = flat(oracle(model, alone(model, texts), parameters)).numpy()
    with at_weights(model, weights):
        after = flat(oracle(model, alone(model, texts), parameters)).numpy()
    examples = Examples.of_texts(texts, pad_id(model), 3)
    found = gradient_distance(model, examples, weights, parameters)
    expected = np.linalg.norm(after - before, axis=2) / np.linalg.norm(before, axis=2)
    np.testing.assert_allclose(found.relative, expected, rtol=max(1e-7, 100 * row.tolerance))
    cosine = (after * before).sum(2) / np.linalg.norm(after, axis=2) / np.linalg.norm(before, axis=2)
    np.testing.assert_allclose(found.cosine, cosine, rtol=max(1e-8, 10 * row.tolerance))
    assert found.mean == pytest.approx(expected.mean(), rel=max(1e-7, 100 * row.tolerance))
    first, second = (np.einsum("ncp,mdp->ncmd", g, g) for g in (before, after))
    settings = Settings(batch_size=2)
    kernels = [sgd_kernel(model, examples, parameters, settings, each)["all"] for each in ({}, weights)]
    tolerance = max(1e-8, row.tolerance)
    for kernel, exact in zip(kernels, (first, second), strict=True):
        np.testing.assert_allclose(kernel, exact, rtol=tolerance, atol=tolerance * np.abs(exact).max())
    distance = kernel_distance(*kernels)
    sizes = np.sqrt(np.einsum("ncnc->nc", first)).ravel()
    counted = np.abs(first).reshape(len(sizes), -1) > 1e-6 * np.outer(sizes, sizes)
    ratios = (np.abs(second - first) / np.where(first == 0, 1, np.abs(first))).reshape(len(sizes), -1)[
        counted
    ]
    assert distance.elementwise == pytest.approx(ratios.mean(), rel=1e-3)
    assert distance.median == pytest.approx(np.median(ratios), rel=1e-3)
    assert distance.frobenius == pytest.approx(
        np.linalg.norm(second - first) / np.linalg.norm(first), rel=1e-5
    )
    assert distance.cosine == pytest.approx(
        (first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second), rel=1e-5
    )
    assert distance.left_out == pytest.approx(1 - counted.mean())


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_nothing_moved(name):
    _, model, parameters, texts = setting(name, 2)
    examples = Examples.of_texts(texts, pad_id(model), 3)
    weights = {key: p.detach().clone() for key, p in parameters.items()}
    assert gradient_distance(model, examples, weights, parameters).relative.max() < 1e-7
    kernel = sgd_kernel(model, examples, parameters)["all"]
    same = kernel_distance(kernel, sgd_kernel(model, examples, parameters, None, weights)["all"])
    assert (same.elementwise, same.median, same.frobenius) == (0.0, 0.0, 0.0)
    assert same.cosine == pytest.approx(1.0)
    gone = kernel_distance(kernel, 0 * kernel)
    assert (gone.cosine, gone.frobenius) == (0.0, 1.0)
    found = linearized_logits(model, examples, weights)
    assert np.array_equal(found.before, found.after)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_batches_padding_and_order_change_nothing(name):
    row, model, parameters, texts = setting(name, 2)
    weights = moved(parameters)
    tolerance = {"rtol": max(1e-8, 100 * row.tolerance), "atol": max(1e-10, row.tolerance)}
    reference = Examples.of_texts(texts, pad_id(model), 1)
    ready = Examples.of_batches([collate(texts[:2], pad_id(model)), collate(texts[2:], pad_id(model))])
    order = [3, 0, 4, 2, 1]
    variants = [
        (Examples.of_texts(texts, pad_id(model), 5), range(5)),
        (ready, range(5)),
        (reference.choose(order), order),
        (ready.choose(order), order),
    ]
    distance = gradient_distance(model, reference, weights, parameters).relative
    lines = linearized_logits(model, reference, weights)
    kernel = sgd_kernel(model, reference, parameters, None, weights)["all"]
    for examples, places in variants:
        places = list(places)
        np.testing.assert_allclose(
            gradient_distance(model, examples, weights, parameters).relative, distance[places], **tolerance
        )
        np.testing.assert_allclose(
            linearized_logits(model, examples, weights).after, lines.after[places], **tolerance
        )
        np.testing.assert_allclose(logits_of(model, examples), lines.before[places], **tolerance)
        found = sgd_kernel(model, examples, parameters, Settings(batch_size=3), weights)["all"]
        np.testing.assert_allclose(
            found, kernel[places][:, :, places], rtol=tolerance["rtol"], atol=1e-6 * np.abs(kernel).max()
        )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("outputs", [1, 3])
def test_linearized_logits_are_dot_products(name, outputs):
    row, model, parameters, texts = setting(name, outputs)
    weights = moved(parameters)
    gradients = oracle(model, alone(model, texts), parameters)
    slopes = sum(
        torch.einsum("ncp,p->nc", gradients[key], (weights[key] - p.detach()).flatten())
        for key, p in parameters.items()
    )
    before = torch.cat([model(batch) for batch in alone(model, texts)]).detach()
    found = linearized_logits(model, Examples.of_texts(texts, pad_id(model), 3), weights)
    tolerance = max(1e-9, 2 * row.tolerance)
    np.testing.assert_allclose(found.before, before.numpy(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        found.after,
        (before + slopes).numpy(),
        rtol=10 * tolerance,
        atol=10 * tolerance * float(slopes.abs().max()),
    )


def test_linearized_logits_are_torchs_jvp():
    row = replace(TABLE["bert"], settings=TABLE["bert"].settings | {"attn_implementation": "eager"})
    model = row.model(3)
    parameters = dict(model.named_parameters())
    weights = moved(parameters)
    texts = random_texts(row, LENGTHS, 1)
    found = linearized_logits(model, Examples.of_texts(texts, pad_id(model)), weights)
    batch = collate(texts, pad_id(model))
    model.prepare(batch)
    start = {key: p.detach() for key, p in parameters.items()}
    logits, slopes = jvp(
        lambda p: functional_call(model, p, (batch,), tie_weights=True),
        (start,),
        (change_of(model, weights),),
    )
    np.testing.assert_allclose(found.after, (logits + slopes).detach().numpy(), rtol=1e-10, atol=1e-10)


def test_the_error_of_the_linearization_goes_with_the_size_of_the_change():
    _, model, parameters, texts = setting("bert", 2)
    examples = Examples.of_texts(texts, pad_id(model))
    errors = []
    for size in (1e-2, 1e-3, 1e-4):
        weights = moved(parameters, size)
        with at_weights(model, weights):
            real = logits_of(model, examples)
        lines = linearized_logits(model, examples, weights)
        errors.append(logit_error(lines.before, real, lines.after))
    assert errors[0] > 5 * errors[1] > 25 * errors[2] > 0


def test_shares_and_errors_by_hand():
    assert recovered_share(0.5, 0.9, 0.7) == pytest.approx(0.5)
    assert np.isnan(recovered_share(0.5, 0.5, 0.7))
    before, real = np.zeros((2, 1)), np.array([[3.0], [4.0]])
    assert logit_error(before, real, before) == 1.0
    assert logit_error(before, real, np.array([[3.0], [1.0]])) == pytest.approx(3 / 5)
    assert np.isnan(logit_error(before, before, before))
    with pytest.raises(ModelError, match=r"'x' with \(1,\), and the model no such parameter"):
        change_of(TABLE["bert"].model(1), {"x": torch.zeros(1)})


def test_entries_of_size_zero_are_left_out_and_counted():
    before, after = np.zeros((2, 2, 2, 2)), np.zeros((2, 2, 2, 2))
    for c in (0, 1):  # a head's kernel: nothing across classes
        before[:, c, :, c] = [[2.0, 1.0], [1.0, 4.0]]
        after[:, c, :, c] = [[3.0, -1.0], [-1.0, 4.0]]
    found = kernel_distance(before, after)
    assert found.left_out == 0.5
    assert found.elementwise == pytest.approx((0.5 + 2 + 2 + 0) / 4)
    assert found.median == pytest.approx(1.25)
    after[:, 0, :, 1] = 1e9  # what was zero has no ratio; the Frobenius distance sees it
    assert kernel_distance(before, after).elementwise == pytest.approx(found.elementwise)
    assert kernel_distance(before, after).frobenius > 1e6
    with pytest.raises(UserError, match="is zero"):
        kernel_distance(0 * before, after)
    with pytest.raises(UserError, match="no distance"):
        kernel_distance(before, after[:1])


def test_little_memory_and_a_folder_for_the_rest(tmp_path):
    """Factors go to disk, leave nothing behind, and never stand in for those of other weights."""
    _, model, parameters, texts = setting("bert", 2)
    examples = Examples.of_texts(texts, pad_id(model), 3)
    weights = moved(parameters)
    settings = Settings(batch_size=3, scratch=tmp_path)
    for there in ({}, weights, {}):
        plain = sgd_kernel(model, examples, parameters, Settings(batch_size=3), there)["all"]
        np.testing.assert_array_equal(sgd_kernel(model, examples, parameters, settings, there)["all"], plain)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".safetensors"]
