"""Kernels do not depend on how they are computed: batches, padding, order, tiles, contraction, attention, memory."""

from __future__ import annotations

from functools import lru_cache
from itertools import cycle
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_oracle import pad_id, random_texts, relative_distance
from model_table import FAMILIES, MASKED, TABLE

from lmntk.engine import plan as planning
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.progress import Listener
from lmntk.engine.schedule import Schedule
from lmntk.engine.settings import Settings
from lmntk.engine.stream import stream_kernels, whole
from lmntk.kernels import contraction
from lmntk.kernels import gram as gram_module
from lmntk.kernels.formulas import FORMULAS
from lmntk.kernels.gram import Panel, gram
from lmntk.kernels.groups import group_of_layer
from lmntk.prompts.batching import collate
from lmntk.tangents.capture import capture
from lmntk.tangents.coverage import check_coverage
from lmntk.tangents.noise import noise_coordinates, silence

ROUNDING = 1e-12
OUTPUTS = 2


@lru_cache
def case(name):
    """Returns a model, its parameters, how to capture it, texts, and the kernels of its texts taken one by one."""
    row = TABLE[name]
    model = row.model(OUTPUTS)
    trainable = row.parameters.select(model)
    texts = random_texts(row, [6, 3, 9, 6, 4, 7], 5)
    coverage = check_coverage(model, collate(texts[:2], pad_id(model)), trainable)
    kernels = compute(model, trainable, coverage, texts, [[i] for i in range(len(texts))])
    return model, trainable, coverage, texts, kernels


def compute(model, trainable, coverage, texts, batches, pad_to=None, tile_bytes=gram_module.TILE_BYTES):
    """Returns the kernels among texts that are captured in these batches (of indices), in the texts' order."""
    tangents = [
        capture(
            model,
            collate([texts[i] for i in chosen], pad_id(model), pad_to=pad_to),
            trainable,
            coverage.fallback,
        )
        for chosen in batches
    ]
    masks = noise_coordinates(tangents)
    found = gram(
        Panel([silence(each, masks) for each in tangents]), Panel(tangents), FORMULAS, tile_bytes=tile_bytes
    )
    order = torch.tensor([i for chosen in batches for i in chosen])
    back = torch.argsort(order)
    return {kernel: whole(groups)[back][:, :, back] for kernel, groups in found.items()}


def assert_same(found, expected, tolerance=ROUNDING):
    for kernel, values in expected.items():
        assert relative_distance(found[kernel], values) < tolerance, kernel


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_batches_padding_order_and_tiles(name, data):
    model, trainable, coverage, texts, expected = case(name)
    order = data.draw(st.permutations(range(len(texts))))
    size = data.draw(st.integers(1, len(texts))) if coverage.batched else 1
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    pad_to = data.draw(st.sampled_from([None, 9, 12])) if coverage.batched else None
    tile_bytes = data.draw(st.sampled_from([1, 3000, 20_000, gram_module.TILE_BYTES]))
    forced = data.draw(st.sampled_from([None, [True], [False], [True, False], [False, True]]))

    own_choice = contraction.inner_columns

    def choice(rows, columns, *sizes, together):
        if forced is None:
            return own_choice(rows, columns, *sizes, together=together)
        return (
            [forced[0]] * len(columns)
            if together
            else [which for which, _ in zip(cycle(forced), columns, strict=False)]
        )

    with patch.object(contraction, "inner_columns", choice):
        found = compute(model, trainable, coverage, texts, batches, pad_to, tile_bytes)
    assert_same(found, expected, max(ROUNDING, TABLE[name].tolerance))


@pytest.mark.parametrize("name", [name for name in FAMILIES if len(TABLE[name].attentions) > 1])
def test_attention_implementations_agree(name):
    model, trainable, coverage, texts, expected = case(name)
    as_found = model.network.config._attn_implementation
    assert as_found == "sdpa"
    try:
        model.network.set_attn_implementation("eager")
        assert model.network.config._attn_implementation == "eager"
        # eager attention may take its softmax in float32, and modernbert's has no number where padding sees padding alone
        in_float32 = name == "modernbert" or name not in MASKED
        batches = [[0, 3], [1], [2], [4], [5]] if name == "modernbert" else [[0, 1, 2], [3, 4, 5]]
        found = compute(model, trainable, coverage, texts, batches)
    finally:
        model.network.set_attn_implementation(as_found)
    if (
        name not in MASKED
    ):  # float32's noise is more than float64's threshold knows, and votes in the sign kernels
        expected = {"sgd": expected["sgd"]}
    assert_same(found, expected, 1e-6 if in_float32 else ROUNDING)


def test_logits_that_are_no_numbers_are_an_error():
    model, trainable, _, texts, _ = case("modernbert")
    weight = next(iter(trainable.values()))
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[:] = float("nan")
        with pytest.raises(RuntimeError, match="not finite"):
            capture(model, collate(texts, pad_id(model)), trainable)
        with pytest.raises(RuntimeError, match="not finite"):
            stream_kernels(KernelWork(model, {"a": texts}, [("a", "a")], FORMULAS, trainable, pad_id(model)))
    finally:
        with torch.no_grad():
            weight.copy_(before)


def streamed(name, groups, pairs, key="", **chosen):
    row = TABLE[name]
    model = row.model(OUTPUTS)
    return stream_kernels(
        KernelWork(model, groups, pairs, FORMULAS, row.parameters.select(model), pad_id(model)),
        Settings(**chosen),
        key=key,
    )


@settings(max_examples=10, deadline=None)
@given(
    name=st.sampled_from(["roberta", "albert"]),
    lengths=st.lists(st.lists(st.integers(2, 8), min_size=1, max_size=5), min_size=3, max_size=3),
    seed=st.integers(0, 100),
    size=st.integers(1, 4),
    chunk=st.integers(1, 4),
    on_disk=st.booleans(),
)
def test_any_cut_gives_the_same_kernels_and_logits(
    tmp_path_factory, name, lengths, seed, size, chunk, on_disk
):
    row = TABLE[name]
    texts = {
        group: random_texts(row, each, seed + i)
        for i, (group, each) in enumerate(zip("abc", lengths, strict=True))
    }
    pairs = [("a", "a"), ("b", "a"), ("a", "c"), ("b", "c")]
    plenty = streamed(name, texts, pairs)
    with patch.object(planning, "make_schedule", lambda *a, **k: Schedule(size, on_disk, chunk, 0, 0)):
        little = streamed(name, texts, pairs, key="k", scratch=tmp_path_factory.mktemp("scratch"))
    assert set(plenty.kernels) == set(pairs) == set(little.kernels)
    for pair in pairs:
        assert_same(
            {k: whole(v) for k, v in little.kernels[pair].items()},
            {k: whole(v) for k, v in plenty.kernels[pair].items()},
        )
    assert little.noise == plenty.noise
    for group, values in plenty.logits.items():
        torch.testing.assert_close(little.logits[group], values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["bert", "deberta-own-keys-convolution"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_every_text_is_captured_once(tmp_path, name, on_disk):
    row = TABLE[name]
    model = row.model(OUTPUTS)
    texts = {group: random_texts(row, [5, 4, 6], i) for i, group in enumerate("abc")}
    seen = []
    with patch.object(planning, "make_schedule", lambda *a, **k: Schedule(2, on_disk, 2, 0, 0)):
        stream_kernels(
            KernelWork(
                model,
                texts,
                [("a", "c"), ("b", "c"), ("a", "a")],
                ["sgd"],
                row.parameters.select(model),
                pad_id(model),
            ),
            Settings(scratch=tmp_path),
            Listener(report=lambda captured, contracted: seen.append((captured, contracted))),
            key="key",
        )
    assert tuple(map(sum, zip(*seen, strict=True))) == (9, 27)


@pytest.mark.parametrize("name", ["bert", "albert-head-mode", "deberta-shared-keys"])
def test_groups_sum_to_the_whole(name):
    texts = {"a": random_texts(TABLE[name], [5, 3, 4], 1), "b": random_texts(TABLE[name], [4, 6], 2)}
    plain = streamed(name, texts, [("a", "b")]).kernels["a", "b"]
    grouped = streamed(name, texts, [("a", "b")], grouping=group_of_layer).kernels["a", "b"]
    for kernel, groups in grouped.items():
        assert len(groups) > 1
        assert relative_distance(torch.stack(list(groups.values())).sum(0), whole(plain[kernel])) < ROUNDING


@pytest.mark.parametrize("name", ["bert", "deberta-own-keys-convolution"])
def test_a_kernel_does_not_depend_on_what_is_computed_beside_it(name):
    texts = {group: random_texts(TABLE[name], [5, 3, 4], i) for i, group in enumerate("abc")}
    alone = streamed(name, texts, [("a", "b")]).kernels["a", "b"]
    beside = streamed(name, texts, [("c", "b"), ("b", "b"), ("a", "b"), ("a", "a")]).kernels["a", "b"]
    assert_same({k: whole(v) for k, v in beside.items()}, {k: whole(v) for k, v in alone.items()})


class Weighted(torch.nn.Module):
    """f(x) = sum_t scale[token t] (w . e[token t] + b): the bias is noise in texts whose scales sum to rounding error."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(6, 3)
        self.linear = torch.nn.Linear(3, 1)
        self.register_buffer("scale", torch.tensor([0.0, 0.1, 0.2, -0.3, 1.0, 2.0], dtype=torch.float64))
        self.double()

    def forward(self, batch):
        ids = batch["input_ids"]
        return (self.scale[ids] * self.linear(self.table(ids))[..., 0]).sum(1, keepdim=True)


def test_noise_of_the_columns_group_is_not_left_out_of_the_rows_group():
    """A group that is noise in a coordinate keeps it as columns of a group that is not, whether or not it is rows elsewhere."""
    from lmntk.prompts.encoding import EncodedText

    model = Weighted()
    texts = {
        "noisy": [EncodedText((1, 2, 3), 0, None), EncodedText((2, 1, 3), 0, None)],
        "plain": [EncodedText((4, 5), 0, None), EncodedText((5, 1, 4), 0, None)],
    }

    def compute(*pairs):
        return stream_kernels(
            KernelWork(model, texts, pairs, FORMULAS, dict(model.named_parameters()), 0),
            Settings(batch_size=1),
        )

    alone = compute(("plain", "noisy"))
    beside = compute(("plain", "noisy"), ("noisy", "noisy"))
    assert beside.noise == {"plain": 0, "noisy": 1}
    for kernel, groups in alone.kernels["plain", "noisy"].items():
        assert torch.equal(whole(groups), whole(beside.kernels["plain", "noisy"][kernel])), kernel
