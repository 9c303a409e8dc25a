"""The forms of gradients: what merging, coalescing and dropping leave as it is."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmntk.tangents.factors import (
    DenseFactors,
    OuterFactors,
    RowFactors,
    Tangents,
    coalesce,
    merge,
    sum_over_uses,
)
from lmntk.tangents.padding import drop_empty_uses
from lmntk.tangents.terms import NO_ROW

C, N, V, WIDTH, OUT = 2, 3, 5, 4, 6


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table_gradient(ids, values):
    """Returns (c, n, v, i) by a loop."""
    full = torch.zeros(C, N, V, WIDTH, dtype=torch.float64)
    for n in range(N):
        for u in range(ids.shape[1]):
            if ids[n, u] != NO_ROW:
                full[:, n, ids[n, u]] += values[:, n, u]
    return full


@settings(max_examples=15, deadline=None)
@given(
    ids=st.lists(st.lists(st.integers(-1, V - 1), min_size=4, max_size=4), min_size=N, max_size=N),
    dead=st.sets(st.tuples(st.integers(0, N - 1), st.integers(0, 3))),
)
def test_coalesce_sums_equal_rows_and_keeps_each_once(ids, dead):
    ids, values = torch.tensor(ids), normal(C, N, 4, WIDTH)
    for n, u in dead:
        values[:, n, u] = 0
    found = coalesce(ids, values)
    torch.testing.assert_close(found.gradients(torch.Size([V, WIDTH])), table_gradient(ids, values))
    assert not found.values[:, found.ids == NO_ROW].any()
    for row in found.ids:
        kept = row[row != NO_ROW]
        assert len(kept.unique()) == len(kept)
    distinct = [
        len({int(i) for u, i in enumerate(row) if i != NO_ROW and (n, u) not in dead})
        for n, row in enumerate(ids)
    ]
    assert found.ids.shape[1] == max(1, *distinct)


@settings(max_examples=15, deadline=None)
@given(dead=st.sets(st.tuples(st.integers(0, N - 1), st.integers(0, 3))))
def test_dropping_empty_uses_changes_no_gradient_and_leaves_no_more_than_needed(dead):
    inputs, gradients = normal(N, 4, WIDTH), normal(C, N, 4, OUT, seed=1)
    gradients[0, 1, 2] = 0  # zero for one logit is not empty
    for n, u in dead:
        gradients[:, n, u] = 0
    full = OuterFactors(inputs, gradients).gradients(torch.Size([OUT, WIDTH]))
    fewer = OuterFactors(*drop_empty_uses(inputs, gradients))
    torch.testing.assert_close(fewer.gradients(torch.Size([OUT, WIDTH])), full)
    alive = [4 - sum((n, u) in dead for u in range(4)) for n in range(N)]
    assert fewer.inputs.shape[1] == max(1, *alive)
    assert fewer.is_rank_one == (max(alive) <= 1)


def test_a_transposed_weight_has_the_transposed_gradient():
    inputs, gradients = normal(N, 4, WIDTH), normal(C, N, 4, OUT)
    plain = OuterFactors(inputs, gradients).gradients(torch.Size([OUT, WIDTH]))
    assert torch.equal(
        OuterFactors(inputs, gradients, transposed=True).gradients(torch.Size([WIDTH, OUT])), plain.mT
    )


def test_merge_adds_the_uses_of_every_mixture_of_forms():
    shape = torch.Size([V, WIDTH])
    outer = [OuterFactors(normal(N, t, WIDTH, seed=t), normal(C, N, t, V, seed=t + 9)) for t in (1, 3)]
    # as the embedding's rule leaves it: repeated tokens, and padding marked only by its id
    rows = [
        RowFactors(torch.tensor([[0, 0, -1], [4, -1, 4], [2, 1, 0]]), normal(C, N, 3, WIDTH, seed=s))
        for s in (20, 21)
    ]
    dense = [DenseFactors(normal(C, N, V * WIDTH, seed=30))]
    expected = {id(f): f.gradients(shape) for f in (*outer, *dense)} | {
        id(f): table_gradient(f.ids, f.values) for f in rows
    }
    mixtures = [
        outer[:1],
        outer,
        rows[:1],
        rows,
        dense,
        [*outer, *rows],
        [*rows, *dense],
        [*outer, *dense],
        [*outer, *rows, *dense],
    ]
    kinds = [OuterFactors, OuterFactors, RowFactors, RowFactors, *[DenseFactors] * 5]
    for parts, kind in zip(mixtures, kinds, strict=True):
        merged = merge(list(parts), shape)
        assert isinstance(merged, kind)
        torch.testing.assert_close(merged.gradients(shape), sum(expected[id(part)] for part in parts))


def test_cancellation_survives_a_merge():
    """Terms that cancel in each use are noise in their sum; uses that cancel only with each other are noise too."""
    noise = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64).reshape(1, 1, 3, 1)
    whole = torch.ones(1, 1, 3, 1, dtype=torch.float64)
    assert 0 < float(sum_over_uses(noise).cancellation) < 1e-15
    twice = merge([sum_over_uses(noise), sum_over_uses(3 * noise)], torch.Size([1]))
    assert 0 < float(twice.cancellation) < 1e-15
    against = merge([sum_over_uses(whole), sum_over_uses(-whole * (1 + 1e-15))], torch.Size([1]))
    assert 0 < float(against.cancellation) < 1e-14
    assert float(merge([sum_over_uses(noise), sum_over_uses(whole)], torch.Size([1])).cancellation) > 0.1
    unknown = merge([DenseFactors(whole[:, :, 0]), DenseFactors(whole[:, :, 0])], torch.Size([1]))
    assert float(unknown.cancellation) == 1.0


def test_shared_memory_is_counted_once():
    inputs, gradients = normal(N, 4, WIDTH), normal(C, N, 4, OUT)
    factors = {"q": OuterFactors(inputs, gradients), "k": OuterFactors(inputs, gradients.clone())}
    assert Tangents(torch.zeros(N, C), factors).nbytes == 8 * (inputs.numel() + 2 * gradients.numel())
