"""What every form of factors must do, each method against plain dense gradients in float64. A new form is one row of ``KINDS``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lmntk.kernels.formulas import FORMULAS, SIGNS
from lmntk.kernels.gram import Panel, gram
from lmntk.tangents.factors import (
    DenseFactors,
    OuterFactors,
    RowFactors,
    StackedFactors,
    Tangents,
    coalesce,
    merge,
    sum_over_uses,
)
from lmntk.tangents.form import Factors
from lmntk.tangents.terms import NO_ROW

C, N, USES, WIDTH, OUT, TABLE, EXPERTS = 2, 3, 4, 5, 6, 7, 3
Made = tuple[Factors, Tensor]  # factors, and their gradients (c, n, *shape) made in another way


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def outer(generator, count, uses=USES, transposed=False, padded=False):
    inputs, gradients = normal(generator, count, uses, WIDTH), normal(generator, C, count, uses, OUT)
    if padded:
        for example in range(count):
            gradients[:, example, uses - 1 - example % 2 :] = 0
    full = sum(gradients[:, :, t, :, None] * inputs[:, t, None, :] for t in range(uses))
    return OuterFactors(inputs, gradients, transposed), full.mT if transposed else full


def rows(generator, count, aligned=False):
    """Returns rows that an example touches once each: with ``aligned`` a table of positions, of which texts use a beginning."""
    if aligned:
        ids = torch.arange(USES).repeat(count, 1)
        ids[0, 2:] = NO_ROW
    else:
        ids = torch.stack([torch.randperm(TABLE, generator=generator)[:USES] for _ in range(count)])
        ids[0, 1] = NO_ROW
    values = normal(generator, C, count, USES, WIDTH) * (ids != NO_ROW)[None, :, :, None]
    full = torch.zeros(C, count, TABLE, WIDTH, dtype=torch.float64)
    for example in range(count):
        for slot, row in enumerate(ids[example]):
            if row != NO_ROW:
                full[:, example, row] += values[:, example, slot]
    return RowFactors(ids, values), full


def dense(generator, count, known=False):
    terms = normal(generator, C, count, USES, OUT)
    return sum_over_uses(terms) if known else DenseFactors(terms.sum(2)), terms.sum(2)


def stacked(generator, count, transposed=False):
    members = [outer(generator, count, 1 + index, transposed) for index in range(EXPERTS)]
    full = torch.stack([full for _, full in members], 2)
    full[:, :, 1] = 0
    return StackedFactors((members[0][0], None, members[2][0])), full


@dataclass(frozen=True)
class Kind:
    """A form: how to make factors of so many examples from a generator, and which axis of the shape is the inputs'."""

    make: Callable[..., Made]
    inputs_axis: int | None = None

    def __call__(self, seed: int, count: int = N) -> Made:
        return self.make(torch.Generator().manual_seed(seed), count)


def having(make, **settings):
    return lambda generator, count: make(generator, count, **settings)


KINDS = {
    "outer": Kind(outer, -1),
    "outer, rank one": Kind(having(outer, uses=1), -1),
    "outer, transposed": Kind(having(outer, transposed=True), -2),
    "outer, padded": Kind(having(outer, padded=True), -1),
    "rows": Kind(rows, -1),
    "rows, aligned": Kind(having(rows, aligned=True), -1),
    "dense": Kind(dense),
    "dense, cancellation known": Kind(having(dense, known=True)),
    "stacked": Kind(stacked, -1),
    "stacked, transposed": Kind(having(stacked, transposed=True), -2),
}


@pytest.fixture(params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def members(factors: Factors, full: Tensor) -> list[Made]:
    """Returns what is contracted one by one, with its gradients (c, n, p)."""
    if not isinstance(factors, StackedFactors):
        return [(factors, full.flatten(2))]
    assert len(factors.members()) == full.shape[2]
    assert all(not full[:, :, i].any() for i, member in enumerate(factors.members()) if member is None)
    parts = enumerate(factors.members())
    return [(member, full[:, :, index].flatten(2)) for index, member in parts if member is not None]


def test_every_form_is_in_the_table():
    assert set(Factors.forms.values()) == {type(kind(0)[0]) for kind in KINDS.values()}
    assert all(Factors.forms[form].form == form for form in Factors.forms)


def test_full_gradients(kind):
    factors, full = kind(0)
    close(factors.gradients(full.shape[2:]), full)


def test_cutting_leaves_views_of_one_example_or_logit(kind):
    factors, full = kind(0)
    shape = full.shape[2:]
    for index in range(N):
        close(factors.of_example(index).gradients(shape), full[:, index : index + 1])
    for index in range(C):
        close(factors.of_logit(index).gradients(shape), full[index : index + 1])
    cut = factors.of_example(1).of_logit(1)
    close(cut.gradients(shape), full[1:, 1:2])
    assert type(cut) is type(factors)
    held = {tensor.untyped_storage().data_ptr() for tensor in factors.tensors()}
    assert {tensor.untyped_storage().data_ptr() for tensor in cut.tensors()} == held


def test_tensors_hold_every_example_and_the_last_has_the_gradients_type(kind):
    factors, full = kind(0)
    tensors = factors.tensors()
    assert all(N in tensor.shape for tensor in tensors)
    assert tensors[-1].dtype == full.dtype and tensors[-1].shape[:2] == (C, N)
    size = sum(tensor.nbytes for tensor in tensors)
    assert Tangents(torch.zeros(N, C), {"w": factors, "tied": factors}).nbytes == size


def test_changed_tensors(kind):
    factors, full = kind(0)
    seen = []

    def single(tensor):
        seen.append(tensor)
        return tensor.float() if tensor.is_floating_point() else tensor

    found = factors.changed(single)
    assert type(found) is type(factors)
    assert {id(tensor) for tensor in factors.tensors()} <= {id(tensor) for tensor in seen}
    assert all(tensor.dtype != torch.float64 for tensor in found.tensors())
    gradients = found.gradients(full.shape[2:])
    assert gradients.dtype == torch.float32
    torch.testing.assert_close(gradients.double(), full, rtol=1e-5, atol=1e-5)
    assert (found.cancellation is None) == (factors.cancellation is None)


def test_a_description_and_the_tensors_give_the_factors_back(kind):
    factors, full = kind(0)
    kept: list[Tensor] = []

    def name_of(tensor):
        kept.append(tensor)
        return str(len(kept) - 1)

    text = json.dumps(factors.described(name_of))
    found = Factors.of_description(json.loads(text), lambda name: kept[int(name)])
    assert type(found) is type(factors)
    assert all(one is other for one, other in zip(found.tensors(), factors.tensors(), strict=True))
    assert found.cancellation is factors.cancellation
    assert torch.equal(found.gradients(full.shape[2:]), factors.gradients(full.shape[2:]))


@pytest.mark.parametrize("signs", [False, True])
def test_weighted_sums(kind, signs):
    factors, full = kind(0)
    weights = normal(torch.Generator().manual_seed(9), N, C)
    found = factors.weighted_sum(weights, full.shape[2:], signs)
    assert found.dtype == torch.float64
    close(found, torch.einsum("nc,cn...->...", weights, full.sign() if signs else full))


def test_sums_over_uses_in_several_places(kind):
    """Uses of one form stay in it, unless they only can be added up; what has repeated rows has each once."""
    several = [kind(seed) for seed in range(3)]
    for count in (1, 2, 3):
        parts = [factors for factors, _ in several[:count]]
        full = sum(full for _, full in several[:count])
        shape = full.shape[2:]
        merged = merge(parts, shape)
        assert type(merged) is type(parts[0])
        close(merged.gradients(shape), full)
        joined = parts[0].joined(parts[1:], shape)
        assert joined is not None or (count > 1 and isinstance(parts[0], DenseFactors))
        if joined is not None:
            close(joined.gradients(shape), full)


def test_sums_with_another_form_are_dense(kind):
    factors, full = kind(0)
    other = normal(torch.Generator().manual_seed(5), *full.shape)
    merged = merge([factors, DenseFactors(other.flatten(2))], full.shape[2:])
    close(merged.gradients(full.shape[2:]), full + other)


def test_silenced_coordinates_are_zero_where_cancellation_may_be_known(kind):
    factors, full = kind(0)
    shape, size = full.shape[2:], full[0, 0].numel()
    mask = torch.arange(size) % 3 == 0
    silenced = factors.silenced(mask)
    if isinstance(factors, DenseFactors):
        expected = torch.where(mask.reshape(shape), 0.0, full)
        assert torch.equal(silenced.gradients(shape), expected.reshape(full.shape))
    else:
        assert silenced is factors
    if factors.cancellation is not None:
        assert factors.cancellation.shape == (size,)
        assert bool(((factors.cancellation > 0) & (factors.cancellation <= 1)).all())


def test_inputs_are_projected_as_loras_are(kind):
    factors, full = kind(0)
    if kind.inputs_axis is None:
        assert not factors.has_inputs
        with pytest.raises(TypeError, match="has no inputs"):
            factors.with_inputs(lambda _, inputs: inputs, "w")
        return
    generator = torch.Generator().manual_seed(3)
    down: dict[str, Tensor] = {}

    def project(name, inputs):
        assert inputs.shape[-1] == WIDTH
        down[name] = normal(generator, 2, WIDTH)
        return inputs @ down[name].T

    assert factors.has_inputs
    found = factors.with_inputs(project, "w")
    assert type(found) is type(factors)
    expected = full.movedim(kind.inputs_axis, -1)
    if isinstance(factors, StackedFactors):
        assert set(down) == {"w 0", "w 2"}  # each weight has an A of its own
        expected = torch.stack(
            [
                expected[:, :, i] @ down.get(f"w {i}", torch.zeros(2, WIDTH).double()).T
                for i in range(EXPERTS)
            ],
            2,
        )
    else:
        assert set(down) == {"w"}
        expected = expected @ down["w"].T
    expected = expected.movedim(-1, kind.inputs_axis)
    close(found.gradients(expected.shape[2:]), expected)


def test_extents_are_those_of_the_gradient(kind):
    """But for a table, whose products cost nothing beside the rest."""
    factors, full = kind(0)
    extents = [extent for member, _ in members(factors, full) for extent in member.extents()]
    assert factors.extents() == extents
    assert all(type(number) is int for extent in extents for number in extent)
    if not isinstance(factors, RowFactors):
        sizes = [gradients.shape[2] for _, gradients in members(factors, full)]
        assert [extent.inputs * extent.outputs for extent in extents] == sizes
        assert all((extent.uses == 0) == isinstance(factors, DenseFactors) for extent in extents)


def signed_products(left: Tensor, right: Tensor, signs: tuple[bool, bool]) -> Tensor:
    sides = (side.sign() if sign else side for side, sign in zip((left, right), signs, strict=True))
    return torch.einsum("cnp,dmp->cndm", *sides)


def test_products_of_terms_wherever_they_are_exact(kind):
    for (left, left_full), (right, right_full) in zip(
        *(members(*kind(seed, count)) for seed, count in ((1, N), (2, N + 1))), strict=True
    ):
        exact = {
            name: signs
            for name, signs in SIGNS.items()
            if all(side.is_exact_in_terms(any(signs)) for side in (left, right))
        }
        if not exact:
            with pytest.raises(TypeError, match="materialised"):
                left.terms()
            continue
        assert "sgd" in exact
        for rows_, columns in (
            (left.terms(), right.terms()),
            (left.without_padding([])[0][0], right.terms()),
            (left.terms(), right.without_padding([])[0][0]),
            (left.without_padding([])[0][0], right.without_padding([])[0][0]),
        ):
            for name, block in rows_.products(columns, exact, {}).items():
                close(block, signed_products(left_full, right_full, SIGNS[name]))


def test_parameters_with_the_same_inputs_share_their_products(kind):
    factors, _ = kind(1)
    other, _ = kind(2)
    assert factors.inputs_key() == factors.inputs_key() != other.inputs_key()
    if isinstance(factors, OuterFactors):
        shared: dict[str, Tensor] = {}
        twin = OuterFactors(factors.inputs, other.output_gradients)
        assert twin.inputs_key() == factors.inputs_key()
        factors.terms().products(factors.terms(), {"sgd": (False, False)}, shared)
        assert set(shared) == {"sgd"}
        found = twin.terms().products(twin.terms(), {"sgd": (False, False)}, shared)
        own = twin.terms().products(twin.terms(), {"sgd": (False, False)}, {})
        assert torch.equal(found["sgd"], own["sgd"])


def test_terms_without_padding(kind):
    """Terms that are zero for one of several parameters stay; what is copied is counted."""
    factors, _ = kind(1)
    if isinstance(factors, (DenseFactors, StackedFactors)):
        return
    terms, copied = factors.without_padding([])
    held = sum(tensor.nbytes for tensor in factors.tensors())
    padded = isinstance(factors, OuterFactors) and not bool(factors.output_gradients[0].all())
    assert len(terms) == 1 and (0 < copied < held if padded else copied == 0)
    if isinstance(factors, OuterFactors):
        other = OuterFactors(factors.inputs, torch.ones_like(factors.output_gradients))
        assert factors.without_padding([other])[1] == 0


@pytest.mark.parametrize("most", [1, 4, 7, 10**6])
def test_blocks_hold_every_coordinate_once(kind, most):
    for factors, full in members(*kind(1)):
        if factors.is_exact_in_terms(signed=True) and not isinstance(factors, OuterFactors):
            with pytest.raises(TypeError, match="contracted by its terms"):
                next(factors.blocks(most))
            with pytest.raises(TypeError, match="contracted by its terms"):
                factors.materialise((slice(0, 1), slice(0, 1)), full)
            continue
        tiles = []
        for outputs, inputs in factors.blocks(most):
            size = (outputs.stop - outputs.start) * (inputs.stop - inputs.start)
            assert 1 <= size <= most
            tiles.append(torch.full((C, N, size), torch.nan, dtype=torch.float64))
            factors.materialise((outputs, inputs), tiles[-1])
        built = torch.cat(tiles, 2)
        assert built.shape == full.shape
        order, expected = (side[0, 0].argsort() for side in (built, full))  # coordinates may be permuted
        close(built[:, :, order], full[:, :, expected])


def test_every_kernel_of_two_batches(kind):
    panels, gradients = [], []
    for seeds in ((1, 2), (3, 4)):
        made = [kind(seed, count) for seed, count in zip(seeds, (N, N - 1), strict=True)]
        panels.append(Panel([Tangents(torch.zeros(full.shape[1], C), {"w": f}) for f, full in made]))
        gradients.append(torch.cat([full.flatten(2) for _, full in made], 1))
    for left, right in ((0, 1), (0, 0)):
        found = gram(panels[left], panels[right], FORMULAS)
        assert set(found) == set(SIGNS)
        for name, groups in found.items():
            expected = signed_products(gradients[left], gradients[right], SIGNS[name])
            close(groups["all"].permute(1, 0, 3, 2), expected)


def test_repeated_rows_are_summed():
    """As an embedding's rule leaves them: an example has a token twice, and padding is marked by its id alone."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[0, 0, -1], [4, -1, 4], [2, 1, 0]])
    values = normal(generator, C, N, 3, WIDTH)
    (left, right) = (merge([RowFactors(ids, scale * values)], torch.Size([TABLE, WIDTH])) for scale in (1, 2))
    assert torch.equal(
        left.gradients(torch.Size([TABLE, WIDTH])), coalesce(ids, values).gradients((TABLE, WIDTH))
    )
    assert torch.equal(right.values, 2 * left.values)
