"""The two contractions, on random factors, against full gradients."""

from __future__ import annotations

from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from model_oracle import kernel_of

from lmntk.engine.stream import whole
from lmntk.errors import ModelError
from lmntk.kernels import contraction, materialised
from lmntk.kernels import gram as gram_module
from lmntk.kernels import inner as inner_module
from lmntk.kernels.formulas import FORMULAS, SIGNS, kernel_names
from lmntk.kernels.gram import Panel, gram
from lmntk.kernels.inner import inner, inner_applies
from lmntk.kernels.materialised import Tile, tile_products
from lmntk.tangents.factors import DenseFactors, OuterFactors, StackedFactors, Tangents, coalesce
from lmntk.tangents.terms import OuterTerms

C, WIDTH, OUT, V = 2, 5, 4, 6


def random_factors(kind, count, tokens, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if kind == "outer":
        return OuterFactors(normal(count, tokens, WIDTH), normal(C, count, tokens, OUT))
    if kind == "rows":
        return coalesce(
            torch.randint(-1, V, (count, tokens), generator=generator), normal(C, count, tokens, WIDTH)
        )
    return DenseFactors(normal(C, count, OUT))


def sign_products(rows, columns):
    return tile_products(Tile.of(rows, ["signgd"]), Tile.of(columns, ["signgd"]), ["signgd"])


SHAPES = {"outer": torch.Size([OUT, WIDTH]), "rows": torch.Size([V, WIDTH]), "dense": torch.Size([OUT])}


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(["outer", "rows"]),
    n=st.integers(1, 4),
    m=st.integers(1, 4),
    t=st.integers(1, 4),
    s=st.integers(1, 4),
)
def test_inner_equals_the_full_gradients_wherever_it_applies(kind, n, m, t, s):
    left, right = random_factors(kind, n, t, 1), random_factors(kind, m, s, 2)
    names = [name for name in SIGNS if inner_applies([left, right], [name])]
    assert ("signgd" in names) == (kind == "rows" or t == s == 1)
    rows, columns = (part.gradients(SHAPES[kind]).flatten(2).transpose(0, 1) for part in (left, right))
    for name, block in inner(left, right, names).items():
        torch.testing.assert_close(
            block.permute(1, 0, 3, 2), kernel_of(name, rows, columns), rtol=1e-12, atol=1e-12
        )


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    columns=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    budget=st.sampled_from([0, 500, 2**20]),
)
@example(rows=[0, 0], columns=[4, 4], budget=2**20)  # no term at all: a text that no expert of a kind reads
@example(rows=[4], columns=[0], budget=2**20)
def test_padding_is_left_out_and_nothing_else(rows, columns, budget):
    """Two weights with the same inputs, one of which has fewer terms than the other; texts of any lengths, none at all too."""

    def side(lengths, seed):
        one = random_factors("outer", len(lengths), 4, seed)
        other = random_factors("outer", len(lengths), 4, seed + 1)
        for index, length in enumerate(lengths):
            one.output_gradients[:, index, length:] = 0
            other.output_gradients[:, index, max(0, length - 1) :] = 0
        return {"one": one, "other": OuterFactors(one.inputs, other.output_gradients)}

    left, right = side(rows, 1), side(columns, 5)
    terms, _ = left["one"].without_padding([left["other"]])
    kept = len(rows) * 4 if min(rows) == 4 else sum(rows)
    assert [len(each.inputs) for each in terms] == [kept, kept] and (terms[0].owners is None) == (
        min(rows) == 4
    )
    seen = []

    def watched(*arguments):
        seen.append(arguments[0].owners is not None)
        return inner(*arguments)

    panels = [
        Panel([Tangents(torch.zeros(len(part["one"].inputs), C, dtype=torch.float64), part)])
        for part in (left, right)
    ]
    with (
        patch.object(gram_module, "COPY_BYTES", budget),
        patch.object(inner_module, "inner", watched if budget == 2**20 else inner),
        patch.object(
            contraction, "inner_columns", lambda rows, columns, *sizes, together: [True] * len(columns)
        ),
    ):
        found = gram(*panels, ["sgd"], grouping=str)["sgd"]
    assert seen == ([min(rows) < 4] * 2 if budget == 2**20 else [])
    for name, values in found.items():
        full = [part[name].gradients(SHAPES["outer"]).flatten(2).transpose(0, 1) for part in (left, right)]
        torch.testing.assert_close(values, kernel_of("sgd", *full), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("room", "stripped"), [(0, 0), (1, 1), (2, 2), (3, 3)])
def test_copies_without_padding_stay_within_their_bound(room, stripped):
    """Of three batches of rows with as many terms each; and where the columns are the rows nothing is copied twice."""
    parts = [random_factors("outer", 2, 4, seed) for seed in range(3)]
    for part in parts:
        part.output_gradients[:, 1, 2:] = 0
    panel = Panel([Tangents(torch.zeros(2, C, dtype=torch.float64), {"w": part}) for part in parts])
    size, after = parts[0].inputs.nbytes + parts[0].output_gradients.nbytes, (4 + 2) / (4 + 4)
    budget = int(size + (room - 1) * size * after) if room else size - 1
    rows, blocks, made = {}, [], []
    without_padding = OuterFactors.without_padding

    def watched(left, right, *others):
        rows[id(left)] = isinstance(left, OuterTerms) and left.owners is not None
        blocks.append(1)
        return inner(left, right, *others)

    with (
        patch.object(gram_module, "COPY_BYTES", budget),
        patch.object(inner_module, "inner", watched),
        patch.object(
            OuterFactors, "without_padding", lambda *several: made.append(1) or without_padding(*several)
        ),
        patch.object(
            contraction, "inner_columns", lambda rows, columns, *sizes, together: [True] * len(columns)
        ),
    ):
        found = whole(gram(panel, panel, ["sgd"])["sgd"])
    assert sum(rows.values()) == stripped == len(made)
    assert len(blocks) == 6  # of nine, three are others' mirrors
    full = torch.cat([part.gradients(SHAPES["outer"]).flatten(2).transpose(0, 1) for part in parts])
    torch.testing.assert_close(found, kernel_of("sgd", full, full), rtol=1e-12, atol=1e-12)


def test_a_term_that_is_no_number_is_not_taken_for_padding():
    factors = random_factors("outer", 2, 3, 1)
    factors.output_gradients[0, 1, 2] = torch.nan
    factors.output_gradients[:, 0, 1:] = 0
    (terms,), _ = factors.without_padding([])
    assert len(terms.inputs) == 4 and bool(terms.output_gradients.isnan().any())


@settings(max_examples=15, deadline=None)
@given(
    row_sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    column_sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    tile_bytes=st.sampled_from([1, 700, 2**24]),
    missing=st.booleans(),
    wide=st.booleans(),
)
def test_gram_of_mixed_factors_and_batches(row_sizes, column_sizes, tile_bytes, missing, wide):
    """Also when a parameter has no factors in a batch: its gradient is zero there. Wide: as on a GPU, in pieces of a long tile."""

    def side(sizes, seed):
        batches, blocks = [], []
        for index, size in enumerate(sizes):
            factors = {kind: random_factors(kind, size, 3, seed + 7 * index) for kind in SHAPES}
            if missing and index == len(sizes) - 1:
                del factors["outer"]
            batches.append(Tangents(torch.zeros(size, C, dtype=torch.float64), factors))
            full = {
                k: torch.zeros(size, C, shape.numel(), dtype=torch.float64) for k, shape in SHAPES.items()
            }
            full |= {k: f.gradients(SHAPES[k]).flatten(2).transpose(0, 1) for k, f in factors.items()}
            blocks.append(torch.cat([full[k] for k in SHAPES], 2))
        return Panel(batches), torch.cat(blocks)

    (rows, left), (columns, right) = side(row_sizes, 1), side(column_sizes, 100)
    with ExitStack() as stack:
        if wide:
            stack.enter_context(patch.object(materialised, "is_wide", lambda device: True))
            stack.enter_context(patch.object(materialised, "LONGEST_SUM", 3))
        found = gram(rows, columns, FORMULAS, tile_bytes=tile_bytes)
        own = gram(rows, rows, FORMULAS, tile_bytes=tile_bytes)
    assert list(found) == kernel_names(FORMULAS)
    for name, groups in found.items():
        torch.testing.assert_close(whole(groups), kernel_of(name, left, right), rtol=1e-12, atol=1e-12)
    for name, groups in own.items():
        torch.testing.assert_close(whole(groups), kernel_of(name, left, left), rtol=1e-12, atol=1e-12)


def test_columns_of_more_batches_than_a_chunk_holds():
    """On a processor a chunk ends after about 128 logits: here two batches, two, and a last one."""
    rows, *batches = (
        Tangents(torch.zeros(size, C), {"weight": random_factors("dense", size, 0, seed)})
        for seed, size in enumerate((2, 30, 30, 30, 30, 7))
    )
    left, *parts = (
        each.factors["weight"].gradients(SHAPES["dense"]).transpose(0, 1) for each in (rows, *batches)
    )
    for name, groups in gram(Panel([rows]), Panel(batches), FORMULAS).items():
        torch.testing.assert_close(
            whole(groups), kernel_of(name, left, torch.cat(parts)), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize(
    ("left", "right"), [("110", "011"), ("100", "001"), ("111", "010"), ("010", "111"), ("10", "11")]
)
@pytest.mark.parametrize("terms", [1, 3])
def test_members_of_a_stack_count_where_both_sides_use_them(left, right, terms):
    """As experts do: of each only the texts that are sent there have a gradient."""

    def side(used, count, seed):
        parts = [
            random_factors("outer", count, terms, seed + index) if use == "1" else None
            for index, use in enumerate(used)
        ]
        zeros = torch.zeros(count, C, OUT * WIDTH, dtype=torch.float64)
        gradients = [
            zeros if part is None else part.gradients(SHAPES["outer"]).flatten(2).transpose(0, 1)
            for part in parts
        ]
        factors = {"stack": StackedFactors(tuple(parts))}
        return Panel([Tangents(torch.zeros(count, C, dtype=torch.float64), factors)]), torch.cat(gradients, 2)

    (rows, of_rows), (columns, of_columns) = side(left, 2, 1), side(right, 3, 50)
    for name, groups in gram(rows, columns, FORMULAS).items():
        torch.testing.assert_close(
            whole(groups), kernel_of(name, of_rows, of_columns), rtol=1e-12, atol=1e-12
        )


def test_integer_and_float_sign_products_agree(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.randn(size, 200, generator=generator) for size in (33, 40))
    rows[:, ::7] = 0
    in_integers = sign_products(rows, columns)["signgd"]
    assert in_integers.dtype == torch.int32
    monkeypatch.delattr(torch, "_int_mm")
    in_floats = sign_products(rows, columns)["signgd"]
    assert in_floats.dtype == torch.float32
    assert torch.equal(in_integers.float(), in_floats)
    assert torch.equal(in_floats.double(), rows.double().sign() @ columns.double().sign().T)


def test_a_float32_sign_product_too_long_to_be_exact_is_refused(monkeypatch):
    monkeypatch.setattr(materialised, "EXACT_FLOAT32_INTEGERS", 200)
    rows = torch.ones(2, 200)
    with pytest.raises(ValueError, match="200 coordinates"):
        sign_products(rows, rows)
    assert sign_products(rows[:, :199], rows[:, :199])["signgd"][0, 0] == 199
    assert sign_products(rows.double(), rows.double())["signgd"][0, 0] == 200


def test_a_panel_in_which_nothing_has_a_gradient():
    empty = Panel([Tangents(torch.zeros(2, 1), {})])
    with pytest.raises(ModelError, match="nothing to contract"):
        gram(empty, empty, ["sgd"])


def test_a_group_that_no_column_text_uses_has_a_kernel_of_zeros():
    def tangents(names, count):
        return Tangents(
            torch.zeros(count, 1), {name: DenseFactors(torch.randn(1, count, 3)) for name in names}
        )

    rows, columns = Panel([tangents("ab", 2)]), Panel([tangents("a", 3)])
    found = gram(rows, columns, ["sgd", "signgd"], grouping=lambda name: name)
    for groups in found.values():
        assert set(groups) == {"a", "b"} and groups["a"].abs().sum() > 0
        assert torch.equal(groups["b"], torch.zeros(2, 1, 3, 1, dtype=torch.float64))
