"""Each text's gradients with its own: equal to the diagonal of the Gram matrix, in every form of factors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import pytest
import torch
from torch import Tensor

from lmntk.errors import ModelError
from lmntk.kernels import diagonal as module
from lmntk.kernels.diagonal import diagonal
from lmntk.kernels.gram import Panel, gram
from lmntk.tangents.factors import DenseFactors, OuterFactors, RowFactors, StackedFactors, Tangents
from lmntk.tangents.form import Factors
from lmntk.tangents.terms import NO_ROW

N, C, T, I, O = 5, 3, 4, 6, 7  # noqa: E741


def numbers(*shape):
    return torch.randn(shape, dtype=torch.float64)


def outer(uses=T):
    return OuterFactors(numbers(N, uses, I), numbers(C, N, uses, O))


def rows():
    ids = torch.stack([torch.randperm(8)[:T] for _ in range(N)])
    values = numbers(C, N, T, I)
    ids[0, 2:], values[:, 0, 2:] = NO_ROW, 0.0
    return RowFactors(ids, values)


@dataclass(frozen=True)
class OwnForm(Factors):
    """Gradients as they are, in a form that ``diagonal`` does not know."""

    form: ClassVar[str] = "of a test"
    values: Annotated[Tensor, "c n p"]

    def gradients(self, shape):
        return DenseFactors(self.values).gradients(shape)

    def weighted_sum(self, weights, shape, signs):
        return DenseFactors(self.values).weighted_sum(weights, shape, signs)

    def extents(self):
        return DenseFactors(self.values).extents()

    def blocks(self, most):
        return DenseFactors(self.values).blocks(most)

    def materialise(self, block, out):
        DenseFactors(self.values).materialise(block, out)


Factors.forms.pop(OwnForm.form)  # it is in no file, and other tests look at all forms


FORMS = {
    "outer": outer,
    "rank one": lambda: outer(1),
    "rows": rows,
    "dense": lambda: DenseFactors(numbers(C, N, I)),
    "another form": lambda: OwnForm(numbers(C, N, I)),
    "stacked": lambda: StackedFactors((outer(), None, outer(2))),
}


def gram_diagonal(left, right):
    full = gram(Panel([left]), Panel([right]), ["sgd"])["sgd"]["all"]
    return torch.einsum("ncnc->nc", full)


def tangents(make):
    return Tangents(numbers(N, C), {"w": make()})


@pytest.mark.parametrize("most", [1, 2 * C * T * T, module.MOST_NUMBERS])
@pytest.mark.parametrize("name", FORMS)
def test_equal_to_the_gram_matrix(name, most, monkeypatch):
    torch.manual_seed(3)
    monkeypatch.setattr(module, "MOST_NUMBERS", most)
    left, right = tangents(FORMS[name]), tangents(FORMS[name])
    for pair in ((left, right), (left, left)):
        torch.testing.assert_close(diagonal(*pair)["w"], gram_diagonal(*pair), rtol=1e-12, atol=1e-12)


def test_an_index_that_one_side_does_not_use_is_zero():
    torch.manual_seed(5)
    shared, other = outer(), outer(2)
    left = Tangents(numbers(N, C), {"w": StackedFactors((shared, other))})
    right = Tangents(numbers(N, C), {"w": StackedFactors((shared, None))})
    only = Tangents(left.logits, {"w": StackedFactors((shared, None))})
    assert torch.equal(diagonal(left, right)["w"], diagonal(only, right)["w"])


def test_parameters_of_one_side_alone_are_left_out():
    left = Tangents(numbers(N, C), {"w": outer(), "v": outer()})
    assert list(diagonal(left, Tangents(left.logits, {"v": outer()}))) == ["v"]


@pytest.mark.parametrize("name", FORMS)
def test_what_is_not_finite_is_said(name):
    torch.manual_seed(6)
    left = tangents(FORMS[name])
    broken = left.factors["w"].changed(
        lambda tensor: tensor if not tensor.is_floating_point() else tensor * torch.inf
    )
    with pytest.raises(ModelError, match="not finite"):
        diagonal(left, replace(left, factors={"w": broken}))


def test_sides_of_other_texts_are_refused():
    left = tangents(outer)
    with pytest.raises(ValueError, match=r"\(5, 3\) and \(4, 3\)"):
        diagonal(left, replace(left, logits=left.logits[:4]))
