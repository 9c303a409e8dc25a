"""On the real model and the real benchmarks, where they are at hand: ``../shared`` beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lmntk import ParameterFilter, PromptEncoder, PromptModel, compute_kernels, load_pretrained
from lmntk.engine.settings import Settings
from lmntk.prompts import Limits
from lmntk.tasks import TASKS, k_shot_split, read_data

SHARED = Path(__file__).resolve().parents[2] / "shared"
MODEL = SHARED / "models" / "minilm-mlm"
DATA = SHARED / "data"

needs_model = pytest.mark.skipif(
    not MODEL.is_dir(), reason="no ../shared/models/minilm-mlm beside the checkout"
)
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside the checkout")


@needs_model
@needs_data
@pytest.mark.parametrize(("task", "all_logits"), [("sst-2", False), ("mnli", True)])
def test_kernels_of_a_trained_model_equal_autograd_in_float64(task, all_logits):
    known = TASKS[task]
    data = read_data(DATA, known)
    train, evaluate = data.train[:2], data.test[:2]
    pretrained = load_pretrained(str(MODEL), "float64")
    encoder = PromptEncoder(pretrained.tokenizer, known.template, known.label_words, Limits(known.max_length))
    found = compute_kernels(
        pretrained,
        encoder,
        train,
        evaluate,
        all_logits=all_logits,
        settings=Settings(batch_size=3, drop_noise=False),
    )
    parameters = dict(pretrained.network.named_parameters())

    def gradients(example):
        """Of one text, a tuple over the parameters for each logit."""
        text = encoder.encode(example)
        read = {"input_ids": torch.tensor([text.ids]), "token_type_ids": torch.tensor([text.token_type_ids])}
        logits = pretrained.network(**read).logits[0, text.read_position][list(encoder.label_ids)]
        outputs = logits if all_logits else (logits[1] - logits[0])[None]
        return [
            torch.autograd.grad(output, list(parameters.values()), retain_graph=True, allow_unused=True)
            for output in outputs
        ]

    left, right = ([gradients(example) for example in part] for part in (train, evaluate))
    largest = max(
        float(gradient.abs().max())
        for rows in left
        for row in rows
        for gradient in row
        if gradient is not None
    )
    expected = dict.fromkeys(("sgd", "asigngd", "asigngd flipped", "signgd"), 0.0)
    for place, (name, parameter) in enumerate(
        parameters.items()
    ):  # a parameter at a time: together they are gigabytes
        zero = torch.zeros_like(parameter)
        a, b = (
            torch.stack(
                [
                    torch.stack([(zero if row[place] is None else row[place]).flatten() for row in rows])
                    for rows in texts
                ]
            )
            for texts in (left, right)
        )
        is_key = ".key.bias" in name
        assert not is_key or float(a.abs().max()) < 1e-12 * largest  # rounding noise, whose sign says nothing
        for formula, (one, other) in {
            "sgd": (a, b), "asigngd": (a.sign(), b), "asigngd flipped": (a, b.sign()), "signgd": (a.sign() * (not is_key), b.sign()),
        }.items():  # fmt: skip
            expected[formula] = expected[formula] + torch.einsum("ncp,mdp->ncmd", one, other).numpy()
    values = {
        "sgd": found.kernels["sgd"].values,
        "asigngd": found.kernels["asigngd"].values,
        "asigngd flipped": found.kernels["asigngd"].flipped,
    }
    for formula, own in values.items():
        assert np.abs(own - expected[formula]).max() <= 1e-10 * np.abs(expected[formula]).max(), formula
    silenced = (
        compute_kernels(pretrained, encoder, train, evaluate, ["signgd"], all_logits=all_logits)
        .kernels["signgd"]
        .values
    )
    # a handful of coordinates other than the key biases may lie at their rounding floor
    assert np.abs(silenced - expected["signgd"]).max() <= 20 < 1e-5 * np.abs(expected["signgd"]).max()


@needs_model
def test_float32_is_close_to_float64():
    texts = (
        read_data(DATA, TASKS["mr"]).train[:6]
        if DATA.is_dir()
        else pytest.skip("no ../shared/data beside the checkout")
    )
    values = {}
    for dtype in ("float32", "float64"):
        pretrained = load_pretrained(str(MODEL), dtype)
        encoder = PromptEncoder(pretrained.tokenizer, "{a} It was {mask}.", ["terrible", "great"])
        kernels = compute_kernels(pretrained, encoder, texts, texts).kernels
        values[dtype] = {formula: kernel.values for formula, kernel in kernels.items()}
    for formula, tolerance in (("sgd", 1e-5), ("asigngd", 1e-4), ("signgd", 1e-3)):
        a, b = values["float32"][formula], values["float64"][formula]
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), formula


@needs_data
@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_benchmark_reads_and_splits(task):
    known = TASKS[task]
    data = read_data(DATA, known)
    classes = len(known.labels)
    assert {example.label for example in data.train} == set(range(classes))
    assert all((example.text_b is not None) == known.pair for example in data.train)
    split = k_shot_split(
        [example.label for example in data.train], len(data.test), 16, 13, csv_style=known.csv_style
    )
    assert len(split.train) == len(split.dev) == 16 * classes
    assert split.test == tuple(range(len(data.test)))


@needs_model
@needs_data
@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_prompt_fits_a_wordpiece_model(task):
    known = TASKS[task]
    pretrained = load_pretrained(str(MODEL))
    encoder = PromptEncoder(
        pretrained.tokenizer, known.template, known.label_words, Limits(known.max_length, known.text_a_limit)
    )
    model = PromptModel(pretrained.network, encoder.label_ids, difference=len(known.labels) == 2)
    assert ParameterFilter().select(model)
    for example in read_data(DATA, known).test[:50]:
        text = encoder.encode(example)
        assert text.ids.count(pretrained.tokenizer.mask_token_id) == 1
        assert text.ids[text.read_position] == pretrained.tokenizer.mask_token_id
        assert len(text.ids) <= known.max_length
