"""On the real model and the real benchmarks, where they are at hand: ``../shared`` beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lmntk import ParameterFilter, PromptEncoder, PromptModel, compute_kernels, load_pretrained
from lmntk.kernels.streaming import Settings
from lmntk.tasks import TASKS, k_shot_split, read_data

SHARED = Path(__file__).resolve().parents[2] / "shared"
MODEL = SHARED / "models" / "minilm-mlm"
DATA = SHARED / "data"

needs_model = pytest.mark.skipif(not MODEL.is_dir(), reason="no ../shared/models/minilm-mlm beside the checkout")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside the checkout")


@needs_model
@needs_data
@pytest.mark.parametrize(("task", "all_logits"), [("sst-2", False), ("mnli", True)])
def test_kernels_of_a_trained_model_equal_autograd_in_float64(task, all_logits):
    known = TASKS[task]
    data = read_data(DATA, known)
    train, evaluate = data.train[:2], data.test[:2]
    pretrained = load_pretrained(str(MODEL), "float64")
    encoder = PromptEncoder(pretrained.tokenizer, known.template, known.label_words, known.max_length)
    found = compute_kernels(pretrained, encoder, train, evaluate, all_logits=all_logits, settings=Settings(batch_size=3, drop_noise=False))
    network = pretrained.network
    parameters = list(network.parameters())

    def jacobian(example):
        text = encoder.encode(example)
        ids = torch.tensor([text.ids])
        logits = network(input_ids=ids, token_type_ids=torch.tensor([text.token_type_ids])).logits[0, text.read_position]
        chosen = logits[list(encoder.label_ids)]
        outputs = chosen if all_logits else (chosen[1] - chosen[0])[None]
        rows = [torch.autograd.grad(output, parameters, retain_graph=True, allow_unused=True) for output in outputs]
        return torch.stack(
            [torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, row, strict=True)]) for row in rows]
        )

    left, right = (torch.stack([jacobian(example) for example in part]) for part in (train, evaluate))
    keys = torch.cat([torch.full_like(p, ".key.bias" in name).flatten() for name, p in network.named_parameters()]).bool()
    assert float(left[..., keys].abs().max()) < 1e-12 * float(left.abs().max())  # rounding noise, whose sign says nothing
    pairs = {
        "sgd": (found.kernels["sgd"].values, left, right),
        "asigngd": (found.kernels["asigngd"].values, left.sign(), right),
        "asigngd flipped": (found.kernels["asigngd"].flipped, left, right.sign()),
    }
    for name, (values, a, b) in pairs.items():
        expected = torch.einsum("ncp,mdp->ncmd", a, b).numpy()
        assert np.abs(values - expected).max() <= 1e-10 * np.abs(expected).max(), name
    left[..., keys] = 0
    expected = torch.einsum("ncp,mdp->ncmd", left.sign(), right.sign()).numpy()
    silenced = compute_kernels(pretrained, encoder, train, evaluate, ["signgd"], all_logits=all_logits).kernels["signgd"].values
    # a handful of coordinates other than the key biases may lie at their rounding floor
    assert np.abs(silenced - expected).max() <= 20 < 1e-5 * np.abs(expected).max()


@needs_model
def test_float32_is_close_to_float64():
    texts = read_data(DATA, TASKS["mr"]).train[:6] if DATA.is_dir() else pytest.skip("no ../shared/data beside the checkout")
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
    split = k_shot_split([example.label for example in data.train], len(data.test), 16, 13, csv_style=known.csv_style)
    assert len(split.train) == len(split.dev) == 16 * classes
    assert split.test == tuple(range(len(data.test)))


@needs_model
@needs_data
@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_prompt_fits_a_wordpiece_model(task):
    known = TASKS[task]
    pretrained = load_pretrained(str(MODEL))
    encoder = PromptEncoder(pretrained.tokenizer, known.template, known.label_words, known.max_length, known.text_a_limit)
    model = PromptModel(pretrained.network, encoder.label_ids, difference=len(known.labels) == 2)
    assert ParameterFilter().select(model)
    for example in read_data(DATA, known).test[:50]:
        text = encoder.encode(example)
        assert text.ids.count(pretrained.tokenizer.mask_token_id) == 1
        assert text.ids[text.read_position] == pretrained.tokenizer.mask_token_id
        assert len(text.ids) <= known.max_length
